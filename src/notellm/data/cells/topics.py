"""Topics: lists, and texts that hold lists in one of the forms in which programs write them."""

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

import polars as pl
import pyarrow as pa

from notellm.data.cells.columns import is_text, plain, utf8
from notellm.data.cells.markup import without_markup
from notellm.data.cells.missing import without_missing
from notellm.data.cells.nested import NestedCells, unwrapped
from notellm.data.cells.options import CellOptions
from notellm.data.problems import Report
from notellm.errors import DataError

_HASHTAGS = re.compile(r"#\S+(?:\s+#\S+)*")
_LISTS = pl.List(pl.String)
_LONGEST_LITERAL = 100_000  # characters; Python's parser takes long for more


def topics(
    column: pa.ChunkedArray, where: str, report: Report, options: CellOptions | None = None
) -> pl.Series:
    """Convert topics to lists of strings.

    A text is a JSON list, a Python list, hashtags, or words with a separator between them: ``|`` if any cell
    of the column has one, else ``;`` in cells that have one, else ``,``; the last two are guesses.

    Args:
        column: lists of texts or of objects with a name; or texts.
        where: name of the column in the report.
        report: receives what was changed or guessed.
        options: how cells are read.

    Raises:
        DataError: if the column is neither lists nor text, or its objects have no obvious name.
    """
    options = options or CellOptions()
    column = plain(column)
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list and is_text(kind.value_type):
        return _cleaned(_topic_lists(column, where, report), where, report, options)
    column = unwrapped(column, "topics", where, report)
    if pa.types.is_floating(kind) and pl.Series(column).is_nan().all():
        return pl.Series([[]] * len(column), dtype=_LISTS)
    if not is_text(column.type) and not pa.types.is_null(kind):
        raise DataError(
            f"{where} is of type {kind}; topics are lists of text, or text: a JSON list, or words between "
            f"| or , or ;"
        )
    cells = utf8(column, where, report)
    cells = without_markup(without_missing(cells, where, report, options), where, report, options)
    return _cleaned(_split(cells, where, report, options), where, report, options)


def _topic_lists(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        cells = [cell or [] for cell in column.cast(pa.large_list(pa.large_binary())).to_pylist()]
        lists = [[word.decode(errors="replace") for word in cell if word] for cell in cells]
        broken = [
            new
            for cell, new in zip(cells, lists, strict=True)
            if [word for word in cell if word] != [word.encode() for word in new]
        ]
        report.add("broken UTF-8", where, len(broken), broken[0], "broken bytes became U+FFFD")
        return pl.Series(lists, dtype=_LISTS)
    return pl.Series(column).cast(_LISTS).fill_null(pl.Series([[]], dtype=_LISTS))


def _cleaned(lists: pl.Series, where: str, report: Report, options: CellOptions) -> pl.Series:
    """Return lists whose words have no markup, and are not words for a missing value."""
    words = lists.explode(empty_as_null=False)
    clean = without_markup(without_missing(words, where, report, options), where, report, options)
    if clean.equals(words):
        return lists
    frame = pl.DataFrame({"row": pl.int_range(len(lists), eager=True), "topics": lists})
    rows = frame.explode("topics", empty_as_null=False)["row"]
    kept = pl.DataFrame({"row": rows, "topics": clean}).drop_nulls()
    grouped = kept.group_by("row", maintain_order=True).agg("topics")
    joined = frame.select("row").join(grouped, on="row", how="left", maintain_order="left")["topics"]
    return joined.fill_null(pl.Series([[]], dtype=_LISTS))


def _split(cells: pl.Series, where: str, report: Report, options: CellOptions) -> pl.Series:
    """Split texts into topics."""
    seen = _Seen()
    cell_list = cells.to_list()
    flat = NestedCells("topics", "topics", where)
    lists: list[list[str] | None] = [_list_in(cell, seen, flat) for cell in cell_list]
    rest = [row for row, found in enumerate(lists) if found is None]
    separators = _separators(options.topic_separator, (cell_list[row] or "" for row in rest))
    for row in rest:
        text = cell_list[row] or ""
        separator = next((each for each in separators if each in text), None)
        words = text.split(separator) if separator else [text]
        lists[row] = [word for word in map(str.strip, words) if word]
        if separator in (";", ",") and options.topic_separator is None:
            seen.split.setdefault(separator, []).append(text)
    flat.report(report)
    report.add(
        "topics as a Python list", where, len(seen.python), next(iter(seen.python), ""), "read as a list"
    )
    example, action = next(iter(seen.unreadable), ""), "read as words"
    report.add(
        "topics as hashtags", where, len(seen.hashtags), next(iter(seen.hashtags), ""), "read without #"
    )
    report.add("topics start with [ or { but are no list", where, len(seen.unreadable), example, action)
    for separator, texts in seen.split.items():
        option = f"--topic-separator '{separator}'" if len(seen.split) == 1 else ""
        action = f"split at {separator!r}; --topic-separator none keeps them whole"
        report.add("topics separated by a guess", where, len(texts), texts[0], action, option)
    return pl.Series(lists, dtype=_LISTS)


class _Seen:
    """Cells that were read by a guess."""

    def __init__(self) -> None:
        self.python: list[str] = []
        self.hashtags: list[str] = []
        self.unreadable: list[str] = []
        self.split: dict[str, list[str]] = {}


def _separators(chosen: str | None, cells: Iterable[str]) -> tuple[str, ...]:
    """Return the separators in the order in which they are looked for in a cell."""
    if chosen == "none":
        return ()
    if chosen is not None:
        return (chosen,)
    return ("|",) if any("|" in cell for cell in cells) else (";", ",")


def _list_in(cell: str | None, seen: _Seen, flat: NestedCells) -> list[str] | None:
    """Return the topics of a cell with a list or hashtags; None for other texts."""
    text = (cell or "").strip()
    if not text:
        return []
    if text[0] in "[{":
        value = _literal(text, seen)
        if isinstance(value, list | tuple | dict):
            words: list[str] = json.loads(flat.flat(value) or "[]")
            return [word.encode(errors="replace").decode() for word in words]
        seen.unreadable.append(text)
        return None
    if _HASHTAGS.fullmatch(text):
        seen.hashtags.append(text)
        return [word.lstrip("#") for word in text.split()]
    return None


def _literal(text: str, seen: _Seen) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > _LONGEST_LITERAL:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    seen.python.append(text)
    return sorted(value) if isinstance(value, set) else value
