"""A report as one HTML page that needs nothing else: no script, no other host, no font.

Every text is escaped, and a policy in the page forbids scripts and requests all the same. The page is light
or dark as the reader's system is, fits narrow and wide windows (wide tables scroll in their own box), and
prints.
"""

import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import count as counter

from notellm.experiment.report.blocks import (
    MARKS,
    Block,
    Bullets,
    Cell,
    Claims,
    Drawing,
    Drawings,
    Examples,
    Grid,
    Heading,
    Paragraph,
    Report,
    Row,
    Section,
    Sentence,
    Terms,
)
from notellm.experiment.report.plot_style import COLOURS
from notellm.experiment.report.words import line, visible
from notellm.experiment.results import Claim, Example

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
#: What is not broken at the end of a line.
_WHOLE = re.compile(r"\[[−+\d.,]+ [−+\d.,]+\]|p [<=] [\d.]+|\d %")
_VERDICTS = {"holds": ("good", "✓"), "does not hold": ("bad", "✗")}


def html_page(report: Report) -> str:
    """Return a report as one HTML page."""
    title = _text(report.title)
    numbers = counter(1)
    style = files("notellm.experiment.report").joinpath("page.css").read_text(encoding="utf-8")
    pieces = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{title}</title>",
        f"<style>\n{style}</style>",
        "</head>",
        "<body>",
        '<a class="skip" href="#answer">To the answer</a>',
        f'<header><p class="kind">Report of an experiment</p><h1>{title}</h1></header>',
        *(
            ['<div class="alarm" role="alert">', *map(_paragraph, report.alarms), "</div>"]
            if report.alarms
            else []
        ),
        '<div class="columns">',
        '<nav aria-label="Contents"><ol>',
        *(f'<li><a href="#{section.key}">{_text(section.title)}</a></li>' for section in report.sections),
        "</ol></nav>",
        "<main>",
    ]
    for section in report.sections:
        pieces += _section(section, numbers)
    return "\n".join([*pieces, "</main>", "</div>", "</body>", "</html>", ""])


def _text(text: str) -> str:
    """Return a text of the data on one line, escaped and with every character visible."""
    return escape(line(text))


def _name(text: str) -> str:
    """Return a text of the data whose writing direction does not touch its surroundings."""
    return f'<bdi dir="auto">{_text(text)}</bdi>'


def _section(section: Section, numbers: Iterator[int]) -> Iterator[str]:
    yield f'<section id="{section.key}" aria-labelledby="{section.key}-title">'
    yield f'<h2 id="{section.key}-title">{_text(section.title)}</h2>'
    if section.intro:
        yield f'<p class="intro">{_text(section.intro)}</p>'
    for block in section.blocks:
        yield from _block(block, numbers)
    yield "</section>"


def _block(block: Block, numbers: Iterator[int]) -> Iterator[str]:
    match block:
        case Paragraph():
            yield _paragraph(block)
        case Bullets():
            yield f"<ul>{''.join(f'<li>{_sentence(item)}</li>' for item in block.items)}</ul>"
        case Heading():
            yield f"<h3>{_text(block.text)}</h3>"
        case Grid():
            yield from _grid(block, next(numbers))
        case Drawings():
            yield '<div class="plots">'
            yield from map(_drawing, block.drawings)
            yield "</div>"
        case Claims():
            yield '<div class="claims">'
            yield from map(_claim, block.claims)
            yield "</div>"
        case Examples():
            yield '<div class="examples">'
            yield from _examples("Found", block.found)
            yield from _examples("Missed", block.missed)
            yield "</div>"
        case Terms():
            yield "<dl>"
            for term in block.terms:
                meaning = f"<pre>{escape(visible(term.meaning))}</pre>" if term.code else _text(term.meaning)
                yield f"<div><dt>{_text(term.name)}</dt><dd>{meaning}</dd></div>"
            yield "</dl>"


def _paragraph(paragraph: Paragraph) -> str:
    kind = f' class="{paragraph.kind}"' if paragraph.kind else ""
    sign = {"good": '<span aria-hidden="true">✓ </span>', "bad": '<span aria-hidden="true">✗ </span>'}
    return f"<p{kind}>{sign.get(paragraph.kind, '')}{_sentence(paragraph.text)}</p>"


def _running(text: str) -> str:
    """Return a piece of a sentence, escaped, whose intervals and values are not broken."""
    return escape(_WHOLE.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), visible(text)))


def _sentence(sentence: Sentence) -> str:
    pieces = []
    for piece in sentence:
        if isinstance(piece, str):
            pieces.append(_running(piece))
        else:
            pieces.append(f"<strong>{_running(piece.text)}</strong>")
    return "".join(pieces)


def _grid(grid: Grid, number: int) -> Iterator[str]:
    """Yield a table in a box in which it scrolls; the box can be reached by keyboard."""
    label = f"table-{number}"
    yield '<figure class="table">'
    yield f'<figcaption id="{label}">{_text(grid.caption)}</figcaption>'
    yield f'<div class="scroll" tabindex="0" role="group" aria-labelledby="{label}"><table>'
    kinds = ["text"] * grid.text_columns + ["number"] * (len(grid.head) - grid.text_columns)
    heads = [
        f'<th scope="col" class="{kind}">{_text(name)}</th>'
        for name, kind in zip(grid.head, kinds, strict=True)
    ]
    yield f"<thead><tr>{''.join(heads)}</tr></thead><tbody>"
    for row in grid.rows:
        yield _row(row, kinds)
    yield "</tbody></table></div>"
    if grid.remarks:
        yield f'<p class="small">{_text(" ".join(grid.remarks))}</p>'
    yield "</figure>"


def _row(row: Row, kinds: Sequence[str]) -> str:
    if row.heads:
        text = _text(row.cells[0].text)
        return f'<tr class="heads"><th scope="rowgroup" colspan="{len(kinds)}"><span>{text}</span></th></tr>'
    first, *others = row.cells
    cells = [f'<th scope="row">{_cell(first)}</th>']
    cells += [
        f'<td class="{" ".join(filter(None, (kind, cell.mark)))}">{_cell(cell)}</td>'
        for cell, kind in zip(others, kinds[1:], strict=True)
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(cell: Cell) -> str:
    """Return the contents of a cell: text, the sign of its mark, smaller lines below."""
    sign = ""
    if cell.mark:
        symbol, meaning = MARKS[cell.mark]
        sign = f'<span class="sign" role="img" aria-label="{escape(meaning)}">{symbol}</span>'
    below = "".join(f"<small>{_text(each)}</small>" for each in cell.below)
    return f"<span>{_text(cell.text)}{sign}</span>{below}"


def _drawing(drawing: Drawing) -> str:
    kind = f"plot{' wide' if drawing.wide else ''}{' two' if drawing.small else ''}"
    svg = drawing.svg + drawing.small
    for i, colour in enumerate(COLOURS):  # a dark page has lighter ones
        svg = svg.replace(f": {colour.lower()}", f": var(--plot-{i})")
    return f'<figure class="{kind}">{svg}<figcaption>{_text(drawing.caption)}</figcaption></figure>'


def _claim(claim: Claim) -> str:
    kind, sign = _VERDICTS.get(claim.verdict, ("open", "?"))
    return (
        f'<article class="claim {kind}"><h3>{_text(claim.claim)}</h3>'
        f'<p class="verdict"><span aria-hidden="true">{sign} </span>{_text(claim.verdict)}</p>'
        f"<dl><div><dt>in the paper</dt><dd>{_text(claim.paper)}</dd></div>"
        f"<div><dt>on these data</dt><dd>{_text(claim.here)}</dd></div></dl></article>"
    )


def _examples(title: str, examples: Sequence[Example]) -> Iterator[str]:
    if not examples:
        return
    yield f'<div class="{title.lower()}"><h3>{title}</h3>'
    for example in examples:
        near = "".join(
            f'<li class="{"related" if each.related else "other"}">{_name(each.title)} '
            f"<small>{each.score:.3f}{' ✓ related' if each.related else ''}</small></li>"
            for each in example.neighbours
        )
        yield (
            f'<article class="example"><h4>{_name(example.query)}</h4><p>Its related note '
            f"{_name(example.target)} has rank {example.rank:,g}.</p><ol>{near}</ol></article>"
        )
    yield "</div>"
