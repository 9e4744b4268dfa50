"""The click log of a sample world: which notes users open, in sessions, and when."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from notellm.data.sample.truth import BEGIN, DAY, INTERESTS, LANGUAGES, Ints, Truth, note_id, user_id
from notellm.data.schema import CLICKS, TIME

OLDEST = 30 * DAY  # the oldest note is published this many seconds before the log begins
_SWITCH = 0.5  # probability that the next click of a session goes to the other concept of the pair
_ANYTHING = 0.1  # share of the clicks that follow no interest
_NEW_SESSION = 0.15  # probability that a click begins a session: a session has 1 / 0.15 = 6.7 clicks
_UNSEEN = 0.05  # share of the notes that nobody finds
_BLOCK = 1 << 20  # number of clicks drawn at a time


@dataclass(frozen=True)
class Shelf:
    """Notes by pool (language and concept) and then by publication time, from which clicks are drawn.

    Attributes:
        published: (notes,) publication time of each note, in seconds from the start of the log.
        note: (notes,) the note at each place of the shelf.
        key: (notes,) pool and time of each place as one ascending number.
        upto: (notes,) sum of the weights up to and including each place.
        first: (pools,) the first place of each pool.
        pool: (languages, concepts) the pool to draw from, the nearest one with notes.
    """

    published: Ints
    note: Ints
    key: Ints
    upto: npt.NDArray[np.float64]
    first: Ints
    pool: Ints

    @classmethod
    def of(
        cls,
        concept: Ints,
        language: Ints,
        published: Ints,
        concepts: int,
        rng: np.random.Generator,
    ) -> "Shelf":
        """Put notes on a shelf, with Zipf weights in random order.

        Args:
            concept: (notes,) concept of each note.
            language: (notes,) language of each note.
            published: (notes,) publication times, in seconds from the start of the log.
            concepts: number of concepts.
            rng: source of randomness.
        """
        notes = len(concept)
        weight = 1 / (1 + rng.permutation(notes)) ** 0.9
        weight[rng.random(notes) < _UNSEEN] = 0
        pool = language * concepts + concept
        note = np.lexsort((published, pool))
        filled, first = np.unique(pool[note], return_index=True)
        # The first note of every pool is published before the log begins and can be found.
        published = published.copy()
        published[note[first]] = -OLDEST
        weight[note[first]] = np.maximum(weight[note[first]], 1 / notes)
        wanted = np.arange(len(LANGUAGES) * concepts)
        same_language = filled[None, :] // concepts == wanted[:, None] // concepts
        distance = (filled[None, :] - wanted[:, None]) % concepts
        nearest = np.where(same_language, distance, distance + concepts).argmin(1)
        return cls(
            published=published,
            note=note,
            key=_key(np.searchsorted(filled, pool[note]), published[note]),
            upto=np.cumsum(weight[note]),
            first=first,
            pool=nearest.reshape(len(LANGUAGES), concepts),
        )

    def draw(self, language: Ints, concept: Ints, time: Ints, rng: np.random.Generator) -> Ints:
        """Draw a note of each language and concept, by weight, among those published at each time."""
        pool = self.pool[language, concept]
        end = np.searchsorted(self.key, _key(pool, time), side="right")
        before = np.concatenate([[0.0], self.upto])[self.first[pool]]
        target = before + rng.random(len(time)) * (self.upto[end - 1] - before)
        place = np.searchsorted(self.upto, target, side="right")
        drawn: Ints = self.note[np.minimum(place, end - 1)]
        return drawn


def _key(pool: Ints, time: Ints) -> Ints:
    """Return pool and time, which may be negative, as one number that rises with both."""
    return (pool << 40) + time + OLDEST


def draw_log(
    truth: Truth, shelf: Shelf, clicks: int, span: int, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """Draw user, note and second of every click, including those of bots, in order of time."""
    users = len(truth.bots)
    activity = np.where(truth.bots, 0, rng.lognormal(0, 1.2, users))
    count = rng.multinomial(clicks, activity / activity.sum())
    ends = np.cumsum(count)
    parts = []
    start = 0
    while start < users:
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _BLOCK, side="right")))
        user = np.repeat(np.arange(start, stop), count[start:stop])
        if len(user):
            parts.append(_draw_sessions(truth, shelf, user, span, rng))
        start = stop
    parts += [_draw_bot(int(bot), shelf, span, rng) for bot in np.flatnonzero(truth.bots)]
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    user, note, time = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(time, kind="stable")
    return user[order], note[order], time[order]


def _draw_sessions(
    truth: Truth, shelf: Shelf, user: Ints, span: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Ints]:
    """Draw user, note and second of the clicks of some users.

    Args:
        truth: interests and languages of the users.
        shelf: the notes.
        user: (clicks,) the user of each click, ascending.
        span: length of the log in seconds.
        rng: source of randomness.
    """
    new_user = np.diff(user, prepend=-1) > 0
    opens = new_user | (rng.random(len(user)) < _NEW_SESSION)
    session = np.cumsum(opens) - 1
    owner = user[opens]
    begin = rng.integers(0, span, len(owner))
    begin = begin[np.lexsort((begin, owner))]

    # A user follows one interest after the other, but in 30 % of the sessions any of the three.
    turn = begin * INTERESTS // span
    is_random = rng.random(len(owner)) < 0.3
    turn = np.where(is_random, rng.integers(0, INTERESTS, len(owner)), turn)
    base = truth.user_interests[owner, turn][session]

    switches = np.cumsum((rng.random(len(user)) < _SWITCH) & ~opens)
    since = switches - switches[opens][session]
    concept = np.where(since % 2 == 1, truth.complement[base], base)
    anything = rng.random(len(user)) < _ANYTHING
    other = rng.integers(0, len(truth.complement), len(user))
    concept = np.where(anything, other, concept)

    passed = np.cumsum(5 + rng.exponential(60, len(user)).astype(np.int64))
    time = begin[session] + passed - passed[opens][session]
    note = shelf.draw(truth.user_language[user], concept, time, rng)
    return user.astype(np.int32), note.astype(np.int32), time


def _draw_bot(
    bot: int, shelf: Shelf, span: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Ints]:
    """Draw two clicks of a bot on every note after it is published."""
    note = np.tile(np.arange(len(shelf.published), dtype=np.int32), 2)
    time = rng.integers(np.maximum(shelf.published[note], 0), span)
    return np.full(len(note), bot, np.int32), note, time


def click_table(user: Ints, note: Ints, time: Ints, users: int, notes: int) -> pa.Table:
    """Return a log of clicks as a table with the schema CLICKS."""
    user_ids = pa.array([user_id(i) for i in range(users)])
    note_ids = pa.array([note_id(i) for i in range(notes)])
    tables = [CLICKS.empty_table()]
    for start in range(0, len(user), _BLOCK):
        part = slice(start, start + _BLOCK)
        micro = (time[part] + BEGIN) * 1_000_000
        columns = [
            user_ids.take(pa.array(user[part])),
            note_ids.take(pa.array(note[part])),
            pa.array(micro).cast(TIME),
            pa.array(["click"]).take(pa.array(np.zeros(len(micro), np.int8))),
        ]
        tables.append(pa.table(columns, schema=CLICKS))
    return pa.concat_tables(tables)
