import pytest

from notellm.data.convert import RAW_CLICKS, RAW_NOTES
from notellm.data.datasets.movielens import read_movielens
from notellm.data.validate import validate
from notellm.errors import DataError

FILES = {
    "movies.csv": "movieId,title,genres\n"
    '1,"Maker, The (1996)",Drama|Comedy\n'
    "2,Odd (Name) (2001),(no genres listed)\n"
    "3,Silent (1920),Drama\n"
    "4,Joined Only (1999),Action\n",
    "links.csv": "movieId,imdbId,tmdbId\n1,0001,11\n2,0002,12\n3,0003,\n",
    "ratings.csv": "userId,movieId,rating,timestamp\n"
    "1,1,4.0,1000000000\n1,2,3.5,1000000001\n2,3,5.0,1000000002\n",
    "tmdb_5000_movies.csv": "budget,id,keywords,overview\n"
    '9,11,"[{""id"": 1, ""name"": ""craft""}, {""id"": 2, ""name"": ""wood""}]","He makes,\nshe too."\n'
    "9,12,[],Odd things.\n",
    "items_joined.csv": "movieId,overview,keywords\n4,From the join.,a|b\n1,Not this.,x\n",
}


def write(folder, *left_out, header=True):
    for name, content in FILES.items():
        if name not in left_out:
            text = content if header or "tmdb" in name or "joined" in name else content.split("\n", 1)[1]
            (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("header", [True, False])
def test_movies_with_text_are_notes_and_good_ratings_clicks(tmp_path, header):
    notes, clicks = read_movielens(write(tmp_path, header=header))
    assert notes.schema.equals(RAW_NOTES)
    rows = {row["note_id"]: row for row in notes.to_pylist()}
    assert list(rows) == ["1", "2", "4"]
    assert rows["1"]["title"] == "The Maker"
    assert rows["1"]["content"] == "He makes,\nshe too."
    assert rows["1"]["topics"] == ["craft", "wood"]
    assert rows["1"]["category"] == "Drama"
    assert rows["2"]["title"] == "Odd (Name)"
    assert rows["2"]["category"] == ""
    assert rows["2"]["topics"] == []
    assert rows["4"]["content"] == "From the join."
    assert rows["4"]["topics"] == ["a", "b"]
    assert clicks.schema.equals(RAW_CLICKS)
    assert clicks.column("note_id").to_pylist() == ["1", "3"]
    assert clicks.column("timestamp").to_pylist()[0].timestamp() == 1_000_000_000
    _, kept, report = validate(notes, clicks)
    assert kept.num_rows == 1
    assert "unknown note" in str(report)


def test_the_join_stands_in_for_links_and_tmdb(tmp_path):
    notes, _ = read_movielens(write(tmp_path, "links.csv", "tmdb_5000_movies.csv"))
    assert notes.column("note_id").to_pylist() == ["1", "4"]
    assert notes.column("content").to_pylist()[0] == "Not this."


def test_bad_folders(tmp_path):
    write(tmp_path, "links.csv", "items_joined.csv")
    with pytest.raises(DataError, match="add the TMDB 5000 file"):
        read_movielens(tmp_path)
    write(tmp_path)
    (tmp_path / "ratings.csv").write_text("1,1,good,5\n")
    with pytest.raises(DataError, match="'good'; it must be a number of stars"):
        read_movielens(tmp_path)
    (tmp_path / "tmdb_5000_movies.csv").write_text("id,keywords,overview\n11,oops,x\n")
    with pytest.raises(DataError, match="keywords are 'oops'"):
        read_movielens(tmp_path)


@pytest.mark.real
def test_real_movielens(real_data):
    notes, clicks = read_movielens(real_data("movielens-small-tmdb"))
    assert (notes.num_rows, clicks.num_rows) == (3_225, 51_568)
    notes, clicks, _ = validate(notes, clicks)
    assert (notes.num_rows, clicks.num_rows) == (3_225, 27_822)
    assert sum(bool(topics) for topics in notes.column("topics").to_pylist()) > 3_000
    years = {time.year for time in clicks.column("timestamp").to_pylist()}
    assert (min(years), max(years)) == (1996, 2016)
