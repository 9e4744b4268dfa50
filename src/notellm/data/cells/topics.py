"""Topics: lists, and texts that hold lists in one of the forms in which programs write them."""

import ast
import csv
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

_HASHTAGS = re.compile(r"#[^\s#,;，；、]+(?:[\s,;，；、]*#[^\s#,;，；、]+)*")
#: Hashtags of Chinese sites, which have a mark at both ends: #food##travel#.
_CLOSED_HASHTAGS = re.compile(r"#[^#]+#(?:\s*#[^#]+#)*")
#: The tags of Stack Overflow: <python><pandas>.
_ANGLES = r"^(?:<[^<>\s]+>)+$"
_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
#: An array of numpy in text, which has no commas: ['a' 'b'].
_NUMPY = re.compile(rf"\[\s*{_STRING}(?:\s+{_STRING})+\s*\]")
_ARRAY = re.compile(r"array\((\[.*\])(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
#: Separators that are a guess, the surest first.
_GUESSED = ("\n", ";", "；", ",", "，", "、")
#: What may be a separator, or part of a topic: cells stay whole.
_DOUBTFUL = (" > ", "/", " · ", " • ", "·", "•", "+")
_LISTS = pl.List(pl.String)
_LONGEST_LITERAL = 100_000  # characters; Python's parser takes long for more


def topics(
    column: pa.ChunkedArray, where: str, report: Report, options: CellOptions | None = None
) -> pl.Series:
    """Convert topics to lists of strings.

    A text is a JSON list, a Python list, hashtags, or words with a separator between them: ``|`` if any cell
    of the column has one, else a line end, ``;`` or ``,`` in cells that have one, which are guesses. A single
    comma in few cells, whose parts no other cell has, is part of a topic ("Washington, D.C.").

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
            "| or , or ;"
        )
    cells = utf8(column, where, report)
    cells = _without_angles(without_missing(cells, where, report, options), where, report, options)
    # The words of lists lose their markup when they have been told apart.
    is_list = cells.str.contains(r"^\s*[\[{(]").fill_null(value=False)
    bare = without_markup(pl.select(pl.when(~is_list).then(cells)).to_series(), where, report, options)
    cells = pl.select(pl.when(is_list).then(cells).otherwise(bare)).to_series()
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
    clean = without_missing(words, where, report, options, doubt=True)
    clean = without_markup(clean, where, report, options)
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
    braces = _all_in_braces(cell_list)
    lists: list[list[str] | None] = [_list_in(cell, seen, flat, braces=braces) for cell in cell_list]
    rest = [row for row, found in enumerate(lists) if found is None]
    separators = _separators(options.topic_separator, (cell_list[row] or "" for row in rest))
    texts = {row: cell_list[row] or "" for row in rest}
    if separators == _GUESSED and _is_part_of_topics(list(texts.values())):
        with_comma = [text for text in texts.values() if "," in text]
        action = "kept whole; --topic-separator , splits them"
        report.add("topics with a comma that may separate", where, len(with_comma), with_comma[0], action)
        separators = tuple(each for each in separators if each != ",")
    for row, text in texts.items():
        separator = next((each for each in separators if each in text), None)
        words = [word for word in map(str.strip, text.split(separator) if separator else [text]) if word]
        if separator in _GUESSED and options.topic_separator is None:
            seen.split.setdefault(str(separator), []).append(text)
            words = _unquoted(words)
        lists[row] = words
    flat.report(report)
    seen.report(where, report)
    if options.topic_separator is None:
        _report_doubt([text for row, text in texts.items() if len(lists[row] or []) == 1], where, report)
    return pl.Series(lists, dtype=_LISTS)


def _is_part_of_topics(texts: list[str]) -> bool:
    """Whether commas are part of topics: one a cell, in the smaller part of cells, before a space."""
    distinct = {text.strip() for text in texts if text.strip()}
    with_comma = [text for text in distinct if "," in text]
    if not with_comma or 2 * len(with_comma) >= len(distinct):
        return False
    parts = [part.strip() for text in with_comma for part in text.split(",")]
    return all(text.count(",") == 1 and ", " in text for text in with_comma) and (
        len(set(parts)) == len(parts) and not distinct & set(parts)
    )


def _report_doubt(whole: list[str], where: str, report: Report) -> None:
    """Report cells that stay one topic, most of which have the same mark between words."""
    given = [text for text in whole if text.strip()]
    for mark in _DOUBTFUL:
        found = [text for text in given if mark in text]
        if len(found) > 1 and 2 * len(found) > len(given):
            action = f"kept whole; --topic-separator '{mark.strip()}' splits them"
            report.add("topics that may be several", where, len(found), found[0], action)
            return


def _unquoted(words: list[str]) -> list[str]:
    """Return words without quotes around them, if all have some."""
    if all(len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" for word in words):
        return [word[1:-1] for word in words]
    return words


def _all_in_braces(cells: list[str | None]) -> bool:
    """Whether all cells are in brackets or braces, as arrays of databases: {a,"b c"}."""
    given = [text.strip() for text in cells if text and text.strip()]
    return all((text[0], text[-1]) in (("[", "]"), ("{", "}")) for text in given)


def _without_angles(cells: pl.Series, where: str, report: Report, options: CellOptions) -> pl.Series:
    """Return the tags of Stack Overflow as lists, before they are taken for HTML."""
    found = cells.str.contains(_ANGLES).fill_null(value=False)
    given = (cells.str.len_chars() > 0).fill_null(value=False)
    if options.topic_separator is not None or not found.any() or not found.filter(given).all():
        return cells
    report.add("topics in angle brackets", where, int(found.sum()), cells.filter(found)[0], "read as a list")
    lists = [json.dumps(text[1:-1].split("><")) for text in cells.filter(found)]
    return cells.scatter(found.arg_true(), lists)


class _Seen:
    """Cells that were read by a guess."""

    def __init__(self) -> None:
        self.python: list[str] = []
        self.hashtags: list[str] = []
        self.unreadable: list[str] = []
        self.braces: list[str] = []
        self.split: dict[str, list[str]] = {}

    def report(self, where: str, report: Report) -> None:
        """Add what was read by a guess."""
        for problem, cells, action in (
            ("topics as a Python list", self.python, "read as a list"),
            ("topics as hashtags", self.hashtags, "read without #"),
            ("topics in brackets without quotes", self.braces, "split at ','"),
            ("topics start with [ or { but are no list", self.unreadable, "read as words"),
        ):
            report.add(problem, where, len(cells), cells[0] if cells else "", action)
        for separator, texts in self.split.items():
            option = f"--topic-separator '{separator}'" if len(self.split) == 1 and separator != "\n" else ""
            action = f"split at {separator!r}; --topic-separator none keeps them whole"
            report.add("topics separated by a guess", where, len(texts), texts[0], action, option)


def _separators(chosen: str | None, cells: Iterable[str]) -> tuple[str, ...]:
    """Return the separators in the order in which they are looked for in a cell."""
    if chosen == "none":
        return ()
    if chosen is not None:
        return (chosen,)
    return ("|",) if any("|" in cell for cell in cells) else _GUESSED


def _list_in(cell: str | None, seen: _Seen, flat: NestedCells, *, braces: bool) -> list[str] | None:
    """Return the topics of a cell with a list or hashtags; None for other texts."""
    text = (cell or "").strip()
    if not text:
        return []
    if array := _ARRAY.fullmatch(text):
        text = array[1]
    if text[0] in "[{(":
        value = _literal(text, seen)
        if isinstance(value, list | tuple | dict):
            words: list[str] = json.loads(flat.flat(value) or "[]")
            return [word.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for word in words]
        if braces:
            seen.braces.append(text)
            words = next(csv.reader([text[1:-1].replace("\n", " ")], skipinitialspace=True), [])
            return [word.strip().strip("'\"") for word in words if word.strip()]
        if text[0] != "(":
            seen.unreadable.append(text)
        return None
    if _HASHTAGS.fullmatch(text):
        seen.hashtags.append(text)
        return [word.strip(",;，；、 \t\n") for word in text.split("#")[1:]]
    if _CLOSED_HASHTAGS.fullmatch(text):
        seen.hashtags.append(text)
        return [word for word in map(str.strip, text.split("#")) if word]
    return None


def _literal(text: str, seen: _Seen) -> Any:
    if _NUMPY.fullmatch(text):  # Python would join the strings
        text = re.sub(rf"({_STRING})\s+(?=['\"])", r"\1, ", text)
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
