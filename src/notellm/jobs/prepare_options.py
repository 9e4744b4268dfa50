"""The options of ``notellm prepare``; imports nothing heavy, so that a command line can read them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from notellm.data.cells.options import CellOptions, Markup
from notellm.data.reading.options import Counted, Order, Quoting, ReadOptions
from notellm.errors import ConfigError
from notellm.options import check, option

#: The tables that options may be stated for, as in "notes=;".
TABLES = ("notes", "clicks", "topics")


@dataclass(frozen=True)
class LogOptions:
    """How a log of clicks is read and cleaned; what is left out is guessed, and reported with its option.

    Attributes:
        separator: text between the cells of delimited files, such as ";" or tab; of one table: clicks=tab.
            Repeatable.
        quoting: what a double quote means: double (two stand for one), backslash (a backslash before it
            makes it text) or none (quotes are text); of one table: notes=none. Repeatable.
        encoding: encoding of text files, such as utf-8 or cp1252; of one table: notes=cp1252. Repeatable.
        time_format: form of times: day-first, month-first, excel, year, s, ms, us, ns, or a strptime format
            such as "%d.%m.%Y %H:%M"; of one table: clicks=day-first. Repeatable.
        missing: words that stand for a missing value, separated by commas; "" for none.
        header: whether the first row of delimited files names the columns; without, columns are "#1", "#2".
        min_rating: the smallest rating that counts as a click.
        event: NAME=click, NAME=view or NAME=drop: what an event of another name counts as. Repeatable.
        user_limit: users with more clicks than this are dropped as bots; 0 keeps all.
    """

    separator: list[str] | None = option(None)
    quoting: list[str] | None = option(None)
    encoding: list[str] | None = option(None)
    time_format: list[str] | None = option(None)
    missing: str = option(CellOptions.missing)
    header: bool = option(True, flag="--header/--no-header")
    min_rating: float | None = option(None)
    event: list[str] | None = option(None)
    user_limit: int = option(5_000, least=0)

    def of(self, table: str, columns: Mapping[str, str], rows: int | None = None) -> ReadOptions:
        """Return the options with which one table is read.

        Args:
            table: one of ``TABLES``.
            columns: the file's name of each column, by our name.
            rows: number of rows to read; None reads all.

        Raises:
            ConfigError: if a value is not allowed.
        """
        check(self)
        quoting = _stated("quoting", self.quoting, table)
        if quoting not in (None, "double", "backslash", "none"):
            raise ConfigError(f"quoting is {quoting!r}; it must be double, backslash or none")
        return ReadOptions(
            missing=self.missing,
            time_format=_stated("time_format", self.time_format, table),
            separator=_stated("separator", self.separator, table),
            quoting=cast("Quoting | None", quoting),
            encoding=_stated("encoding", self.encoding, table),
            columns=columns,
            header=self.header,
            rows=rows,
            min_rating=self.min_rating if table == "clicks" else None,
            events=_events(self.event or []) if table == "clicks" else {},
        )


@dataclass(frozen=True)
class PrepareOptions(LogOptions):
    """How tables are read and cleaned; what is left out is guessed, and reported with the option for it.

    Attributes:
        topic_separator: character between the topics of a cell; "none" if a cell holds one topic.
        markup: HTML in texts: text (entities are decoded, tags are taken out) or keep.
        order: what the order of the rows of a log without times says: rows (a user's rows follow each other
            in time) or none.
    """

    topic_separator: str | None = option(None)
    markup: Markup = option("text")
    order: Order | None = option(None)

    def of(self, table: str, columns: Mapping[str, str], rows: int | None = None) -> ReadOptions:
        """Return the options with which one table is read, as ``LogOptions.of`` does."""
        read = super().of(table, columns, rows)
        order = self.order if table == "clicks" else None
        return replace(read, markup=self.markup, topic_separator=self.topic_separator, order=order)


def _stated(name: str, values: list[str] | None, table: str) -> str | None:
    """Return the value of an option for one table: that of the table, else the one of all tables."""
    found: dict[str, str] = {}
    for value in values or []:
        of, equals, rest = value.partition("=")
        key, stated = (of, rest) if equals and of in TABLES else ("", value)
        if found.get(key, stated) != stated:
            raise ConfigError(
                f"{name} is {found[key]!r} and {stated!r}; say for which table, as notes={stated}"
            )
        found[key] = stated
    return found.get(table, found.get(""))


def _events(entries: list[str]) -> dict[str, Counted]:
    events: dict[str, Counted] = {}
    for entry in entries:
        name, equals, counted = entry.rpartition("=")
        if not equals or counted not in ("click", "view", "drop"):
            raise ConfigError(f"--event is {entry!r}; write NAME=click, NAME=view or NAME=drop")
        if events.get(name, counted) != counted:
            raise ConfigError(f"--event gives {name} twice, as {events[name]} and {counted}; leave one out")
        events[name] = cast("Counted", counted)
    return events
