"""A user who is forgotten while a renewal runs is not known afterwards."""

import shutil
from datetime import UTC, datetime

from notellm.jobs.export_store import export_store
from notellm.rank.scorer import Ranker
from notellm.record import read_record
from notellm.renew import run as module
from notellm.renew.comparison import compare
from notellm.renew.forgotten import forget_users, forgotten_since
from notellm.renew.models import Models
from notellm.store.clicks import Click, ClickLog
from tests.renew.conftest import QUICK, renewal


def known_user(served) -> str:
    """A user with a history in the ranker and clicks in the log."""
    users = set(ClickLog.for_reading(served.store).read()["user_id"].to_pylist())
    return next(user for user in Ranker.from_pretrained(served.models.ranker).histories if user in users)


def forget(served, user):
    log = ClickLog.open(served.store, max_age=None)
    log.forget(user)
    log.close()


def test_forgotten_users_are_those_whose_clicks_have_gone_even_if_they_come_back(served, tmp_path):
    user = known_user(served)
    export_store(served.store, tmp_path / "snapshot", progress=False)
    assert forgotten_since(tmp_path / "snapshot", str(served.store)) == set()
    forget(served, user)
    assert forgotten_since(tmp_path / "snapshot", str(served.store)) == {user}
    log = ClickLog.open(served.store)
    log.append([Click(user, "n1", timestamp=datetime.now(UTC))])
    log.close()
    assert forgotten_since(tmp_path / "snapshot", str(served.store)) == {user}


def test_a_ranker_without_a_user_is_that_of_an_unknown_one_and_otherwise_the_same(served):
    path, user = served.models.ranker, known_user(served)
    before, record = Ranker.from_pretrained(path), read_record(path)
    notes = before.table["note_id"].to_pylist()[:5]
    other = next(each for each in before.histories if each != user)
    assert forget_users(path, {user, "nobody"}) == 1
    after = Ranker.from_pretrained(path)
    assert before.knows(user)
    assert not after.knows(user)
    assert (after.rank(user, notes).scores == before.rank("somebody else", notes).scores).all()
    assert (after.rank(other, notes).scores == before.rank(other, notes).scores).all()
    assert read_record(path) == record
    written = b"".join(file.read_bytes() for file in path.rglob("*") if file.suffix in (".json", ".md"))
    assert f'"{user}"'.encode() not in written
    assert forget_users(path, {user}) == 0


def test_who_is_forgotten_while_models_are_compared_is_unknown_to_the_new_ranker(
    served, tmp_path, monkeypatch
):
    user = known_user(served)
    given = Models(tmp_path / "model", tmp_path / "ranker")
    for kind, path in served.models.all().items():
        shutil.copytree(path, given.all()[kind])

    def meanwhile(*arguments, **options):
        forget(served, user)
        return compare(*arguments, **options)

    monkeypatch.setattr(module, "compare", meanwhile)
    said: list[str] = []
    decision = renewal(served, ranked=True, say=said.append).renew(QUICK, candidate=given).decision
    assert decision.takes_over, decision.reasons
    assert not Ranker.from_pretrained(served.models.ranker).knows(user)
    assert "      forgotten meanwhile, and not in the new ranker: 1 users" in said
