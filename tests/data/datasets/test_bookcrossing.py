import pytest

from notellm.data.convert import RAW_NOTES
from notellm.data.datasets.bookcrossing import read_bookcrossing
from notellm.data.validate import validate

BOOKS = (
    '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher"\n'
    '"0002005018";"Café of \\"Lost\\" Days";"A. Nonymous";"2001";"Self"\n'
    '"000104799X";"Über \\"den\\";See";"";"0";"Press &amp; Co"\n'
    '"0195153448";"Trailing \\"Level\\"";"Tea Author";"2000";"House"\n'
    '"0000000001";"torn"\n'
)
RATINGS = (
    '"User-ID";"ISBN";"Book-Rating"\n"11";"0002005018";"0"\n"11";"000104799x";"8"\n"12";"0002005018";"7"\n'
    '"12";"000104799X";"5"\n"13";"0195153448";"\\"x"\n'
)


def found(report):
    return {row.problem: (row.where, row.count, row.example) for row in report.problems}


def write(folder):
    (folder / "BX-Books.csv").write_bytes(BOOKS.encode("latin-1"))
    (folder / "BX-Book-Ratings.csv").write_bytes(RATINGS.encode("latin-1"))
    return folder


def test_the_original_files(tmp_path):
    data = read_bookcrossing(write(tmp_path))
    assert data.notes.schema.equals(RAW_NOTES)
    rows = [(row["note_id"], row["title"], row["content"]) for row in data.notes.to_pylist()]
    assert rows == [
        ("0002005018", 'Café of "Lost" Days', "A. Nonymous, Self"),
        ("000104799X", 'Über "den";See', "Press &amp; Co"),
        ("0195153448", 'Trailing "Level"', "Tea Author, House"),
    ]
    assert data.clicks.to_pylist() == [
        {"user_id": "11", "note_id": "000104799X"},
        {"user_id": "12", "note_id": "0002005018"},
    ]
    where = "BX-Book-Ratings.csv: rating"
    report = found(data.report)
    assert report["other number of cells than the header"][:2] == ("BX-Books.csv", 1)
    assert report["bytes that are not UTF-8"][:2] == ("BX-Books.csv", 2)
    assert report["ISBN not in capitals"] == ("BX-Book-Ratings.csv", 1, "000104799x")
    assert report["implicit rating (0)"] == (where, 1, "user_id 11, note_id 0002005018")
    assert report["rating is no finite number"] == (where, 1, 'user_id 13, note_id 0195153448, rating "x')
    assert report["rating below 7"] == (where, 1, "user_id 12, note_id 000104799X, rating 5")
    assert validate(data.notes, data.clicks)[1].num_rows == 2


@pytest.mark.parametrize(("min_rating", "clicks"), [(8, 1), (5, 3), (1, 3), (0, 4)])
def test_implicit_ratings_count_only_from_zero_on(tmp_path, min_rating, clicks):
    data = read_bookcrossing(write(tmp_path), min_rating=min_rating)
    assert data.clicks.num_rows == clicks
    assert ("implicit rating (0)" in found(data.report)) == (min_rating > 0)


def test_the_files_of_kaggle(tmp_path):
    (tmp_path / "Books.csv").write_text(
        "ISBN,Book-Title,Book-Author,Year-Of-Publication,Publisher,Image-URL-S\n"
        '0002005018,"Café of \\""Lost\\"" Days, 2",A. Nonymous,2001,Self,http://x\n'
        '0195153448,"Trailing (Level 4)\\"";Tea Author""",2000,House,http://x,\n',
        encoding="utf-8",
    )
    (tmp_path / "Ratings.csv").write_text("User-ID,ISBN,Book-Rating\n11,0002005018,10\n")
    data = read_bookcrossing(tmp_path)
    rows = [(row["note_id"], row["title"], row["content"]) for row in data.notes.to_pylist()]
    assert rows == [
        ("0002005018", 'Café of "Lost" Days, 2', "A. Nonymous, Self"),
        ("0195153448", "Trailing (Level 4)", "Tea Author"),
    ]
    assert list(found(data.report)) == ["title that runs on into the author", '\\" in a title']
    assert data.clicks.to_pylist() == [{"user_id": "11", "note_id": "0002005018"}]
