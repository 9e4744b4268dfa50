import pytest

from notellm.data.convert import RAW_CLICKS, RAW_NOTES
from notellm.data.datasets.movielens import read_movielens
from notellm.data.validate import validate
from notellm.errors import ConfigError, DataError

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
    data = read_movielens(write(tmp_path, header=header))
    notes, clicks = data.notes, data.clicks
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
    data = read_movielens(write(tmp_path, "links.csv", "tmdb_5000_movies.csv"))
    notes = data.notes
    assert notes.column("note_id").to_pylist() == ["1", "4"]
    assert notes.column("content").to_pylist()[0] == "Not this."


def test_bad_folders(tmp_path):
    write(tmp_path, "links.csv", "items_joined.csv")
    with pytest.raises(DataError, match=r"no links\.csv, which says which film is which"):
        read_movielens(tmp_path)
    write(tmp_path)
    (tmp_path / "ratings.csv").write_text("1,1,good,5\n")
    with pytest.raises(DataError, match="is 'good' in the first row; it must be a finite number"):
        read_movielens(tmp_path)
    (tmp_path / "tmdb_5000_movies.csv").write_text("id,keywords,overview\n11,oops,x\n")
    with pytest.raises(DataError, match="keywords are 'oops'"):
        read_movielens(tmp_path)


def found(report):
    return {row.problem: (row.where, row.count, row.example) for row in report.problems}


def test_everything_left_out_is_reported(tmp_path):
    write(tmp_path)
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,1,4.0,1000000000\n1,2,3.5,1000000001\n2,1,nan,1\n2,2,inf,2\n3,1,,3\n"
        "4,1,5.0\n"
    )
    data = read_movielens(tmp_path)
    assert data.clicks.column("user_id").to_pylist() == ["1"]
    assert found(data.report) == {
        "movie without overview and keywords": ("movies.csv", 1, "Silent (1920)"),
        "other number of cells than the header": ("ratings.csv", 1, "line 7: 3 cells, not 4"),
        "rating is no finite number": (
            "ratings.csv: rating",
            3,
            "userId 2, movieId 1, rating nan, timestamp 1",
        ),
        "rating below 4": (
            "ratings.csv: rating",
            1,
            "userId 1, movieId 2, rating 3.5, timestamp 1000000001",
        ),
    }
    assert read_movielens(tmp_path, min_rating=3.5).clicks.num_rows == 2
    with pytest.raises(DataError, match=r"no rating of ratings\.csv is at least 6; the largest is 4"):
        read_movielens(tmp_path, min_rating=6)
    with pytest.raises(ConfigError, match="min_rating is nan"):
        read_movielens(tmp_path, min_rating=float("nan"))


def test_without_texts_every_movie_is_a_note_with_genres_and_tags(tmp_path):
    write(tmp_path, "links.csv", "items_joined.csv", "tmdb_5000_movies.csv")
    tags = [f"9,1,rare {n},5" for n in range(12)] + [
        "1,1,Wood ,5",
        "2,1,wood,6",
        "3,1,DRAMA,7",
        '3,2,"a, b",7',
    ]
    (tmp_path / "tags.csv").write_text("\n".join(["userId,movieId,tag,timestamp", *tags, ""]))
    data = read_movielens(tmp_path)
    rows = {row["note_id"]: row for row in data.notes.to_pylist()}
    assert list(rows) == ["1", "2", "3", "4"]
    assert rows["1"]["title"] == "The Maker"
    assert rows["1"]["content"] == ""
    assert rows["1"]["topics"][:3] == ["Drama", "Comedy", "Wood"]
    assert len(rows["1"]["topics"]) == 12
    assert rows["2"]["topics"] == ["a, b"]
    assert rows["2"]["category"] == ""
    assert rows["3"]["topics"] == ["Drama"]
    report = found(data.report)
    assert report["no texts of TMDB"] == ("movies.csv", 4, "Maker, The (1996)")
    assert report["tag beyond the 10 most used of a note"][1] == 4


def test_the_files_of_1m_are_in_latin_1_between_double_colons(tmp_path):
    movies = "1::Tin Toys (1999)::Animation|Children's\n2::Île \"du\" lac, L' (1997)::Drama\n3::Torn::x::y\n"
    (tmp_path / "movies.dat").write_bytes(movies.encode("latin-1"))
    (tmp_path / "ratings.dat").write_text("1::1::5::978300760\n1::2::3::978302109\n2::2::4::978301968\n")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n")
    data = read_movielens(tmp_path)
    assert data.notes.column("title").to_pylist() == ["Tin Toys", 'Île "du" lac, L\'']
    assert data.notes.column("topics").to_pylist() == [["Animation", "Children's"], ["Drama"]]
    assert data.clicks.column("note_id").to_pylist() == ["1", "2"]
    assert data.clicks.column("timestamp").to_pylist()[0].timestamp() == 978_300_760
    assert found(data.report)["bytes that are not UTF-8"] == (
        "movies.dat",
        1,
        'line 2: 2::Île "du" lac, L\' (1997)::Drama',
    )
    assert validate(data.notes, data.clicks)[1].num_rows == 2


@pytest.mark.real
def test_real_movielens(real_data):
    data = read_movielens(real_data("movielens-small-tmdb"))
    notes, clicks = data.notes, data.clicks
    assert (notes.num_rows, clicks.num_rows) == (3_225, 51_568)
    notes, clicks, _ = validate(notes, clicks)
    assert (notes.num_rows, clicks.num_rows) == (3_225, 27_822)
    assert sum(bool(topics) for topics in notes.column("topics").to_pylist()) > 3_000
    years = {time.year for time in clicks.column("timestamp").to_pylist()}
    assert (min(years), max(years)) == (1996, 2016)
