import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from notellm.data.datasets.table import (
    _READERS,
    CLICK_NAMES,
    IMPRESSION_NAMES,
    RATING_NAMES,
    read_clicks_of,
    read_impressions_of,
)
from notellm.errors import ConfigError

ROOT = Path(__file__).parents[3]


def test_names():
    assert CLICK_NAMES[:4] == ("microlens", "movielens", "mind", "kuairec")
    assert set(RATING_NAMES) <= set(CLICK_NAMES)
    assert IMPRESSION_NAMES == ("collm",)


def test_every_dataset_is_documented():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "datasets.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(CLICK_NAMES)
    guide = (ROOT / "docs" / "your-data.md").read_text()
    assert not [name for name in CLICK_NAMES if f"`{name}`" not in guide]


@pytest.mark.parametrize("name", _READERS)
def test_every_reader_is_there(name):
    module, function = _READERS[name][1].split(":")
    assert callable(getattr(importlib.import_module(f"notellm.data.datasets.{module}"), function))


def test_a_dataset_is_read_by_name(tmp_path):
    (tmp_path / "MicroLens-50k_titles.csv").write_text("item,title\n1,Tea time #tea\n")
    (tmp_path / "MicroLens-50k_pairs.tsv").write_text("u1\t1\n")
    data = read_clicks_of("microlens", tmp_path)
    assert data.notes["content"].to_pylist() == ["Tea time"]
    assert data.clicks["user_id"].to_pylist() == ["u1"]


def test_the_smallest_rating_reaches_the_readers_of_ratings_alone(tmp_path):
    (tmp_path / "movies.csv").write_text("1,Tea (1999),Drama\n")
    (tmp_path / "ratings.csv").write_text("u1,1,3,1000000000\nu2,1,4,1000000000\n")
    assert read_clicks_of("movielens", tmp_path).clicks["user_id"].to_pylist() == ["u2"]
    assert read_clicks_of("movielens", tmp_path, min_rating=3).clicks.num_rows == 2
    with pytest.raises(ConfigError, match="min_rating is 3, but the dataset mind has no ratings"):
        read_clicks_of("mind", tmp_path, min_rating=3)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no dataset 'netflix': give one of microlens, "):
        read_clicks_of("netflix", tmp_path)
    with pytest.raises(ConfigError, match="no dataset 'mind': give one of collm"):
        read_impressions_of("mind", tmp_path)


def test_listing_the_names_imports_no_reader():
    code = "import sys, notellm.data.datasets.table; print({'polars', 'pyarrow', 'numpy'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"
