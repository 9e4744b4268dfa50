"""A generated note platform whose truth is known: notes, a click log, and why the clicks happened.

Nothing is downloaded, and the same seed and sizes give the same bytes.

There are 64 concepts in 8 categories, each with 28 words per language. A note has one concept, and 5 to 10 of
its words in sentences that all notes share. Every concept is matched with one of another category that shares
no words with it: users switch between the two, so only the clicks tell that they belong together. A user has
a language, three interests over the weeks, and lognormal activity; notes have Zipf popularity within their
concept, and nobody clicks on a note before it is published. Bots click on every note, twice.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from notellm.data.sample.clicks import OLDEST, Shelf, click_table, draw_log
from notellm.data.sample.notes import note_table
from notellm.data.sample.truth import DAY, INTERESTS, Ints, Truth
from notellm.data.sample.words import Concept, vocabulary
from notellm.errors import ConfigError


@dataclass(frozen=True)
class SampleWorld:
    """Notes (schema ``NOTES``), clicks (schema ``CLICKS``, in order of time), and the truth behind them."""

    notes: pa.Table
    clicks: pa.Table
    truth: Truth


def sample_world(
    notes: int = 3_000,
    users: int = 2_000,
    clicks: int = 60_000,
    *,
    bots: int = 2,
    weeks: int = 4,
    chinese: float = 0.2,
    seed: int = 0,
) -> SampleWorld:
    """Generate a note platform.

    Args:
        notes: number of notes.
        users: number of users, including bots.
        clicks: number of clicks of all users but the bots, each of whom adds 2 x ``notes``.
        bots: number of bots.
        weeks: length of the log.
        chinese: share of the notes and users that are Chinese; the others are English.
        seed: seed of everything that is drawn.

    Raises:
        ConfigError: if a size is too small or a share is not between 0 and 1.
    """
    concepts, sentences, generic = vocabulary()
    truth, shelf, log = _draw(concepts, notes, users, clicks, bots, weeks, chinese, seed)
    table = note_table(truth, shelf.published, concepts, sentences=sentences, generic=generic, seed=seed)
    return SampleWorld(table, click_table(*log, users, notes), truth)


def sample_log(
    notes: int,
    users: int,
    clicks: int,
    *,
    bots: int = 2,
    weeks: int = 4,
    chinese: float = 0.2,
    seed: int = 0,
) -> pa.Table:
    """Return the clicks of :func:`sample_world` alone, which takes far less time than writing its notes.

    Arguments, and what is raised, are those of :func:`sample_world`.
    """
    _, _, log = _draw(vocabulary()[0], notes, users, clicks, bots, weeks, chinese, seed)
    return click_table(*log, users, notes)


def _draw(
    concepts: list[Concept],
    notes: int,
    users: int,
    clicks: int,
    bots: int,
    weeks: int,
    chinese: float,
    seed: int,
) -> tuple[Truth, Shelf, tuple[Ints, Ints, Ints]]:
    """Draw the truth, the notes by pool, and user, note and second of every click; see ``sample_world``."""
    for name, value, least in (
        ("notes", notes, 1),
        ("users", users, bots + 1),
        ("clicks", clicks, 0),
        ("bots", bots, 0),
        ("weeks", weeks, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}")
    if not 0 <= chinese <= 1:
        raise ConfigError(f"chinese is {chinese}; it must be a share from 0 to 1")
    rng = np.random.default_rng(seed)
    complement = _match(concepts, rng)
    span = weeks * 7 * DAY

    frequent = rng.lognormal(0, 0.4, len(concepts))
    note_concept = rng.choice(len(concepts), notes, p=frequent / frequent.sum())
    note_language = (rng.random(notes) < chinese).astype(np.int64)
    old = rng.random(notes) < 0.5
    published = np.where(old, rng.integers(-OLDEST, 0, notes), rng.integers(0, span, notes))
    shelf = Shelf.of(note_concept, note_language, published, len(concepts), rng)

    user_interests = np.argsort(rng.random((users, len(concepts))), axis=1)[:, :INTERESTS].copy()
    user_language = (rng.random(users) < chinese).astype(np.int64)
    is_bot = np.zeros(users, np.bool_)
    is_bot[rng.choice(users, bots, replace=False)] = True
    truth = Truth(
        concepts=tuple(concept.name for concept in concepts),
        complement=complement,
        note_concept=note_concept,
        note_language=note_language,
        user_interests=user_interests,
        user_language=user_language,
        bots=is_bot,
    )
    return truth, shelf, draw_log(truth, shelf, clicks, span, rng)


def _match(concepts: list[Concept], rng: np.random.Generator) -> Ints:
    """Match every concept with one of another first-level category, and return the match of each."""
    first = np.array([concept.name.split("/")[0] for concept in concepts])
    while True:  # about one draw in thirty fits
        order = rng.permutation(len(concepts))
        left, right = order[0::2], order[1::2]
        if (first[left] != first[right]).all():
            complement = np.empty(len(concepts), np.int64)
            complement[left], complement[right] = right, left
            return complement
