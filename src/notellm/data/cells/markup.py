"""HTML and invisible characters in texts: entities are decoded, tags taken out.

A tag counts as one only if its name is one of HTML's and it is closed, or never has an end (``<br>``); so
"5 < 7", "vector<int>" and a lone "<b>" in a text about HTML stay as they are.
"""

import html
import re
from html.entities import html5

import polars as pl

from notellm.data.cells.options import CellOptions
from notellm.data.problems import Report

#: Characters without width that programs leave behind: a text of these alone is empty.
INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u2064\u206a-\u206f\u3164\ufeff\uffa0"
)

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_PAIRED = (
    "a|abbr|article|aside|b|big|blockquote|body|button|center|code|dd|del|div|dl|dt|em|figcaption|figure|font|footer|"
    "h[1-6]|head|header|html|i|iframe|ins|label|li|main|mark|nav|ol|p|pre|section|small|span|strike|strong|sub|sup|"
    "table|tbody|td|th|thead|tr|tt|u|ul|video"
)
_SILENT = (
    (re.compile(r"<script\b[^<>]*>.*?</script\s*>", re.IGNORECASE | re.DOTALL), "</script"),
    (re.compile(r"<style\b[^<>]*>.*?</style\s*>", re.IGNORECASE | re.DOTALL), "</style"),
    (re.compile(r"<!--.*?-->", re.DOTALL), "-->"),
)
_VOID = re.compile(r"<(?:br|hr|img|wbr|input)\b(?:\s[^<>]*)?/?>|</?p\s*/?>", re.IGNORECASE)
_OPEN = re.compile(rf"<({_PAIRED})(?:\s[^<>]*)?>", re.IGNORECASE)
_BLOCK = re.compile(
    r"<(?:/?(?:p|div|li|ul|ol|tr|td|th|h[1-6]|table|blockquote|section|br|hr)\b)", re.IGNORECASE
)
_TAG_START = r"</?[A-Za-z!]"
_DEEPEST = 3  # times that entities of entities are decoded: &amp;amp;lt;


def without_markup(cells: pl.Series, where: str, report: Report, options: CellOptions) -> pl.Series:
    """Return texts without HTML entities, tags and, where nothing else is there, invisible characters.

    Args:
        cells: texts.
        where: name of the column in the report.
        report: receives how many cells were changed, each kind with an example.
        options: with ``markup="keep"`` HTML stays.
    """
    cells = _without_invisible(cells, where, report)
    if options.markup == "keep":
        return cells
    candidates = cells.str.contains(rf"&[#A-Za-z]|{_TAG_START}").fill_null(value=False)
    if not candidates.any():
        return cells
    changed: dict[str, list[str]] = {"HTML entity": [], "HTML tag": []}
    places = candidates.arg_true().to_list()
    texts = [_plain(text, changed) for text in cells.filter(candidates)]
    for problem, examples in changed.items():
        if examples:
            action = "decoded" if problem == "HTML entity" else "taken out"
            report.add(problem, where, len(examples), examples[0], f"{action}; kept with --markup keep")
    return cells.scatter(places, texts) if places else cells


def _without_invisible(cells: pl.Series, where: str, report: Report) -> pl.Series:
    around = cells.str.contains(rf"^[\s{INVISIBLE}]*[{INVISIBLE}]|[{INVISIBLE}][\s{INVISIBLE}]*$").fill_null(
        value=False
    )
    if count := int(around.sum()):
        example = cells.filter(around)[0]
        report.add("invisible characters around a text", where, count, example, "taken out")
        bare = cells.str.replace(rf"^[\s{INVISIBLE}]+", "").str.replace(rf"[\s{INVISIBLE}]+$", "")
        cells = pl.select(pl.when(around).then(bare).otherwise(cells)).to_series()
    return cells


def _plain(text: str, changed: dict[str, list[str]]) -> str:
    """Return one text without tags and entities."""
    bare = _without_tags(text)
    if bare != text:
        changed["HTML tag"].append(text)
    decoded = bare
    for _ in range(_DEEPEST):
        again = _ENTITY.sub(_decoded, decoded)
        if again == decoded:
            break
        decoded = again
    if decoded != bare:
        changed["HTML entity"].append(text)
        # Feeds escape whole paragraphs, tags included. Beside real tags, or within a sentence, an escaped
        # tag is what the text speaks of.
        is_paragraph = bare == text and decoded.lstrip().startswith("<")
        inner = _without_tags(decoded) if is_paragraph else decoded
        if inner != decoded and inner:
            changed["HTML tag"].append(text)
            decoded = inner
    return decoded


def _decoded(entity: "re.Match[str]") -> str:
    name = entity[0][1:]
    known = name.startswith("#") or name in html5
    return html.unescape(entity[0]).replace("\xa0", " ") if known else entity[0]


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    bare = text
    for silent, end in _SILENT:
        last = max(bare.rfind(end), bare.rfind(end.upper()))
        if last >= 0:  # nothing after the last end is looked through in vain
            stop = bare.find(">", last) + 1 or len(bare)
            bare = silent.sub(" ", bare[:stop]) + bare[stop:]
    bare = _VOID.sub(_space, bare)
    names = {opened[1].lower() for opened in _OPEN.finditer(bare)}
    for name in names:
        if re.search(rf"</{name}\s*>", bare, re.IGNORECASE):
            bare = re.sub(rf"</?{name}(?:\s[^<>]*)?>", _space, bare, flags=re.IGNORECASE)
    return bare if bare == text else re.sub(r"[ \t]{2,}", " ", bare).strip()


def _space(tag: "re.Match[str]") -> str:
    """A space where the tag ends a line or a cell, else nothing."""
    return " " if _BLOCK.match(tag[0]) else ""
