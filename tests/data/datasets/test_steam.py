import gzip

import pytest

from notellm.data.convert import RAW_CLICKS, RAW_NOTES
from notellm.data.datasets.steam import read_steam
from notellm.data.validate import validate

GAMES = (
    "{u'publisher': u'P', u'genres': [u'Action', u'Indie'], u'title': u\"Pilot's Log\", u'price': 4.99, "
    "u'tags': [u'Strategy', u'action'], u'early_access': False, u'id': u'761140'}\n"
    "{u'app_name': u'Deep W\\xe9ll', u'price': u'Free To Play', u'id': u'20'}\n"
    "{u'app_name': u'no id'}\n"
)
REVIEWS = (
    "{u'username': u'Chaos', u'hours': 0.1, u'product_id': u'761140', u'date': u'2018-03-02', u'text': u''}\n"
    "{u'username': u'Ann', u'user_id': u'7656', u'product_id': u'20', u'date': u'2017-12', u'hours': nan}\n"
    "{u'username': u'Ann', u'user_id': u'7656', u'product_id': u'20', u'date': u'2017-12-17'}\n"
    "{u'product_id': u'20', u'date': u'2017-12-18'}\n"
)


@pytest.mark.parametrize("name", ["steam_reviews.json", "steam_reviews.json.gz", "steam_new.json"])
def test_every_review_is_a_click(tmp_path, name):
    (tmp_path / "steam_games.json.gz").write_bytes(gzip.compress(GAMES.encode()))
    raw = REVIEWS.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    data = read_steam(tmp_path)
    assert data.notes.schema.equals(RAW_NOTES)
    first, second, _ = data.notes.to_pylist()
    assert (first["note_id"], first["title"], first["category"]) == ("761140", "Pilot's Log", "Action")
    assert first["topics"] == ["Strategy", "action", "Indie"]
    assert (second["title"], second["topics"], second["category"]) == ("Deep Wéll", [], "")
    assert data.clicks.schema.equals(RAW_CLICKS)
    assert data.clicks.column("user_id").to_pylist() == ["Chaos", "Ann", None]
    assert str(data.clicks.column("timestamp").to_pylist()[0]) == "2018-03-02 00:00:00+00:00"
    rows = {row.problem: (row.where, row.count) for row in data.report.problems}
    assert rows == {"no object": (name, 1), "review without user_id": (name, 2)}
    notes, clicks, report = validate(data.notes, data.clicks)
    assert (notes.num_rows, clicks.num_rows) == (2, 2)
    assert [row.problem for row in report.problems] == ["empty id", "empty id"]
