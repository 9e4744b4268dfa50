"""What the figures of written categories and topics have in common: rankings, comparing names, the table.

A method gives each note a ranking: names, best first, each with a probability. ``tagging_categories`` and
``tagging_topics`` hold the figures, ``tagging_baselines`` and ``tagging_classifier`` the simple methods.

Names are equal if they are equal after stripping and case folding. A name that a ranking repeats counts once,
at its first place. Notes without a true category or topics are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from notellm.errors import DataError
from notellm.evaluate.tables import Table, check_comparable

#: Names, best first, each with a probability (0 to 1); empty if a method has nothing to say.
Ranked = Sequence[tuple[str, float]]

T = TypeVar("T", str, Sequence[str])


class TaggingResult(Protocol):
    """How well one method wrote categories or topics."""

    @property
    def name(self) -> str:
        """The method."""

    @property
    def notes(self) -> int:
        """Number of notes that were compared."""

    @property
    def figures(self) -> Mapping[str, float]:
        """Figures by name, as shares (0 to 1)."""

    @property
    def means(self) -> Mapping[str, float]:
        """Further figures by name that are no shares."""

    def to_json(self) -> dict[str, Any]:
        """Return the number of notes and all figures."""


def key(name: str) -> str:
    """Return the form of a name in which names are compared."""
    return name.strip().casefold()


def distinct(names: Sequence[str]) -> list[str]:
    """Return names in the form in which they are compared, each at its first place."""
    return list(dict.fromkeys(map(key, names)))


def names_of(ranking: Ranked) -> list[str]:
    """Return the names of a ranking, best first."""
    return [name for name, _ in ranking]


def notes_with_truth(what: str, predicted: Sequence[Ranked], true: Sequence[T]) -> list[int]:
    """Return the positions of the notes whose true value is known, ascending.

    Args:
        what: what was predicted, for the message.
        predicted: a ranking for each note.
        true: the true value of each note, aligned; empty if unknown.

    Raises:
        DataError: if the lengths differ, a probability is not from 0 to 1, or no true value is known.
    """
    if len(predicted) != len(true):
        raise DataError(f"{len(predicted)} rankings of {what} for {len(true)} notes: give one for each note")
    for ranking in predicted:
        for name, probability in ranking:
            if not 0.0 <= probability <= 1.0:  # NaN fails, too
                raise DataError(f"the probability of {name!r} is {probability}: give a number from 0 to 1")
    known = [note for note, truth in enumerate(true) if truth]
    if not known:
        raise DataError(f"none of {len(true)} notes has {what} of its own to compare with")
    return known


def tagging_table(title: str, results: Sequence[TaggingResult]) -> Table:
    """Return a table of results on the same notes, one row per method.

    Args:
        title: what was predicted, for the caption.
        results: results of one kind. Shares are shown in %, means as they are.

    Raises:
        DataError: if there is no result, or the results are of different notes or figures.
    """
    check_comparable(
        results, lambda result: (result.notes, list(result.figures), list(result.means)), "notes and figures"
    )
    first = results[0]
    rows = [
        [
            result.name,
            f"{result.notes:,}",
            *(f"{100 * share:.1f}" for share in result.figures.values()),
            *(f"{mean:.1f}" for mean in result.means.values()),
        ]
        for result in results
    ]
    unit = "".join(f"; {mean} as a number" for mean in first.means)
    return Table(["method", "notes", *first.figures, *first.means], rows, f"{title}, %{unit}")
