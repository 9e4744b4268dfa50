"""Pieces of long work: kept for the same inputs, gone at the end, and those of others left alone."""

import numpy as np
import pytest
from filelock import FileLock

from notellm.errors import StorageError
from notellm.recall.shards import computed_shards, shard_folder


class StoppedError(Exception):
    pass


def leave(target, inputs):
    """What a killed run leaves."""
    with pytest.raises(StoppedError), shard_folder(target, inputs) as folder:  # noqa: PT012 - half-way
        (folder / "000000.parquet").write_text("a piece")
        raise StoppedError
    return folder


def test_pieces_are_found_again_for_the_same_inputs_alone(tmp_path):
    target = tmp_path / "vectors.parquet"
    folder = leave(target, ("model", 1))
    with pytest.raises(StoppedError), shard_folder(target, ("model", 2)) as other:  # noqa: PT012 - half-way
        assert other != folder
        assert not list(other.glob("*.parquet"))
        raise StoppedError
    with shard_folder(target, ("model", 1)) as again:
        assert again == folder
        assert (again / "000000.parquet").read_text() == "a piece"
    assert list(tmp_path.iterdir()) == []  # with those of the other inputs


def test_pieces_of_another_target_are_left_alone(tmp_path):
    """Also where its name begins with that of the target: hours of work may lie in them."""
    kept = [leave(tmp_path / name, 1) for name in ("vectors.parquet", "vectors.old", "vector")]
    mine = tmp_path / ".vectors.mine.parts"
    mine.mkdir()
    with shard_folder(tmp_path / "vectors", 1):
        pass
    assert {*kept, mine} == set(tmp_path.iterdir())
    assert all((folder / "000000.parquet").is_file() for folder in kept)


def test_pieces_of_a_living_run_are_left_alone_and_refused(tmp_path):
    target = tmp_path / "vectors.parquet"
    folder = leave(target, 1)
    with FileLock(folder / ".lock"):
        with pytest.raises(StorageError, match="another process writes"), shard_folder(target, 1):
            pass
        with shard_folder(target, 2):
            pass
        assert (folder / "000000.parquet").is_file()


def test_only_missing_shards_are_computed_and_all_are_read_back(tmp_path):
    rows = np.array([4, 0, 3, 1, 2])
    calls: list[list[int]] = []
    results: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def compute(piece):
        if len(calls) == 2:
            raise StoppedError
        calls.append(piece.tolist())
        return {"square": (piece**2)[:, None], "pair": np.stack([piece, -piece], axis=1).astype(np.float32)}

    for _ in range(2):
        try:
            with computed_shards(
                tmp_path / "out", "inputs", rows, compute, size=2, label="", progress=False
            ) as shards:
                results = {
                    int(row): (a, b)
                    for piece, r in shards
                    for row, a, b in zip(piece, r["square"], r["pair"], strict=True)
                }
        except StoppedError:
            assert calls == [[4, 0], [3, 1]]
            calls = []
    assert calls == [[2]]
    assert list(results) == rows.tolist()
    for row, (square, pair) in results.items():
        assert square.tolist() == [row**2]
        assert square.dtype == np.int64
        assert pair.tolist() == [row, -row]
        assert pair.dtype == np.float32
    assert list(tmp_path.iterdir()) == []
