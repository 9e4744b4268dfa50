"""Moving data in and out of a store while it is served; the commands of docs/service.md about it."""

import re
import shlex
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from notellm.client import Client
from notellm.files import read_parquet
from notellm.jobs.folders import load_dataset
from notellm.serve.keys import Keys
from notellm.serve.limits import Limits
from notellm.store.clicks import ClickLog
from tests.commands import run
from tests.serve.small import NOTES, served
from tests.serve.test_docs import DOCS

NOW = datetime.now(UTC).replace(microsecond=0)
KEY = "a-key-of-the-tests"


def csv_of(path, count=40):
    rows = [f"u{i % 4},n{i % 9:07d},{(NOW - timedelta(hours=i)).isoformat()}" for i in range(count)]
    path.write_text("\n".join(["user_id,note_id,timestamp", *rows]) + "\n")
    return path


def test_the_commands_of_the_document_run(places, tmp_path, monkeypatch, capsys):
    """The store in the folder is nobody's; the service has another one."""
    section = DOCS.partition("## Moving data")[2].partition("\n## ")[0]
    lines = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines()
    own = places.copied(tmp_path)
    (tmp_path / "model").symlink_to(own.model)
    csv_of(tmp_path / "clicks.csv")
    assert run("store", "import", own.store, "--clicks", tmp_path / "clicks.csv", "-q") == 0
    (tmp_path / "served").mkdir()
    monkeypatch.chdir(tmp_path)
    with served(places.copied(tmp_path / "served").engine()) as client:
        assert len(lines) == 8
        for line in lines:
            program, *words = shlex.split(line.replace("$URL", str(client.base_url)), comments=True)
            assert program == "notellm"
            assert run(*words) == 0, (line, capsys.readouterr())
            told = capsys.readouterr().out
            if "store import" in line:
                new = 40 if " new " in line or ("--url" in line and "csv" in line) else 0
                assert f"{new} clicks added, {40 - new} were there already" in told
    for name in ("store", "new", "served/store"):
        assert len(ClickLog.for_reading(tmp_path / name)) == 40


def test_a_service_takes_an_import_while_it_is_exported(places, tmp_path, monkeypatch, capsys):
    own = places.copied(tmp_path)
    path = csv_of(tmp_path / "clicks.csv")
    with served(own.engine(), keys=Keys(write=[KEY]), limits=Limits(body=2_000)) as client:
        url = str(client.base_url)
        bring = ("store", "import", "--url", url, "--clicks", path, "-q")
        assert run(*bring) == 2
        assert "key" in capsys.readouterr().err
        monkeypatch.setenv("NOTELLM_KEY", KEY)
        assert run(*bring) == 0  # in several requests, since the body of one may have 2,000 bytes
        assert "40 clicks added, 0 were there already" in capsys.readouterr().out
        assert run(*bring) == 0
        assert "0 clicks added, 40 were there already" in capsys.readouterr().out
        assert run("store", "export", own.store, "-o", tmp_path / "out", "-q") == 0
        assert f"{NOTES} notes with vectors, 40 events, 40 clicks" in capsys.readouterr().out


def test_of_a_store_and_a_service_one_is_given(places, tmp_path, capsys):
    path = csv_of(tmp_path / "clicks.csv")
    for more in ((), (places.store, "--url", "http://127.0.0.1:1")):
        assert run("store", "import", *more, "--clicks", path) == 2
        assert "give either STORE or --url" in capsys.readouterr().err


def test_an_export_is_one_state_while_the_service_is_written_to(places, tmp_path):
    """Notes are published two at a time and clicked; an export has both or none."""
    own = places.copied(tmp_path)
    acknowledged = [0]
    stop = threading.Event()
    with served(own.engine()) as client:

        def write():
            with Client(str(client.base_url)) as asking:
                while not stop.is_set():
                    pair = acknowledged[0] + 1
                    ids = [f"p{pair}-a", f"p{pair}-b"]
                    asking.publish_many([{"note_id": each, "title": "a lake to camp at"} for each in ids])
                    asking.click([{"user_id": "u1", "note_id": each, "click_id": each} for each in ids])
                    acknowledged[0] = pair

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(3):
                before = acknowledged[0]
                while acknowledged[0] < before + 2:
                    assert writer.is_alive()
                    time.sleep(0.01)
                before = acknowledged[0]
                assert run("store", "export", own.store, "-o", tmp_path / f"out{number}", "-q") == 0
                part = load_dataset(tmp_path / f"out{number}")
                names = part.notes["note_id"].to_pylist()
                pairs = [name for name in names if name.startswith("p")]
                assert len(pairs) >= 2 * before
                assert {f"p{i}-{each}" for i in range(1, len(pairs) // 2 + 1) for each in "ab"} == set(pairs)
                vectors = read_parquet(tmp_path / f"out{number}" / "vectors.parquet")
                assert vectors["note_id"].to_pylist() == names
                events = read_parquet(tmp_path / f"out{number}" / "events.parquet")["click_id"].to_pylist()
                assert set(events) <= set(pairs)
                assert len(events) >= 2 * before
        finally:
            stop.set()
            writer.join()


@pytest.mark.parametrize("days", [0, -1])
def test_days_are_above_0(places, tmp_path, capsys, days):
    assert run("store", "export", places.store, "-o", tmp_path / "out", "--days", days) == 2
    assert "it must be above 0" in capsys.readouterr().err
