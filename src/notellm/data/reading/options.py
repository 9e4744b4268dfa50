"""How a table is read from files, and how its rows count."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from notellm.data.cells.options import CellOptions
from notellm.errors import ConfigError
from notellm.options import check, option

#: What a double quote means in a delimited file, see ``dialect.py``.
Quoting = Literal["double", "backslash", "none"]
#: What an event of a log counts as.
Counted = Literal["click", "view", "drop"]
#: What the order of rows says in a log without times.
Order = Literal["rows", "none"]


@dataclass(frozen=True)
class ReadOptions(CellOptions):
    """How a table is read. None means: guessed from the file, and reported.

    Attributes:
        separator: text between the cells of delimited files; "tab" for a tab.
        quoting: what a double quote means in delimited files: double (a cell in quotes, two quotes stand for
            one), backslash (the same, and a backslash before a quote makes it text) or none (quotes are
            text).
        encoding: encoding of text files, as utf-8 or cp1252.
        columns: the file's name of each column that is named differently, by our name. "#3" is the third
            column, "title.en" a member of a nested value.
        header: whether the first row of a delimited file names the columns.
        rows: number of rows after which reading ends; None reads all.
        min_rating: the smallest rating that counts as a click.
        events: what an event of another name counts as: click, view or drop.
        order: what the order of the rows says if there are no times: rows (a user's rows follow each other
            in time) or none.
    """

    separator: str | None = option(None)
    quoting: Quoting | None = option(None)
    encoding: str | None = option(None)
    columns: Mapping[str, str] = field(default_factory=dict)
    header: bool = True
    rows: int | None = option(None, least=1)
    min_rating: float | None = option(None)
    events: Mapping[str, Counted] = field(default_factory=dict)
    order: Order | None = option(None)

    def __post_init__(self) -> None:
        """Check all options together.

        Raises:
            ConfigError: if values are not allowed; the message names all of them.
        """
        check(
            self, *(["separator is ''; give the text between cells, or tab"] if self.separator == "" else [])
        )
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise ConfigError(f"min_rating is {self.min_rating}; it must be a number")
        for name, counted in self.events.items():
            if counted not in ("click", "view", "drop"):
                raise ConfigError(f"event {name} is to count as {counted!r}; it must be click, view or drop")
