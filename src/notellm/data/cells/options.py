"""How cells are read: the options that decide what would be guessed otherwise."""

from dataclasses import dataclass
from typing import Literal

from notellm.options import option

#: What becomes of HTML in texts.
Markup = Literal["text", "keep"]


@dataclass(frozen=True)
class CellOptions:
    """How cells are read. None means: guessed from the cells of the column, and reported.

    Attributes:
        missing: words that stand for a missing value, separated by commas; "" for none.
        markup: HTML in texts: text (entities are decoded, tags are taken out) or keep.
        topic_separator: character between the topics of a cell; "none" if a cell holds one topic.
        time_format: form of times: day-first or month-first (03/04/2019), excel (days since 1899-12-30),
            year, s, ms, us or ns (numbers since 1970), or a strptime format such as "%d.%m.%Y %H:%M".
    """

    missing: str = option("NaN,nan,NAN,null,NULL,Null,None,N/A,n/a,#N/A,<NA>,NaT,(null),<null>,\\N")
    markup: Markup = option("text")
    topic_separator: str | None = option(None)
    time_format: str | None = option(None)

    @property
    def missing_words(self) -> list[str]:
        """The words that stand for a missing value."""
        return [word for word in self.missing.split(",") if word]

    @property
    def missing_numbers(self) -> list[str]:
        """Those of them that are whole numbers, as -1 or 0."""
        return [word for word in self.missing_words if word.lstrip("-").isdigit()]
