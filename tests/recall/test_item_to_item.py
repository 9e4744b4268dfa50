"""The item-to-item table against a sort in plain Python; brought up to date, against a whole search."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import notellm.recall.item_to_item as module
import notellm.recall.related as related_module
from notellm.errors import ConfigError, DataError, StorageError
from notellm.lexical.index import LexicalIndex
from notellm.recall.item_to_item import ItemToItem, vector_digests, write_item_to_item
from notellm.recall.related import Words, related_by_id
from notellm.record import describe, read_record
from notellm.vectors import search, vector_table
from tests.recall.test_related import by_sorting, whole_numbers, worded


def write(vectors, path, *, ids=None, k=4, force=False):
    names = [f"n{i}" for i in range(len(vectors))] if ids is None else ids
    return write_item_to_item(names, vectors, path, k=k, force=force, progress=False)


def content(path):
    """Related notes and scores of each note."""
    table = pq.read_table(path)
    assert table.column_names == ["note_id", "related", "scores", "digest"]
    return {
        row["note_id"]: list(zip(row["related"], row["scores"], strict=True)) for row in table.to_pylist()
    }


def as_from_nothing(path, vectors, *, ids=None, k=4, atol=0.0):
    """Whether a table is that of a whole search: the same scores, and above the last one the same notes."""
    names = [f"n{i}" for i in range(len(vectors))] if ids is None else ids
    rows, scores = search(vectors, vectors, k, exclude=np.arange(len(vectors)))
    own = content(path)
    assert list(own) == names
    for note_id, wanted_rows, wanted in zip(names, rows, scores, strict=True):
        there = wanted_rows >= 0
        pairs = own[note_id]
        found = [name for name, _ in pairs]
        np.testing.assert_allclose([score for _, score in pairs], wanted[there], atol=atol, rtol=0)
        assert len(set(found)) == len(found)
        assert note_id not in found
        # Which of several notes at the last score come in is free; all others are not.
        above = int((wanted[there] > wanted[there].min(initial=np.inf)).sum())
        assert set(found[:above]) == {names[row] for row in wanted_rows[:above]}


def true_scores(path, ids, vectors):
    """Whether each score is that of the two notes that it stands between."""
    row = {name: i for i, name in enumerate(ids)}
    return all(
        score == float(vectors[row[note_id]] @ vectors[row[name]])
        for note_id, pairs in content(path).items()
        for name, score in pairs
    )


def unit(count, dim, seed=0):
    """Random directions: no two scores are equal."""
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def parts(folder: Path):
    return list(folder.glob(".*.parts"))


# -------------------------------------------------------------------- from nothing


def test_the_table_of_all_notes(tmp_path):
    vectors = whole_numbers(25, 3, 4)
    ids = [f"n{i}" for i in range(25)]
    assert write(vectors, tmp_path / "i2i.parquet") == ItemToItem(notes=25, computed=25)
    table = pq.read_table(tmp_path / "i2i.parquet")
    assert table.column("note_id").to_pylist() == ids
    for i, (related, scores) in enumerate(
        zip(table.column("related").to_pylist(), table.column("scores").to_pylist(), strict=True)
    ):
        wanted = by_sorting(vectors, vectors[i], 4, i)
        assert related == [ids[j] for j in wanted]
        assert scores == [float(vectors[j] @ vectors[i]) for j in wanted]
    assert [path.name for path in tmp_path.iterdir()] == ["i2i.parquet"]


def test_shards_do_not_matter(tmp_path, monkeypatch):
    vectors = whole_numbers(25, 3, 4)
    write(vectors, tmp_path / "whole.parquet")
    monkeypatch.setattr(module, "SHARD", 7)
    write(vectors, tmp_path / "shards.parquet")
    assert content(tmp_path / "shards.parquet") == content(tmp_path / "whole.parquet")


def test_the_table_says_which_vectors_it_is_made_of(tmp_path):
    ids = [f"n{i}" for i in range(25)]
    for seed in (4, 5):
        vectors = whole_numbers(25, 3, seed)
        write(vectors, tmp_path / f"{seed}.parquet")
        record = read_record(tmp_path / f"{seed}.parquet")
        assert (record["kind"], record["config"]) == ("related", {"k": 4})
        assert record["metrics"] == {"notes": 25, "computed": 25}
        assert record["data"] == {"vectors": describe(vector_table(pa.array(ids), vectors))}
    assert record["data"] != read_record(tmp_path / "4.parquet")["data"]


def test_more_related_notes_than_there_are(tmp_path):
    path = tmp_path / "i2i.parquet"
    write(np.eye(2, dtype=np.float32), path, ids=["a", "b"], k=5)
    assert content(path) == {"a": [("b", 0.0)], "b": [("a", 0.0)]}
    write(np.ones((1, 2), dtype=np.float32), path, ids=["a"])
    assert content(path) == {"a": []}


def test_odd_ids_are_ids(tmp_path):
    ids = ["it's", '"', "\\", "a/b", "", "旅行🙂", "\0"]
    write(np.eye(7, dtype=np.float32), tmp_path / "i2i.parquet", ids=ids, k=6)
    assert {name: sorted(n for n, _ in own) for name, own in content(tmp_path / "i2i.parquet").items()} == {
        name: sorted(set(ids) - {name}) for name in ids
    }


@pytest.mark.parametrize("k", [0, -1])
def test_what_cannot_be_made(tmp_path, k):
    with pytest.raises(ConfigError, match=f"k is {k}; ask for at least 1 related note"):
        write(np.eye(3, dtype=np.float32), tmp_path / "i2i.parquet", k=k)
    with pytest.raises(DataError, match="there are no embedded notes to relate; embed the notes first"):
        write(np.empty((0, 3), dtype=np.float32), tmp_path / "i2i.parquet")
    assert list(tmp_path.iterdir()) == []


def test_digests_tell_vectors_apart():
    vectors = np.concatenate([whole_numbers(60, 4, 0), np.array([[0.0] * 4, [-0.0] * 4], np.float32)])
    bits = [vector.tobytes() for vector in vectors]
    digests = vector_digests(vectors).tolist()
    assert len(set(digests)) == len(set(bits)) > 30
    assert len(set(zip(digests, bits, strict=True))) == len(set(bits))
    swapped = vectors[:, [1, 0, 2, 3]]
    changed = (swapped != vectors).any(axis=1)
    assert ((vector_digests(swapped) != vector_digests(vectors)) == changed)[:60].all()


# -------------------------------------------------------------------- brought up to date


def test_nothing_changed_nothing_computed(tmp_path, monkeypatch):
    vectors, path = unit(40, 5), tmp_path / "i2i.parquet"
    write(vectors, path)
    before = content(path)
    monkeypatch.setattr(module, "best_rows", None)
    assert write(vectors, path) == ItemToItem(notes=40, computed=0)
    assert content(path) == before
    assert read_record(path)["metrics"] == {"notes": 40, "computed": 0}
    # In another order, too.
    order = random.Random(0).sample(range(40), 40)
    assert write(vectors[order], path, ids=[f"n{i}" for i in order]).computed == 0
    assert content(path) == before
    assert list(content(path)) == [f"n{i}" for i in order]


def test_a_new_note_is_computed_and_the_others_are_merged_with_it(tmp_path):
    vectors, path = unit(41, 5), tmp_path / "i2i.parquet"
    write(vectors[:40], path)
    assert write(vectors, path) == ItemToItem(notes=41, computed=1)
    as_from_nothing(path, vectors, atol=2e-7)
    assert any("n40" in dict(own) for own in content(path).values())


def test_a_removed_note_is_replaced_where_it_stood_and_nowhere_else(tmp_path):
    vectors, path = unit(41, 5), tmp_path / "i2i.parquet"
    write(vectors, path)
    standing = sum("n40" in dict(own) for own in content(path).values())
    assert 0 < standing < 20
    assert write(vectors[:40], path) == ItemToItem(notes=40, computed=standing)
    as_from_nothing(path, vectors[:40], atol=2e-7)


def test_a_changed_note_is_computed_with_those_it_was_related_to(tmp_path):
    vectors, path = unit(41, 5), tmp_path / "i2i.parquet"
    write(vectors, path)
    standing = sum("n7" in dict(own) for own in content(path).values())
    vectors[7] = unit(1, 5, seed=9)
    assert write(vectors, path) == ItemToItem(notes=41, computed=standing + 1)
    as_from_nothing(path, vectors, atol=2e-7)


def test_where_much_changed_everything_is_computed(tmp_path):
    path = tmp_path / "i2i.parquet"
    write(unit(40, 5), path)
    assert write(unit(60, 5, seed=1), path) == ItemToItem(notes=60, computed=60)
    assert write(unit(60, 5, seed=1)[:, :4], path) == ItemToItem(notes=60, computed=60)


def test_lists_that_held_all_there_was_take_in_what_comes_back(tmp_path):
    """Few notes: k is more than there are, and lists grow and shrink with them."""
    path = tmp_path / "i2i.parquet"
    vectors = whole_numbers(20, 3, 1)
    for number in (12, 14, 9, 10, 1, 2, 20, 19):
        write(vectors[:number], path, k=11)
        as_from_nothing(path, vectors[:number], k=11)
        assert all(len(own) == min(11, number - 1) for own in content(path).values())


changes = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=4)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    start=st.integers(1, 40),
    dim=st.integers(1, 4),
    k=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    rounds=changes,
    shard=st.sampled_from([3, 10, 4_096]),
)
def test_brought_up_to_date_is_as_from_nothing(tmp_path_factory, start, dim, k, seed, rounds, shard):
    folder = tmp_path_factory.mktemp("i2i")
    draw = np.random.default_rng(seed)
    notes = {f"n{i}": vector for i, vector in enumerate(whole_numbers(start, dim, seed))}
    fresh = start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARD", shard)
        write(np.array(list(notes.values())), folder / "own.parquet", ids=list(notes), k=k)
        for added, changed, removed in rounds:
            for name in draw.choice(list(notes), min(removed, len(notes) - 1), replace=False):
                del notes[name]
            for name in draw.choice(list(notes), min(changed, len(notes)), replace=False):
                notes[name] = draw.integers(-1, 2, dim).astype(np.float32)
            for _ in range(added):
                notes[f"n{fresh}"] = draw.integers(-1, 2, dim).astype(np.float32)
                fresh += 1
            order = draw.permutation(len(notes))
            ids = [list(notes)[i] for i in order]
            vectors = np.array([notes[name] for name in ids])
            done = write(vectors, folder / "own.parquet", ids=ids, k=k)
            assert done.notes == len(notes)
            as_from_nothing(folder / "own.parquet", vectors, ids=ids, k=k)
            assert true_scores(folder / "own.parquet", ids, vectors)
    assert not parts(folder)


# -------------------------------------------------------------------- what goes wrong


class KilledError(Exception):
    pass


@pytest.fixture
def searches(monkeypatch):
    """Shards of 10, the rows searched of each, and a list of which searches fail, by number."""
    done: list[int] = []
    failing: list[int] = []

    def watched(vectors, queries, k, **options):
        if len(done) in failing:
            failing.remove(len(done))
            raise KilledError
        done.append(len(queries))
        return search(vectors, queries, k, **options)

    monkeypatch.setattr(module, "SHARD", 10)
    for place in (module, related_module):  # merging and searching
        monkeypatch.setattr(place, "search", watched)
    return done, failing


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, searches):
    done, failing = searches
    vectors, path = unit(35, 4), tmp_path / "i2i.parquet"
    failing.append(2)
    with pytest.raises(KilledError):
        write(vectors, path)
    assert not path.exists()
    assert len(parts(tmp_path)) == 1
    assert write(vectors, path) == ItemToItem(notes=35, computed=35)
    assert done == [10, 10, 10, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["i2i.parquet"]
    done.clear()
    write(vectors, tmp_path / "whole.parquet")
    assert content(path) == content(tmp_path / "whole.parquet")


def test_a_killed_update_leaves_the_former_table_and_goes_on(tmp_path, searches):
    done, failing = searches
    vectors, path = unit(80, 4), tmp_path / "i2i.parquet"
    write(vectors[:65], path)
    before = content(path)
    done.clear()
    # Seven searches merge the 65 kept notes; the second shard of the new ones fails.
    failing.append(8)
    with pytest.raises(KilledError):
        write(vectors, path)
    assert content(path) == before
    done.clear()
    assert write(vectors, path) == ItemToItem(notes=80, computed=15)
    assert done == [10, 10, 10, 10, 10, 10, 5, 5]
    assert not parts(tmp_path)
    as_from_nothing(path, vectors, atol=2e-7)


def test_parts_of_another_run_are_not_used(tmp_path, searches):
    done, failing = searches
    path = tmp_path / "i2i.parquet"
    failing.append(2)
    with pytest.raises(KilledError):
        write(unit(35, 4), path)
    done.clear()
    write(unit(35, 4, seed=1), path)
    assert done == [10, 10, 10, 5]
    write(unit(35, 4, seed=1), tmp_path / "whole.parquet")
    assert content(path) == content(tmp_path / "whole.parquet")


def test_a_write_that_fails_leaves_the_former_table(tmp_path, monkeypatch):
    vectors, path = unit(40, 4), tmp_path / "i2i.parquet"
    write(vectors[:38], path)
    before = path.read_bytes()

    def full(*_, **__):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_parquet_pieces", full)
        with pytest.raises(KilledError):
            write(vectors, path)
    assert path.read_bytes() == before
    assert write(vectors, path) == ItemToItem(notes=40, computed=2)


def test_a_table_of_another_k_is_replaced(tmp_path):
    vectors, path = unit(40, 4), tmp_path / "i2i.parquet"
    write(vectors, path, k=3)
    for k in (5, 2):
        assert write(vectors, path, k=k) == ItemToItem(notes=40, computed=40)
        assert {len(own) for own in content(path).values()} == {k}


def test_a_former_table_without_digests_is_replaced(tmp_path):
    vectors, path = unit(40, 4), tmp_path / "i2i.parquet"
    write(vectors, path)
    before = content(path)
    pq.write_table(pq.read_table(path).drop_columns(["digest"]), path)
    assert write(vectors, path) == ItemToItem(notes=40, computed=40)
    assert content(path) == before


@pytest.mark.parametrize("damage", ["cut", "other", "no record"])
def test_a_file_that_is_no_whole_table_is_replaced_only_by_force(tmp_path, damage):
    vectors, path = unit(40, 4), tmp_path / "i2i.parquet"
    write(vectors, path)
    before = content(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "other":
        path.write_bytes(b"something else")
    else:
        pq.write_table(pq.read_table(path).replace_schema_metadata(), path)
    there = path.read_bytes()
    with pytest.raises(StorageError, match="did not write is there"):
        write(vectors, path)
    assert path.read_bytes() == there
    assert write(vectors, path, force=True) == ItemToItem(notes=40, computed=40)
    assert content(path) == before


# -------------------------------------------------------------------- with words


def test_with_words_the_table_is_that_of_the_search(tmp_path):
    ids, vectors, words = worded(60, 0.4)
    path = tmp_path / "i2i.parquet"
    options: dict[str, Any] = {"k": 5, "progress": False}
    assert write_item_to_item(ids, vectors, path, words=words, **options) == ItemToItem(60, 60)
    for (note_id, pairs), found in zip(
        content(path).items(), related_by_id(ids, vectors, ids, k=5, words=words), strict=True
    ):
        assert [name for name, _ in pairs] == [name for name, _ in found], note_id
        assert [score for _, score in pairs] == pytest.approx([score for _, score in found], abs=1e-6)
    assert read_record(path)["config"] == {"k": 5, "lexical_share": 0.4}
    # Nothing has changed; then a text, a removed note, and vectors alone.
    assert write_item_to_item(ids, vectors, path, words=words, **options).computed == 0
    texts = ["a new text", *words.texts[1:]]
    changed = Words(LexicalIndex(ids, texts), texts, 0.4)
    assert write_item_to_item(ids, vectors, path, words=changed, **options).computed == 60
    fewer = Words(LexicalIndex(ids[1:], texts[1:]), texts[1:], 0.4)
    assert write_item_to_item(ids[1:], vectors[1:], path, words=fewer, **options).computed == 59
    assert write_item_to_item(ids[1:], vectors[1:], path, **options).computed == 59
    as_from_nothing(path, vectors[1:], ids=ids[1:], k=5)
