"""Options of prepare: for all tables, for one table, and values that do not go together."""

import pytest

from notellm.data.reading.options import ReadOptions
from notellm.errors import ConfigError, DataError
from notellm.jobs.prepare import Sources, clean, read_sources
from notellm.jobs.prepare_options import PrepareOptions

NOTES = "note_id;title\n1;Café\n2;Tea\n"
CLICKS = "user_id\tnote_id\ttimestamp\nu\t1\t03/04/2019\nu\t2\t05/06/2019\n"


def of(table, **values):
    return PrepareOptions(**values).of(table, {})


def test_nothing_stated_is_guessed():
    assert of("notes") == of("clicks") == of("topics") == ReadOptions()


@pytest.mark.parametrize(
    ("name", "plain", "other"),
    [
        ("separator", ";", "tab"),
        ("quoting", "none", "backslash"),
        ("encoding", "cp1252", "utf-16"),
        ("time_format", "day-first", "%d.%m.%Y"),
    ],
)
def test_values_of_one_table(name, plain, other):
    def values(*stated):
        return [getattr(of(table, **{name: list(stated)}), name) for table in ("notes", "clicks", "topics")]

    assert values(plain) == [plain] * 3
    assert values(f"clicks={other}") == [None, other, None]
    assert values(plain, f"clicks={other}") == [plain, other, plain]
    assert values(f"notes={plain}", f"clicks={other}", f"topics={plain}") == [plain, other, plain]
    assert values(plain, plain) == [plain] * 3
    with pytest.raises(
        ConfigError, match=f"{name} is '{plain}' and '{other}'; say for which table, as notes={other}"
    ):
        values(plain, other)
    with pytest.raises(ConfigError, match=f"{name} is"):
        values(f"notes={plain}", f"notes={other}")


@pytest.mark.parametrize("value", ["=", "a=b", "x=1", "%d=%m"])
def test_an_equals_sign_after_another_word_belongs_to_the_value(value):
    assert of("notes", separator=[value]).separator == value
    assert of("notes", separator=[f"notes={value}"]).separator == value


def test_events_ratings_and_order_are_of_the_clicks():
    values = {
        "event": ["cart=click", "a=b=drop", "hide=drop", "Look=view"],
        "min_rating": 4.0,
        "order": "none",
    }
    clicks = of("clicks", **values)
    assert clicks.events == {"cart": "click", "a=b": "drop", "hide": "drop", "Look": "view"}
    assert (clicks.min_rating, clicks.order) == (4.0, "none")
    assert of("notes", **values) == ReadOptions()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"event": ["cart"]}, "--event is 'cart'; write NAME=click, NAME=view or NAME=drop"),
        ({"event": ["cart=buy"]}, "--event is 'cart=buy'"),
        ({"quoting": ["clicks=single"]}, "quoting is 'single'; it must be double, backslash or none"),
        ({"markup": "html"}, "markup is 'html'"),
        ({"order": "ids"}, "order is 'ids'"),
        ({"user_limit": -1}, "user_limit is -1"),
        ({"min_rating": float("nan")}, "min_rating is nan"),
    ],
)
def test_values_that_are_not_allowed(values, message):
    with pytest.raises(ConfigError, match=message):
        of("clicks", **values)


def test_one_event_counts_as_one_thing():
    with pytest.raises(ConfigError, match="--event gives cart twice, as click and drop"):
        of("clicks", event=["cart=click", "cart=drop"])
    assert of("clicks", event=["cart=click", "cart=click"]).events == {"cart": "click"}


@pytest.fixture
def sources(tmp_path):
    (tmp_path / "notes.csv").write_bytes(NOTES.encode("cp1252"))
    (tmp_path / "clicks.txt").write_text(CLICKS)
    return Sources(tmp_path / "notes.csv", tmp_path / "clicks.txt")


def test_what_the_report_states_reads_the_same_without_a_guess(sources):
    guessed = read_sources(sources, PrepareOptions(time_format=["clicks=month-first"]))
    options = guessed.report.options
    assert options == ["--encoding 'notes=cp1252'", "--separator 'notes=;'", "--separator 'clicks=tab'"]
    stated = read_sources(
        sources,
        PrepareOptions(
            encoding=["notes=cp1252"], separator=["notes=;", "clicks=tab"], time_format=["month-first"]
        ),
    )
    assert not stated.report.options
    assert stated.notes.equals(guessed.notes)
    assert stated.clicks.equals(guessed.clicks)


def test_strict_stops_at_what_reading_found(sources):
    raw = read_sources(sources, PrepareOptions(time_format=["month-first"]))
    with pytest.raises(DataError, match="strict: reading found"):
        clean(raw, PrepareOptions(), strict=True)


def test_strict_does_not_stop_at_what_only_informs(tmp_path):
    (tmp_path / "n.csv").write_text("note_id,title\n1,Tea\n2,Rain\n")
    (tmp_path / "c.csv").write_text("user_id,note_id,timestamp\nu,1,1700000000\nu,2,1700000001\n")
    raw = read_sources(Sources(tmp_path / "n.csv", tmp_path / "c.csv"), PrepareOptions())
    assert "no column 'content'" in str(raw.report)
    notes, log, report = clean(raw, PrepareOptions(), strict=True)
    assert (notes.num_rows, len(log), len(report.serious)) == (2, 2, 0)


def test_a_limit_of_zero_keeps_every_user(tmp_path):
    (tmp_path / "n.csv").write_text("note_id,title\n" + "".join(f"{i},t{i}\n" for i in range(9)))
    rows = "".join(f"u,{i}\n" for i in range(9)) + "v,1\n"
    (tmp_path / "c.csv").write_text("user_id,note_id\n" + rows)
    raw = read_sources(Sources(tmp_path / "n.csv", tmp_path / "c.csv"), PrepareOptions())
    counts = [len(clean(raw, PrepareOptions(user_limit=limit))[1]) for limit in (0, 9, 8)]
    assert counts == [10, 10, 1]


def test_columns_are_of_the_tables_that_have_them(tmp_path):
    (tmp_path / "n.csv").write_text("id,name,tags\n1,Tea,x\n")
    (tmp_path / "c.csv").write_text("id,item\nu,1\n")
    (tmp_path / "t.csv").write_text("item,tag\n1,y|z\n9,q\n")
    columns = {
        "": {"note_id": "item", "title": "name", "topics": "tags"},
        "notes": {"note_id": "id"},
        "clicks": {"user_id": "id"},
        "topics": {"topics": "tag"},
    }
    raw = read_sources(
        Sources(tmp_path / "n.csv", tmp_path / "c.csv", tmp_path / "t.csv", columns), PrepareOptions()
    )
    assert raw.notes.to_pylist()[0]["topics"] == ["x", "y", "z"]
    assert raw.clicks.to_pylist()[0]["user_id"] == "u"
    assert raw.roles["notes"] == {"note_id": "id", "title": "name", "topics": "tags"}
    unknown = next(each for each in raw.report.problems if each.problem == "topics of an unknown note")
    assert (unknown.count, unknown.example) == (1, "9")
    with pytest.raises(ConfigError, match=r"--column titel=name: 'titel' is none.*did you mean title"):
        read_sources(Sources(tmp_path / "n.csv", columns={"": {"titel": "name"}}), PrepareOptions())
    with pytest.raises(ConfigError, match="is a column of the clicks, but there is no --clicks"):
        read_sources(Sources(tmp_path / "n.csv", columns={"": {"user_id": "id"}}), PrepareOptions())


@pytest.mark.parametrize(
    ("options", "columns", "says"),
    [
        ({"min_rating": 4.0}, {}, "--min-rating is of the clicks"),
        ({"event": ["buy=click"]}, {}, "--event is of the clicks"),
        ({"order": "rows"}, {}, "--order is of the clicks"),
        ({}, {"clicks": {"user_id": "u"}}, "--clicks-column is of the clicks"),
        ({}, {"topics": {"topics": "t"}}, "--topics-column is of the table --topics"),
    ],
)
def test_options_of_a_table_that_is_not_given_are_refused(tmp_path, options, columns, says):
    (tmp_path / "n.csv").write_text("note_id,title\n1,Tea\n")
    with pytest.raises(ConfigError, match=says):
        read_sources(Sources(tmp_path / "n.csv", columns=columns), PrepareOptions(**options))
