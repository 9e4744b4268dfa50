"""The programs of examples/ run as they stand; own_page/ is tested in tests/serve/test_own_page.py."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run an example in this process; return what it prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_books_of_the_shelf_are_related(run):
    shelf = {}
    for line in (EXAMPLES / "books.csv").read_text(encoding="utf-8").splitlines()[1:]:
        shelf[line.split(",", 1)[1].lstrip('"')[:12]] = line.rsplit(",", 1)[1]
    blocks = run("related_books.py").split("\n\n")[1:]
    assert len(blocks) == 3
    for block, near in zip(blocks, [{"sea", "nature"}, {"ghosts", "crime"}, {"sea", "nature"}], strict=True):
        found = re.findall(r"^  -?\d\.\d\d  (.+)$", block, re.MULTILINE)
        assert len(found) >= 4
        own = [shelf[title[:12]] in near for title in found]
        assert np.mean(own) > 0.7, block  # by chance it would be a quarter


@pytest.mark.slow
def test_captions_get_hashtags(run, tmp_path):
    out = run("chinese_hashtags.py", "--steps", 3)
    blocks = out.split("\n\n")
    assert len(blocks) == 3
    assert "旅行" in blocks[0]  # the category of camping
    assert "#" in out
    notes = ["note_id,content,category", *(f"n{i},好吃的面包 #烘焙 {i},美食" for i in range(60))]
    (tmp_path / "captions.csv").write_text("\n".join(notes), encoding="utf-8")
    assert "#烘焙" in run("chinese_hashtags.py", "--steps", 2, "--notes", tmp_path / "captions.csv")


@pytest.mark.slow
def test_movies_are_ranked_with_and_without_codes(run, tmp_path):
    rng = np.random.default_rng(0)
    likes = rng.random((40, 30)) < 0.5
    for part, count in (("train", 500), ("valid", 120), ("test", 120)):
        users, movies = rng.integers(0, 40, count), rng.integers(0, 30, count)
        columns = {
            "uid": pa.array(users + 1, pa.int32()),
            "iid": pa.array(movies + 1, pa.int32()),
            "label": pa.array(likes[users, movies].astype(int), pa.int8()),
            "timestamp": pa.array(range(10**9, 10**9 + count), pa.int64()),
            "his": pa.array([[int(i) + 1 for i in np.flatnonzero(likes[u])[:3]] for u in users]),
            "not_cold": pa.array([1] * count, pa.int8()),
        }
        pq.write_table(pa.table(columns), tmp_path / f"{part}.parquet")
    titles = [f"Movie number {i} (1999)" for i in range(30)]
    pq.write_table(
        pa.table({"iid": pa.array(range(1, 31), pa.int32()), "title": titles}), tmp_path / "items.parquet"
    )
    texts = [f'{i + 1},{title},Drama,7,"A film."' for i, title in enumerate(titles)]
    (tmp_path / "movies_text.csv").write_text(
        "\n".join(["movie_id,title,genres,rating,summary", *texts]), encoding="utf-8"
    )
    out = run("rank_ml1m.py", tmp_path, "--max-steps", 2, "--code-epochs", 2)
    assert "text_only" in out
    assert "with_codes" in out
    assert out.count("AUC") >= 2
