"""What every index must do. A subclass names its class and kind, and has a fixture ``make``: dim -> an index.

Answers are known where the vectors are one-hot; elsewhere a brute-force search over the table is the truth.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from notellm.errors import ConfigError, DataError
from notellm.store.index import base
from notellm.store.index.base import Place, entries_schema
from notellm.store.index.filters import Filter, microseconds
from notellm.store.index.kinds import KINDS, is_index_file, kind_for

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
TOLERANCE = 2e-6

#: Ids, categories and topics that a filter language, a path or a table may read as something else.
ODD = [
    "plain",
    "Plain",
    "a/b/../c",
    "C:\\temp\\",
    "ends in a backslash\\",
    "\\\\",
    "\\u4e2d",
    "\\n",
    "it's",
    "''",
    'say "hi"',
    '"',
    '\\"',
    "line\nbreak",
    "tab\tand\rreturn",
    "nul\0byte",
    "bell\x07",
    "line\u2028separator",
    "no\u00a0break",
    " leading and trailing ",
    " ",
    "caf\u00e9",
    "cafe\u0301",
    "旅行 攻略",
    "𠮷野家",
    "ஷ野家",
    "🙂👍🏽",
    "שלום",
    "x" * 2_000,
    "x" * 1_999 + "y",
    "长" * 2_000,
    "{}",
    "{note_id}",
    "%s %d %22 100%",
    "a%22b",
    'a"b',
    "_",
    "%",
    "*",
    "null",
    "true",
    "NaN",
    "-1",
    "007",
    "7",
    "[]",
    '"] or note_id != "',
    "'] or hidden == true or note_id in ['",
    "'; DROP TABLE notes; --",
    "1 OR 1=1",
    "${HOME} $(ls)",
    "<b>&amp;</b>",
]


def only(**conditions):
    """A filter of lists, as callers write it."""
    return Filter(**conditions)


def unit(count, dim, seed=0):
    """Random directions, (count, dim) float32."""
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def entries(ids, vectors, *, category="", topics=(), published_at=None, hidden=False, expires_at=None):
    """A table of entries; a list gives each note its own, anything else is for all."""
    vectors = np.asarray(vectors, np.float32)
    count, dim = vectors.shape

    def each(value):
        return value if isinstance(value, list) else [value] * count

    columns = [ids, None, each(category), each(topics), each(published_at), each(hidden), each(expires_at)]
    schema = entries_schema(dim)
    arrays = [
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
        if values is None
        else pa.array(values, field.type)
        for values, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def one_hot(ids, **columns):
    """Each note in a direction of its own, of eight."""
    return entries(ids, np.eye(8)[: len(ids)], **columns)


def falling(dim=8):
    """A query that likes the first direction most, then the second, and so on; unit norm, all positive."""
    weights = np.arange(dim, 0, -1, dtype=np.float32)
    return (weights / np.linalg.norm(weights))[None]


def found_ids(index, where=None, k=100, queries=None):
    """Ids that one query finds, best first."""
    ids, _ = index.search(falling(index.dim) if queries is None else queries, k, where=where)
    return ids[0]


def passes(note, where, time):
    """Whether a note may come back, by the words of Filter and entries_schema."""
    if note["hidden"] or (note["expires_at"] is not None and microseconds(note["expires_at"]) <= time):
        return False
    published = note["published_at"]
    return (
        (not where.categories or note["category"] in where.categories)
        and (not where.topics or bool(where.topics & set(note["topics"])))
        and (where.published_after is None or (published is not None and published >= where.published_after))
        and (where.published_before is None or (published is not None and published < where.published_before))
        and (where.allow is None or note["note_id"] in where.allow)
        and note["note_id"] not in where.deny
    )


def check(index, notes, queries, k, *, where=None, exclude=None, exact=True):
    """Search, and compare with reading every note; returns how many notes came back.

    Args:
        index: what is searched.
        notes: what it must hold: rows of the entries table by id.
        queries: (q, dim) float32.
        k: how many.
        where: the filter.
        exclude: for each query.
        exact: whether the scores must be the best there are, else 98 of 100.
    """
    ids, scores = index.search(queries, k, where=where, exclude=exclude)
    assert len(ids) == len(scores) == len(queries)
    time = base.now()
    passing = [note_id for note_id, note in notes.items() if passes(note, where or Filter(), time)]
    row = {note_id: i for i, note_id in enumerate(passing)}
    matrix = np.array([notes[note_id]["vector"] for note_id in passing], np.float32).reshape(-1, index.dim)
    truth = queries @ matrix.T
    wanted = hits = total = 0
    for i, (own, own_scores) in enumerate(zip(ids, scores, strict=True)):
        barred = set(exclude[i]) if exclude is not None else set()
        assert len(set(own)) == len(own) == len(own_scores)
        assert own_scores.dtype == np.float32
        assert all(note_id in row for note_id in own)
        assert not barred & set(own)
        best = np.sort(truth[i, [row[note_id] for note_id in passing if note_id not in barred]])[::-1][:k]
        assert len(own) == len(best)
        assert all(np.diff(own_scores) <= 0)
        np.testing.assert_allclose(own_scores, truth[i, [row[note_id] for note_id in own]], atol=TOLERANCE)
        if exact:
            np.testing.assert_allclose(own_scores, best, atol=TOLERANCE)
        hits += int((own_scores >= best[-1] - TOLERANCE).sum()) if len(best) else 0
        wanted += len(best)
        total += len(own)
    assert hits >= 0.98 * wanted
    return total


CATEGORIES = ["Travel", "旅行", 'a "quoted" one', ""]
TOPICS = ["sea", "snow", "it's", "古镇", "back\\slash", "city"]


def world(count, dim=12, seed=0):
    """Notes with every attribute: some hidden, some expired, some without a time; rows by id."""
    draw = np.random.default_rng(seed)
    now = datetime.now(UTC)

    def time():
        return NOON + timedelta(days=int(draw.integers(-50, 50))) if draw.random() < 0.8 else None

    def expiry():
        return [None, None, None, now - timedelta(hours=1), now + timedelta(hours=5)][draw.integers(5)]

    table = entries(
        [f"n{i}" for i in range(count)],
        unit(count, dim, seed),
        category=[CATEGORIES[i] for i in draw.integers(len(CATEGORIES), size=count)],
        topics=[list(draw.choice(TOPICS, draw.integers(4), replace=False)) for _ in range(count)],
        published_at=[time() for _ in range(count)],
        hidden=[bool(hidden) for hidden in draw.random(count) < 0.1],
        expires_at=[expiry() for _ in range(count)],
    )
    return table, {note["note_id"]: note for note in table.to_pylist()}


def random_filter(draw, count):
    """Each condition with an even chance, so most filters have several."""

    def some(values, most):
        return [str(value) for value in draw.choice(values, draw.integers(1, most + 1), replace=False)]

    ids = [f"n{i}" for i in range(count + 5)]
    day = timedelta(days=1)
    after = int(draw.integers(-40, 20))
    coin = draw.random(6) < 0.4
    return only(
        categories=some(CATEGORIES, 3) if coin[0] else (),
        topics=some(TOPICS, 4) if coin[1] else (),
        published_after=NOON + after * day if coin[2] else None,
        published_before=NOON + (after + int(draw.integers(1, 60))) * day if coin[3] else None,
        allow=some(ids, count) if coin[4] else None,
        deny=some(ids, count // 2) if coin[5] else (),
    )


SHELF: dict[str, dict[str, Any]] = {  # name -> what a note on the shelf has; by falling() found in this order
    "sea": {"category": "Travel", "topics": ["sea", "sun"], "published_at": NOON},
    "snow": {"category": "Travel", "topics": ["snow"], "published_at": NOON + TICK},
    "soup": {"category": "Food", "topics": ["sea", "soup"], "published_at": NOON - TICK},
    "star": {"category": "", "topics": [], "published_at": None},
    "old": {"category": "Food", "topics": [], "published_at": datetime(1965, 5, 4, tzinfo=UTC)},
    "case": {"category": "travel", "topics": ["Sea", "sea "], "published_at": None},
    "gone": {"category": "Travel", "topics": ["sea"], "published_at": NOON, "hidden": True},
    "past": {"category": "Travel", "topics": ["sea"], "published_at": NOON, "expires_at": NOON - TICK},
}
EVERY = ["sea", "snow", "soup", "star", "old", "case"]
BEIJING = timezone(timedelta(hours=8))

CONDITIONS = [
    (Filter(), EVERY),
    (only(categories=["Travel"]), ["sea", "snow"]),
    (only(categories=["Food", "Travel"]), ["sea", "snow", "soup", "old"]),
    (only(categories=[""]), ["star"]),
    (only(categories=["none"]), []),
    (only(topics=["sea"]), ["sea", "soup"]),
    (only(topics=["snow", "soup", "none"]), ["snow", "soup"]),
    (only(topics=["Sea"]), ["case"]),
    (only(topics=["se", ""]), []),
    (only(published_after=NOON), ["sea", "snow"]),
    (only(published_after=NOON.astimezone(BEIJING)), ["sea", "snow"]),
    (only(published_after=NOON + TICK), ["snow"]),
    (only(published_before=NOON), ["soup", "old"]),
    (only(published_before=NOON + TICK), ["sea", "soup", "old"]),
    (only(published_before=datetime(1970, 1, 1, tzinfo=UTC)), ["old"]),
    (only(published_before=datetime(1960, 1, 1, tzinfo=UTC)), []),
    (only(published_after=datetime.min.replace(tzinfo=UTC)), ["sea", "snow", "soup", "old"]),
    (only(published_after=NOON, published_before=NOON + TICK), ["sea"]),
    (only(allow=["snow", "star", "gone", "past", "stranger"]), ["snow", "star"]),
    (only(allow=["gone"]), []),
    (only(allow=[]), []),
    (only(deny=["sea", "old", "stranger"]), ["snow", "soup", "star", "case"]),
    (only(deny=EVERY), []),
    (only(allow=["sea", "snow"], deny=["sea"]), ["snow"]),
    (only(allow=["sea"], deny=["sea"]), []),
    (only(categories=["Travel"], topics=["sea"]), ["sea"]),
    (only(categories=["Food"], published_after=NOON - TICK), ["soup"]),
    (only(topics=["sea"], published_before=NOON, deny=["old"]), ["soup"]),
    (
        only(
            categories=["Travel", "Food"],
            topics=["sea", "snow"],
            published_after=NOON - TICK,
            published_before=NOON + 9 * TICK,
            allow=["sea", "soup", "star", "gone"],
            deny=["soup"],
        ),
        ["sea"],
    ),
]


class IndexContract:
    """Tests of any index."""

    #: Whether results equal those of reading every note; else nearly all of them do.
    exact = True
    #: What callers learn of it, and how they ask for it.
    kind = ""
    option = ""
    index_class: Any = None
    measures_recall = False
    #: Whether a start after an orderly close finds an index.
    is_saved = True

    @pytest.fixture
    def place(self, tmp_path):
        return Place(str(tmp_path), "0123456789abcdef")

    # ------------------------------------------------------------ what callers may know of it

    def test_it_is_one_of_the_kinds(self, make):
        index = make(8)
        assert index.kind == self.kind
        assert [kind for kind in KINDS if isinstance(index, kind)] == [self.index_class]
        assert kind_for(self.option) is self.index_class

    def test_recall_is_told_where_it_is_measured(self, make, place):
        assert make(8).recall is None
        index = self.index_class.build(world(300)[0], place)
        if self.measures_recall:
            assert index.recall.keys() == {"k", "queries", "recall"}
            assert 0.98 < index.recall["recall"] <= 1
        else:
            assert index.recall is None
        index.close()

    def test_it_returns_as_many_results_as_it_says(self, make):
        index = make(8)
        index.upsert(one_hot(["a", "b", "c"]))
        most = index.most_results
        assert found_ids(index, k=most or 1_000_000) == ["a", "b", "c"]
        if most is not None:
            with pytest.raises(ConfigError, match=f"{most:,}"):
                index.search(falling(), most + 1)

    # ------------------------------------------------------------ from one run to the next

    def test_an_index_that_was_closed_in_order_is_opened(self, place, tmp_path):
        table, notes = world(300)
        index = self.index_class.build(table, place)
        check(index, notes, unit(4, 12), 20, exact=self.exact)
        index.save(place)
        check(index, notes, unit(4, 12), 20, exact=self.exact)
        recall = index.recall
        index.close(place)
        files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
        assert bool(files) == self.is_saved
        assert all(map(is_index_file, files))
        again = self.index_class.open(table, place)
        assert (again is not None) == self.is_saved
        if again is not None:
            assert len(again) == 300
            assert again.recall == recall
            check(again, notes, unit(4, 12), 20, exact=self.exact)
            again.upsert(table.slice(0, 9))
            again.remove(["n10"])
            del notes["n10"]
            check(again, notes, unit(4, 12), 20, exact=self.exact)
            again.close()

    @pytest.mark.parametrize("in_order", [True, False])
    def test_what_is_opened_has_missed_nothing(self, place, in_order):
        """The store has other notes now; an index that cannot follow is not opened."""
        table, _ = world(300)
        index = self.index_class.build(table, place)
        index.save(place)
        index.close(place if in_order else None)
        newer, fresh = world(300, seed=2)
        wanted = {name: note for name, note in fresh.items() if int(name[1:]) >= 20}
        again = self.index_class.open(newer.slice(20), place)
        if again is not None:
            assert len(again) == 280
            check(again, wanted, unit(4, 12), 20, exact=self.exact)
            again.close()

    def test_after_the_store_went_back_nothing_newer_is_found(self, place):
        table, notes = world(50)
        index = self.index_class.build(table, place)
        index.upsert(world(50, seed=3)[0])  # what the store has lost
        index.close(place)
        self.index_class.invalidate(place)
        again = self.index_class.open(table, place)
        if again is not None:
            check(again, notes, unit(4, 12), 20, exact=self.exact)
            again.close()

    def test_nothing_is_opened_where_nothing_was_left(self, place):
        table, _ = world(20)
        assert self.index_class.open(table, place) is None
        self.index_class.invalidate(place)
        self.index_class.drop_others(place)

    def test_a_new_index_is_built_beside_the_one_that_answers(self, place):
        table, notes = world(60)
        newer, fresh = world(60, seed=2)
        index = self.index_class.build(table, place)
        new = self.index_class.build(newer, place, current=index)
        check(index, notes, unit(4, 12), 20, exact=self.exact)
        check(new, fresh, unit(4, 12), 20, exact=self.exact)
        index.close()
        check(new, fresh, unit(4, 12), 20, exact=self.exact)
        new.close()

    def test_beside_a_store_in_object_storage_nothing_is_left(self, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        elsewhere = replace(place, store="memory://store")
        table, _ = world(20)
        index = self.index_class.build(table, elsewhere)
        index.save(elsewhere)
        index.close(elsewhere)
        assert self.index_class.open(table, elsewhere) is None
        self.index_class.invalidate(elsewhere)
        self.index_class.drop_others(elsewhere)
        assert list(tmp_path.iterdir()) == []

    # ------------------------------------------------------------ order, scores, numbers

    def test_the_nearest_come_first_with_their_cosine(self, make):
        index = make(8)
        index.upsert(one_hot(list("hgfedcba")))
        ids, scores = index.search(falling(), 5)
        assert ids == [list("hgfed")]
        np.testing.assert_allclose(scores[0], falling()[0, :5], atol=TOLERANCE)
        assert scores[0].dtype == np.float32

    def test_scores_reach_from_one_to_minus_one(self, make):
        index = make(2)
        index.upsert(entries(["same", "across", "against"], [[1, 0], [0, 1], [-1, 0]]))
        ids, scores = index.search(np.array([[1, 0]], np.float32), 3)
        assert ids == [["same", "across", "against"]]
        np.testing.assert_allclose(scores[0], [1, 0, -1], atol=TOLERANCE)

    def test_fewer_notes_than_asked_for(self, make):
        index = make(8)
        index.upsert(one_hot(["a", "b", "c"]))
        ids, scores = index.search(falling(), 1_000)
        assert ids == [["a", "b", "c"]]
        assert len(scores[0]) == 3

    def test_an_empty_index_finds_nothing(self, make):
        index = make(8)
        ids, scores = index.search(np.repeat(falling(), 3, axis=0), 5, where=only(categories=["Travel"]))
        assert ids == [[], [], []]
        assert [len(own) for own in scores] == [0, 0, 0]
        assert len(index) == 0
        assert index.contains(["a"]).tolist() == [False]
        index.remove(["a"])
        index.upsert(one_hot([]))
        assert len(index) == 0

    def test_no_queries(self, make):
        index = make(8)
        index.upsert(one_hot(["a"]))
        assert index.search(np.empty((0, 8), np.float32), 5, exclude=[]) == ([], [])

    def test_a_batch_equals_its_queries_alone(self, make):
        table, notes = world(150)
        index = make(12)
        index.upsert(table)
        queries = unit(20, 12, seed=5)
        exclude = [[f"n{j}" for j in range(7 * i)] for i in range(20)]
        where = only(categories=CATEGORIES[:3])
        ids, scores = index.search(queries, 6, where=where, exclude=exclude)
        assert len({tuple(own) for own in ids}) > 10
        for i in range(20):
            alone, alone_scores = index.search(queries[i : i + 1], 6, where=where, exclude=exclude[i : i + 1])
            assert alone[0] == ids[i]
            np.testing.assert_allclose(alone_scores[0], scores[i], atol=TOLERANCE)
        assert check(index, notes, queries, 6, where=where, exclude=exclude, exact=self.exact) > 100

    def test_of_equal_notes_any_may_come_but_each_once(self, make):
        index = make(8)
        index.upsert(entries([f"n{i}" for i in range(30)], np.repeat(falling(), 30, axis=0)))
        ids, scores = index.search(falling(), 10)
        assert len(set(ids[0])) == 10
        np.testing.assert_allclose(scores[0], 1, atol=TOLERANCE)
        assert set(found_ids(index)) == {f"n{i}" for i in range(30)}

    def test_random_notes_under_random_filters(self, make):
        count = 1_000
        table, notes = world(count)
        index = make(12)
        index.upsert(table)
        draw = np.random.default_rng(1)
        empty = found = 0
        for step in range(40):
            queries = unit(5, 12, seed=100 + step)
            where = random_filter(draw, count)
            exclude = [[f"n{j}" for j in draw.integers(count, size=draw.integers(60))] for _ in queries]
            k = int(draw.integers(1, 60))
            total = check(index, notes, queries, k, where=where, exclude=exclude, exact=self.exact)
            empty += total == 0
            found += total
        assert empty < 15
        assert found > 1_000

    # ------------------------------------------------------------ writing

    def test_upsert_replaces_the_vector(self, make):
        index = make(8)
        index.upsert(one_hot(["a", "b"]))
        index.upsert(entries(["a"], np.eye(8)[[7]]))
        assert len(index) == 2
        ids, scores = index.search(np.eye(8, dtype=np.float32)[[0, 7]], 2)
        assert ids[1] == ["a", "b"]
        np.testing.assert_allclose(scores[0], 0, atol=TOLERANCE)
        np.testing.assert_allclose(scores[1], [1, 0], atol=TOLERANCE)
        np.testing.assert_array_equal(index.vectors(["a"]), np.eye(8)[[7]])

    @pytest.mark.parametrize("vector", ["the same vector", "another vector"])
    @pytest.mark.parametrize(
        ("before", "after", "where"),
        [
            ({"category": "Food"}, {"category": "Travel"}, only(categories=["Travel"])),
            ({"topics": ["sea"]}, {"topics": ["snow"]}, only(topics=["snow"])),
            ({"topics": []}, {"topics": ["sea", "snow"]}, only(topics=["snow"])),
            ({"published_at": None}, {"published_at": NOON}, only(published_after=NOON)),
            ({"published_at": NOON - TICK}, {"published_at": NOON}, only(published_after=NOON)),
            ({"hidden": True}, {"hidden": False}, Filter()),
            ({"expires_at": NOON - TICK}, {"expires_at": None}, None),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_upsert_replaces_every_attribute(self, make, before, after, where, vector):
        index = make(8)
        direction = np.eye(8)[[0 if vector == "the same vector" else 7]]
        for state, expected in ((before, ["b"]), (after, ["a", "b"]), (before, ["b"])):
            index.upsert(one_hot(["a", "b"], **{name: [value] * 2 for name, value in after.items()}))
            assert sorted(found_ids(index, where)) == ["a", "b"]
            index.upsert(entries(["a"], direction, **{name: [value] for name, value in state.items()}))
            assert sorted(found_ids(index, where)) == expected
        assert len(index) == 2

    def test_removed_notes_are_gone_and_unknown_ones_passed_over(self, make):
        index = make(8)
        index.upsert(one_hot(list("abcdef")))
        index.remove(["b", "stranger", "e"])
        index.remove({"b"})
        index.remove([])
        assert found_ids(index) == list("acdf")
        assert found_ids(index, only(allow=["a", "b"])) == ["a"]
        assert len(index) == 4
        assert index.contains(["a", "b", "e"]).tolist() == [True, False, False]
        with pytest.raises(DataError, match="'b'"):
            index.vectors(["a", "b"])
        index.upsert(entries(["b"], np.eye(8)[[0]], category="back"))
        assert sorted(found_ids(index)[:2]) == ["a", "b"]
        assert found_ids(index, only(categories=["back"])) == ["b"]
        index.remove(list("abcdef"))
        assert len(index) == 0
        assert found_ids(index) == []

    def test_many_writes_leave_what_the_last_ones_say(self, make):
        draw = np.random.default_rng(3)
        index = make(12)
        notes: dict[str, dict[str, object]] = {}
        for step in range(12):
            table, fresh = world(400, seed=10 + step)
            chosen = np.sort(draw.choice(400, 250, replace=False))
            table = table.take(pa.array(chosen))
            index.upsert(table)
            notes |= {note_id: fresh[note_id] for note_id in table["note_id"].to_pylist()}
            gone = [f"n{i}" for i in draw.choice(400, 60, replace=False)]
            index.remove(gone)
            for note_id in gone:
                notes.pop(note_id, None)
            assert len(index) == len(notes)
            where = only(topics=TOPICS[:2]) if step % 2 else None
            assert check(index, notes, unit(4, 12, seed=step), 25, where=where, exact=self.exact) == 100
        every = [f"n{i}" for i in range(400)]
        present = index.contains(every)
        assert 0 < present.sum() < 400
        assert present.tolist() == [note_id in notes for note_id in every]
        held = list(notes)
        truth = np.array([notes[note_id]["vector"] for note_id in held], np.float32)
        np.testing.assert_array_equal(index.vectors(held), truth)

    def test_a_table_in_many_chunks(self, make):
        table, notes = world(60)
        index = make(12)
        index.upsert(pa.concat_tables([table.slice(40, 20), table.slice(0, 7), table.slice(7, 33)]))
        assert len(index) == 60
        assert check(index, notes, unit(3, 12, seed=9), 10, exact=self.exact) == 30

    # ------------------------------------------------------------ hidden, expired

    def test_hidden_notes_never_come_back(self, make):
        index = make(8)
        index.upsert(one_hot(["a", "b", "c"], hidden=[True, False, True]))
        assert found_ids(index) == ["b"]
        assert found_ids(index, only(allow=["a", "c"])) == []
        assert len(index) == 3

    def test_expiry_is_judged_when_searching(self, make, monkeypatch):
        index = make(8)
        times = [None, NOON, NOON + TICK, NOON - TICK]
        index.upsert(one_hot(["never", "noon", "after", "before"], expires_at=times))
        for time, expected in (
            (NOON - 2 * TICK, ["never", "noon", "after", "before"]),
            (NOON - TICK, ["never", "noon", "after"]),
            (NOON, ["never", "after"]),
            (NOON + TICK, ["never"]),
            (NOON + timedelta(days=40_000), ["never"]),
            (NOON - TICK, ["never", "noon", "after"]),
        ):
            monkeypatch.setattr(base, "now", lambda time=time: microseconds(time))
            if time == NOON - TICK:
                index.upsert(entries(["stranger"], np.eye(8)[[7]], hidden=True))
            assert found_ids(index) == expected
            assert found_ids(index, only(deny=["never"])) == expected[1:]
        assert len(index) == 5
        assert index.contains(["before"]).all()

    def test_expiry_goes_by_the_clock(self, make):
        index = make(8)
        now = datetime.now(UTC)
        index.upsert(
            one_hot(["gone", "stays"], expires_at=[now - timedelta(seconds=1), now + timedelta(days=1)])
        )
        assert found_ids(index) == ["stays"]

    # ------------------------------------------------------------ filters

    @pytest.fixture
    def shelf(self, make):
        """An index of the notes of SHELF."""
        blank = {"hidden": False, "expires_at": None}
        notes = [{**blank, **note} for note in SHELF.values()]
        index = make(8)
        index.upsert(one_hot(list(SHELF), **{name: [note[name] for note in notes] for name in notes[0]}))
        return index

    def test_every_condition_lets_pass_what_it_says(self, shelf):
        for where, expected in CONDITIONS:
            assert found_ids(shelf, where) == expected, where
            assert found_ids(shelf, where, k=1) == expected[:1], where

    def test_exclusions_are_each_query_s_own(self, shelf):
        queries = np.repeat(falling(), 6, axis=0)
        exclude = [[], ["sea"], {"snow", "stranger"}, EVERY, EVERY[1:], ("sea", "sea", "gone")]
        ids, scores = shelf.search(queries, 3, exclude=exclude)
        assert ids == [
            ["sea", "snow", "soup"],
            ["snow", "soup", "star"],
            ["sea", "soup", "star"],
            [],
            ["sea"],
            ["snow", "soup", "star"],
        ]
        assert [len(own) for own in scores] == [3, 3, 3, 0, 1, 3]
        np.testing.assert_allclose(scores[2], falling()[0, [0, 2, 3]], atol=TOLERANCE)
        ids, _ = shelf.search(queries, 3, where=only(topics=["sea"]), exclude=exclude)
        assert ids == [["sea", "soup"], ["soup"], ["sea", "soup"], [], ["sea"], ["soup"]]

    def test_exclusions_longer_than_the_results(self, make):
        index = make(12)
        table, notes = world(1_500)
        index.upsert(table)
        exclude = [[f"n{j}" for j in range(count)] for count in (0, 1_490, 3, 1_490, 1_500, 1_200)]
        queries = unit(6, 12, seed=2)
        assert check(index, notes, queries, 10, exclude=exclude, exact=self.exact) >= 40

    def test_many_ids_allowed_or_denied(self, make):
        index = make(12)
        table, notes = world(200)
        index.upsert(table)
        many = [f"stranger {i}" for i in range(10_000)] + [f"n{i}" for i in range(50)]
        queries = unit(2, 12, seed=4)
        for where in (only(allow=many), only(deny=many)):
            assert check(index, notes, queries, 30, where=where, exact=self.exact) > 40

    # ------------------------------------------------------------ odd texts

    def test_odd_ids_are_ids(self, make):
        index = make(24)
        vectors = unit(len(ODD), 24, seed=6)
        index.upsert(entries(ODD, vectors))
        assert len(index) == len(ODD)
        assert index.contains(ODD).all()
        assert not index.contains([note_id + "!" for note_id in ODD]).any()
        np.testing.assert_array_equal(index.vectors(ODD), vectors)
        ids, scores = index.search(vectors, 1)
        assert [own[0] for own in ids] == ODD
        np.testing.assert_allclose(np.concatenate(scores), 1, atol=TOLERANCE)
        ids, _ = index.search(vectors, 1, exclude=[[note_id] for note_id in ODD])
        assert all(own[0] != note_id for own, note_id in zip(ids, ODD, strict=True))
        for note_id in ODD:
            assert found_ids(index, only(allow=[note_id])) == [note_id]
            assert set(found_ids(index, only(deny=[note_id]))) == set(ODD) - {note_id}
        index.upsert(entries(ODD[::2], vectors[::2], category="again"))
        assert len(index) == len(ODD)
        assert set(found_ids(index, only(categories=["again"]))) == set(ODD[::2])
        index.remove(ODD[::2])
        assert set(found_ids(index)) == set(ODD[1::2])

    def test_odd_categories_and_topics_are_compared_as_they_are(self, make):
        index = make(24)
        ids = [f"n{i}" for i in range(len(ODD))]
        topics = [[own, "common"] for own in ODD]
        index.upsert(entries(ids, unit(len(ODD), 24), category=ODD, topics=topics))
        for note_id, text in zip(ids, ODD, strict=True):
            assert found_ids(index, only(categories=[text])) == [note_id]
            assert found_ids(index, only(topics=[text])) == [note_id]
            assert found_ids(index, only(categories=[text + "!"], topics=[text + "!"])) == []
        assert len(found_ids(index, only(categories=ODD))) == len(ODD)
        assert len(found_ids(index, only(topics=ODD))) == len(ODD)

    # ------------------------------------------------------------ looking up

    def test_vectors_and_contains_answer_in_the_order_asked(self, make):
        index = make(8)
        index.upsert(one_hot(["a", "b", "c"], hidden=[False, True, False], expires_at=[None, None, NOON]))
        np.testing.assert_array_equal(index.vectors(["c", "a", "b", "a"]), np.eye(8)[[2, 0, 1, 0]])
        assert index.vectors(["a"]).dtype == np.float32
        assert index.vectors([]).shape == (0, 8)
        assert index.contains(["b", "x", "a", "b"]).tolist() == [True, False, True, True]
        assert index.contains([]).shape == (0,)
        with pytest.raises(DataError, match="stranger"):
            index.vectors(["a", "stranger"])

    def test_vectors_given_out_are_not_the_index_s_own(self, make):
        index = make(8)
        index.upsert(one_hot(["a", "b"]))
        index.vectors(["a", "b"])[:] = 9
        np.testing.assert_array_equal(index.vectors(["a", "b"]), np.eye(8)[:2])
        ids, scores = index.search(falling(), 2)
        scores[0][:] = 9
        ids[0].clear()
        assert found_ids(index) == ["a", "b"]

    # ------------------------------------------------------------ errors

    def test_entries_that_cannot_be_are_told_and_change_nothing(self, make):
        index = make(8)
        index.upsert(one_hot(["a", "b"]))
        good = one_hot(["c", "a"])
        twice, infinite = np.eye(8)[:2], np.eye(8)[:2]
        twice[1, 3], infinite[0, 0] = np.nan, np.inf
        for table, told in (
            (entries(["c", "d"], np.eye(4)[:2]), "8"),
            (one_hot(["c", "d", "c"]), "'c'"),
            (entries(["c", "d"], twice), "vector 1 .* not finite"),
            (entries(["c", "d"], infinite), "vector 0 .* not finite"),
            (good.drop_columns(["topics"]), "'topics'"),
            (good.drop_columns(["note_id"]), "'note_id'"),
            (good.drop_columns(["expires_at"]), "'expires_at'"),
            (good.set_column(2, "category", pa.array(["x", None])), "category .* nulls"),
        ):
            with pytest.raises(DataError, match=told):
                index.upsert(table)
            assert len(index) == 2
            assert found_ids(index) == ["a", "b"]

    def test_questions_that_cannot_be_are_told(self, make):
        index = make(8)
        index.upsert(one_hot(["a"]))
        for k in (0, -1):
            with pytest.raises(ConfigError, match=str(k)):
                index.search(falling(), k)
        with pytest.raises(DataError, match="8 dimensions"):
            index.search(falling(4), 1)
        with pytest.raises(DataError, match="8 dimensions"):
            index.search(falling()[0], 1)
        for exclude in ([], [["a"], ["a"]]):
            with pytest.raises(DataError, match=f"1 queries and {len(exclude)} exclusions"):
                index.search(falling(), 1, exclude=exclude)

    def test_an_index_has_dimensions(self, make):
        with pytest.raises(ConfigError, match="dim is 0"):
            make(0)
