from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.data.datasets.collm import read_collm
from notellm.data.schema import IMPRESSIONS, NOTES
from notellm.data.validate_impressions import validate_impressions
from notellm.errors import DataError, StorageError

TEXTS = (
    "movie_id,title,genres,rating,summary\n"
    '1,"Maker, The (1990)",Drama|War,8.5,"He makes, she too."\n'
    "2,Caf\u00ef\u00bf\u00bd (1991),Comedy,I cannot rate it.,Coffee.\n"
)


def part(rows):
    """A part from (uid, iid, label, seconds, history, not_cold)."""
    columns = list(zip(*rows, strict=True))
    return pa.table(
        {
            "uid": pa.array(columns[0], pa.int32()),
            "iid": pa.array(columns[1], pa.int32()),
            "label": pa.array(columns[2], pa.int8()),
            "timestamp": pa.array(columns[3], pa.int64()),
            "his": pa.array(columns[4], pa.list_(pa.int32())),
            "not_cold": pa.array(columns[5], pa.int8()),
        }
    )


@pytest.fixture
def folder(tmp_path):
    pq.write_table(
        part([(1, 1, 1, 10**9, [], 1), (1, 2, 0, 10**9 + 1, [0, 0, 1], 1)]), tmp_path / "train.parquet"
    )
    pq.write_table(
        part([(1, 3, 1, 10**9 + 2, [1], 0), (2, 1, 0, 10**9 + 3, [], 0)]), tmp_path / "valid.parquet"
    )
    pq.write_table(part([(2, 1, 0, 10**9 + 3, [], 0)]), tmp_path / "valid_small.parquet")
    pq.write_table(
        part([(1, 1, 1, 10**9 + 4, [0, 1, 3], 1), (9, 2, 0, 10**9 + 5, [0], 0)]), tmp_path / "test.parquet"
    )
    titles = ["Maker, The (1990)", "Caf\u00e9 (1991)", "Textless (1992)"]
    items = pa.table({"iid": pa.array([1, 2, 3], pa.int32()), "title": titles})
    pq.write_table(items, tmp_path / "items.parquet")
    (tmp_path / "movies_text.csv").write_text(TEXTS, encoding="utf-8")
    return tmp_path


def test_notes(folder):
    notes = read_collm(folder).notes
    assert notes.schema.equals(NOTES)
    rows = [tuple(row.values()) for row in notes.to_pylist()]
    assert rows == [
        ("1", "Maker, The (1990)", "He makes, she too.", ["Drama", "War"], "Drama", None),
        ("2", "Caf\u00e9 (1991)", "Coffee.", ["Comedy"], "Comedy", None),
        ("3", "Textless (1992)", "", [], "", None),
    ]


def test_what_is_missing_is_reported(folder):
    assert len(read_collm(folder).report) == 1
    (folder / "movies_text.csv").write_text(TEXTS + "torn\n", encoding="utf-8")
    torn, silent = read_collm(folder).report.problems
    assert (torn.where, torn.count, torn.example) == ("movies_text.csv", 1, "line 4: 1 cells, not 5")
    assert (silent.problem, silent.count, silent.example) == ("movie without summary", 1, "Textless (1992)")


def test_impressions_without_padding(folder):
    data = read_collm(folder)
    assert all(table.schema.equals(IMPRESSIONS) for table in (data.train, data.valid, data.test))
    assert data.train.to_pylist()[1] == {
        "user_id": "1",
        "note_id": "2",
        "label": False,
        "timestamp": datetime.fromtimestamp(10**9 + 1, UTC),
        "history": ["1"],
    }
    assert data.test["history"].to_pylist() == [["1", "3"], []]
    assert data.warm.dtype == np.bool_
    assert data.warm.tolist() == [True, False]


def test_which_valid(folder):
    assert read_collm(folder).valid.num_rows == 1
    assert read_collm(folder, full_valid=True).valid.num_rows == 2
    (folder / "valid_small.parquet").unlink()
    assert read_collm(folder).valid.num_rows == 2


def test_bad_folders(folder):
    with pytest.raises(StorageError, match="no such folder"):
        read_collm(folder / "nowhere")
    pq.write_table(part([(1, 1, 4, 5, [], 1)]), folder / "test.parquet")
    with pytest.raises(DataError, match="a label is 4; it must be 0 or 1"):
        read_collm(folder)
    pq.write_table(part([(1, 1, 1, None, [], 1)]), folder / "test.parquet")
    with pytest.raises(DataError, match="timestamp is null in some rows"):
        read_collm(folder)
    pq.write_table(part([(1, 1, 1, 5, [], 1)]).drop(["his"]), folder / "test.parquet")
    with pytest.raises(DataError, match="no column 'his'"):
        read_collm(folder)
    (folder / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"no file test\.parquet"):
        read_collm(folder)


@pytest.mark.real
def test_real_split(real_data):
    folder = real_data("ml-1m-collm")
    data = read_collm(folder)
    valid = read_collm(folder, full_valid=True).valid
    parts = [data.train, valid, data.test]
    assert [table.num_rows for table in (data.train, valid, data.valid, data.test)] == [
        33_891,
        10_401,
        5_200,
        7_331,
    ]
    assert [sum(table["label"].to_pylist()) for table in parts] == [18_191, 5_495, 3_998]
    assert (len(data.warm), int(data.warm.sum())) == (7_331, 4_153)
    users = {user for table in parts for user in table["user_id"].to_pylist()}
    assert len(users) == 838
    assert data.notes.num_rows == 3_255
    for earlier, later in pairwise(parts):
        assert max(earlier["timestamp"].to_pylist()) < min(later["timestamp"].to_pylist())
    for table in (*parts, data.valid):
        kept, report = validate_impressions(table, data.notes)
        assert (kept.num_rows, len(report)) == (table.num_rows, 0)
    assert Counter(bool(text) for text in data.notes["content"].to_pylist()) == {True: 3_255}
    # Warm is what the papers mean by it: user and movie are both in train.
    known_users, known_notes = (set(data.train[name].to_pylist()) for name in ("user_id", "note_id"))
    rows = zip(data.test["user_id"].to_pylist(), data.test["note_id"].to_pylist(), strict=True)
    assert [user in known_users and note in known_notes for user, note in rows] == data.warm.tolist()
    # Histories hold liked movies only, none of them from after the row.
    liked = {
        (row["user_id"], row["note_id"]): row["timestamp"]
        for table in parts
        for row in table.select(["user_id", "note_id", "label", "timestamp"]).to_pylist()
        if row["label"]
    }
    for row in data.test.to_pylist():
        assert all(liked[row["user_id"], note] <= row["timestamp"] for note in row["history"])
