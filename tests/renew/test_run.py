"""A renewal from the store to the models that serve it."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock

from notellm.client import ServiceError
from notellm.engine.engine import Engine
from notellm.engine.requests import RelatedQuery
from notellm.errors import DataError, NotFoundError, StorageError
from notellm.files import json_text, read_json
from notellm.recall.model import NoteLLM
from notellm.record import RECORD, read_record
from notellm.renew import comparison
from notellm.renew import run as module
from notellm.renew.comparison import compare
from notellm.renew.decision import Decision
from notellm.renew.models import Models
from notellm.renew.run import Renewal
from notellm.store.lance import _LOCK
from notellm.store.notes import NoteStore
from tests.commands import run as command
from tests.renew.conftest import QUICK, KilledError, candidate, renewal, service_at
from tests.serve.small import served as serving_engine

pytestmark = pytest.mark.slow

PATIENCE = 120
BEGUN = "import sys; from notellm.cli import main; sys.argv = ['notellm', *sys.argv[1:]]; main()"


@pytest.fixture
def _takes_over(monkeypatch):
    monkeypatch.setattr(module, "decide", lambda figures, **_: Decision(True, ["asked for"], figures))


@pytest.mark.usefixtures("_takes_over")
def test_recall_and_ranker_are_trained_compared_and_take_over(served):
    before = served.models.identities()
    renewed = renewal(served, ranked=True).renew(QUICK)
    assert set(renewed.decision.figures) == {"recall", "recommend"}
    assert served.models.beside(".former").identities() == before
    assert NoteStore.for_reading(served.store).model == served.models.fingerprint()
    assert read_record(served.models.model)["config"]["warm_start"] == str(served.models.model)
    with closing(Engine.open(served.store, served.models.model, ranker=served.models.ranker)) as engine:
        note_id = next(iter(engine.notes))
        (related,) = engine.related([RelatedQuery(note_id=note_id, k=5)])
        assert not isinstance(related, Exception)
        assert engine.recommend(k=3).note_ids
    kept = read_json(renewed.file)
    assert kept["serving"] == before
    assert kept["options"]["test_days"] == QUICK.test_days
    assert set(kept["seconds"]) == {"snapshot", "recall", "ranker", "comparison"}
    assert [path.name for path in served.work.iterdir() if path.is_dir()] == ["decisions"]


def test_a_model_that_is_as_good_takes_over_and_back_brings_the_former_one(served, tmp_path):
    before = served.models.identity("model")
    given = candidate(served, tmp_path / "given")
    renewed = renewal(served).renew(QUICK, candidate=given)
    assert renewed.decision.takes_over, renewed.decision.reasons
    assert served.models.identity("model") == given.identity("model")
    assert given.model.is_dir()
    assert NoteStore.for_reading(served.store).model == given.fingerprint()
    renewal(served).back()
    assert served.models.identity("model") == before
    assert NoteStore.for_reading(served.store).model == served.models.fingerprint()


def test_a_useless_model_does_not_take_over_and_nothing_changes(served, tmp_path):
    before, store_model = served.models.identities(), NoteStore.for_reading(served.store).model
    given = candidate(served, tmp_path / "given", useless=True)
    options = replace(QUICK, users=100)
    decision = renewal(served).renew(options, candidate=given).decision
    assert not decision.takes_over
    assert all("recall" in reason and "lower" in reason for reason in decision.reasons)
    assert served.models.identities() == before
    assert NoteStore.for_reading(served.store).model == store_model
    assert not served.models.beside(".former").model.exists()
    with pytest.raises(NotFoundError, match="no former model"):
        renewal(served).back()


@pytest.mark.parametrize(("many", "deciding"), [(161, "NDCG@20"), (160, "NDCG@100")])
def test_of_many_notes_all_candidates_of_recall_decide(served, tmp_path, monkeypatch, many, deciding):
    monkeypatch.setattr(comparison, "_MANY_NOTES", many)
    decision = renewal(served).renew(QUICK, candidate=candidate(served, tmp_path / "given")).decision
    assert decision.figures["recall"].deciding == deciding
    assert deciding in decision.reasons[0]


def test_a_model_of_another_size_does_not_take_over(served, tmp_path, notes):
    other = NoteLLM.from_corpus(notes, dim=8)
    record = read_record(served.models.model) | {"fingerprint": other.fingerprint()}
    other.save_pretrained(tmp_path / "given", extra={RECORD: json_text(record)})
    decision = renewal(served).renew(QUICK, candidate=Models(tmp_path / "given", None)).decision
    assert not decision.takes_over
    assert "the new model have 8 dimensions, those that serve 32" in decision.reasons[0]


def test_with_half_of_the_notes_gone_nothing_is_trained(served, monkeypatch):
    monkeypatch.setattr(module, "train_model", None)
    store = NoteStore.open(served.store, served.models.fingerprint())
    ids = store.read(["note_id"])["note_id"].to_pylist()
    store.delete(ids[::2])
    store.close()
    decision = renewal(served).renew(QUICK).decision
    assert not decision.takes_over
    assert "the store has 80 notes, and the serving model was trained on 160" in decision.reasons[0]


def test_with_too_few_users_nothing_is_trained(served, monkeypatch):
    monkeypatch.setattr(module, "train_model", None)
    decision = renewal(served).renew(replace(QUICK, users=5_000, least_users=5_000)).decision
    assert not decision.takes_over
    assert "too few to compare on (5,000 are needed)" in decision.reasons[0]


def test_a_store_of_another_model_is_refused(served, tmp_path):
    given = candidate(served, tmp_path / "given")
    with pytest.raises(DataError, match="give the model that serves it"):
        Renewal(str(served.store), given, served.work, progress=False).renew(QUICK)


def test_a_store_that_is_served_needs_the_address_of_its_service(served):
    other = FileLock(served.store / _LOCK)  # as another process has it: not the lock object of this one
    with other, pytest.raises(StorageError, match="another process writes to the store"):
        renewal(served).renew(QUICK)
    with pytest.raises(ServiceError, match="no answer from"):
        renewal(served, service=service_at("http://127.0.0.1:9")).renew(QUICK)


def test_two_renewals_do_not_run_at_once(served):
    served.work.mkdir()
    with FileLock(served.work / ".lock"), pytest.raises(StorageError, match="another renewal is running"):
        renewal(served).renew(QUICK)


@pytest.mark.usefixtures("_takes_over")
@pytest.mark.parametrize("step", ["take_snapshot", "train_model", "compare", "take_over", "build_store"])
def test_a_renewal_that_is_killed_before_or_after_a_step_goes_on(served, tmp_path, monkeypatch, step):
    given = candidate(served, tmp_path / "given")
    wanted = given.identity("model")
    whole, calls = getattr(module, step), []

    def counted(*arguments, **options):
        calls.append(step)
        return whole(*arguments, **options)

    def killed_before(*_, **__):
        raise KilledError

    def killed_after(*arguments, **options):
        counted(*arguments, **options)
        raise KilledError

    for kill in (killed_before, killed_after):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, kill)
            with pytest.raises(KilledError):
                renewal(served).renew(QUICK, candidate=given)
    monkeypatch.setattr(module, step, counted)
    said: list[str] = []
    renewed = renewal(served, say=said.append).renew(QUICK, candidate=given)
    assert said[0].startswith("an unfinished renewal goes on")
    assert renewed.decision.takes_over
    assert served.models.identity("model") == wanted
    assert NoteStore.for_reading(served.store).model == given.fingerprint()


def test_an_unfinished_renewal_of_other_options_is_dropped(served, tmp_path, monkeypatch):
    given = candidate(served, tmp_path / "given")
    with monkeypatch.context() as patch:
        patch.setattr(module, "compare", lambda *_, **__: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            renewal(served).renew(QUICK, candidate=given)
    said: list[str] = []
    renewal(served, say=said.append).renew(replace(QUICK, test_days=4), candidate=given)
    assert "begun with other options or models; a new one begins" in said[0]


def test_a_renewal_is_killed_by_the_system_and_ends_as_if_it_had_not(served):
    options = ["--test-days", 3, "--max-steps", 2, "--users", 20, "--least-users", 5, "-q"]
    arguments = ["renew", served.store, "--model", served.models.model, "--work", served.work, *options]
    process = subprocess.Popen(
        [sys.executable, "-c", BEGUN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[2/5]"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    assert (served.work / "renewal.json").is_file()
    assert command(*arguments) == 0
    (kept,) = (served.work / "decisions").iterdir()
    serving = read_record(served.models.model)["fingerprint"]
    assert NoteStore.for_reading(served.store).model == serving
    assert read_json(kept)["takes_over"] is served.models.beside(".former").model.is_dir()


def test_a_running_service_switches_without_a_failed_request(served, tmp_path):
    given = candidate(served, tmp_path / "given")
    engine = Engine.open(served.store, served.models.model)
    ids = list(engine.notes)
    failed: list[str] = []
    asked: list[int] = []
    stop = threading.Event()

    def ask(client):
        while not stop.is_set():
            answer = client.get("/v1/related", params={"note_id": ids[len(asked) % len(ids)]})
            asked.append(answer.status_code)
            if answer.status_code != 200:
                failed.append(answer.text)

    with serving_engine(engine) as client:
        asking = threading.Thread(target=ask, args=(client,))
        asking.start()
        service = service_at(str(client.base_url))
        decision = renewal(served, service=service).renew(QUICK, candidate=given).decision
        stop.set()
        asking.join()
        assert decision.takes_over, decision.reasons
        assert service.state()["model"]["fingerprint"] == given.fingerprint()
        assert asked
        assert not failed
        renewal(served, service=service).back()
        assert service.state()["model"]["fingerprint"] == served.models.fingerprint() != given.fingerprint()


def test_models_that_the_service_cannot_open_give_way_to_the_former_ones(served, tmp_path, monkeypatch):
    before = served.models.identities()
    given = candidate(served, tmp_path / "given")
    engine = Engine.open(served.store, served.models.model)
    monkeypatch.setattr(Engine, "reload", lambda *_, **__: (_ for _ in ()).throw(DataError("it is broken")))
    with serving_engine(engine) as client:
        decision = (
            renewal(served, service=service_at(str(client.base_url))).renew(QUICK, candidate=given).decision
        )
    assert not decision.takes_over
    assert "the new models cannot serve, so the former ones are back: data do not fit" in decision.reasons[0]
    assert served.models.identities() == before
    assert NoteStore.for_reading(served.store).model == served.models.fingerprint()


def test_the_models_are_compared_on_the_same_users_and_only_on_what_they_opened_later(served, monkeypatch):
    seen = {}

    def watched(*arguments, **options):
        seen["queries"], seen["snapshot"] = arguments[3], arguments[2]
        return compare(*arguments, **options)

    monkeypatch.setattr(module, "compare", watched)
    same = Models(served.models.model, None)
    decision = renewal(served).renew(QUICK, candidate=same).decision
    queries, snapshot = seen["queries"], seen["snapshot"]
    assert 5 <= len(queries.histories) <= QUICK.users
    assert queries.histories.keys() == queries.relevant.keys()
    opened: dict[str, set[str]] = {}
    for user, note_id in zip(
        *(snapshot.train.clicks[name].to_pylist() for name in ("user_id", "note_id")), strict=True
    ):
        opened.setdefault(user, set()).add(note_id)
    for user, notes in queries.relevant.items():
        assert notes
        assert not opened[user] & set(notes)
        assert set(queries.histories[user]) <= opened[user]
    for name, value in decision.figures["recall"].difference.items():
        assert (value.mean, value.low, value.high) == (0, 0, 0), name
        assert np.isclose(
            decision.figures["recall"].serving[name].mean, decision.figures["recall"].renewed[name].mean
        )


def test_the_command_says_what_became_of_it(served, tmp_path, capsys):
    given = candidate(served, tmp_path / "given")
    common = ["renew", served.store, "--model", served.models.model, "--test-days", 3, "-q"]
    few = ["--users", 20, "--least-users", 5, "--candidate", given.model]
    assert command(*common, *few) == 0
    out = capsys.readouterr().out
    assert "[4/5] comparison on" in out
    assert "NDCG@20" in out
    assert "the new models serve" in out
    assert (served.models.model.with_name("model.renewal") / "decisions").is_dir()
    assert command(*common, "--back") == 0
    assert "the former models serve again" in capsys.readouterr().out
    assert command(*common, "--candidate-ranker", "x") == 2
    assert command(*common, "--url", "ftp://x") == 2
    assert "must begin with http://" in capsys.readouterr().err
