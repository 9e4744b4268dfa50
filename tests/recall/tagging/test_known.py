"""Known notes are written and read whole, or refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.data.note import Note
from notellm.errors import ModelError
from notellm.lexical.terms import term_counts
from notellm.recall.tagging.known import FILE, KnownNotes, text_counts

NOTES = [
    Note("Soup", "garlic bread and soup", ("soup", "cold brew"), "Cooking"),
    Note("海滩", "酒店 海滩", (), "旅行"),
    Note("", "", ("tea",), ""),
]


def known_of(notes, dim=8) -> KnownNotes:
    vectors = np.random.default_rng(0).standard_normal((len(notes), dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return KnownNotes(
        [f"n{row}" for row in range(len(notes))],
        [note.topics for note in notes],
        [note.category for note in notes],
        text_counts(notes),
        {"topics": vectors, "category": vectors[:, ::-1].copy()},
    )


def assert_same(one: KnownNotes, other: KnownNotes) -> None:
    assert one.note_ids == other.note_ids
    assert one.topics == other.topics
    assert one.categories == other.categories
    assert one.counts.shape == other.counts.shape
    assert (one.counts != other.counts).nnz == 0
    assert one.vectors.keys() == other.vectors.keys()
    for task, vectors in one.vectors.items():
        np.testing.assert_allclose(vectors, other.vectors[task], atol=5e-4)  # half precision
        assert other.vectors[task].dtype == np.float32


def test_what_is_written_is_read(tmp_path):
    known = known_of(NOTES)
    known.write(tmp_path)
    read = KnownNotes.read(tmp_path)
    assert_same(known, read)
    assert pq.read_schema(tmp_path / FILE).field("topics_vector").type.value_type == pa.float16()
    (tmp_path / "again").mkdir()
    read.write(tmp_path / "again")
    assert_same(read, KnownNotes.read(tmp_path / "again"))
    again = KnownNotes.read(tmp_path / "again")
    np.testing.assert_array_equal(again.vectors["topics"], read.vectors["topics"])


@pytest.mark.parametrize("count", [0, 1])
def test_few_notes(tmp_path, count):
    known = known_of(NOTES[:count])
    bare = KnownNotes(known.note_ids, known.topics, known.categories, known.counts, {})
    bare.write(tmp_path)
    assert_same(bare, KnownNotes.read(tmp_path))


def test_a_word_that_occurs_very_often(tmp_path):
    """More often than a number of two bytes counts."""
    known = known_of([Note("tea " * 70_000, "")])
    known.write(tmp_path)
    read = KnownNotes.read(tmp_path)
    assert float(read.counts.max()) == 65_535


def test_some_of_the_notes():
    known = known_of(NOTES)
    some = known.take(np.array([2, 0]))
    assert (some.note_ids, some.categories) == (["n2", "n0"], ["", "Cooking"])
    np.testing.assert_array_equal(some.vectors["topics"], known.vectors["topics"][[2, 0]])
    assert (some.counts != known.counts[[2, 0]]).nnz == 0
    assert len(known.take(np.zeros(0, dtype=np.int64))) == 0
    assert_same(known, known.take(np.arange(2)).joined([known.take(np.array([2]))]))


def test_topics_are_read_for_the_category_only():
    known = known_of(NOTES)
    assert (known.task_counts("topics") != known.counts).nnz == 0
    extra = known.task_counts("category") - known.counts
    assert (extra != term_counts(["soup cold brew", "", "tea"])).nnz == 0
    assert known.answers("category") == [("Cooking",), ("旅行",), ()]
    assert known.answers("topics") == known.topics


def rewritten(folder, change):
    table = pq.read_table(folder / FILE)
    pq.write_table(change(table), folder / FILE)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / FILE).unlink(),
        lambda folder: (folder / FILE).write_bytes(b""),
        lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-40]),
        lambda folder: (folder / FILE).write_text(json.dumps({"note_id": []})),
        lambda folder: rewritten(folder, lambda table: table.drop_columns(["counts"])),
        lambda folder: rewritten(folder, lambda table: table.drop_columns(["topics"])),
        lambda folder: rewritten(
            folder,
            lambda table: table.set_column(
                table.schema.get_field_index("terms"), "terms", pa.array([[2**22]] * 3, pa.list_(pa.int32()))
            ),
        ),
        lambda folder: rewritten(
            folder,
            lambda table: table.set_column(
                table.schema.get_field_index("topics"), "topics", pa.array([None] * 3, pa.list_(pa.string()))
            ),
        ),
        lambda folder: rewritten(
            folder,
            lambda table: table.set_column(
                table.schema.get_field_index("topics_vector"),
                "topics_vector",
                pa.FixedSizeListArray.from_arrays(pa.array(np.full(24, np.nan, np.float16)), 8),
            ),
        ),
    ],
    ids=["gone", "empty", "cut", "json", "no-counts", "no-topics", "term", "null-topics", "nan"],
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    known_of(NOTES).write(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=r"known\.parquet"):
        KnownNotes.read(tmp_path)
