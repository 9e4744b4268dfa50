"""The newest decision of a renewal is read from where, and as, a renewal writes it."""

from dataclasses import replace

import pytest

from notellm.engine.renewals import Renewals
from notellm.evaluate.bootstrap import Interval
from notellm.renew.comparison import Figures
from notellm.renew.decision import Decision, stays
from notellm.renew.models import Models
from notellm.renew.work import WorkFolder


def decide(folder, decision, at):
    """Write a decision as a renewal does."""
    work = WorkFolder(Models(folder / "model", None).beside(".renewal").model)
    work.path.mkdir(exist_ok=True)
    work.begin({"store": "store"})
    work.decide(decision, {"at": at})
    return work.finish(decision)


@pytest.fixture
def decision():
    each = Interval(0.25, 0.2, 0.3)
    figures = Figures({"NDCG@20": each}, {"NDCG@20": replace(each, mean=0.5)}, {"NDCG@20": each})
    return Decision(True, ["not worse"], {"recall": figures})


def test_without_a_renewal_there_is_none(tmp_path):
    assert Renewals(tmp_path / "model").newest() is None


def test_the_newest_decision_is_told(tmp_path, decision):
    renewals = Renewals(tmp_path / "model")
    decide(tmp_path, decision, "2026-11-29T04:00:00+00:00")
    found = renewals.newest()
    assert found is not None
    assert (found.took_over, found.reasons, found.at.isoformat()) == (
        True,
        ["not worse"],
        "2026-11-29T04:00:00+00:00",
    )
    assert found.figures == {"recall": {"NDCG@20": {"serving": 0.25, "renewed": 0.5, "difference": 0.25}}}
    decide(tmp_path, stays("too few users"), "2026-11-30T04:00:00+00:00")
    later = renewals.newest()
    assert later is not None
    assert (later.took_over, later.reasons, later.figures) == (False, ["too few users"], {})


def test_a_file_is_read_once(tmp_path, decision, monkeypatch):
    decide(tmp_path, decision, "2026-11-29T04:00:00+00:00")
    renewals = Renewals(tmp_path / "model")
    first = renewals.newest()
    monkeypatch.setattr("notellm.engine.renewals.read_json", None)
    assert renewals.newest() is first is not None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"at": "soon", "takes_over": true, "reasons": [], "figures": {}}']
)
def test_a_decision_that_cannot_be_read_is_logged_once(tmp_path, decision, caplog, text):
    kept = decide(tmp_path, decision, "2026-11-29T04:00:00+00:00")
    kept.write_text(text)
    renewals = Renewals(tmp_path / "model")
    assert (renewals.newest(), renewals.newest()) == (None, None)
    assert caplog.text.count("cannot be read") == 1
