"""The commands of rank end to end on a small world, and what they answer to a user's mistakes."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.data.sample_world import sample_world
from notellm.data.schema import IMPRESSIONS
from notellm.files import read_json, write_parquet
from notellm.record import read_record
from notellm.store.clicks import Click, ClickLog
from notellm.store.rows import StoredNote, rows_of
from notellm.store.shown import ShownList, ShownLog
from notellm.store.tables import create_table
from notellm.vectors import vector_table
from tests.commands import run

FEW = ("--max-steps", 2, "--batch", 8, "--evaluations", 1, "--code-epochs", 2, "--out-of-fold", 2, "-q")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    world = sample_world(notes=300, users=80, clicks=2_000, bots=0, seed=1)
    write_parquet(world.notes, folder / "notes.parquet")
    write_parquet(world.clicks, folder / "clicks.parquet")
    tables = ("--notes", folder / "notes.parquet", "--clicks", folder / "clicks.parquet")
    assert run("prepare", *tables, "-o", folder / "data") == 0
    assert run("rank", "train", folder / "data", "-o", folder / "ranker", *FEW) == 0
    notes = pq.read_table(folder / "data" / "notes.parquet")
    vectors = np.random.default_rng(0).normal(size=(notes.num_rows, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_parquet(vector_table(notes["note_id"], vectors), folder / "vectors.parquet")
    return folder


@pytest.fixture(scope="module")
def user(home):
    table = pq.read_table(home / "ranker" / "histories.parquet").to_pylist()
    return next(row for row in table if len(row["history"]) > 4)


def test_fit_keeps_a_test_part_that_evaluate_reads(home, capsys):
    test = home / "ranker.run" / "test.parquet"
    assert pq.read_schema(test).names == IMPRESSIONS.names
    capsys.readouterr()
    assert run("rank", "evaluate", home / "ranker", test, "-o", home / "report", "-q") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("item popularity", "BinMF", "BinLLM", "warm", "UAUC", "report ->"))
    assert (home / "report" / "report.md").is_file()
    assert run("record", home / "ranker") == 0
    assert '"kind": "ranker"' in capsys.readouterr().out


def test_score_orders_the_candidates(home, user, capsys):
    ids = pq.read_table(home / "data" / "notes.parquet")["note_id"].to_pylist()[:4]
    asked = ("rank", "score", home / "ranker")
    capsys.readouterr()
    assert run(*asked, "--user", user["user_id"], "--candidates", ",".join(ids)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "known of the user: code and history"
    scores = [float(line.split()[0]) for line in lines[1:]]
    assert scores == sorted(scores, reverse=True)
    assert {line.split()[1] for line in lines[1:]} == set(ids)
    (home / "candidates.txt").write_text("\n".join(ids) + "\n")
    assert run(*asked, "--user", user["user_id"], "--candidates-file", home / "candidates.txt") == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert run(*asked, "--history", ids[0], "--candidates", ",".join(ids[1:])) == 0
    assert "known of the user: history" in capsys.readouterr().out


def test_ids_with_commas_come_from_files(home, tmp_path, capsys):
    notes = pq.read_table(home / "data" / "notes.parquet")
    ids = notes["note_id"].to_pylist()
    odd = "lamp, green, small"
    renamed = notes.set_column(0, notes.schema.field(0), pa.array([odd, *ids[1:]]))
    write_parquet(renamed, tmp_path / "notes.parquet")
    (tmp_path / "ids.txt").write_text(f"{odd}\n{ids[2]}\n", encoding="utf-8")
    asked = ("rank", "score", home / "ranker", "--notes", tmp_path / "notes.parquet")
    capsys.readouterr()
    for option, others in (("candidates", ()), ("history", ("--candidates", ids[3]))):
        for given in (odd, f"{ids[1]},{odd}", f"{odd},{ids[1]}"):
            assert run(*asked, f"--{option}", given, *others) == 2
            error = capsys.readouterr().err
            assert f"'lamp' is no note, but '{odd}' is: write" in error
            assert f"--{option}-file" in error
        assert run(*asked, f"--{option}-file", tmp_path / "ids.txt", *others) == 0
        assert run(*asked, f"--{option}-file", tmp_path / "ids.txt", f"--{option}", ids[1], *others) == 2
        assert f"give either --{option}" in capsys.readouterr().err
    assert run(*asked, "--candidates", f"nobody,{ids[1]}") == 2
    assert "'nobody'" in capsys.readouterr().err

    known = (*("--vectors", home / "vectors.parquet"), *("--ranker", home / "ranker", "-q", "--no-rerank"))
    again = ("recommend", *known, "--notes", tmp_path / "notes.parquet", "-k", 90)
    assert run(*again, "--history", ids[2], "--exclude", f"{odd},{ids[1]}") == 2
    assert "--exclude-file" in capsys.readouterr().err
    (tmp_path / "seen.txt").write_text(f"{ids[5]}\nnobody\n")
    (tmp_path / "opened.txt").write_text(f"{ids[2]}\n")
    files = ("--history-file", tmp_path / "opened.txt", "--exclude-file", tmp_path / "seen.txt")
    assert run(*again, *files) == 0
    printed = capsys.readouterr()
    assert {ids[2], ids[5]}.isdisjoint(line.split()[1] for line in printed.out.splitlines()[1:])
    assert "doubtful: 1 of the 2 ids to exclude are no notes, such as 'nobody'" in printed.err


def test_few_validation_rows_are_doubtful_and_too_few_are_refused(home, tmp_path, capsys):
    rows = pq.read_table(home / "ranker.run" / "test.parquet")
    liked, others = rows.filter(rows["label"]), rows.filter(pa.compute.invert(rows["label"]))
    write_parquet(rows, tmp_path / "train.parquet")
    asked = ("rank", "train", home / "data", "--impressions", tmp_path / "train.parquet")
    for count, code in ((1, 2), (3, 2), (4, 0)):
        few = pa.concat_tables([liked[:count], others[:count]])
        write_parquet(few, tmp_path / f"{count}.parquet")
        capsys.readouterr()
        output = tmp_path / f"ranker{count}"
        assert run(*asked, "--valid", tmp_path / f"{count}.parquet", "-o", output, *FEW) == code
        error = capsys.readouterr().err
        if code:
            assert f"there are {2 * count} validation rows ({count} liked, {count} not)" in error
            assert not output.exists()
        else:
            assert "doubtful: the AUC of 8 validation rows (4 liked) has a standard error of 0.22" in error
            about = read_json(output / "record.json")["metrics"]["validation_rows"]
            assert about == {"liked": 4, "not_liked": 4, "auc_error": 0.2165}


def test_recommend_says_what_and_why(home, user, capsys):
    asked = ("recommend", "--vectors", home / "vectors.parquet", "--ranker", home / "ranker", "-q")
    capsys.readouterr()
    assert run(*asked, "--user", user["user_id"], "-k", 5, "--notes", home / "data") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("related to ")
    assert len(out) == 6
    assert all(line.rsplit("<- ", 1)[1] in user["history"] for line in out[1:])
    assert not {line.split()[1] for line in out[1:]} & set(user["history"])
    first = out[1].split()[1]
    assert run(*asked, "--user", user["user_id"], "-k", 5, "--exclude", first, "--no-rerank") == 0
    assert first not in capsys.readouterr().out
    assert run(*asked, "-k", 3) == 0
    assert capsys.readouterr().out.startswith("popular notes, ranked for a typical user")


@pytest.mark.slow
def test_a_ranker_of_what_recall_offers_blends_its_similarity(home, tmp_path, capsys):
    vectors = ("--vectors", home / "vectors.parquet")
    options = (*vectors, "--valid-share", 0.3)
    assert run("rank", "train", home / "data", *options, "-o", tmp_path / "blended", *FEW) == 0
    record = read_json(tmp_path / "blended" / "record.json")
    assert set(record["metrics"]["blend"]) == {"best", "latest", "mean", "log_odds"}
    test = pq.read_table(tmp_path / "blended.run" / "test.parquet")
    positives = test["label"].to_numpy().mean()
    assert 0.15 < positives < 0.35  # four others beside a click
    remembered = pq.read_table(tmp_path / "blended" / "histories.parquet")
    assert sum(map(len, remembered["history"].to_pylist())) == sum(
        map(len, pq.read_table(home / "ranker" / "histories.parquet")["history"].to_pylist())
    )  # all clicks, those that recall missed and those of the test part among them
    user = max(remembered.to_pylist(), key=lambda row: len(row["history"]))["user_id"]
    capsys.readouterr()
    assert run("recommend", *vectors, "--ranker", tmp_path / "blended", "--user", user, "-q") == 0
    assert "ranked by code and history, blended with similarity" in capsys.readouterr().out


@pytest.mark.slow
def test_own_impressions_and_a_split_folder(home, tmp_path, capsys):
    test = home / "ranker.run" / "test.parquet"
    table = pq.read_table(test)
    strange = table.slice(0, 2).set_column(1, "note_id", pa.array(["x", "y"]))
    write_parquet(pa.concat_tables([table, strange.cast(table.schema)]), tmp_path / "own.parquet")
    tables = ("--impressions", tmp_path / "own.parquet", "--valid", test)
    capsys.readouterr()
    assert run("rank", "train", home / "data", *tables, "-o", tmp_path / "own", *FEW) == 0
    out = capsys.readouterr().out
    assert "left out: 2 rows, impression of an unknown note" in out
    assert "validation AUC: codes alone 0." in out
    assert not (tmp_path / "own.run" / "test.parquet").exists()
    assert run("split", home / "data", "-o", tmp_path / "split", "--valid", "0.1") == 0
    text = ("--form", "text_only")
    assert run("rank", "train", tmp_path / "split", "-o", tmp_path / "text", *text, *FEW) == 0
    record = read_json(tmp_path / "text" / "record.json")
    train = read_json(tmp_path / "split" / "record.json")["data"]["train"]
    assert record["data"]["notes"] == train["notes"]  # nothing of valid and test
    assert record["config"]["form"] == "text_only"
    assert not (tmp_path / "text" / "codes").exists()


def test_every_command_has_examples_in_its_help(capsys):
    for command in (("rank", "train"), ("rank", "score"), ("rank", "evaluate"), ("recommend",)):
        capsys.readouterr()
        assert run(*command, "--help") == 0
        assert f"Examples:\n    notellm {' '.join(command)}" in capsys.readouterr().out
    assert run("rank", "--help") == 0
    assert "score" in capsys.readouterr().out


def _mistakes(home, tmp, user):
    """Each mistake: what is done, the command, what the message must say."""
    out, ranker, vectors = ("-o", tmp / "out", "-q"), home / "ranker", home / "vectors.parquet"
    test, data = home / "ranker.run" / "test.parquet", home / "data"
    yield "nothing to fit", ("rank", "train", *out), "--dataset"
    yield "no dataset folder", ("rank", "train", tmp, *out), "notes.parquet"
    yield "half the impressions", ("rank", "train", data, "--impressions", test, *out), "--valid"
    yield "no source", ("rank", "train", "--dataset", "collm", *out), "--source"
    yield "wrong source", ("rank", "train", "--dataset", "collm", "--source", tmp / "no", *out), "no"
    yield "wrong bits", ("rank", "train", data, "--bits", 9, "--epochs", -1, *out), "bits is 9"
    yield "wrong form", ("rank", "train", data, "--form", "poem", *out), "poem"
    yield "wrong template", ("rank", "train", data, "--template", "klingon", *out), "klingon"
    yield "no backbone", ("rank", "train", data, "--backbone", tmp, "--code-epochs", 1, *out), "config.json"
    yield "wrong shares", ("rank", "train", data, "--test-share", 2, *out), "test is 2"
    yield (
        "not impressions",
        ("rank", "train", data, "--impressions", vectors, "--valid", test, *out),
        "user_id",
    )
    yield "no ranker", ("rank", "score", data, "--user", "u", "--candidates", "a"), "not a ranker"
    yield "no candidates", ("rank", "score", ranker, "--user", "u"), "--candidates"
    yield "empty candidates", ("rank", "score", ranker, "--candidates", ","), "no candidates"
    yield "unknown candidate", ("rank", "score", ranker, "--candidates", "zzz"), "zzz"
    yield "no file", ("rank", "score", ranker, "--candidates-file", tmp / "none.txt"), "none.txt"
    yield "binary file", ("rank", "score", ranker, "--candidates-file", vectors), "UTF-8"
    yield "no test file", ("rank", "evaluate", ranker, tmp / "none.parquet"), "none.parquet"
    yield "no impressions", ("rank", "evaluate", ranker, vectors), "user_id"
    yield "no train", ("rank", "evaluate", ranker, test, "--train", vectors, "-q"), "user_id"
    asked = ("recommend", "--ranker", ranker)
    yield "no recall", (*asked, "--user", user["user_id"]), "--vectors"
    yield "both recalls", (*asked, "--vectors", vectors, "--model", tmp), "either"
    yield "no model", (*asked, "--model", tmp), "not a NoteLLM directory"
    yield "unknown user", (*asked, "--vectors", vectors, "--user", "nobody"), "nobody"
    yield "unknown note", (*asked, "--vectors", vectors, "--history", "zzz"), "zzz"
    yield "no k", (*asked, "--vectors", vectors, "-k", 0), "k is 0"
    yield "few candidates", (*asked, "--vectors", vectors, "--recall-k", 3), "at least k (20)"
    yield "not vectors", (*asked, "--vectors", test), "vector"


def test_mistakes_end_in_one_clear_line_and_leave_nothing(home, user, tmp_path, capsys):
    met = 0
    for name, command, says in _mistakes(home, tmp_path, user):
        capsys.readouterr()
        status = run(*command)
        err = capsys.readouterr().err
        assert status == 2, name
        assert says in err, (name, err)
        assert "Traceback" not in err, name
        assert len(err.strip().splitlines()) == 1, (name, err)
        assert not (tmp_path / "out").exists(), name
        assert not (tmp_path / "out.run").exists(), name
        met += 1
    assert met >= 25


def test_a_ranker_is_trained_with_what_a_service_showed(home, tmp_path, capsys):
    notes = pq.read_table(home / "data" / "notes.parquet")["note_id"].to_pylist()
    store = tmp_path / "store"
    rows = rows_of([StoredNote(note_id=note) for note in notes[:2]], np.eye(2, dtype=np.float32))
    store.mkdir()
    create_table(str(store), "a" * 16, [rows], 2)
    shown, clicks, draw = ShownLog.open(store), ClickLog.open(store), np.random.default_rng(0)
    first = datetime.now(UTC) - timedelta(days=3)
    lists = [
        ShownList(
            f"r{i}",
            f"u{i % 9}",
            first + timedelta(minutes=i),
            draw.choice(notes, 8, replace=False).tolist(),
            ["recall"] * 8,
            "a" * 16,
            "basis",
        )
        for i in range(60)
    ]
    shown.append(lists)
    clicks.append(
        [
            Click(each.user_id, each.note_ids[i % 8], timestamp=each.timestamp, request_id=each.request_id)
            for i, each in enumerate(lists)
        ]
    )
    clicks.append([Click("u1", notes[0], request_id="lost")])
    train, valid = tmp_path / "train.parquet", tmp_path / "valid.parquet"
    command = ("store", "impressions", store, "-o", train, "--valid", valid)
    assert run(*command, "--valid-share", 0.2) == 0
    said = capsys.readouterr().out
    assert "click that names an unknown list" in said
    assert f"liked -> {train}" in said
    tables = [pq.read_table(path) for path in (train, valid)]
    assert all(table.schema.equals(IMPRESSIONS) for table in tables)
    assert tables[0]["timestamp"][-1].as_py() < tables[1]["timestamp"][0].as_py()
    assert abs(tables[1].num_rows / (tables[0].num_rows + tables[1].num_rows) - 0.2) < 0.05
    record = read_record(train)
    assert (record["kind"], record["data"]["shown"]["rows"]) == ("impressions", 60)
    assert record["metrics"]["rows"] == tables[0].num_rows
    data = ("rank", "train", home / "data", "--impressions", train, "--valid", valid)
    assert run(*data, "-o", tmp_path / "ranker", *FEW) == 0
    assert run(*command) == 0  # a former result is replaced
    assert run("store", "impressions", store, "-o", train) == 0
    assert pq.read_table(train).num_rows == tables[0].num_rows + tables[1].num_rows
    for wrong, reason in (
        (("--valid", train), "give --valid another file"),
        (("--valid", valid, "--valid-share", 1), "share for validation is 1"),
    ):
        assert run("store", "impressions", store, "-o", train, *wrong) == 2
        assert reason in capsys.readouterr().err
    assert run("store", "impressions", home, "-o", train) == 2
    assert "is no store" in capsys.readouterr().err
