"""What programs write is read back equal, whatever the cells hold; or the report says what is not.

The writers are those of pandas (imitated by the csv module, which pandas uses), of Polars, of Excel and of
JSON.
"""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from notellm.data.cells.markup import INVISIBLE
from notellm.data.cells.options import CellOptions
from notellm.data.read import read_clicks, read_notes
from notellm.data.reading.options import ReadOptions

WORDS = {
    *CellOptions().missing_words,
    "NA",
    "na",
    "none",
    "NONE",
    "nil",
    "undefined",
    "unknown",
    "-",
    "--",
    "?",
}
#: Problems that say that rows were left out, or read by a guess that may be wrong.
LOST = {"stray quote mark", "other number of cells than the header", "quotes by other rules than two for one"}
FIRST = datetime(2001, 9, 9, tzinfo=UTC)


def is_plain(text):
    """Whether a text is none that is changed on purpose, as a word for a missing value is."""
    return text == text.strip() and text not in WORDS and not set(text) & set("\x00\ufeff\u200b\u2060\u00ad")


invisible = map(chr, [0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180E, 0x3164, 0xFFA0])
letters = st.one_of(
    st.sampled_from("ab 1,;|\t\"'\n\\:#[]{}"),
    st.characters(exclude_categories=["Cs", "Cc", "Cf"], exclude_characters="".join(invisible)),
)
texts = st.text(letters, max_size=10).map(str.strip).filter(is_plain)
bare = st.text("abcdeé0123456789-_", min_size=1, max_size=6).filter(is_plain)
maybe = st.one_of(st.none(), texts)
moments = st.integers(0, 700_000_000).map(lambda seconds: FIRST + timedelta(seconds=seconds))
notes = st.lists(
    st.fixed_dictionaries({"title": texts, "content": maybe, "category": maybe}), min_size=1, max_size=6
)
clicks = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": bare.map(lambda word: f"u{word}"),
            "note_id": st.one_of(st.none(), st.integers(0, 10**9)),
            "timestamp": moments,
            "event": st.sampled_from(["click", "view"]),
        }
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


def test_the_texts_of_this_file_have_no_invisible_characters():
    assert "\u200b" in INVISIBLE.replace("\u200b-\u200f", "\u200b")


def numbered(rows):
    names = ("title", "content", "category")
    return [{"note_id": place, **{name: row[name] for name in names}} for place, row in enumerate(rows)]


def as_read(rows):
    """The notes as they are to be read: ids are texts, an absent text is like an empty one."""
    return [
        (str(row["note_id"]), row["title"] or "", row["content"] or "", row["category"] or "") for row in rows
    ]


def notes_of(path, **options):
    result = read_notes(path, options=ReadOptions(markup="keep", **options))
    columns = [result.table[name].to_pylist() for name in ("note_id", "title", "content", "category")]
    found = [(note, *(cell or "" for cell in cells)) for note, *cells in zip(*columns, strict=True)]
    return found, {each.problem: each for each in result.report.problems}


def clicks_of(path, **options):
    result = read_clicks(path, options=ReadOptions(markup="keep", **options))
    columns = [result.table[name].to_pylist() for name in ("user_id", "note_id", "timestamp", "event")]
    found = [(user, note or None, *rest) for user, note, *rest in zip(*columns, strict=True)]
    return found, {each.problem: each for each in result.report.problems}


def clicks_as_read(rows):
    return [
        (
            row["user_id"],
            None if row["note_id"] is None else str(row["note_id"]),
            row["timestamp"],
            row["event"],
        )
        for row in rows
    ]


def by_csv(rows, *, index=False, na_rep="", end="\n", show=str, **form):
    """Write rows as the to_csv of pandas does."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end, **form)
    names = list(rows[0])
    writer.writerow(([""] if index else []) + names)
    for place, row in enumerate(rows):
        cells = [
            na_rep if cell is None else cell if isinstance(cell, int) else show(cell)
            for cell in map(row.get, names)
        ]
        writer.writerow(([place] if index else []) + cells)
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    notes,
    st.sampled_from(["", "NaN", "nan", "NULL", "None", "\\N", "<NA>"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.booleans(),
    st.sampled_from([",", "\t", ";", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_notes_of_pandas(folder, rows, na_rep, quoting, index, separator, end):
    text = by_csv(numbered(rows), index=index, na_rep=na_rep, quoting=quoting, delimiter=separator, end=end)
    (folder / "n.csv").write_bytes(text.encode())
    found, problems = notes_of(folder / "n.csv")
    assert found == as_read(numbered(rows))
    missing = sum(row["category"] is None for row in rows) + sum(row["content"] is None for row in rows)
    if na_rep and missing:
        assert "word for a missing value" in problems


@settings(max_examples=40, deadline=None)
@given(notes, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.booleans())
def test_notes_of_pandas_with_backslashes_before_quotes(folder, rows, quoting, stated):
    form = {"quoting": quoting, "doublequote": False, "escapechar": "\\"}
    (folder / "n.csv").write_bytes(by_csv(numbered(rows), **form).encode())
    found, _ = notes_of(folder / "n.csv", **({"quoting": "backslash"} if stated else {}))
    has_backslash = any("\\" in (cell or "") for row in rows for cell in row.values())
    if stated or (quoting == csv.QUOTE_ALL and not has_backslash):
        assert found == as_read(numbered(rows))


@settings(max_examples=40, deadline=None)
@given(notes)
def test_notes_of_pandas_without_quotes(folder, rows):
    """A separator in a cell is escaped; such a row is left out and reported, and takes no other with it."""
    rows = [
        {name: cell and cell.replace("\n", " ").replace("\\", "/").strip() for name, cell in row.items()}
        for row in rows
    ]
    assume(all(is_plain(cell or "") for row in rows for cell in row.values()))
    text = by_csv(numbered(rows), quoting=csv.QUOTE_NONE, escapechar="\\", quotechar=None)
    (folder / "n.csv").write_bytes(text.encode())
    fits = [row for row in numbered(rows) if not any("," in str(cell) for cell in row.values())]
    assume(fits)
    found, problems = notes_of(folder / "n.csv", quoting="none")
    assert [row for row in found if row in as_read(fits)] == as_read(fits)
    lost = [problems[name].count for name in (*LOST, "empty cells after the last column") if name in problems]
    assert sum(lost) == len(rows) - len(fits)


TIMES = {
    "pandas": lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S"),
    "pandas with a zone": lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S+00:00"),
    "ISO 8601": lambda moment: moment.isoformat(),
    "Spark": lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
    "BigQuery": lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
    "HTTP": lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT"),
    "Twitter": lambda moment: moment.strftime("%a %b %d %H:%M:%S +0000 %Y"),
    "seconds": lambda moment: int(moment.timestamp()),
    "milliseconds": lambda moment: int(moment.timestamp()) * 1000,
    "seconds as a double": lambda moment: f"{moment.timestamp():.1f}",
}


@settings(max_examples=60, deadline=None)
@given(clicks, st.sampled_from(sorted(TIMES)), st.sampled_from(["", "NaN", "NULL"]), st.booleans())
def test_clicks_of_pandas(folder, rows, form, na_rep, index):
    """A column of integers with a missing value becomes one of doubles: 12.0."""
    has_holes = any(row["note_id"] is None for row in rows)
    written = []
    for row in rows:
        note = f"{row['note_id']}.0" if has_holes and row["note_id"] is not None else row["note_id"]
        written.append({**row, "note_id": note, "timestamp": TIMES[form](row["timestamp"])})
    (folder / "c.csv").write_bytes(by_csv(written, index=index, na_rep=na_rep).encode())
    found, problems = clicks_of(folder / "c.csv")
    assert found == clicks_as_read(rows)
    assert ("whole number with a fraction as an id" in problems) == (
        has_holes and any(row["note_id"] is not None for row in rows)
    )


@settings(max_examples=40, deadline=None)
@given(
    notes,
    st.sampled_from(["necessary", "always", "non_numeric"]),
    st.sampled_from(",;\t"),
    st.sampled_from(["", "NaN"]),
)
def test_notes_of_polars_as_csv(folder, rows, style, separator, null):
    frame = pl.DataFrame(
        numbered(rows), schema_overrides=dict.fromkeys(["title", "content", "category"], pl.String)
    )
    frame.write_csv(folder / "p.csv", quote_style=style, separator=separator, null_value=null)
    assert notes_of(folder / "p.csv")[0] == as_read(numbered(rows))


topics = st.lists(bare, max_size=3)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(notes, st.data())
def test_notes_of_polars_as_ndjson_json_and_parquet(folder, rows, data):
    rows = [
        {**row, "topics": data.draw(topics), "published_at": data.draw(moments)} for row in numbered(rows)
    ]
    kinds: dict[str, Any] = {
        **dict.fromkeys(["title", "content", "category"], pl.String),
        "topics": pl.List(pl.String),
    }
    frame = pl.DataFrame(rows, schema_overrides=kinds)
    unit = data.draw(st.sampled_from(["ms", "us", "ns"]))
    time = pl.col("published_at").dt.cast_time_unit(unit)
    frame = frame.with_columns(time if data.draw(st.booleans()) else time.dt.replace_time_zone(None))
    frame.write_ndjson(folder / "p.ndjson")
    frame.write_json(folder / "p.json")
    frame.write_parquet(folder / "p.parquet")
    for name in ("p.ndjson", "p.json", "p.parquet"):
        table = read_notes(folder / name, options=ReadOptions(markup="keep")).table
        assert notes_of(folder / name)[0] == as_read(rows), name
        assert [each or [] for each in table["topics"].to_pylist()] == [row["topics"] for row in rows], name
        assert table["published_at"].to_pylist() == [row["published_at"] for row in rows], name


@settings(max_examples=30, deadline=None)
@given(clicks)
def test_clicks_of_polars(folder, rows):
    frame = pl.DataFrame(rows, schema_overrides={"note_id": pl.Int64})
    frame.write_csv(folder / "c.csv")
    frame.write_ndjson(folder / "c.ndjson")
    frame.with_columns(pl.col("user_id", "event").cast(pl.Categorical)).write_parquet(folder / "c.parquet")
    for name in ("c.csv", "c.ndjson", "c.parquet"):
        assert clicks_of(folder / name)[0] == clicks_as_read(rows), name


@settings(max_examples=40, deadline=None)
@given(notes, st.sampled_from(["utf-8-sig", "utf-16", "cp1252"]))
def test_notes_of_excel(folder, rows, codec):
    """CSV with a mark, Unicode text with tabs, and CSV of a German Windows."""
    if codec == "cp1252":
        rows = [
            {name: cell and cell.encode(codec, "ignore").decode(codec).strip() for name, cell in row.items()}
            for row in rows
        ]
        assume(all(is_plain(cell or "") for row in rows for cell in row.values()))
        rows[0]["title"] = "Käse für fünf Gäste, süß"
    text = by_csv(numbered(rows), delimiter="\t" if codec == "utf-16" else ";", end="\r\n")
    (folder / "e.csv").write_bytes(text.encode(codec))
    found, problems = notes_of(folder / "e.csv")
    if found != as_read(numbered(rows)):
        # A few letters fit several encodings: a capital A with circumflex before an inverted exclamation mark
        # is one letter of UTF-8. The report says which was taken.
        assert codec == "cp1252"
        assert problems.keys() & {"text that is not UTF-8", "lines in UTF-8 and in another encoding"}
        assert notes_of(folder / "e.csv", encoding=codec)[0] == as_read(numbered(rows))


@settings(max_examples=50, deadline=None)
@given(notes, st.sampled_from(["lines", "list", "indented", "one after the other"]), st.booleans(), st.data())
def test_notes_of_json_writers(folder, rows, layout, ascii_only, data):
    rows = [{**row, "topics": data.draw(topics)} for row in numbered(rows)]

    def write(value, indent=None):
        return json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    text = {
        "lines": "".join(write(row) + "\n" for row in rows),
        "list": write(rows),
        "indented": write(rows, 2),
        "one after the other": "\n".join(write(row, 1) for row in rows),
    }[layout]
    (folder / "j.json").write_text(text, encoding="utf-8", newline="")
    found, problems = notes_of(folder / "j.json")
    assert found == as_read(rows)
    assert not {"no JSON object", "Python literal instead of JSON"} & set(problems)
    table = read_notes(folder / "j.json").table
    assert [each or [] for each in table["topics"].to_pylist()] == [row["topics"] for row in rows]


@settings(max_examples=40, deadline=None)
@given(clicks, st.sampled_from(sorted(TIMES)), st.sampled_from(["plain", "MongoDB"]))
def test_clicks_of_json_writers(folder, rows, form, style):
    written = []
    for row in rows:
        time = TIMES[form](row["timestamp"])
        if style == "MongoDB":
            note = None if row["note_id"] is None else {"$numberLong": str(row["note_id"])}
            written.append({"_id": {"$oid": "64f0"}, **row, "note_id": note, "timestamp": {"$date": time}})
        else:
            written.append({**row, "timestamp": time})
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    assert clicks_of(folder / "c.jsonl")[0] == clicks_as_read(rows)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(notes, st.integers(0, 5), st.sampled_from(["title", "content"]), st.booleans())
def test_a_stray_quote_changes_its_own_row_alone_or_is_reported(folder, rows, place, column, quote_all):
    rows = numbered([*rows, {"title": "last", "content": "row, here", "category": "c"}])
    place %= len(rows) - 1
    lines = [
        by_csv([row], quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL).split("\n", 1)[1]
        for row in rows
    ]
    cells = [str(cell or "") for cell in rows[place].values()]
    at = list(rows[place]).index(column)
    cells[at] = '"stray'
    assume(not any(set(cell) & set('",\n') for cell in cells if cell != '"stray'))
    lines[place] = ",".join(cells) + "\n"
    (folder / "s.csv").write_bytes((",".join(rows[0]) + "\n" + "".join(lines)).encode())
    found, problems = notes_of(folder / "s.csv")
    expected = as_read([*rows[:place], {**rows[place], column: '"stray'}, *rows[place + 1 :]])
    assert found == expected or LOST & set(problems)
    assert found[-1] == expected[-1] or LOST & set(problems)
