"""A made-up note platform whose truth is known: notes, a click log, and why the clicks happened.

``sample_world()`` needs no download and is the same on every run with the same seed, so examples,
tests and benchmarks of any size start from it. What is in it:

- **Concepts.** 8 categories x 4 subcategories x 2 concepts = 64. A concept has 28 words of its own
  in each language: those of ``sample_words.json`` and invented names. A note has one concept, uses
  5 to 10 of its words, and filler words that all share; two notes of a concept often have only one
  or two words in common.
- **Complements.** Every concept is matched with one of another category, by the seed (camping with
  coffee, say). The words of the two have nothing in common, so text alone cannot tell; only who
  clicks can.
- **Users** have a language (notes in another they never open), three interests that take turns over
  the weeks, and lognormal activity. They click in sessions on one interest: from each click to the
  next they switch between its concept and the complement with probability 1/2, and one click in ten
  is on anything.
- **Notes** have Zipf popularity within their concept; one in twenty is never found. Half are
  published before the log begins, the others during it, and nobody clicks on a note before it is
  there.
- **Bots** are users that click on every note, twice.

Five million clicks take about three seconds on one core and 100 bytes a click.
"""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from notellm.data.schema import CLICKS, NOTES, TIME
from notellm.errors import ConfigError

LANGUAGES = ("en", "zh")
WORDS_PER_CONCEPT = 28
INTERESTS = 3

_BEGIN = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
_DAY = 86_400
_BEFORE = 30 * _DAY  # the oldest note is this many seconds older than the first click
_SWITCH = 0.5  # probability that the next click of a session goes to the other concept
_ANYTHING = 0.1  # share of the clicks that follow no interest
_NEW_SESSION = 0.15  # one session in 1 / 0.15 = 6.7 clicks
_QUIET = 0.05  # share of the notes that nobody finds
_BLOCK = 1 << 20  # clicks drawn at a time
_ENGLISH_SYLLABLES = [
    "ba",
    "bel",
    "cor",
    "da",
    "dri",
    "fen",
    "ga",
    "hul",
    "ka",
    "lo",
    "mar",
    "ni",
    "pra",
    "qui",
    "ro",
    "sul",
    "ta",
    "ver",
    "wo",
    "zan",
]
_CHINESE_SYLLABLES = [
    "艾",
    "贝",
    "波",
    "达",
    "蒂",
    "尔",
    "菲",
    "格",
    "汉",
    "吉",
    "卡",
    "兰",
    "洛",
    "米",
    "纳",
    "欧",
    "佩",
    "瑞",
    "萨",
    "塔",
    "维",
    "希",
    "雅",
    "佐",
]

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """Why the clicks of a sample world happened.

    Attributes:
        concepts: the concepts' names as "food/baking/bread"; concept c is the c-th.
        complement: [concepts] the concept that each one is matched with.
        note_concept: [notes] the concept of each note, in the order of the note table.
        note_language: [notes] index into ``LANGUAGES``.
        user_interests: [users, 3] the concepts that each user is after; user u has the id
            ``user_id(u)``.
        user_language: [users] index into ``LANGUAGES``.
        bots: [users] true for a bot.
    """

    concepts: tuple[str, ...]
    complement: _Ints
    note_concept: _Ints
    note_language: _Ints
    user_interests: _Ints
    user_language: _Ints
    bots: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SampleWorld:
    """Notes in the schema ``NOTES``, clicks in ``CLICKS`` in order of time, and the truth."""

    notes: pa.Table
    clicks: pa.Table
    truth: Truth


@dataclass(frozen=True)
class _Concept:
    name: str
    category: dict[str, str]
    words: dict[str, list[str]]
    tags: dict[str, list[str]]


def user_id(user: int) -> str:
    """Id of the ``user``-th user of a sample world, from 0."""
    return f"u{user:07d}"


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
    """Make a note platform.

    Args:
        notes: number of notes.
        users: number of users, bots among them.
        clicks: clicks of all users but the bots, who add 2 x ``notes`` each.
        bots: number of bots.
        weeks: length of the log.
        chinese: share of the notes and users that are Chinese; the others are English.
        seed: the same seed and sizes give the same bytes.

    Raises:
        ConfigError: a size is not possible.
    """
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
    concepts, filler, generic = _vocabulary()
    complement = _match(concepts, rng)
    span = weeks * 7 * _DAY

    frequent = rng.lognormal(0, 0.4, len(concepts))
    note_concept = rng.choice(len(concepts), notes, p=frequent / frequent.sum())
    note_language = (rng.random(notes) < chinese).astype(np.int64)
    old = rng.random(notes) < 0.5
    published = np.where(old, rng.integers(-_BEFORE, 0, notes), rng.integers(0, span, notes))
    shelf = _Shelf.of(note_concept, note_language, published, len(concepts), rng)

    user_interests = np.argsort(rng.random((users, len(concepts))), axis=1)[:, :INTERESTS]
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
    log = _draw_log(truth, shelf, clicks, span, rng)
    table = _note_table(truth, shelf.published, concepts, filler=filler, generic=generic, seed=seed)
    return SampleWorld(table, _click_table(*log, users, notes), truth)


# --- words ---


def _vocabulary() -> tuple[list[_Concept], dict[str, list[str]], dict[str, list[str]]]:
    """The concepts, the filler words and the generic topics, by language."""
    text = resources.files("notellm.data").joinpath("sample_words.json").read_text("utf-8")
    data: Any = json.loads(text)
    invented = {"en": _invented(_ENGLISH_SYLLABLES), "zh": _invented(_CHINESE_SYLLABLES)}
    concepts = []
    for first in data["categories"]:
        for second in first["subcategories"]:
            for concept in second["concepts"]:
                words = {}
                for language in LANGUAGES:
                    real = concept[language]
                    made = itertools.islice(invented[language], WORDS_PER_CONCEPT - len(real))
                    words[language] = [*real, *made]
                concepts.append(
                    _Concept(
                        name=f"{first['en']}/{second['en']}/{concept['name']}",
                        category={n: f"{first[n]}/{second[n]}" for n in LANGUAGES},
                        words=words,
                        tags={
                            n: list(dict.fromkeys([*words[n][:5], second[n], first[n]])) for n in LANGUAGES
                        },
                    )
                )
    return concepts, data["filler"], data["generic_topics"]


def _invented(syllables: list[str]) -> Iterator[str]:
    """Names that look like brands, none twice; the same in every world."""
    names = ["".join(name).capitalize() for name in itertools.product(syllables, repeat=3)]
    random.Random(0).shuffle(names)
    return iter(dict.fromkeys(names))


def _match(concepts: list[_Concept], rng: np.random.Generator) -> _Ints:
    """Match every concept with one of another first-level category."""
    first = np.array([concept.name.split("/")[0] for concept in concepts])
    while True:  # about one draw in thirty will do
        order = rng.permutation(len(concepts))
        left, right = order[0::2], order[1::2]
        if (first[left] != first[right]).all():
            complement = np.empty(len(concepts), np.int64)
            complement[left], complement[right] = right, left
            return complement


# --- clicks ---


@dataclass(frozen=True)
class _Shelf:
    """Notes in the order of pool (language and concept), then time of publication, to draw from.

    Attributes:
        published: [notes] seconds from the start of the log, by note.
        note: [notes] the note at each place of the shelf.
        key: [notes] pool and time of each place as one number, rising.
        upto: [notes] sum of the weights up to and with each place.
        first: [pools] the first place of each pool.
        pool: [languages, concepts] the pool to draw from; another one where there is no such note.
    """

    published: _Ints
    note: _Ints
    key: _Ints
    upto: npt.NDArray[np.float64]
    first: _Ints
    pool: _Ints

    @classmethod
    def of(
        cls,
        concept: _Ints,
        language: _Ints,
        published: _Ints,
        concepts: int,
        rng: np.random.Generator,
    ) -> "_Shelf":
        notes = len(concept)
        weight = 1 / (1 + rng.permutation(notes)) ** 0.9
        weight[rng.random(notes) < _QUIET] = 0
        pool = language * concepts + concept
        note = np.lexsort((published, pool))
        filled, first = np.unique(pool[note], return_index=True)
        # Every pool has something to click on from the beginning.
        published = published.copy()
        published[note[first]] = -_BEFORE
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

    def draw(self, language: _Ints, concept: _Ints, time: _Ints, rng: np.random.Generator) -> _Ints:
        """A note of each language and concept that is published by then, by weight."""
        pool = self.pool[language, concept]
        end = np.searchsorted(self.key, _key(pool, time), side="right")
        before = np.concatenate([[0.0], self.upto])[self.first[pool]]
        target = before + rng.random(len(time)) * (self.upto[end - 1] - before)
        place = np.searchsorted(self.upto, target, side="right")
        drawn: _Ints = self.note[np.minimum(place, end - 1)]
        return drawn


def _key(pool: _Ints, time: _Ints) -> _Ints:
    """Pool and time, which may be negative, as one number that rises with both."""
    return (pool << 40) + time + _BEFORE


def _draw_log(
    truth: Truth, shelf: _Shelf, clicks: int, span: int, rng: np.random.Generator
) -> tuple[_Ints, _Ints, _Ints]:
    """User, note and second of every click, bots included, by time."""
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
    truth: Truth, shelf: _Shelf, user: _Ints, span: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], _Ints]:
    """User, note and second of the clicks of some users; ``user`` is sorted, one entry a click."""
    new_user = np.diff(user, prepend=-1) > 0
    opens = new_user | (rng.random(len(user)) < _NEW_SESSION)
    session = np.cumsum(opens) - 1
    owner = user[opens]
    begin = rng.integers(0, span, len(owner))
    begin = begin[np.lexsort((begin, owner))]

    # Interests take turns over the weeks, with a fling now and then.
    turn = begin * INTERESTS // span
    fling = rng.random(len(owner)) < 0.3
    turn = np.where(fling, rng.integers(0, INTERESTS, len(owner)), turn)
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
    bot: int, shelf: _Shelf, span: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], _Ints]:
    """Two clicks on every note after it is published."""
    note = np.tile(np.arange(len(shelf.published), dtype=np.int32), 2)
    time = rng.integers(np.maximum(shelf.published[note], 0), span)
    return np.full(len(note), bot, np.int32), note, time


def _click_table(user: _Ints, note: _Ints, time: _Ints, users: int, notes: int) -> pa.Table:
    user_ids = pa.array([user_id(i) for i in range(users)])
    note_ids = pa.array([_note_id(i) for i in range(notes)])
    tables = [CLICKS.empty_table()]
    for start in range(0, len(user), _BLOCK):
        part = slice(start, start + _BLOCK)
        micro = (time[part] + _BEGIN) * 1_000_000
        columns = [
            user_ids.take(pa.array(user[part])),
            note_ids.take(pa.array(note[part])),
            pa.array(micro).cast(TIME),
            pa.array(["click"]).take(pa.array(np.zeros(len(micro), np.int8))),
        ]
        tables.append(pa.table(columns, schema=CLICKS))
    return pa.concat_tables(tables)


# --- notes ---


def _note_id(note: int) -> str:
    return f"n{note:07d}"


def _note_table(
    truth: Truth,
    published: _Ints,
    concepts: list[_Concept],
    *,
    filler: dict[str, list[str]],
    generic: dict[str, list[str]],
    seed: int,
) -> pa.Table:
    draw = random.Random(seed)
    titles, contents, topics, categories = [], [], [], []
    for number, spoken in zip(truth.note_concept.tolist(), truth.note_language.tolist(), strict=True):
        language, concept = LANGUAGES[spoken], concepts[number]
        title, content = _write(concept.words[language], filler[language], language, draw)
        titles.append(title)
        contents.append(content)
        tags = draw.sample(concept.tags[language], draw.choice((0, 1, 2, 2, 3, 3, 4, 5)))
        if draw.random() < 0.3:
            tags.append(draw.choice(generic[language]))
        topics.append(tags)
        categories.append(concept.category[language])
    columns = [
        pa.array([_note_id(i) for i in range(len(titles))]),
        pa.array(titles),
        pa.array(contents),
        pa.array(topics, NOTES.field("topics").type),
        pa.array(categories),
        pa.array((published + _BEGIN) * 1_000_000).cast(TIME),
    ]
    return pa.table(columns, schema=NOTES)


def _write(words: list[str], filler: list[str], language: str, draw: random.Random) -> tuple[str, str]:
    """A title of 3 to 10 words and a content of 10 to 60, with 5 to 10 of the concept's words."""
    own = draw.sample(words, draw.randint(5, 10))
    in_title = draw.randint(1, 3)
    title = own[:in_title] + draw.choices(filler, k=draw.randint(2, 7))
    content = own[in_title:] + draw.choices(own, k=draw.randint(0, 4))
    content += draw.choices(filler, k=max(0, draw.randint(10, 60) - len(content)))
    draw.shuffle(title)
    draw.shuffle(content)
    if language == "zh":
        return "".join(title), "".join(f"{part}。" for part in _sentences(content, "", draw))
    sentences = _sentences(content, " ", draw)
    return _capital(" ".join(title)), " ".join(f"{_capital(part)}." for part in sentences)


def _sentences(words: list[str], space: str, draw: random.Random) -> Iterator[str]:
    """The words in sentences of 4 to 12."""
    while words:
        length = draw.randint(4, 12)
        yield space.join(words[:length])
        words = words[length:]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
