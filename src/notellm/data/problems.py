"""The report of what was wrong with the data and what was done about it.

It has one row per kind of problem: ``problem``, ``where`` (file, or table and column), ``count`` (rows),
``example`` (the first one), ``action``, and for a guess the ``option`` of the command line that states it.
Readers and ``validate`` each return a report; ``+`` joins two.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: One row per kind of problem.
PROBLEMS = pa.schema(
    [
        pa.field("problem", pa.string(), nullable=False),
        pa.field("where", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("example", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("option", pa.string(), nullable=False),
    ]
)

_WIDEST_EXAMPLE = 48
_WIDE = frozenset("WF")


@dataclass(frozen=True)
class Problem:
    """A kind of problem: the number of rows that have it, the first of them, and what was done.

    ``option`` is the option of ``notellm prepare`` that states a guess; "" if there is none. A row that only
    ``informs`` is no reason to stop where problems are (``strict``).
    """

    problem: str
    where: str
    count: int
    example: str
    action: str
    option: str = ""
    informs: bool = False


@dataclass
class Tally:
    """How many rows of a table that comes in pieces have a problem, and the first of them.

    Attributes:
        count: number of rows.
        example: the first of them, by some of its columns; "" if there is none.
    """

    count: int = 0
    example: str = ""

    def add(self, rows: pa.Table, bad: npt.NDArray[np.bool_], columns: Sequence[str]) -> None:
        """Count the bad ones of some rows.

        Args:
            rows: the rows.
            bad: (n,) which of them have the problem.
            columns: names of the columns that an example shows.
        """
        if not self.count and bad.any():
            row = rows.slice(int(bad.argmax()), 1).select(list(columns)).to_pylist()[0]
            self.example = ", ".join(f"{name} {value}" for name, value in row.items())
        self.count += int(np.count_nonzero(bad))


@dataclass(frozen=True)
class Report:
    """Problems in the order in which they were found; ``str(report)`` is a table for people."""

    problems: list[Problem] = field(default_factory=list)

    def add(
        self,
        problem: str,
        where: str,
        count: int,
        example: object,
        action: str,
        option: str = "",
        *,
        informs: bool = False,
    ) -> None:
        """Add a kind of problem, unless ``count`` is 0."""
        if count:
            example = _one_line(example)
            self.problems.append(Problem(problem, where, int(count), example, action, option, informs))

    @property
    def serious(self) -> "Report":
        """The rows that do more than inform."""
        return Report([problem for problem in self.problems if not problem.informs])

    @property
    def options(self) -> list[str]:
        """The options that state what was guessed, each once."""
        return list(dict.fromkeys(problem.option for problem in self.problems if problem.option))

    def table(self) -> pa.Table:
        """Return the problems as an Arrow table with the schema ``PROBLEMS``."""
        return pa.Table.from_pylist([vars(problem) for problem in self.problems], schema=PROBLEMS)

    def __add__(self, other: "Report") -> "Report":
        return Report(self.problems + other.problems)

    def __len__(self) -> int:
        return len(self.problems)

    def __str__(self) -> str:
        if not self.problems:
            return "no problems found"
        rows = [PROBLEMS.names[:-1]]
        rows += [[p.problem, p.where, f"{p.count:,}", _shorten(p.example), _action(p)] for p in self.problems]
        widths = [max(_width(row[i]) for row in rows) for i in range(len(rows[0]))]
        rows.insert(1, ["-" * width for width in widths])
        return "\n".join(
            "  ".join(
                _pad(cell, width, right=i == 2)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def _action(problem: Problem) -> str:
    """Return what was done, with the option that states it."""
    return f"{problem.action} ({problem.option})" if problem.option else problem.action


def _one_line(value: object) -> str:
    """Return the text of an example, printable, on one line, with at most 200 characters."""
    text = str(value)[:200]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _shorten(text: str) -> str:
    kept = ""
    for character in text:
        if _width(kept + character) > _WIDEST_EXAMPLE - 1:
            return kept + "…"
        kept += character
    return kept


def _width(text: str) -> int:
    """Return the width of a text on a terminal, where a Chinese character takes two columns."""
    return sum(2 if unicodedata.east_asian_width(c) in _WIDE else 1 for c in text)


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
