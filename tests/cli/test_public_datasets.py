"""Six public datasets in the shape in which they are distributed: one command prepares each, and pairs "
"follow."""

import gzip
import json
import random

import pytest

from notellm.files import read_parquet
from tests.commands import run

USERS, ITEMS, TASTES = 40, 24, 4


def liked(user, seed=0):
    """The items of a user's taste, in a random order."""
    items = [item for item in range(1, ITEMS + 1) if item % TASTES == user % TASTES]
    random.Random(seed + user).shuffle(items)
    return items


def lastfm(folder):
    artists = "".join(
        f"{item}\tThe Band {item}\thttp://x/{item}\thttp://y/{item}\n" for item in range(1, ITEMS + 1)
    )
    (folder / "artists.dat").write_text("id\tname\turl\tpictureURL\n" + artists)
    plays = [
        f"{user}\t{item}\t{900 - 7 * place}\n"
        for user in range(USERS)
        for place, item in enumerate(liked(user))
    ]
    (folder / "user_artists.dat").write_text("userID\tartistID\tweight\n" + "".join(plays))
    (folder / "tags.dat").write_bytes("tagID\ttagValue\n1\tcaf\xe9\n2\trock\n".encode("latin-1"))
    tagged = "".join(f"{user}\t{item}\t2\t1\t4\t2009\n" for user in range(9) for item in liked(user))
    header = "userID\tartistID\ttagID\tday\tmonth\tyear\n"
    (folder / "user_taggedartists.dat").write_text(header + tagged)


def goodbooks(folder):
    header = "book_id,goodreads_book_id,best_book_id,work_id,authors,original_publication_year,title\n"
    books = "".join(
        f'{item},{item + 900},1,1,"A. Writer, B. Other",2008.0,"Book {item}, part one"\n'
        for item in range(1, ITEMS + 1)
    )
    (folder / "books.csv").write_text(header + books)
    ratings = "".join(
        f"{user},{item},{5 if item % 5 else 2}\n" for user in range(USERS) for item in liked(user)
    )
    (folder / "ratings.csv").write_text("user_id,book_id,rating\n" + ratings)
    (folder / "tags.csv").write_text("tag_id,tag_name\n1,to-read\n2,fantasy\n")
    uses = "".join(f"{item + 900},2,{item}\n" for item in range(1, ITEMS + 1))
    (folder / "book_tags.csv").write_text("goodreads_book_id,tag_id,count\n" + uses)


def bookcrossing(folder):
    header = '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher"\r\n'
    books = "".join(
        f'"{item:010}";"Caf\xe9 \\"{item}\\" &amp; Tea; Band 2";"A. B.";"2001";"Self"\r\n'
        for item in range(1, ITEMS + 1)
    )
    (folder / "BX-Books.csv").write_bytes((header + books).encode("latin-1"))
    ratings = "".join(
        f'"{user}";"{item:010}";"{0 if item % 6 == 0 else 8}"\r\n'
        for user in range(USERS)
        for item in liked(user)
    )
    (folder / "BX-Book-Ratings.csv").write_text('"User-ID";"ISBN";"Book-Rating"\r\n' + ratings)


def steam(folder):
    games = "".join(
        f"{{u'genres': [u'Action', u'Indie'], u'title': u\"Pilot's Log {item}\", u'id': u'{item}', "
        f"u'price': 4.99}}\n"
        for item in range(1, ITEMS + 1)
    )
    (folder / "steam_games.json.gz").write_bytes(gzip.compress(games.encode()))
    reviews = "".join(
        f"{{u'username': u'u{user}', u'hours': 1.5, u'product_id': u'{item}', "
        f"u'date': u'2018-03-{place + 1:02}'}}\n"
        for user in range(USERS)
        for place, item in enumerate(liked(user))
    )
    (folder / "steam_reviews.json.gz").write_bytes(gzip.compress(reviews.encode()))


def amazon(folder):
    """Fashion: nearly all reviews of a person have one time."""
    items = [
        {
            "asin": f"B{item:09}",
            "title": f"Shoe &amp; lace {item}",
            "category": [],
            "description": ["<b>Soft</b>"],
        }
        for item in range(1, ITEMS + 1)
    ]
    (folder / "meta_AMAZON_FASHION.json").write_text("".join(json.dumps(item) + "\n" for item in items))
    reviews = [
        {
            "overall": 5.0,
            "reviewerID": f"A{user}",
            "asin": f"B{item:09}",
            "unixReviewTime": 1_500_000_000 + user,
        }
        for user in range(USERS)
        for item in liked(user)
    ]
    (folder / "AMAZON_FASHION.json").write_text("".join(json.dumps(review) + "\n" for review in reviews))


def movielens(folder):
    movies = "".join(f"{item}::\xcele {item} (1995)::Animation|Comedy\n" for item in range(1, ITEMS + 1))
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    ratings = "".join(
        f"{user}::{item}::{5 if item % 5 else 2}::{978_300_000 + 60 * place}\n"
        for user in range(USERS)
        for place, item in enumerate(liked(user))
    )
    (folder / "ratings.dat").write_text(ratings)
    (folder / "users.dat").write_text("1::F::1::10::48067\n")


@pytest.mark.parametrize(
    ("name", "write", "title", "same_time"),
    [
        ("lastfm", lastfm, "The Band 1", None),
        ("goodbooks", goodbooks, "Book 1, part one", None),
        ("bookcrossing", bookcrossing, 'Café "1" & Tea; Band 2', None),
        ("steam", steam, "Pilot's Log 1", None),
        ("amazon", amazon, "Shoe & lace 1", "both"),
        ("movielens", movielens, "Île 1", None),
    ],
)
def test_a_public_dataset_is_prepared_by_one_command(tmp_path, capsys, name, write, title, same_time):
    source, data = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    write(source)
    assert run("prepare", "--dataset", name, "--source", source, "-o", data) == 0
    assert f"{ITEMS} notes" in capsys.readouterr().out
    notes = read_parquet(data / "notes.parquet")
    assert title in [each.strip() for each in notes["title"].to_pylist()] or notes["title"][
        0
    ].as_py().startswith(title)
    assert read_parquet(data / "clicks.parquet").num_rows >= USERS * 4
    assert run("pairs", data, "-q") == 0
    printed = capsys.readouterr().out
    if same_time:
        assert "--same-time both" in printed
        assert run("pairs", data, "-q", "--same-time", same_time) == 0
    pairs = read_parquet(data / "pairs.parquet").to_pylist()
    assert pairs
    for pair in pairs:  # of one taste
        source_id, target_id = (int("".join(filter(str.isdigit, pair[end]))) for end in ("source", "target"))
        assert source_id % TASTES == target_id % TASTES
