"""The command line end to end on a small world, and what it answers to a user's mistakes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.data.sample_world import sample_world
from notellm.files import write_parquet
from notellm.record import read_record
from tests.commands import run


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Everything the README's commands make, once."""
    folder = tmp_path_factory.mktemp("home")
    world = sample_world(notes=300, users=200, clicks=6_000, bots=0, seed=1)
    write_parquet(world.notes, folder / "notes.parquet")
    write_parquet(world.clicks, folder / "clicks.parquet")
    data, split, model = folder / "data", folder / "split", folder / "model"
    notes, clicks = folder / "notes.parquet", folder / "clicks.parquet"
    assert run("prepare", "--notes", notes, "--clicks", clicks, "-o", data) == 0
    assert run("split", data, "-o", split, "--valid", "0.1") == 0
    assert run("pairs", split, "-q") == 0
    few = ("--max-steps", 4, "--batch-pairs", 8, "--evaluations", 2, "-q")
    assert run("train", split, "-o", model, *few) == 0
    assert run("embed", model, data, "-o", folder / "vectors.parquet", "-q") == 0
    return folder


@pytest.mark.slow
def test_every_artifact_carries_its_record(home):
    for folder, kind in (("data", "dataset"), ("split", "split"), ("model", "model")):
        record = json.loads((home / folder / "record.json").read_text())
        assert record["kind"] == kind
        assert record["versions"]["notellm"]
        assert record["data"]
    record = json.loads((home / "model" / "record.json").read_text())
    assert record["config"]["learning_rate"] > 0  # resolved, no None left for what has a default
    assert record["metrics"]["validation"].keys() == {"recall@10", "recall@100", "mrr", "mean"}
    assert "library_name: sentence-transformers" in (home / "model" / "README.md").read_text()
    assert not list((home / "model.run").glob("checkpoint-*"))


def test_records_are_a_chain_from_the_data_to_the_vectors(home, capsys):
    """Every artifact names its inputs by what the record of the stage before says of itself."""
    names = (
        "data",
        "split",
        "split/train/pairs.parquet",
        "split/valid/pairs.parquet",
        "model",
        "vectors.parquet",
    )
    data, split, pairs, valid_pairs, model, vectors = (read_record(home / name) for name in names)
    assert run("related", home / "vectors.parquet", "--all", "-o", home / "chain.parquet", "-q") == 0
    related = read_record(home / "chain.parquet")
    assert split["data"]["source"] == data["data"]
    assert (split["config"], split["seed"]) == ({"by": "note", "test": 0.3, "valid": 0.1}, 0)
    assert pairs["data"]["clicks"] == split["data"]["train"]["clicks"]
    assert model["data"]["notes"] == split["data"]["train"]["notes"]
    assert model["data"]["pairs"]["fingerprint"] == pairs["fingerprint"]
    assert model["data"]["validation"]["pairs"]["fingerprint"] == valid_pairs["fingerprint"]
    assert vectors["data"]["model"]["fingerprint"] == model["fingerprint"]
    assert vectors["data"]["notes"] == data["data"]["notes"]
    assert related["data"]["vectors"]["fingerprint"] == vectors["fingerprint"]
    capsys.readouterr()
    assert run("record", home / "vectors.parquet") == 0
    assert json.loads(capsys.readouterr().out) == vectors
    assert run("record", home / "notes.parquet") == 2
    assert "carries no record" in capsys.readouterr().err
    assert run("record", "--help") == 0
    assert "notellm record model" in capsys.readouterr().out


@pytest.mark.slow
def test_vectors_of_another_model_are_refused_and_vectors_of_nobody_are_doubtful(home, tmp_path, capsys):
    few = ("--max-steps", 1, "--batch-pairs", 8, "--evaluations", 1, "--seed", 9, "-q")
    assert run("train", home / "split", "-o", tmp_path / "other", *few) == 0
    capsys.readouterr()
    asked = ("related", home / "vectors.parquet", "--model", tmp_path / "other", "--title", "a quiet lake")
    assert run(*asked) == 2
    error = capsys.readouterr().err
    made_by, other = (read_record(path)["fingerprint"] for path in (home / "model", tmp_path / "other"))
    for part in (str(home / "vectors.parquet"), str(tmp_path / "other"), made_by, other, "notellm embed"):
        assert part in error
    bare = pq.read_table(home / "vectors.parquet").replace_schema_metadata(None)
    write_parquet(bare, tmp_path / "bare.parquet")
    text = ("--model", home / "model", "--title", "a quiet lake", "-k", 3)
    assert run("related", tmp_path / "bare.parquet", *text) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 4
    assert "doubtful: " in printed.err
    assert "bare.parquet does not say which model made its vectors" in printed.err


def test_related_by_id_by_text_and_for_all(home, capsys):
    table = pq.read_table(home / "vectors.parquet")
    note_id = table.column("note_id")[3].as_py()
    assert run("related", home / "vectors.parquet", "--id", note_id, "--notes", home / "data", "-k", 4) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(note_id)
    assert all(note_id not in line.split()[1] for line in lines[1:])
    notes = pq.read_table(home / "data" / "notes.parquet").to_pylist()
    note = next(n for n in notes if n["note_id"] == note_id)
    topics = [part for topic in note["topics"] for part in ("--topic", topic)]
    text = ("--title", note["title"], "--content", note["content"], *topics)
    assert run("related", home / "vectors.parquet", "--model", home / "model", *text, "-k", 1) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1] == note_id  # its own text finds itself
    assert run("related", home / "vectors.parquet", "--all", "-o", home / "all.parquet", "-q") == 0
    assert "doubtful" not in capsys.readouterr().err
    bulk = pq.read_table(home / "all.parquet").to_pylist()
    assert len(bulk) == table.num_rows
    assert all(row["note_id"] not in row["related"] and len(row["related"]) == 10 for row in bulk)


def test_tag_one_and_many(home, capsys):
    assert run("tag", home / "model", "--title", "bread and butter", "--topics", 2) == 0
    out = capsys.readouterr().out
    known = json.loads((home / "model" / "notellm.json").read_text())["config"]["categories"]
    category = re.search(r"^category: (.+) \((0\.\d\d|1\.00)\)$", out, re.MULTILINE)
    assert category is not None, out
    assert category[1] in known
    assert re.search(r"^  then: .+ \(0\.\d\d\)", out, re.MULTILINE)
    topics = [float(value) for value in re.findall(r"^  (?!then).+ \((\d\.\d\d)\)$", out, re.MULTILINE)]
    assert len(topics) == 2
    assert topics == sorted(topics, reverse=True)
    titles = {note["note_id"]: note["title"] for note in pq.read_table(home / "notes.parquet").to_pylist()}
    named = re.findall(r"^    as on (\S+)(.*)$", out, re.MULTILINE)
    assert named
    assert all(note_id in titles and not title for note_id, title in named)
    # With the known notes beside it, their titles are shown.
    assert run("tag", home / "model", "--title", "bread and butter", "--notes", home / "data") == 0
    named = re.findall(r"^    as on (\S+)  (.+)$", capsys.readouterr().out, re.MULTILINE)
    assert named
    assert all(" ".join(titles[note_id].split()).startswith(title) for note_id, title in named)
    assert run("tag", home / "model", "--title", "bread", "--least", 1) == 0
    out = capsys.readouterr().out
    assert "category: none of them has a probability of 1 or more" in out
    assert "topics: none has a probability of 1 or more" in out
    assert "less likely topics: " in out
    few = pq.read_table(home / "data" / "notes.parquet").slice(0, 7)
    write_parquet(few, home / "few.parquet")
    assert run("tag", home / "model", "--notes", home / "few.parquet", "-o", home / "tags.parquet", "-q") == 0
    tags = pq.read_table(home / "tags.parquet")
    assert tags.column_names[:4] == ["note_id", "category", "category_probability", "topics"]
    assert set(tags.column("category").to_pylist()) <= {*known, None}
    capsys.readouterr()
    options = ("--least", 1, "-o", home / "tags.parquet", "-q")
    assert run("tag", home / "model", "--notes", home / "few.parquet", *options) == 0
    out = capsys.readouterr().out
    assert "category: none for 7 of 7 notes (nothing is likely enough)" in out
    assert "topics: none for 7 of 7 notes (nothing is likely enough)" in out
    assert "tags of 7 notes -> " in out


@pytest.mark.slow
def test_evaluate_prints_all_methods_and_saves(home, capsys):
    assert run("evaluate", home / "model", home / "split", "-o", home / "report", "-q") == 0
    out = capsys.readouterr().out
    for method in (
        "popularity",
        "TF-IDF",
        "NoteLLM untrained",
        "linear classifier",
        "most frequent category",
        "most similar train note",
        "vote of 20 train notes",
    ):
        assert method in out
    results = json.loads((home / "report" / "results.json").read_text())
    assert [row["name"] for row in results["related"]][-2:] == ["NoteLLM", "NoteLLM, hybrid"]
    assert results["categories"]["NoteLLM"]["ill_formed"] == 0
    assert (home / "report" / "report.md").read_text().count("|") > 40


def test_help_has_examples(capsys):
    for name in ("prepare", "split", "pairs", "train", "embed", "related", "tag", "evaluate", "demo"):
        assert run(name, "--help") == 0
        out = capsys.readouterr().out
        examples = [line for line in out.splitlines() if line.startswith("  " * 2 + f"notellm {name}")]
        assert examples, out


def test_help_is_quick_to_load():
    """Loading the command line must not load torch; --help and mistakes answer at once."""
    heavy = ("torch", "transformers", "pyarrow", "polars", "numpy")
    code = f"import sys, notellm.cli; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


NOTES_CSV = "note_id,title,content\n" + "\n".join(f"n{i},title {i % 7},text of {i}" for i in range(40))


def _mistakes(home, tmp):
    """(name, command, what the one line must say)."""
    good = _write(tmp / "good.csv", NOTES_CSV + "\n")
    out = ("-o", tmp / "out")
    clicks = _write(tmp / "clicks.csv", "user_id,note_id,timestamp\nu1,n1,1700000000\nu1,n2,1700000100\n")
    yield "missing file", ("prepare", "--notes", tmp / "none.csv", *out), "none.csv"
    yield "a folder for a file", ("prepare", "--notes", tmp, *out), str(tmp)
    wrong = _write(tmp / "wrong.csv", "id,name\n1,a\n")
    yield "wrong column", ("prepare", "--notes", wrong, *out), "note_id"
    yield "unknown format", ("prepare", "--notes", _write(tmp / "notes.xyz", "a"), *out), "xyz"
    yield "empty file", ("prepare", "--notes", _write(tmp / "empty.csv", ""), *out), "empty.csv"
    header = _write(tmp / "header.csv", "note_id,title\n")
    yield "header only", ("prepare", "--notes", header, *out), "header.csv"
    strangers = _write(tmp / "strangers.csv", "user_id,note_id,timestamp\nu1,zzz,1700000000\n")
    yield "clicks that name no note", ("prepare", "--notes", good, "--clicks", strangers, *out), "no click"
    yield "not Parquet", ("prepare", "--notes", _write(tmp / "fake.parquet", "x"), *out), "fake.parquet"
    yield "not JSON", ("prepare", "--notes", _write(tmp / "bad.jsonl", "{nope\n"), *out), "bad.jsonl"
    twice = _write(tmp / "twice.csv", "note_id,title\nn1,a\nn1,b\n")
    yield "strict", ("prepare", "--notes", twice, "--strict", *out), "strict"
    yield "bad --column", ("prepare", "--notes", good, "--column", "oops", *out), "oops"
    yield "no source", ("prepare", "--dataset", "mind", *out), "--source"
    yield "not a dataset folder", ("split", tmp, *out), "notes.parquet"
    yield "bad share", ("split", home / "data", "--test", "1.5", *out), "1.5"
    yield "no clicks to mine", ("pairs", tmp / "noclicks"), "no clicks"
    yield "bad thresholds", ("pairs", home / "split", "--upper", "-1", "--top", "0"), "top is 0"
    yield "no pairs to train on", ("train", home / "data", *out), "notellm pairs"
    yield "not a model", ("train", home / "split", "--backbone", tmp, "-q", *out), "config.json"
    yield "bad template", ("train", home / "split", "--template", "klingon", "-q", *out), "klingon"
    yield "negative alpha", ("train", home / "split", "--alpha", "-1", "-q", *out), "alpha"
    yield "no steps", ("train", home / "split", "--max-steps", "0", "-q", *out), "max_steps"
    yield "embed with no model", ("embed", tmp, home / "data", *out), "notellm.json"
    yield "unknown note", ("related", home / "vectors.parquet", "--id", "nobody"), "nobody"
    yield "no question", ("related", home / "vectors.parquet"), "--id"
    yield "text without model", ("related", home / "vectors.parquet", "--title", "x"), "--model"
    yield "vectors that are none", ("related", home / "notes.parquet", "--id", "x"), "vector"
    yield "not a split", ("evaluate", home / "model", home / "data"), "split"
    yield "no number of topics", ("tag", home / "model", "--title", "x", "--topics", "0"), "n is 0"
    yield "no probability", ("tag", home / "model", "--title", "x", "--least", "2"), "least is 2.0"
    yield "free and least", ("tag", home / "model", "--title", "x", "--free", "--least", "0.1"), "--free"
    yield "one note into a file", ("tag", home / "model", "--title", "x", *out), "--output"
    yield "many notes into no file", ("tag", home / "model", "--notes", home / "data"), "--output"
    yield "nothing to tag", ("tag", home / "model"), "--notes"
    yield "unknown option", ("split", "--nonsense"), "nonsense"
    assert clicks.exists()


def test_mistakes_end_in_one_clear_line_and_leave_nothing(home, tmp_path, capsys):
    world = tmp_path / "noclicks"
    assert run("prepare", "--notes", _write(tmp_path / "n.csv", NOTES_CSV), "-o", world) == 0
    capsys.readouterr()
    met = 0
    for name, command, says in _mistakes(home, tmp_path):
        before = _files(tmp_path) | _files(home)
        status = run(*command)
        err = capsys.readouterr().err
        assert status == 2, name
        assert says in err, (name, err)
        assert "Traceback" not in err, name
        made = (_files(tmp_path) | _files(home)) - before - {tmp_path / "out.run" / "started.json"}
        made = {
            path
            for path in made
            if path.suffix not in {".csv", ".xyz", ".jsonl"} and path.name != "fake.parquet"
        }
        assert not made, (name, made)
        met += 1
    assert met >= 20


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("title", "content"),
    [
        ("x" * 1_000_000, "word " * 200_000),
        ("👩‍👩‍👧‍👦🏳️‍🌈" * 50, "🎉" * 500),
        ("مرحبا بالعالم \u202etxet\u202c", "שלום עולם " * 40),
        ("[EMB] </s> <s> <pad>", "{title} {content} {n}"),
        ("\t\n\r", "\u200b"),
    ],
)
def test_odd_texts_are_embedded_and_tagged(home, title, content):
    notes = [{"note_id": "a", "title": title, "content": content}, {"note_id": "b", "title": "plain"}]
    source = home / "odd.jsonl"
    source.write_text("".join(json.dumps(note) + "\n" for note in notes), encoding="utf-8")
    assert run("embed", home / "model", source, "-o", home / "odd.parquet", "-q") == 0
    vectors = pq.read_table(home / "odd.parquet").column("vector").to_pylist()
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-4 for vector in vectors)
    assert run("tag", home / "model", "--notes", source, "-o", home / "odd-tags.parquet", "-q") == 0


def test_one_note_and_one_user(tmp_path, capsys):
    notes = _write(tmp_path / "one.csv", "note_id,title\nn1,the only one\n")
    assert run("prepare", "--notes", notes, "-o", tmp_path / "one") == 0
    assert run("split", tmp_path / "one", "-o", tmp_path / "split") == 2
    assert "notes" in capsys.readouterr().err
    rows = "\n".join(f"u1,n{i},{1_700_000_000 + i}" for i in range(40))
    clicks = _write(tmp_path / "c.csv", f"user_id,note_id,timestamp\n{rows}\n")
    many = _write(tmp_path / "many.csv", NOTES_CSV)
    assert run("prepare", "--notes", many, "--clicks", clicks, "-o", tmp_path / "user") == 0
    assert run("split", tmp_path / "user", "-o", tmp_path / "user-split") == 0
    assert run("pairs", tmp_path / "user-split", "-q") == 0  # no two users agree on anything
    capsys.readouterr()
    assert run("train", tmp_path / "user-split", "-o", tmp_path / "m", "-q") == 2
    assert "min_users" in capsys.readouterr().err


def test_full_disk_leaves_no_half_file(home, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    assert (
        run("tag", home / "model", "--notes", home / "few.parquet", "-o", tmp_path / "t.parquet", "-q") == 2
    )
    assert "No space left on device" in capsys.readouterr().err
    assert run("prepare", "--notes", home / "notes.parquet", "-o", tmp_path / "data") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_named(home, tmp_path, capsys):
    if os.geteuid() == 0:  # root may write anywhere: a file in the way of a folder stands in for it
        (tmp_path / "wall").write_text("")
    else:
        (tmp_path / "wall").mkdir(mode=0o500)
    assert run("prepare", "--notes", home / "notes.parquet", "-o", tmp_path / "wall" / "data") == 2
    assert str(tmp_path / "wall") in capsys.readouterr().err


@pytest.mark.slow
def test_unfinished_run_is_neither_lost_nor_mixed(home, tmp_path, capsys):
    few = ("--max-steps", 4, "--batch-pairs", 8, "--evaluations", 4, "-q")
    model = tmp_path / "model"
    assert run("train", home / "split", "-o", model, *few) == 0
    first = pa.OSFile(str(model / "model.safetensors")).read()
    checkpoint = tmp_path / "model.run" / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text('{"global_step": 2}')
    assert run("train", home / "split", "-o", model, *few) == 2
    assert "--resume" in capsys.readouterr().err
    assert run("train", home / "split", "-o", model, *few, "--resume", "--alpha", "0.5") == 2
    assert "alpha" in capsys.readouterr().err
    assert pa.OSFile(str(model / "model.safetensors")).read() == first


@pytest.mark.slow
def test_the_demo_shows_all_it_promises(tmp_path, capsys):
    assert run("demo", "--notes", 200, "--max-steps", 2, "-o", tmp_path / "demo", "-q") == 0
    out = capsys.readouterr().out
    assert out.count("(true:") == 10  # five notes, category and topics of each
    for part in (
        "TF-IDF",
        "popularity",
        "NoteLLM untrained",
        "nDCG@10",
        "BinMF",
        "BinLLM",
        "notellm prepare --notes",
    ):
        assert part in out
    assert out.count("   (near ") == 5  # recommendations, each with its reason
    assert (tmp_path / "demo" / "report" / "report.md").is_file()
    assert (tmp_path / "demo" / "ranker" / "record.json").is_file()
    assert (tmp_path / "demo" / "model" / "modules.json").is_file()


PAIR_NOTES = "note_id,title\na,a walk\nb,a lake\nc,the rain\n"


def mined(tmp_path, clicks, *options):
    """Return the dataset folder of a few clicks, with its pairs."""
    notes = _write(tmp_path / "notes.csv", PAIR_NOTES)
    log = _write(tmp_path / "clicks.csv", "user_id,note_id,timestamp\n" + "\n".join(clicks) + "\n")
    assert run("prepare", "--notes", notes, "--clicks", log, "-o", tmp_path / "data") == 0
    assert run("pairs", tmp_path / "data", "-q", *options) == 0
    return tmp_path / "data"


def test_baskets_of_a_date_make_pairs_if_asked(tmp_path, capsys):
    baskets = [f"u{user},{note},2020-09-{user + 1:02}" for user in range(6) for note in "abc"]
    data = mined(tmp_path, baskets)
    printed = capsys.readouterr().out
    cause = "6 of 6 users with two notes have all rows at one time"
    assert f"{data}: 0 related pairs: {cause}" in printed
    assert "user with all rows at one time  clicks: timestamp      6" in printed
    assert run("train", data, "-o", tmp_path / "m", "--max-steps", 1, "-q") == 2
    error = capsys.readouterr().err
    assert cause in error
    assert "--same-time both" in error
    assert "min_users" not in error
    assert run("pairs", data, "-q", "--same-time", "both") == 0
    assert "6 related pairs" in capsys.readouterr().out
    assert read_record(data / "pairs.parquet")["config"]["same_time"] == "both"


def test_users_of_one_click_are_the_reason_that_is_named(tmp_path, capsys):
    data = mined(tmp_path, [f"u{user},{'abc'[user % 3]},{1_700_000_000 + user}" for user in range(5)])
    reason = "no user has clicks on two different notes (5 users, 5 clicks)"
    assert reason in capsys.readouterr().out
    assert run("train", data, "-o", tmp_path / "m", "--max-steps", 1, "-q") == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "min_users" not in error
