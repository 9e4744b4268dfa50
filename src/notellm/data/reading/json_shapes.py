"""Rows inside of JSON that is not one object a row: answers of an API, exports of stores, tables by columns.

An object that has none of the columns that are needed may hold the rows in a member, as ``{"data": [...]}``,
or be wrapped, as ``{"_source": {...}}``; lists or objects as values are columns, as pandas writes them.
"""

from collections.abc import Iterator
from typing import Any, TypeGuard

from notellm.data.problems import Report

_DEEPEST = 6  # members of members in which rows are looked for

Row = dict[str, Any]


class Shapes:
    """Finds the rows in objects, and counts those that are not objects of their own.

    Args:
        needed: groups of names; a row has one of each. None: every object is a row.
    """

    def __init__(self, needed: list[set[str]]) -> None:
        self._needed = needed
        self._counts: dict[str, int] = {}

    def rows(self, value: Row) -> list[Row]:
        """Return the rows of an object: itself, unless it holds them in an obvious way."""
        names = value.keys()
        if not self._needed:
            return [value]
        if all(group & names for group in self._needed):
            first = value[next(iter(self._needed[0] & names))]
            if len(_keys(first)) > 1 and (rows := _by_columns(value, self._needed)):
                return self._counted("a table by columns", rows)
            return [value]
        if any(group & names for group in self._needed):
            return [value]
        header, data = value.get("columns"), value.get("data")
        if _is_list_of(header, str) and _is_list_of(data, list) and self._fits(dict.fromkeys(header)):
            rows = [dict(zip(header, row, strict=False)) for row in data]
            return self._counted("a table by columns", rows)
        found = list(self._inside(value, ""))
        if len(found) != 1:
            return [value]
        return self._counted(f"in the member {found[0][0]}", found[0][1])

    def report(self, where: str, report: Report) -> None:
        """Add how many rows were no objects of their own."""
        for place, count in self._counts.items():
            report.add("rows inside of another value", where, count, place, "read as rows")

    def _counted(self, place: str, rows: list[Row]) -> list[Row]:
        self._counts[place] = self._counts.get(place, 0) + len(rows)
        return rows

    def _fits(self, value: Any) -> bool:
        return isinstance(value, dict) and all(group & value.keys() for group in self._needed)

    def _inside(self, value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, list[Row]]]:
        """Yield the places of rows in a value, each with the rows."""
        if depth > _DEEPEST or not isinstance(value, dict | list):
            return
        if isinstance(value, list):
            rows = [row for entry in value for row in [self._bare(entry)] if row is not None]
            if rows:
                yield path, rows
            return
        if self._fits(value):
            yield path, [value]
        elif len(value) > 1 and all(map(self._fits, value.values())):
            yield path or "of each key", list(value.values())
        else:
            for name, member in value.items():
                yield from self._inside(member, f"{path}.{name}".lstrip("."), depth + 1)

    def _bare(self, entry: Any) -> Row | None:
        """Return an entry of a list that is a row, or has one as its only fitting member."""
        if self._fits(entry):
            return dict(entry)
        if not isinstance(entry, dict):
            return None
        inner = [member for member in entry.values() if self._fits(member)]
        return inner[0] if len(inner) == 1 else None


def _is_list_of(value: Any, kind: type) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and all(isinstance(entry, kind) for entry in value)


def _by_columns(value: Row, needed: list[set[str]]) -> list[Row]:
    """Return the rows of an object of columns; none if its columns do not fit together."""
    columns = [value[name] for group in needed for name in group if name in value]
    keys = _keys(columns[0])
    if any(_keys(column) != keys for column in columns):
        return []
    fitting = {name: column for name, column in value.items() if _keys(column) == keys}
    return [{name: column[key] for name, column in fitting.items()} for key in keys]


def _keys(column: Any) -> list[Any]:
    """Return the places of a list, or the names of an object if they count rows as pandas does."""
    if isinstance(column, list):
        return list(range(len(column)))
    is_counted = isinstance(column, dict) and all(isinstance(key, str) and key.isdigit() for key in column)
    return list(column) if is_counted else []
