"""What a report is made of: sections of paragraphs, tables, plots and examples, before they are written.

``page`` writes them as HTML and ``markdown`` as Markdown. All texts are plain: whoever writes them
escapes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from notellm.experiment.results import Claim, Example


@dataclass(frozen=True)
class Strong:
    """A part of a sentence that stands out, such as the name of a method."""

    text: str


#: A sentence or several, in pieces.
Sentence: TypeAlias = Sequence[str | Strong]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph.

    Attributes:
        text: its sentences.
        kind: "" for plain text, "lead" for the answer, "small" for remarks below a table, "good" for what
            was checked and found right, "bad" for what makes the figures doubtful.
    """

    text: Sentence
    kind: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[Sentence]


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


#: The marks of cells with what they mean.
MARKS = {
    "best": ("★", "best of its column"),
    "level": ("≈", "cannot be told from the best"),
    "ahead": ("▲", "better, by more than the chance of the queries explains"),
    "behind": ("▼", "worse, by more than the chance of the queries explains"),
    "same": ("≈", "cannot be told apart"),
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        below: smaller lines below it, such as an interval.
        mark: a key of ``MARKS``; "" for none.
    """

    text: str
    below: Sequence[str] = ()
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: its cells, the first of which names it.
        heads: whether it is a heading of the rows below, with one cell only.
    """

    cells: Sequence[Cell]
    heads: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        caption: what it shows, and of how many queries and notes.
        head: names of the columns.
        rows: its rows.
        remarks: what its marks mean, and other remarks to be read with it.
        text_columns: number of columns on the left that hold text; the others hold figures.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    remarks: Sequence[str] = ()
    text_columns: int = 1


@dataclass(frozen=True)
class Drawing:
    """A plot.

    Attributes:
        name: name of its file, without the ending.
        section: key of the section that shows it.
        svg: the plot as an ``svg`` element of HTML, which refers to nothing outside itself.
        caption: what it shows and how to read it.
        wide: whether it is as wide as the text; others stand side by side.
        small: the same as SVG for a narrow window; "" if ``svg`` fits there, too.
    """

    name: str
    section: str
    svg: str
    caption: str
    wide: bool = False
    small: str = ""


@dataclass(frozen=True)
class Drawings:
    """Plots that belong together."""

    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Claims:
    """What became of the papers' claims."""

    claims: Sequence[Claim]


@dataclass(frozen=True)
class Examples:
    """Queries with their nearest notes: those whose target was found beside those whose target was not."""

    found: Sequence[Example]
    missed: Sequence[Example]


@dataclass(frozen=True)
class Term:
    """A term with its meaning, or a fact with its value.

    Attributes:
        name: the term.
        meaning: its meaning.
        code: whether the meaning is a command or a listing, in which lines and spaces count.
    """

    name: str
    meaning: str
    code: bool = False


@dataclass(frozen=True)
class Terms:
    """A list of terms with their meanings."""

    terms: Sequence[Term]


Block: TypeAlias = Paragraph | Bullets | Heading | Grid | Drawings | Claims | Examples | Terms


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        key: its name in addresses within the page.
        title: its heading.
        intro: what it asks and how its figures are read, in one or two sentences; "" for none.
        blocks: what it holds.
    """

    key: str
    title: str
    intro: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: its title.
        alarms: what makes its figures doubtful, shown before everything else.
        sections: its sections.
    """

    title: str
    alarms: Sequence[Paragraph]
    sections: Sequence[Section] = field(default_factory=tuple)
