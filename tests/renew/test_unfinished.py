"""What a renewal leaves, and how one goes on that was cut off or refused."""

import shutil
from dataclasses import replace

import pytest

from notellm.engine.engine import Engine
from notellm.errors import ConfigError, DataError, StorageError
from notellm.files import read_json
from notellm.renew import run as module
from notellm.renew.comparison import compare
from notellm.renew.models import Models
from notellm.renew.run import Renewal
from notellm.renew.service import Service
from notellm.renew.snapshot import take_snapshot
from notellm.renew.work import WorkFolder
from notellm.store.notes import NoteStore
from tests.commands import run as command
from tests.renew.conftest import QUICK, KilledError, candidate, renewal, service_at
from tests.serve.small import served as serving_engine

pytestmark = pytest.mark.slow


def killed(*_, **__):
    raise KilledError


def unreachable(*_):
    raise StorageError("the service cannot be reached")


def test_a_finished_renewal_keeps_no_clicks_of_users(served, tmp_path):
    given = candidate(served, tmp_path / "given")
    assert renewal(served).renew(QUICK, candidate=given).decision.takes_over
    assert sorted(path.name for path in served.work.rglob("*.parquet")) == []
    assert not (served.work / "snapshot").exists()


def test_a_log_that_was_too_short_is_read_again_the_next_time(served, monkeypatch):
    taken = []

    def too_short(*arguments, **options):
        taken.append(options["now"])
        take_snapshot(*arguments, **options)
        raise DataError("wait until the log is longer")

    monkeypatch.setattr(module, "take_snapshot", too_short)
    for _ in range(2):
        with pytest.raises(DataError, match="wait"):
            renewal(served).renew(QUICK)
        assert not (served.work / "snapshot").exists()
    assert len(set(taken)) == 2


@pytest.mark.parametrize("name", ["renewal.json", "decision.json"])
def test_a_renewal_that_is_killed_while_it_is_finished_ends(served, tmp_path, monkeypatch, name):
    given = candidate(served, tmp_path / "given")
    unlink = type(served.work).unlink

    def killed_at(self, **options):
        if self == served.work / name and self.exists():
            raise KilledError
        unlink(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(served.work), "unlink", killed_at)
        with pytest.raises(KilledError):
            renewal(served).renew(QUICK, candidate=given)
    same = Models(served.models.model, None)
    assert renewal(served).renew(QUICK, candidate=same).decision.takes_over
    assert served.models.identity("model") == given.identity("model")
    assert not (served.work / "decision.json").exists()


def test_a_store_that_refuses_the_new_vectors_keeps_the_former_model(served, tmp_path, monkeypatch):
    before, store_model = served.models.identities(), NoteStore.for_reading(served.store).model

    def refuses(*_, **__):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(module, "build_store", refuses)
        decision = renewal(served).renew(QUICK, candidate=candidate(served, tmp_path / "given")).decision
    assert not decision.takes_over
    (reason,) = decision.reasons
    assert reason == "the new models cannot serve, so the former ones are back: the disk is full"
    assert served.models.identities() == before
    assert NoteStore.for_reading(served.store).model == store_model
    assert not (served.work / "exchange.json").exists()


def test_a_way_back_whose_end_is_unknown_is_completed_and_not_reversed(served, tmp_path, monkeypatch):
    first = served.models.identity("model")
    given = candidate(served, tmp_path / "given")
    renewal(served).renew(QUICK, candidate=given)
    engine = Engine.open(served.store, served.models.model)
    with serving_engine(engine) as client:
        service = service_at(str(client.base_url))
        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(Service, "reload", unreachable)
                with pytest.raises(StorageError, match="cannot be reached"):
                    renewal(served, service=service).back()
            assert served.models.identity("model") == first
        renewal(served, service=service).back()
        assert service.state()["model"]["fingerprint"] == served.models.fingerprint()
    assert served.models.identity("model") == first
    assert not (served.work / "exchange.json").exists()


def test_an_unfinished_way_back_is_completed_by_the_next_renewal(served, tmp_path, monkeypatch):
    first = served.models.identity("model")
    given = candidate(served, tmp_path / "given")
    renewal(served).renew(QUICK, candidate=given)
    with monkeypatch.context() as patch:
        patch.setattr(module, "build_store", killed)
        with pytest.raises(KilledError):
            renewal(served).back()
    said: list[str] = []
    same = Models(served.models.model, None)
    renewal(served, say=said.append).renew(QUICK, candidate=same)
    assert "way back" in said[0]
    assert served.models.identity("model") == first
    assert NoteStore.for_reading(served.store).model == served.models.fingerprint()


def test_after_a_way_back_an_unfinished_decision_does_not_count(served, tmp_path, monkeypatch):
    first = served.models.identity("model")
    given = candidate(served, tmp_path / "given")
    with monkeypatch.context() as patch:
        patch.setattr(module, "build_store", killed)
        with pytest.raises(KilledError):
            renewal(served).renew(QUICK, candidate=given)
    renewal(served).back()
    assert served.models.identity("model") == first
    assert WorkFolder(served.work).decision() is None


def test_whether_the_service_has_switched_may_be_unknown(served, tmp_path, monkeypatch):
    given = candidate(served, tmp_path / "given")
    engine = Engine.open(served.store, served.models.model)
    with serving_engine(engine) as client:
        service = service_at(str(client.base_url))
        with monkeypatch.context() as patch:
            patch.setattr(Service, "reload", unreachable)
            with pytest.raises(StorageError, match="whether they serve is not known: give the same command"):
                renewal(served, service=service).renew(QUICK, candidate=given)
    # The service was restarted meanwhile: it does not start with a store of other vectors.
    with pytest.raises(DataError, match="embed its notes again with notellm store build"):
        Engine.open(served.store, served.models.model)
    assert command("store", "build", served.store, "--model", served.models.model) == 0
    with serving_engine(Engine.open(served.store, served.models.model)) as client:
        service = service_at(str(client.base_url))
        assert renewal(served, service=service).renew(QUICK, candidate=given).decision.takes_over
    assert NoteStore.for_reading(served.store).model == given.fingerprint()


def test_a_decided_renewal_of_other_models_is_not_finished_with_these(served, tmp_path, monkeypatch):
    given = candidate(served, tmp_path / "given")
    with monkeypatch.context() as patch:
        patch.setattr(module, "take_over", killed)
        with pytest.raises(KilledError):
            renewal(served).renew(QUICK, candidate=given)
    with pytest.raises(ConfigError, match=r"decided and not finished, is of the store .* finish it first"):
        renewal(served, ranked=True).renew(QUICK)
    assert renewal(served).renew(QUICK).decision.takes_over


def test_what_does_not_exist_is_told_and_nothing_is_made(served, tmp_path):
    missing = Models(tmp_path / "missing", None)
    with pytest.raises(StorageError, match=r"there is no model .*missing"):
        Renewal(str(served.store), missing, tmp_path / "work").renew(QUICK)
    with pytest.raises(StorageError, match="is no store"):
        Renewal(str(tmp_path / "typo"), served.models, tmp_path / "work").renew(QUICK)
    with pytest.raises(ConfigError, match="the candidate has the ranker"):
        renewal(served).renew(QUICK, candidate=served.models)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served"]
    assert not served.work.exists()


def test_records_that_do_not_say_enough_are_told(served):
    with pytest.raises(DataError, match="does not say its config as a model of this version does"):
        Models(served.models.ranker, None).recall_options()
    with pytest.raises(DataError, match="does not say its config as a ranker"):
        Models(served.models.model, served.models.model).rank_options()
    record = served.models.model / "record.json"
    record.write_text("{}")
    with pytest.raises(DataError, match="does not say its fingerprint"):
        served.models.fingerprint()
    with pytest.raises(DataError, match=r"does not say its data\.notes\.rows"):
        served.models.trained_notes()


def test_two_decisions_of_one_moment_are_both_kept(served):
    options = replace(QUICK, users=5_000, least_users=5_000)
    files = {renewal(served).renew(options).file for _ in range(2)}
    assert len(files) == 2
    assert all(not read_json(file)["takes_over"] for file in files)


def test_a_half_removed_training_is_removed_by_the_next_renewal(served, monkeypatch):
    run = served.work / "model.run"
    run.mkdir(parents=True)
    for name in ("a.log", "started.json", "z.log"):
        (run / name).write_text("{}")
    unlink, left = type(run).unlink, 2

    def killed_later(self, **options):
        nonlocal left
        if self.parent == run:
            left -= 1
            if left == 0:
                raise KilledError
        unlink(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(run), "unlink", killed_later)
        with pytest.raises(KilledError):
            WorkFolder(served.work).clear()
    assert len(list(run.iterdir())) == 2
    WorkFolder(served.work).clear()
    assert not run.exists()
    shutil.rmtree(served.work)


def test_a_model_that_was_replaced_meanwhile_stays(served, tmp_path, monkeypatch):
    given, other = candidate(served, tmp_path / "given"), candidate(served, tmp_path / "other", useless=True)

    def meanwhile(*arguments, **options):
        figures = compare(*arguments, **options)
        shutil.rmtree(served.models.model)
        shutil.copytree(other.model, served.models.model)
        return figures

    monkeypatch.setattr(module, "compare", meanwhile)
    decision = renewal(served).renew(QUICK, candidate=given).decision
    assert not decision.takes_over
    assert "was replaced meanwhile" in decision.reasons[0]
    assert served.models.identity("model") == other.identity("model")


def test_hidden_notes_are_not_taken_for_lost_ones(served, monkeypatch):
    store = NoteStore.open(served.store, served.models.fingerprint())
    store.hide(store.read(["note_id"])["note_id"].to_pylist()[::3])
    store.close()
    monkeypatch.setattr(module, "train_model", killed)
    with pytest.raises(KilledError):
        renewal(served).renew(QUICK)


def test_a_ranker_goes_back_with_its_model(served, tmp_path):
    given = Models(tmp_path / "model", tmp_path / "ranker")
    for kind, path in served.models.all().items():
        shutil.copytree(path, given.all()[kind])
    assert renewal(served, ranked=True).renew(QUICK, candidate=given).decision.takes_over
    with pytest.raises(ConfigError, match="name it with --ranker"):
        renewal(served).back()
    renewal(served, ranked=True).back()
