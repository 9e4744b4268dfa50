import pytest

from notellm.data.convert import RAW_NOTES
from notellm.data.datasets.goodbooks import read_goodbooks
from notellm.data.validate import validate

FILES = {
    "books.csv": "book_id,goodreads_book_id,best_book_id,isbn,authors,original_title,title,image_url\n"
    '1,2767052,2767052,439023483,"Ann Bee, Cee Dee",The Tea,"The Tea (Tea, #1)",http://x\n'
    "2,3,3,,Émile F.,,Camp,http://x\n",
    "ratings.csv": "user_id,book_id,rating\n314,1,5\n439,1,3\n439,2,4\n",
    "tags.csv": "tag_id,tag_name\n0,-\n1,to-read\n2,fantasy\n"
    "3,books-i-own\n4,young-adult\n5,classics\n6,read-in-2014\n",
    "book_tags.csv": "goodreads_book_id,tag_id,count\n2767052,1,900\n2767052,2,5\n2767052,4,50\n"
    "2767052,3,7\n3,5,-1\n3,6,4\n99,2,1\n",
    "to_read.csv": "user_id,book_id\n1,1\n",
}


def write(folder, **changed):
    for name, content in (FILES | changed).items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def found(report):
    return {row.problem: (row.where, row.count, row.example) for row in report.problems}


def test_tags_are_topics_and_good_ratings_clicks(tmp_path):
    data = read_goodbooks(write(tmp_path))
    assert data.notes.schema.equals(RAW_NOTES)
    first, second = data.notes.to_pylist()
    assert (first["note_id"], first["title"], first["content"]) == (
        "1",
        "The Tea (Tea, #1)",
        "Ann Bee, Cee Dee",
    )
    assert (first["topics"], second["topics"]) == (["young-adult", "fantasy"], ["classics"])
    assert data.clicks.to_pylist() == [
        {"user_id": "314", "note_id": "1"},
        {"user_id": "439", "note_id": "2"},
    ]
    assert found(data.report) == {
        "tag that says what a reader did": ("tags.csv", 3, "to-read"),
        "rating below 4": ("ratings.csv: rating", 1, "user_id 439, book_id 1, rating 3"),
    }
    assert validate(data.notes, data.clicks)[1].num_rows == 2
    assert read_goodbooks(tmp_path, min_rating=1).clicks.num_rows == 3


def test_the_first_release_numbers_books_by_id(tmp_path):
    books = "id,book_id,best_book_id,authors,title\n1,2767052,2767052,Ann Bee,The Tea\n2,3,3,Émile F.,Camp\n"
    ratings = "book_id,user_id,rating\n2,314,5\n"
    data = read_goodbooks(write(tmp_path, **{"books.csv": books, "ratings.csv": ratings}))
    assert data.notes.column("note_id").to_pylist() == ["1", "2"]
    assert data.notes.column("topics").to_pylist()[1] == ["classics"]
    assert data.clicks.to_pylist() == [{"user_id": "314", "note_id": "2"}]


@pytest.mark.parametrize("missing", ["tags.csv", "book_tags.csv"])
def test_tags_are_optional(tmp_path, missing):
    (write(tmp_path) / missing).unlink()
    data = read_goodbooks(tmp_path)
    assert data.notes.column("topics").to_pylist() == [None, None]
    assert found(data.report)["no tags.csv with book_tags.csv"] == ("books.csv", 2, "")
