"""What all results have in common, and tables of results as plain text and as Markdown."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from notellm.errors import DataError
from notellm.evaluate.bootstrap import Interval


class Result(Protocol):
    """How well one method did."""

    @property
    def name(self) -> str:
        """The method."""

    @property
    def figures(self) -> Mapping[str, Interval] | Mapping[str, float]:
        """Figures by name, as shares (0 to 1); with intervals where they are resampled."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""


R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Args:
        head: names of the columns.
        rows: cells of each row.
        caption: line above the table; "" for none.
        text_columns: number of columns on the left that hold text; the others hold figures.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: int = 1

    def markdown(self) -> str:
        """Return the table in Markdown, figures aligned right."""
        ruler = ["---"] * self.text_columns + ["---:"] * (len(self.head) - self.text_columns)
        lines = [f"| {' | '.join(cells)} |" for cells in (self.head, ruler, *self.rows)]
        return "\n".join([*([self.caption, ""] if self.caption else []), *lines]) + "\n"

    def text(self) -> str:
        """Return the table as plain text in aligned columns, figures aligned right."""
        rows = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < self.text_columns else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*([self.caption] if self.caption else []), *lines]) + "\n"


def check_comparable(results: Sequence[R], basis: Callable[[R], object], what: str) -> None:
    """Check that results may stand in one table.

    Args:
        results: results of the methods.
        basis: returns what a result was measured on; equal for all results of a table.
        what: names that basis in the message, as "pool, queries and figures".

    Raises:
        DataError: if there is no result, or two results have different bases.
    """
    if not results:
        raise DataError("there is no result to put in a table: give one or more")
    first = results[0]
    for result in results:
        if basis(result) != basis(first):
            raise DataError(
                f"{first.name} and {result.name} are not on the same {what}: put them in separate tables"
            )


def intervals_json(figures: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """Return figures as JSON values: the mean and both ends of the interval of each."""
    return {name: dataclasses.asdict(interval) for name, interval in figures.items()}
