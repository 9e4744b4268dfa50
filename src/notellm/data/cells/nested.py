"""Values that are objects or lists where one value is expected: the obvious member, or an error.

Exports of document stores hold ``{"$oid": "64f0aa01"}`` as an id, and APIs ``{"id": 7, "name": "travel"}``
as a category. A member is obvious if it is the only one of the names below.
"""

import json
import math
from typing import Any, Literal

import pyarrow as pa

from notellm.data.problems import Report
from notellm.errors import DataError

#: What a value is for.
Role = Literal["id", "text", "topics", "time"]

_WRAPPERS = ("$oid", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal", "$uuid", "$date")
_MEMBERS: dict[Role, tuple[str, ...]] = {
    "id": (*_WRAPPERS, "id", "_id"),
    "text": (*_WRAPPERS, "name", "title", "label", "text", "value", "#text"),
    "topics": (*_WRAPPERS, "name", "title", "label", "tag", "topic", "text", "value", "#text"),
    "time": (*_WRAPPERS, "value"),
}
#: The types that stores write around each value: Firestore, DynamoDB, and the unions of Avro.
_TYPES = (
    "stringValue", "integerValue", "doubleValue", "booleanValue", "timestampValue", "arrayValue", "values",
    "nullValue", "S", "N", "BOOL", "NULL", "L", "SS", "NS", "string", "int", "long", "float", "double",
    "boolean", "array",
)  # fmt: skip
_SHOWN = 5  # members that a message names


class NestedCells:
    """Flattens the values of one column, counts those that were nested, and reports them.

    Args:
        role: what the values are for.
        name: our name of the column.
        where: name of the column in the report.
    """

    def __init__(self, role: Role, name: str, where: str) -> None:
        self.role = role
        self.name = name
        self.where = where
        self._count = 0
        self._example = ""
        self._infinite = 0

    @property
    def _path(self) -> str:
        """Our name and the file's, as the columns option takes them."""
        return f"{self.name}={self.where.rpartition(': ')[2]}"

    def flat(self, value: Any) -> str | None:
        """Return a value as text; topics as a JSON list of texts.

        Raises:
            DataError: if the value is an object or a list of which no member is obvious.
        """
        if isinstance(value, dict | list | tuple):
            if self.role == "topics":
                return json.dumps(self._topics(value), ensure_ascii=False)
            self._note(value)
            value = self._single(value)
        if isinstance(value, float) and not math.isfinite(value):
            self._infinite += 1
            return None
        return _text(value)

    def report(self, report: Report) -> None:
        """Add how many values were nested."""
        report.add("nested value", self.where, self._count, self._example, "its obvious member was taken")
        report.add("NaN or infinite number", self.where, self._infinite, "", "taken as missing")

    def _note(self, value: Any) -> None:
        self._count += 1
        self._example = self._example or str(value)

    def _single(self, value: Any) -> Any:
        while isinstance(value, dict | list | tuple):
            if not value:
                return None
            if isinstance(value, dict):
                name = self._obvious(value)
                value = None if name in ("NULL", "nullValue") else value[name]
            elif len(value) == 1:
                value = value[0]
            else:
                first = "write a row for each entry" if self.role == "id" else "join the list first"
                raise DataError(
                    f"{self.where} is the list {str(value)[:60]}; {first}, or say which entry is meant with "
                    f"the columns option, as --column {self._path}.0"
                )
        return value

    def _obvious(self, value: dict[Any, Any]) -> Any:
        found = [name for name in (*_MEMBERS[self.role], self.name) if name in value]
        found = [name for name in found if value[name] is not None] or found[:1]
        if found and (len(found) == 1 or found[0] in _WRAPPERS):
            return found[0]
        key = next(iter(value))
        if len(value) == 1 and isinstance(key, str) and (key.startswith("$") or key in _TYPES):
            return key
        members = ", ".join(map(str, list(value)[:_SHOWN]))
        raise DataError(
            f"{self.where} is an object with the members {members}; say which is meant with the columns "
            f"option, as --column {self._path}.{next(iter(value))}"
        )

    def _topics(self, value: Any) -> list[str]:
        """The names in a list of texts, objects or lists, or in an object from names to numbers."""
        if isinstance(value, dict):
            self._note(value)
            if value and all(isinstance(count, int | float | bool) for count in value.values()):
                return [str(name) for name, count in value.items() if count]
            inner = value[self._obvious(value)] if value else None
            if isinstance(inner, dict | list | tuple):
                return self._topics(inner)
            return [text for text in [_text(inner)] if text]
        names: list[str] = []
        nested = False
        for entry in value:
            if isinstance(entry, list | tuple):
                names += self._topics(entry)
            elif isinstance(entry, dict):
                nested = True
                if entry:
                    names += [text for text in [_text(self._single(entry))] if text]
            elif (text := _text(entry)) is not None:
                names.append(text)
        if nested:
            self._note(value)
        return names


def unwrapped(column: pa.ChunkedArray, role: Role, where: str, report: Report) -> pa.ChunkedArray:
    """Return an Arrow column of structs, lists or maps as text; other columns as they are.

    Args:
        column: the column.
        role: what its values are for.
        where: name of the column in the report, which ends in its name.
        report: receives the number of nested values.

    Raises:
        DataError: as :meth:`NestedCells.flat`.
    """
    if not pa.types.is_nested(column.type):
        return column
    cells = NestedCells(role, where.rpartition(": ")[2], where)
    texts = [cells.flat(_plain_maps(value)) for value in column.to_pylist()]
    cells.report(report)
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def at_path(value: Any, path: list[str]) -> Any:
    """Return the member of a nested value that a path of names and places leads to; None if there is none."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list | tuple):
            value = value[int(step)] if step.isdigit() and int(step) < len(value) else None
        else:
            return value  # rows may hold the plain value instead
    return value


def _plain_maps(value: Any) -> Any:
    """Return an Arrow map, a list of pairs, as an object."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(each, tuple) and len(each) == 2 for each in value)
    ):
        return dict(value)
    return value


def _text(value: Any) -> str | None:
    """Return a value that is no container as text; numbers in decimal, NaN is missing."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
