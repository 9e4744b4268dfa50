"""Sorting rows on disk: the result is that of a sort in memory, whatever the runs and ties."""

import random

import pyarrow as pa
import pytest

from notellm.data import sorting
from notellm.data.schema import TIME
from notellm.data.sorting import joined, sorted_pieces

SCHEMA = pa.schema([("time", TIME), ("id", pa.string()), ("text", pa.string())])


def rows_of(rng, count, times):
    return pa.table(
        {
            "time": pa.array([rng.randrange(times) for _ in range(count)], pa.int64()).cast(TIME),
            "id": [f"i{rng.randrange(10 * count)}" for _ in range(count)],
            "text": [str(i) for i in range(count)],
        },
        schema=SCHEMA,
    )


def sorted_rows(table, folder, **options):
    pieces = list(sorted_pieces(table.to_batches(7), SCHEMA, folder, time="time", id_="id", **options))
    assert list(folder.iterdir()) == []  # no file of a run stays
    return pa.concat_tables(pieces)


@pytest.mark.parametrize("times", [1, 3, 50, 10_000])
@pytest.mark.parametrize("run", [1, 10, 45, 1_000])
@pytest.mark.parametrize("batch", [1, 4, 1_000])
def test_it_is_the_sort_in_memory(tmp_path, monkeypatch, times, run, batch):
    monkeypatch.setattr(sorting, "_BATCH", batch)
    table = rows_of(random.Random(times * run), 100, times)
    found = sorted_rows(table, tmp_path, run=run)
    wanted = table.sort_by([("time", "ascending"), ("id", "ascending")])
    assert found.select(["time", "id"]) == wanted.select(["time", "id"])
    assert found.sort_by("text") == table.sort_by("text")  # each row once, and whole


def test_the_order_of_the_rows_does_not_count(tmp_path):
    table = rows_of(random.Random(1), 60, 5)
    table = table.set_column(1, "id", pa.array([f"id-{i}" for i in range(60)]))
    other = table.take(pa.array(random.Random(2).sample(range(60), 60)))
    assert sorted_rows(table, tmp_path, run=9) == sorted_rows(other, tmp_path, run=9)


def test_no_rows_are_one_empty_table(tmp_path):
    assert sorted_rows(SCHEMA.empty_table(), tmp_path).num_rows == 0
    assert [each.num_rows for each in joined([], SCHEMA, 5)] == [0]


def test_batches_are_joined_to_tables_of_a_size():
    table = rows_of(random.Random(1), 20, 5)
    pieces = list(joined(table.to_batches(3), SCHEMA, 7))
    assert [piece.num_rows for piece in pieces] == [9, 9, 2]
    assert pa.concat_tables(pieces) == table
