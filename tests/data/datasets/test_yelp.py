import json

from notellm.data.convert import RAW_CLICKS, RAW_NOTES
from notellm.data.datasets.yelp import read_yelp
from notellm.data.validate import validate

BUSINESSES = [
    {
        "business_id": "b1",
        "name": "Tea & Co",
        "city": "Tampa",
        "state": "FL",
        "stars": 4.5,
        "categories": "Food, Beer, Wine & Spirits, Shopping",
        "attributes": {"WiFi": "u'free'"},
    },
    {"business_id": "b2", "name": "Old", "city": "", "state": "AZ", "categories": ["Active Life", "Golf"]},
    {"business_id": "b3", "name": "Bare", "categories": None},
]
REVIEWS = [
    {"user_id": "u1", "business_id": "b1", "stars": 5.0, "date": "2018-07-07 22:09:11", "text": "x\ny"},
    {"user_id": "u1", "business_id": "b2", "stars": 3, "date": "2014-02-13"},
    {"user_id": "u2", "business_id": "b2", "stars": 4, "date": "2014-02-13"},
    {"user_id": "u3", "business_id": "b2", "stars": None, "date": "2014-02-13"},
]


def write(folder, torn=""):
    for name, rows in (("business", BUSINESSES), ("review", REVIEWS)):
        text = "".join(json.dumps(row) + "\n" for row in rows) + torn
        (folder / f"yelp_academic_dataset_{name}.json").write_text(text)
    return folder


def test_businesses_are_notes_and_stars_ratings(tmp_path):
    data = read_yelp(write(tmp_path, torn='{"user_id": "u9", "bus'))
    assert data.notes.schema.equals(RAW_NOTES)
    rows = [(row["title"], row["content"], row["topics"], row["category"]) for row in data.notes.to_pylist()]
    assert rows == [
        ("Tea & Co", "Tampa, FL", ["Food", "Beer, Wine & Spirits", "Shopping"], "Food"),
        ("Old", "AZ", ["Active Life", "Golf"], "Active Life"),
        ("Bare", "", [], ""),
    ]
    assert data.clicks.schema.equals(RAW_CLICKS)
    assert data.clicks.column("user_id").to_pylist() == ["u1", "u2"]
    assert str(data.clicks.column("timestamp").to_pylist()[0]) == "2018-07-07 22:09:11+00:00"
    where = "yelp_academic_dataset_review.json"
    assert [(row.problem, row.where, row.count) for row in data.report.problems] == [
        ("no object", "yelp_academic_dataset_business.json", 1),
        ("no object", where, 1),
        ("stars is no finite number", f"{where}: stars", 1),
        ("stars below 4", f"{where}: stars", 1),
    ]
    assert validate(data.notes, data.clicks)[1].num_rows == 2
    assert read_yelp(tmp_path, min_rating=2.5).clicks.num_rows == 3
