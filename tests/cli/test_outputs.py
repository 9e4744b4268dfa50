"""What -o may and may not replace, in every command that takes it, and what a terminal is sent."""

import json
import os
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.cli.common import printable
from notellm.files import write_parquet
from notellm.record import make_record
from tests.commands import run

NOTES = "note_id,title,content\n" + "".join(f"n{i},title {i % 7},text of {i}\n" for i in range(60))
CLICKS = "user_id,note_id,timestamp\n" + "".join(
    f"u{u},n{(3 * u + i) % 60},{1_700_000_000 + 60 * i + u}\n" for u in range(30) for i in range(8)
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working folder with notes, clicks and a dataset."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.csv").write_text(NOTES)
    (tmp_path / "clicks.csv").write_text(CLICKS)
    assert run("prepare", "--notes", "notes.csv", "--clicks", "clicks.csv", "-o", "data") == 0
    return tmp_path


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


FOLDERS = [
    ("prepare", "--dataset", "sample", "--sample-notes", 300, "--sample-users", 50, "--sample-clicks", 900),
    ("split", "data"),
    ("train", "data", "--no-pairs", "--max-steps", 1, "-q"),
    ("rank", "train", "data", "--max-steps", 1, "-q"),
    ("evaluate", "model", "split", "-q"),
    ("rank", "evaluate", "ranker", "rows.parquet", "-q"),
]
FILES = [
    ("embed", "model", "data", "-q"),
    ("tag", "model", "--notes", "data", "-q"),
    ("related", "vectors.parquet", "--all", "-q"),
    ("store", "related", "store", "-q"),
    ("store", "impressions", "store"),
]


def named(command):
    return " ".join(str(part) for part in command if not str(part).startswith("-"))


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize("command", FOLDERS, ids=named)
def test_no_command_takes_a_folder_with_files_of_others(home, capsys, command, force):
    """Before anything else is read or computed, so that it does not matter what the inputs are."""
    (home / "p").mkdir()
    (home / "p" / "thesis.txt").write_text("x")
    before = content(home)
    for output, says in (
        ("p", "thesis.txt"),
        (".", "the working folder"),
        ("/", "the root"),
        ("..", "above"),
    ):
        assert run(*command, "-o", output, *force) == 2
        assert says in capsys.readouterr().err, (command, output)
        assert content(home) == before, (command, output)


@pytest.mark.parametrize("command", FILES, ids=named)
def test_no_command_takes_a_file_of_others(home, capsys, command):
    write_parquet(pa.table({"x": [1]}), home / "of-others.parquet")
    record = make_record(kind="something", config={}, data={})
    write_parquet(pa.table({"x": [1]}), home / "other-kind.parquet", record=record)
    (home / "thesis.txt").write_text("x")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 0.0, 0.0, 1.0], pa.float32()), 2)
    write_parquet(pa.table({"note_id": ["a", "b"], "vector": vectors}), home / "vectors.parquet")
    before = content(home)
    for output in ("of-others.parquet", "other-kind.parquet", "thesis.txt", "data"):
        status = run(*command, "-o", output)
        said = capsys.readouterr().err
        assert (status, f"cannot write {output}" in said) == (2, True), (command, output, said)
        assert content(home) == before, (command, output)


def test_a_former_result_is_replaced_and_pairs_of_others_are_not(home, capsys):
    assert run("pairs", "data", "-q", "--min-users", 1) == 0
    assert run("pairs", "data", "-q", "--min-users", 1) == 0
    assert run("prepare", "--notes", "notes.csv", "-o", "data") == 0  # the former pairs go with their clicks
    assert not (home / "data" / "pairs.parquet").exists()
    assert run("prepare", "--notes", "notes.csv", "--clicks", "clicks.csv", "-o", "data") == 0
    write_parquet(pa.table({"source": ["a"]}), home / "data" / "pairs.parquet")
    before = content(home)
    capsys.readouterr()
    assert run("pairs", "data", "-q") == 2
    assert "pairs.parquet: a file that notellm did not write" in capsys.readouterr().err
    assert run("prepare", "--notes", "notes.csv", "-o", "data", "--force") == 2
    assert content(home) == before


def test_an_edited_result_is_replaced_by_force_alone(home, capsys):
    record = home / "data" / "record.json"
    record.write_text(record.read_text().replace("notes.csv", "NOTES.csv"))
    assert run("split", "data", "-o", "data") == 2
    assert "a dataset is there" in capsys.readouterr().err
    again = ("prepare", "--notes", "notes.csv", "-o", "data")
    assert run(*again) == 2
    assert "record.json changed since notellm wrote it" in capsys.readouterr().err
    assert run(*again, "--force") == 0


def test_the_demo_leaves_a_folder_of_others_alone(home, capsys):
    for name in ("data", "model", "store"):
        (home / "mine" / name).mkdir(parents=True)
    (home / "mine" / "model" / "thesis.txt").write_text("x")
    before = content(home)
    assert run("demo", "--notes", 200, "--max-steps", 2, "-o", "mine", "-q") == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert content(home) == before


def test_the_same_inputs_make_the_same_bytes(home):
    """Datasets, splits and pairs; trained models are compared in the tests of resuming."""
    for number in ("1", "2"):
        folder = home / number
        folder.mkdir()
        command = ("prepare", "--notes", "notes.csv", "--clicks", "clicks.csv", "-o", folder / "data")
        assert run(*command) == 0
        assert run("split", folder / "data", "-o", folder / "split") == 0
        assert run("pairs", folder / "split", "-q", "--min-users", 1) == 0
    assert content(home / "1") == content(home / "2")
    assert len(content(home / "1")) > 10


# -------------------------------------------------------------------- the terminal


def test_what_a_terminal_would_act_on_is_shown_as_text():
    assert printable("a\tb\nc é 笔 👍") == "a\tb\nc é 笔 👍"
    assert printable("\x1b[2J\x07\r\x9b31m") == r"\u001b[2J\u0007\u000d\u009b31m"
    assert printable("a\u202eb") == r"a\u202eb"
    assert printable(os.fsdecode(b"\xff")) == r"\udcff"


def test_ids_and_titles_reach_the_terminal_as_text(tmp_path, capsys):
    titles = ["\x1b]0;owned\x07 one", "two \x9b31m", "three\r"]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1, 0, 0.9, 0.1, 0, 1], pa.float32()), 2)
    ids = ["a\x1b[2J", "b", "c"]
    pq.write_table(pa.table({"note_id": ids, "vector": vectors}), tmp_path / "v.parquet")
    rows = [{"note_id": i, "title": t} for i, t in zip(ids, titles, strict=True)]
    (tmp_path / "n.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("related", tmp_path / "v.parquet", "--notes", tmp_path / "n.jsonl")
    for asked, status in (("a\x1b[2J", 0), ("nobody\x1b[2J", 2)):
        assert run(*command, "--id", asked) == status
        said = "".join(capsys.readouterr())
        assert "[2J" in said
        assert not set(said) & {"\x1b", "\x07", "\r", "\x9b"}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_no_encoding_holds_is_printed_all_the_same(tmp_path, encoding):
    done = subprocess.run(
        [sys.executable, "-m", "notellm.cli", "record", b"\xff\xe7\xac\x94"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(rb"notellm: no such file or folder: \udcff")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.usefixtures("home")
def test_an_error_of_the_file_system_is_one_line(monkeypatch, capsys):
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied", "/somewhere/model")

    monkeypatch.setattr("notellm.jobs.folders.load_dataset", fail)
    assert run("split", "data", "-o", "split") == 2
    assert capsys.readouterr().err == "notellm: /somewhere/model: Permission denied\n"


def test_a_reader_that_stops_is_no_error(home):
    reads, writes = os.pipe()
    os.close(reads)  # as `| head` does once it has seen enough
    command = [sys.executable, "-m", "notellm.cli", "record", "data"]
    done = subprocess.run(command, cwd=home, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


# -------------------------------------------------------------------- code of models


def test_a_models_code_runs_only_where_the_command_line_says_so(home, checkpoints, capsys, monkeypatch):
    """With the option the code is what fails, with its own words; without it, nothing of it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(home / "modules"))
    monkeypatch.syspath_prepend(str(home / "modules"))
    folder = home / "own-model"
    shutil.copytree(checkpoints["llama"].path, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own-architecture", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"open({str(home / 'ran')!r}, 'w')\nraise ValueError('code of the model')\n"
    )
    command = ("train", "data", "--no-pairs", "--backbone", folder, "--max-steps", 1, "-o", "model", "-q")
    assert run(*command) == 2
    assert "notellm --trust-remote-code" in capsys.readouterr().err
    assert not (home / "ran").exists()
    assert run("--trust-remote-code", *command) == 2
    assert "code of the model" in capsys.readouterr().err
    assert (home / "ran").exists()
    (home / "ran").unlink()
    assert run(*command) == 2  # the consent was for one command
    assert not (home / "ran").exists()
