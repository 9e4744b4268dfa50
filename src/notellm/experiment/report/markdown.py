"""A report in Markdown, with its plots as files beside it.

Texts are escaped: what a note says is never markup, and never a link.
"""

import re
from collections.abc import Iterator, Sequence

from notellm.evaluate.tables import Table
from notellm.experiment.report.blocks import (
    MARKS,
    Block,
    Bullets,
    Claims,
    Drawings,
    Examples,
    Grid,
    Heading,
    Paragraph,
    Report,
    Row,
    Sentence,
    Terms,
)
from notellm.experiment.report.words import line
from notellm.experiment.results import Example

_MARKUP = re.compile(r"[\\`*_|~]|<(?=[a-z/!?])|&(?=[#\w])|\](?=[(\[:])", re.IGNORECASE)
#: What would become a link, a list, a quotation or a heading by itself.
_BY_ITSELF = re.compile(r"(?<=:)//|(?<=\bwww)\.|@(?=[\w-]+\.)|^[-+](?=\s)|^[#>=]", re.IGNORECASE)
PLOTS = "plots"


def markdown(report: Report) -> str:
    """Return a report in Markdown; plots are named as files of the folder ``plots`` beside it."""
    pieces = [f"# {escaped(report.title)}", *(_paragraph(alarm) for alarm in report.alarms)]
    for section in report.sections:
        pieces.append(f"## {section.title}")
        if section.intro:
            pieces.append(escaped(section.intro))
        for block in section.blocks:
            pieces += _block(block)
    return "\n\n".join(pieces) + "\n"


def escaped(text: str) -> str:
    """Return a text on one line that Markdown shows as it is."""
    text = _MARKUP.sub(r"\\\g<0>", line(text))
    return _BY_ITSELF.sub(r"\\\g<0>", text)


def _block(block: Block) -> Iterator[str]:
    """Yield the pieces of a block, to be parted by empty lines."""
    match block:
        case Paragraph():
            yield _paragraph(block)
        case Bullets():
            yield "\n".join(f"- {_sentence(item)}" for item in block.items)
        case Heading():
            yield f"### {escaped(block.text)}"
        case Grid():
            yield from _grid(block)
        case Drawings():
            for each in block.drawings:
                yield f"![{each.name}]({PLOTS}/{each.name}.svg)"
                yield escaped(each.caption)
        case Claims():
            yield _table(
                ["claim", "paper", "here", "verdict"],
                [
                    [escaped(text) for text in (each.claim, each.paper, each.here, each.verdict)]
                    for each in block.claims
                ],
            )
        case Examples():
            for title, examples in (("Found", block.found), ("Missed", block.missed)):
                if examples:
                    yield f"### {title}"
                yield from (_example(each) for each in examples)
        case Terms():
            for term in block.terms:
                if term.code:
                    yield f"**{escaped(term.name)}**"
                    yield "\n".join(f"    {each}" for each in term.meaning.splitlines())
                else:
                    yield f"**{escaped(term.name)}**: {escaped(term.meaning)}"


def _paragraph(paragraph: Paragraph) -> str:
    text = _sentence(paragraph.text)
    return f"> ⚠ {text}" if paragraph.kind == "bad" else text


def _sentence(sentence: Sentence) -> str:
    """Return a sentence; what stands out is bold, its spaces outside the stars."""
    pieces = []
    for piece in sentence:
        if isinstance(piece, str):
            pieces.append(_inside(piece))
        else:
            text = piece.text.strip()
            pieces.append(f"**{escaped(text)}**{' ' if piece.text.endswith(' ') else ''}")
    return "".join(pieces)


def _inside(text: str) -> str:
    """Return a piece of a sentence, escaped, with the spaces at its ends."""
    body = escaped(text)
    before, after = text[:1].isspace(), text[-1:].isspace()
    return f"{' ' if before else ''}{body}{' ' if after and body else ''}"


def _grid(grid: Grid) -> Iterator[str]:
    yield escaped(grid.caption)
    yield _table(grid.head, [_cells(row, len(grid.head)) for row in grid.rows], grid.text_columns)
    if grid.remarks:
        yield escaped(" ".join(grid.remarks))


def _cells(row: Row, columns: int) -> list[str]:
    """Return the escaped texts of a row; a row that heads others is bold and filled with empty cells."""
    if row.heads:
        return [f"**{escaped(row.cells[0].text)}**", *[""] * (columns - 1)]
    texts = []
    for cell in row.cells:
        sign = f" {MARKS[cell.mark][0]}" if cell.mark else ""
        texts.append(escaped(" ".join([f"{cell.text}{sign}", *cell.below])))
    return texts


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int | None = None) -> str:
    """Return a table of escaped cells; all columns are text if ``text_columns`` is None."""
    columns = len(head) if text_columns is None else text_columns
    return Table([escaped(name) for name in head], rows, text_columns=columns).markdown().rstrip()


def _example(example: Example) -> str:
    """Return a query with its nearest notes as a list."""
    related = f"its related note “{escaped(example.target)}” has rank {example.rank:,g}."
    lines = [
        f"**{escaped(example.query)}**: {related}",
        "",
        *(
            f"{i}. {escaped(each.title)} ({each.score:.3f}){' ✓' if each.related else ''}"
            for i, each in enumerate(example.neighbours, 1)
        ),
    ]
    return "\n".join(lines)
