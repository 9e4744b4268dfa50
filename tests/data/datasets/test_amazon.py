import gzip
import json

import pytest

from notellm.data.convert import RAW_CLICKS, RAW_NOTES
from notellm.data.datasets.amazon import read_amazon
from notellm.data.validate import validate
from notellm.errors import DataError

META_2014 = (
    "{'asin': '0001', 'title': \"Tea maker's set\", 'price': 9.5, 'description': 'Makes &amp; pours.', "
    "'categories': [['Home', 'Kitchen'], ['Home', 'Tea']], 'related': {'also_bought': ['0002']}}\n"
    "{'asin': '0002', 'imUrl': 'http://x', 'categories': [['Home']]}\n"
    "{'asin': '0003', 'title': broken}\n"
)
REVIEWS_2014 = (
    '{"reviewerID": "A1", "asin": "0001", "helpful": [0, 0], "overall": 5.0, "unixReviewTime": 1367193600}\n'
    '{"reviewerID": "A1", "asin": "0002", "overall": 3.0, "unixReviewTime": 1367193601}\n'
    '{"reviewerID": "A2", "asin": "0009", "overall": 4.0, "unixReviewTime": 1367193602}\n'
    '{"reviewerID": "A3", "asin": "0001", "overall": NaN, "unixReviewTime": 1367193603}\n'
)
META_2018 = [
    {
        "category": ["Sports & Outdoors", "Camping"],
        "description": ["", "Warm."],
        "feature": ["Light", "Dry"],
        "title": "Tent",
        "main_cat": "Sports",
        "asin": "B001",
    },
    {
        "category": [],
        "title": "var aPageStart = (new Date()).getTime();",
        "main_cat": "Sports",
        "asin": "B002",
    },
]
META_2023 = {
    "main_category": "Toys & Games",
    "title": "Blocks",
    "features": ["Wood", "24 pieces"],
    "description": [],
    "categories": ["Toys & Games", "Building"],
    "parent_asin": "P1",
    "details": {"Brand": "x"},
}


def found(report):
    return {row.problem: (row.where, row.count, row.example, row.action) for row in report.problems}


def test_2014_has_python_literals_and_paths_of_categories(tmp_path):
    (tmp_path / "meta_Kitchen.json.gz").write_bytes(gzip.compress(META_2014.encode()))
    (tmp_path / "reviews_Kitchen_5.json.gz").write_bytes(gzip.compress(REVIEWS_2014.encode()))
    data = read_amazon(tmp_path)
    assert data.notes.schema.equals(RAW_NOTES)
    first, second = data.notes.to_pylist()
    assert first == {
        "note_id": "0001",
        "title": "Tea maker's set",
        "content": "Makes &amp; pours.",
        "topics": ["Kitchen", "Tea"],
        "category": "Home",
        "published_at": None,
    }
    assert (second["title"], second["topics"], second["category"]) == ("", [], "Home")
    assert data.clicks.schema.equals(RAW_CLICKS)
    assert data.clicks.column("note_id").to_pylist() == ["0001", "0009"]
    assert data.clicks.column("timestamp").to_pylist()[0].timestamp() == 1_367_193_600
    report = found(data.report)
    assert report["no object"][:2] == ("meta_Kitchen.json.gz", 1)
    assert report["no object"][2].startswith("line 3: neither JSON")
    where = "reviews_Kitchen_5.json.gz: rating"
    assert report["rating is no finite number"][:2] == (where, 1)
    assert report["rating below 4"][:2] == (where, 1)
    _, clicks, cleaned = validate(data.notes, data.clicks)
    assert clicks.num_rows == 1
    assert found(cleaned)["click on an unknown note"][1] == 1
    assert read_amazon(tmp_path, min_rating=3).clicks.num_rows == 3


def write_2018(folder):
    (folder / "meta_Sports.json").write_text("".join(json.dumps(row) + "\n" for row in META_2018))
    return folder


def test_2018_has_lists_of_texts_and_scripts_for_titles(tmp_path):
    write_2018(tmp_path)
    review = {"overall": 4.0, "reviewerID": "A1", "asin": "B001", "unixReviewTime": 1_424_304_000}
    (tmp_path / "Sports_5.json").write_text(json.dumps(review) + "\n\n")
    data = read_amazon(tmp_path)
    tent, script = data.notes.to_pylist()
    assert (tent["title"], tent["content"]) == ("Tent", "Warm.\nLight\nDry")
    assert (tent["topics"], tent["category"]) == (["Sports & Outdoors", "Camping"], "Sports")
    assert script["title"] == ""
    assert found(data.report) == {
        "title is a script of the page": (
            "meta_Sports.json",
            1,
            "B002: var aPageStart = (new Date()).getTime();",
            "taken as no title",
        )
    }
    assert data.clicks.column("user_id").to_pylist() == ["A1"]


@pytest.mark.parametrize(
    ("row", "order"), [("B001,A7,4.0,1424304000", "item, user"), ("A7,B001,4.0,1424304000", "user, item")]
)
def test_ratings_alone_name_item_or_user_first(tmp_path, row, order):
    (write_2018(tmp_path) / "Sports.csv").write_text(f"{row}\n{row.replace('4.0', '2.0')}\n")
    data = read_amazon(tmp_path)
    assert data.clicks.select(["user_id", "note_id"]).to_pylist() == [{"user_id": "A7", "note_id": "B001"}]
    assert found(data.report)["no header line"] == (
        "Sports.csv",
        2,
        row,
        f"read as {order}, rating, timestamp, by the ids of the products",
    )


def test_2023_has_parents_and_milliseconds(tmp_path):
    (tmp_path / "meta_Toys_and_Games.jsonl").write_text(json.dumps(META_2023) + "\n")
    review = {
        "rating": 5.0,
        "asin": "C1",
        "parent_asin": "P1",
        "user_id": "U1",
        "timestamp": 1_588_687_728_923,
    }
    (tmp_path / "Toys_and_Games.jsonl").write_text(json.dumps(review) + "\n")
    data = read_amazon(tmp_path)
    (note,) = data.notes.to_pylist()
    assert (note["note_id"], note["content"]) == ("P1", "Wood\n24 pieces")
    assert (note["topics"], note["category"]) == (["Building"], "Toys & Games")
    assert data.clicks.column("note_id").to_pylist() == ["P1"]
    assert data.clicks.column("timestamp").to_pylist()[0].timestamp() == 1_588_687_728.923
    (tmp_path / "Toys_and_Games.jsonl").unlink()
    (tmp_path / "Toys_and_Games.csv").write_text(
        "user_id,parent_asin,rating,timestamp\nU1,P1,5.0,1588687728923\nU2,P1,1.0,1588687728923\n"
    )
    data = read_amazon(tmp_path)
    assert data.clicks.column("user_id").to_pylist() == ["U1"]
    assert list(found(data.report)) == ["rating below 4"]


def test_bad_folders(tmp_path):
    with pytest.raises(DataError, match=r"no file meta_\*.jsonl or "):
        read_amazon(tmp_path)
    write_2018(tmp_path)
    with pytest.raises(DataError, match="has no reviews"):
        read_amazon(tmp_path)
    for name in ("Sports.json.gz", "Sports_5.json"):
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"2 files of reviews or ratings, as Sports\.json\.gz and Sports_5\.json"
    ):
        read_amazon(tmp_path)
