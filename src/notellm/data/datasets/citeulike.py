"""CiteULike-a (Wang and Blei 2011; Wang, Chen and Li 2013): articles, and who saved them.

From one folder: ``raw-data.csv`` (doc.id from 1 on, raw.title, raw.abstract; Latin-1), ``users.dat`` (a line
per user: how many articles, then their numbers from 0 on) and optionally ``item-tag.dat`` (a line per
article: how many tags, then their numbers from 0 on) with ``tags.dat`` (a line per tag). An article is a note
under its number from 0 on: title, abstract as content, and as topics those of its tags that most articles
have, without what CiteULike itself writes ("bibtex-import"). An article that a user saved is a click. There
are no times and no category.
"""

from itertools import chain, repeat
from pathlib import Path

import polars as pl

from notellm.data.convert import RAW_NOTES, raw_table
from notellm.data.datasets.files import RawData, find_file, read_delimited, read_lines
from notellm.data.datasets.tags import most_used, topics_of
from notellm.data.problems import Report
from notellm.errors import DataError

_NOT_GIVEN = "NA"
_OF_THE_SITE = r"^(no-?tag|bibtex-?import|\*?file-import.*|import(ed)?)$"


def read_citeulike(folder: str | Path) -> RawData:
    """Read CiteULike-a.

    Args:
        folder: the folder with the files.

    Raises:
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    report = Report()
    path = find_file(folder, "raw-data.csv")
    names = ("doc.id", "raw.title", "raw.abstract")
    articles = pl.DataFrame(read_delimited(path, names, report, latin1=True))
    texts = [pl.col(name).str.strip_chars().replace(_NOT_GIVEN, "") for name in names[1:]]
    number = articles["doc.id"].str.strip_chars().cast(pl.Int64, strict=False)
    if number.null_count():
        example = articles["doc.id"].filter(number.is_null())[0]
        raise DataError(f"{path}: a doc.id is {example!r}; it must be a whole number from 1 on")
    notes = articles.select(note_id=(number - 1).cast(pl.String), title=texts[0], content=texts[1])
    item_tag, tags = (find_file(folder, name, needed=False) for name in ("item-tag.dat", "tags.dat"))
    if item_tag and tags:
        topics = most_used(_tags(item_tag, tags, report), item_tag.name, report)
        notes = notes.with_columns(topics=topics_of(notes["note_id"], topics))
    else:
        report.add("no item-tag.dat with tags.dat", path.name, notes.height, "", "no topics")
    saved = _numbers(find_file(folder, "users.dat"), report)
    clicks = saved.select(user_id=pl.col("line").cast(pl.String), note_id="number")
    return RawData(raw_table(notes.to_dict(), RAW_NOTES), clicks.to_arrow(), report)


def _numbers(path: Path, report: Report) -> pl.DataFrame:
    """Return the numbers of each line as text, without the first, which counts the others.

    If it does so in less than half of the lines, there are no counts, and a line "0" is an empty one.

    Returns:
        ``line``, from 0 on, and ``number``.
    """
    cells = [line.split() for line in read_lines(path, report)]
    wrong = [
        n
        for n, row in enumerate(cells)
        if row and not (row[0].isascii() and row[0].isdigit() and int(row[0]) == len(row) - 1)
    ]
    if len(wrong) * 2 > len(cells):
        cells = [["0"] if row == ["0"] else ["", *row] for row in cells]
        report.add("lines without a count", path.name, len(cells), f"line {wrong[0] + 1}", "all numbers read")
    elif wrong:
        problem, action = "first number does not count the rest", "the rest read"
        report.add(problem, path.name, len(wrong), f"line {wrong[0] + 1}", action)
    lines = chain.from_iterable(repeat(n, max(len(row) - 1, 0)) for n, row in enumerate(cells))
    numbers = chain.from_iterable(row[1:] for row in cells)
    return pl.DataFrame(
        {"line": pl.Series(list(lines), dtype=pl.Int64), "number": pl.Series(list(numbers), dtype=pl.String)}
    )


def _tags(item_tag: Path, tags: Path, report: Report) -> pl.DataFrame:
    """Return the tags of each article, and on how many articles each tag is."""
    names = pl.DataFrame({"tag": pl.Series(list(read_lines(tags, report, latin1=True)), dtype=pl.String)})
    names = names.with_row_index("number").with_columns(pl.col("number").cast(pl.String))
    used = _numbers(item_tag, report).with_columns(note_id=pl.col("line").cast(pl.String))
    unknown = used.join(names, on="number", how="anti", maintain_order="left")
    if unknown.height:
        example = f"line {unknown['line'][0] + 1}: {unknown['number'][0]}"
        report.add(f"tag that {tags.name} lacks", item_tag.name, unknown.height, example, "left out")
    joined = used.join(names, on="number", maintain_order="left").unique(
        ("note_id", "number"), maintain_order=True
    )
    of_site = pl.col("tag").str.strip_chars().str.to_lowercase().str.contains(_OF_THE_SITE)
    marks = joined.filter(of_site)
    if marks.height:
        report.add("tag that CiteULike writes", tags.name, marks.height, marks["tag"][0], "not a topic")
    count = pl.len().over("number")
    return joined.filter(~of_site).select("note_id", "tag", count=count)
