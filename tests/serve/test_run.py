"""The process: its keys, where it listens, how it ends. Few of these tests start a real process."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2 as httpx
import pytest

from notellm.engine.engine import Engine
from notellm.errors import ConfigError, StorageError
from notellm.serve import run as running
from notellm.serve.keys import Keys
from notellm.serve.limits import Limits
from notellm.serve.run import READ_KEYS, WRITE_KEYS, in_url, is_loopback, keys_from
from tests.commands import run
from tests.serve.small import NOTES, PATIENCE

A, B, C = (letter * 20 for letter in "abc")
HOME = "127.0.0.1"


def free_port(host=HOME):
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
        return found.getsockname()[1]


# -------------------------------------------------------------------- keys


def test_keys_come_from_the_environment():
    keys = keys_from({WRITE_KEYS: f" {A} ,,{B}\n", READ_KEYS: C}, no_keys=False, host="0.0.0.0")
    assert [keys.check(key.encode()) for key in (A, B, C)] == [(True, True), (True, True), (True, False)]
    assert keys.check(f"{A} ,,{B}".encode()) == keys.check(b"") == (False, False)
    reading = keys_from({READ_KEYS: C}, no_keys=False, host=HOME)
    assert reading
    assert reading.check(C.encode()) == (True, False)
    assert not keys_from({}, no_keys=True, host=HOME)
    assert not keys_from({WRITE_KEYS: " , "}, no_keys=True, host="::1")


@pytest.mark.parametrize(
    ("environment", "no_keys", "host", "message"),
    [
        ({}, False, HOME, f"there are no API keys: set {WRITE_KEYS}"),
        ({WRITE_KEYS: "", READ_KEYS: " , "}, False, HOME, "there are no API keys"),
        ({WRITE_KEYS: A}, True, HOME, "contradict each other"),
        ({READ_KEYS: A}, True, HOME, "contradict each other"),
        ({}, True, "0.0.0.0", "0.0.0.0 can be reached from others"),
        ({}, True, "::", ":: can be reached from others"),
        ({}, True, "", "can be reached from others"),
        ({}, True, "example.org", "example.org can be reached"),
        ({}, True, "192.168.0.1", "can be reached"),
        ({WRITE_KEYS: "short"}, False, HOME, "has 5 characters; use at least 16"),
        ({WRITE_KEYS: A, READ_KEYS: "short"}, False, HOME, "use at least 16"),
        ({WRITE_KEYS: A, READ_KEYS: f"{B},{A}"}, False, HOME, "give it once"),
        ({WRITE_KEYS: "with a space in its middle"}, False, HOME, "header cannot carry"),
        ({WRITE_KEYS: "not-utf-8-\udcff\udcfe-in-it"}, False, HOME, "header cannot carry"),
    ],
)
def test_keys_that_are_wrong_are_told(environment, no_keys, host, message):
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as told:
        keys_from(environment, no_keys=no_keys, host=host)
    assert message in str(told.value)
    assert not any(key in str(told.value) for key in (A, B))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "", "127.0.0.1.example.org", "localhost.example", "127.1"]
)
def test_not_loopback(host):
    assert not is_loopback(host)


# -------------------------------------------------------------------- serving, in this process


@contextmanager
def serving_here(monkeypatch, engine, host, **options):
    """Run `serve` in a thread and give its port; afterwards the process is as before."""
    made, ready, port = [], threading.Event(), free_port(host)
    server = running.server

    def remembered(*arguments, **named):
        made.append(server(*arguments, **named))
        return made[0]

    monkeypatch.setattr(running, "server", remembered)
    switching = sys.getswitchinterval()
    thread = threading.Thread(
        target=running.serve,
        args=(engine,),
        kwargs={"host": host, "port": port, "limits": Limits(), "ready": ready.set, **options},
    )
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield port
    finally:
        made[0].should_exit = True
        thread.join(PATIENCE)
        sys.setswitchinterval(switching)
        gc.unfreeze()


def lines_of(capfd, event):
    """Wait for log lines of an event and return them; standard error has other text, too."""
    text, end = "", time.monotonic() + PATIENCE
    while time.monotonic() < end:
        text += capfd.readouterr().err
        lines = [line[line.index('{"time"') :] for line in text.split("\n")[:-1] if '{"time"' in line]
        found = [line for line in map(json.loads, lines) if line["event"] == event]
        if found:
            return found
        time.sleep(0.01)
    pytest.fail(f"the log has no line of {event!r}: {text}")


def has_ipv6():
    try:
        free_port("::1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
@pytest.mark.usefixtures("logged")
def test_an_ipv6_address_is_written_in_brackets_and_is_one_of_its_own_names(places, monkeypatch, capfd):
    engine = places.engine(ranker=None, progress=True)
    with serving_here(monkeypatch, engine, "::1", keys=Keys()) as port:
        assert httpx.get(f"http://[::1]:{port}/health/live", trust_env=False).status_code == 200
        for name, status in [
            (f"[::1]:{port}", 200),
            ("[::1]", 200),
            (f"LocalHost:{port}", 200),
            ("127.0.0.1", 200),
            ("::1", 403),
            ("elsewhere.example", 403),
            ("[::2]", 403),
        ]:
            answer = httpx.get(f"http://[::1]:{port}/health/live", headers={"host": name}, trust_env=False)
            assert answer.status_code == status, name
        assert "[::1]" in answer.json()["error"]["message"]
    (started,) = lines_of(capfd, "starting")
    assert started["address"] == f"[::1]:{port}"
    assert set(started["seconds"]) == {"model", "ranker", "store", "index", "words", "tags", "clicks"}
    assert not engine.progress  # a reload's bar would wait for whoever reads the log
    assert started["connections"] >= started["connections_per_address"] > 0


@pytest.mark.parametrize(
    ("host", "written"),
    [("::1", "[::1]"), ("::", "[::]"), ("127.0.0.1", "127.0.0.1"), ("a.example", "a.example")],
)
def test_a_host_as_it_stands_in_a_url(host, written):
    assert in_url(host) == written


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_an_ipv6_address_that_is_taken_is_told_in_brackets(places):
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        engine = places.engine(ranker=None)
        with pytest.raises(StorageError, match=rf"cannot listen on \[::1\]:{port} \("):
            running.serve(engine, host="::1", port=port, keys=Keys(), limits=Limits())


@pytest.mark.usefixtures("logged")
def test_what_the_store_had_to_mend_is_in_the_log(places, monkeypatch, capfd):
    engine = places.engine(ranker=None)
    monkeypatch.setattr(type(engine), "report", ["version 7 was torn; version 6 answers"])
    with serving_here(monkeypatch, engine, HOME, keys=Keys()):
        pass
    (told,) = lines_of(capfd, "store mended")
    assert (told["level"], told["detail"]) == ("warning", "version 7 was torn; version 6 answers")


# -------------------------------------------------------------------- the command, in this process


def told_in_one_line(capsys):
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("notellm: ")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    assert captured.err.endswith(lines[0] + "\n")
    return lines[0]


@pytest.fixture
def options(places, monkeypatch):
    for name in (READ_KEYS, WRITE_KEYS):
        monkeypatch.delenv(name, raising=False)
    return [places.store, "--model", places.model, "--quiet", "--port", free_port()]


def test_mistakes_end_in_one_line_and_status_2(options, places, tmp_path, capsys, monkeypatch):
    assert run("serve", *options) == 2
    assert "there are no API keys" in told_in_one_line(capsys)
    assert run("serve", *options, "--no-keys", "--host", "0.0.0.0") == 2
    assert "can be reached from others" in told_in_one_line(capsys)
    monkeypatch.setenv(WRITE_KEYS, A)
    assert run("serve", *options, "--no-keys") == 2
    assert "contradict" in told_in_one_line(capsys)
    monkeypatch.delenv(WRITE_KEYS)
    for wrong in (
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--timeout", "0"],
        ["--port", "0"],
        ["--port", "65536"],
        ["--max-connections", "0"],
        ["--max-connections", "10000000"],
        ["--max-connections-per-address", "0"],
    ):
        assert run("serve", *options, "--no-keys", *wrong) == 2
        told_in_one_line(capsys)
    rest = ["--model", places.model, "--quiet", "--no-keys"]
    assert run("serve", tmp_path / "none", *rest) == 2
    assert "is not a store" in told_in_one_line(capsys)
    assert run("serve", tmp_path, *rest) == 2
    assert "is not a store" in told_in_one_line(capsys)
    for model in (tmp_path / "none", tmp_path, places.store):
        assert run("serve", places.store, "--model", model, "--quiet", "--no-keys") == 2
        assert str(model) in told_in_one_line(capsys)
    for extra in (["--ranker", places.model], ["--ranker", tmp_path / "none"], ["--index", "ivf"]):
        assert run("serve", *options, "--no-keys", *extra) == 2
        assert str(extra[1]) in told_in_one_line(capsys)


def test_where_something_else_listens_it_says_so_and_lets_the_store_go(options, places, capsys):
    with socket.create_server((HOME, 0)) as other:
        port = other.getsockname()[1]
        assert run("serve", *options, "--no-keys", "--port", port) == 2
    assert f"cannot listen on {HOME}:{port}" in told_in_one_line(capsys)
    assert run("serve", *options, "--no-keys", "--host", "localhost", "--port", port, "--index", "ivf") == 2
    capsys.readouterr()
    Engine.open(places.store, places.model).close()  # nobody has its lock


# -------------------------------------------------------------------- the process


class Process:
    """A service started by its command."""

    def __init__(self, *arguments):
        environment = {n: v for n, v in os.environ.items() if n not in (READ_KEYS, WRITE_KEYS)}
        self.port = free_port()
        self.child = subprocess.Popen(
            [sys.executable, "-m", "notellm.cli", "serve", *map(str, arguments), "--port", str(self.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.url = f"http://{HOME}:{self.port}"

    def ready(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.child.poll() is None:
            try:
                if httpx.get(f"{self.url}/health/ready", trust_env=False).json()["ready"]:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        self.child.kill()
        pytest.fail("it is not ready: " + self.child.communicate()[1])

    def closed(self):
        """Wait until nothing new is accepted."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                socket.create_connection((HOME, self.port)).close()
            except ConnectionRefusedError:
                return
            time.sleep(0.01)
        pytest.fail("it still accepts connections")

    def ended(self):
        """Its status and what it wrote."""
        output, errors = self.child.communicate(timeout=PATIENCE)
        return self.child.returncode, output, errors


@pytest.fixture
def process():
    started = []

    def start(*arguments):
        started.append(Process(*arguments))
        return started[-1]

    yield start
    for one in started:
        if one.child.poll() is None:
            one.child.kill()
            one.child.communicate()


@pytest.mark.slow
def test_what_is_accepted_is_written_before_it_ends(places, tmp_path, process, capsys):
    """Clients write all the while."""
    own = places.copied(tmp_path)
    service = process(
        own.store, "--model", own.model, "--ranker", own.ranker, "--index", "hnsw", "--no-keys", "--quiet"
    )
    service.ready()

    assert run("serve", own.store, "--model", own.model, "--no-keys", "--quiet", "--port", free_port()) == 2
    assert f"another process writes to the store {own.store}" in told_in_one_line(capsys)

    written, odd, gone = [], [], threading.Event()

    def write(name):
        with httpx.Client(base_url=service.url, timeout=PATIENCE, trust_env=False) as client:
            for i in range(10_000):
                note_id = f"{name}/{i}"
                try:
                    answer = client.put(f"/v1/notes/{note_id}", json={"title": f"Note {note_id}"})
                except httpx.TransportError as error:
                    gone.set()
                    return type(error)
                if answer.status_code == 200:
                    written.append(note_id)
                    if len(written) == 40:
                        service.child.send_signal(signal.SIGTERM)
                elif answer.status_code != 503 or answer.json()["error"]["code"] != "busy":
                    odd.append(answer.text)
        return None

    with ThreadPoolExecutor(6) as pool:
        ends = list(pool.map(write, "abcdef"))
    status, output, errors = service.ended()
    assert not odd
    assert status == 0, errors
    # A connection that is closed between two requests is no answer lost; one that is cut in the middle is.
    assert set(ends) <= {httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError}
    assert output == f"{service.url}/\n"
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["starting", "stopped"]
    took = lines[0]["seconds"]
    assert set(took) == {"imports", "model", "ranker", "store", "index", "words", "tags", "clicks"}
    assert all(seconds >= 0 for seconds in took.values())
    assert took["imports"] > 0
    accepted = [line for line in lines if line.get("method") == "PUT" and line["status"] == 200]
    assert len(accepted) == len(written) >= 40  # all that were accepted were answered
    assert not any("Note a" in line or "a/0" in line for line in errors.splitlines())
    engine = own.engine(index="hnsw")
    assert set(written) <= set(engine.notes)
    assert len(engine.index) == len(engine.notes) == NOTES + len(written)
    assert [path.name for path in own.store.glob("index_*")] == [f"index_{engine.fingerprint}"]
    engine.close()


@pytest.mark.slow
def test_a_request_that_is_under_way_is_answered(places, tmp_path, process):
    """Nothing new is accepted meanwhile; Ctrl-C, too, ends the service in order."""
    own = places.copied(tmp_path)
    service = process(own.store, "--model", own.model, "--no-keys", "--quiet")
    service.ready()
    with httpx.Client(base_url=service.url, timeout=PATIENCE, trust_env=False) as client:
        begun = threading.Event()

        def body():
            yield b'{"title": '
            begun.set()
            while service.child.poll() is None and not sent.wait(0.01):
                pass
            yield b'"Slow"}'

        sent = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(
                client.put, "/v1/notes/slow", content=body(), headers={"content-type": "application/json"}
            )
            assert begun.wait(PATIENCE)
            service.child.send_signal(signal.SIGINT)
            service.closed()
            sent.set()
            assert answer.result().status_code == 200
    status, _, errors = service.ended()
    assert status == 0, errors
    engine = own.engine(ranker=None)
    assert engine.note("slow").title == "Slow"
    engine.close()
