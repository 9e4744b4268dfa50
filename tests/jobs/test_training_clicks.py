"""What training learns from a log: likes are clicks, disliked notes are not enjoyed, unknown ones no rows."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from notellm.data.impressions import impressions_from_clicks
from notellm.data.problems import Report
from notellm.data.schema import CLICKS
from notellm.files import write_parquet
from notellm.jobs import training_clicks as module
from notellm.jobs.training_clicks import training_clicks
from notellm.store.clicks import CLICK_LOG

START = datetime(2026, 1, 1, tzinfo=UTC)
NOTES = pa.chunked_array([["n1", "n2", "n3"]])


def log_of(*said):
    """A log of users, notes and events, a minute apart, or at the minutes that are given."""
    rows = [
        {
            "click_id": f"c{i}",
            "user_id": user_id,
            "note_id": note_id,
            "timestamp": START + timedelta(minutes=minute[0] if minute else i),
            "event": event,
            "request_id": "",
        }
        for i, (user_id, note_id, event, *minute) in enumerate(said)
    ]
    return pa.Table.from_pylist(rows, schema=CLICK_LOG)


@pytest.fixture
def learnt(tmp_path):
    """Return user, note and event of the clicks for training, and the report by problem."""

    def learn(*said):
        path = tmp_path / "events.parquet"
        path.unlink(missing_ok=True)
        write_parquet(log_of(*said), path)
        report = Report()
        pieces = list(training_clicks(path, NOTES, report))
        rows = pa.concat_tables([CLICKS.empty_table(), *pieces])
        kept = [(row["user_id"], row["note_id"], row["event"]) for row in rows.to_pylist()]
        return kept, {each.problem: (each.count, each.example, each.action) for each in report.problems}

    return learn


def test_views_and_clicks_stay_and_likes_are_clicks(learnt):
    kept, report = learnt(("u1", "n1", "view"), ("u1", "n1", "click"), ("u2", "n2", "like"))
    assert kept == [("u1", "n1", "view"), ("u1", "n1", "click"), ("u2", "n2", "click")]
    assert report == {"like": (1, "user_id u2, note_id n2", "counts as a click")}


def test_all_that_a_user_did_with_a_disliked_note_is_a_view(learnt):
    kept, report = learnt(
        *(("u1", "n1", event) for event in ("view", "click", "like", "dislike", "click")),
        ("u1", "n2", "click"),
        ("u2", "n1", "click"),
    )
    assert kept == [*[("u1", "n1", "view")] * 5, ("u1", "n2", "click"), ("u2", "n1", "click")]
    problem = "note that the user dislikes"
    assert report == {problem: (4, "user_id u1, note_id n1, event click", "counts as a view")}


def test_the_last_word_counts(learnt):
    kept, _ = learnt(("u1", "n2", "view"), ("u1", "n1", "dislike"), ("u1", "n1", "like"))
    assert kept == [("u1", "n2", "view"), ("u1", "n1", "view"), ("u1", "n1", "click")]


def test_without_views_a_disliked_note_is_left_out_so_that_training_still_draws(learnt):
    said = [(f"u{i}", f"n{1 + (i + j) % 3}", "click") for i in range(9) for j in range(2)]
    kept, report = learnt(*said, ("u0", "n1", "dislike"))
    assert ("u0", "n1", "click") not in kept
    assert len(kept) == len(said) - 1
    assert report["note that the user dislikes"][::2] == (2, "left out, since the log has no views")
    columns = dict(zip(("user_id", "note_id", "event"), zip(*kept, strict=True), strict=True))
    times = [START + timedelta(minutes=i) for i in range(len(kept))]
    labels = impressions_from_clicks(
        pa.table({**columns, "timestamp": times}).select(CLICKS.names).cast(CLICKS)
    )
    assert labels["label"].to_pylist().count(False) > 1  # drawn ones, not the disliked note alone


def test_unknown_notes_are_left_out_with_an_example(learnt):
    kept, report = learnt(("u1", "gone", "click"), ("u1", "n1", "click"), ("u2", "gone", "like"))
    assert kept == [("u1", "n1", "click")]
    assert report["click on an unknown note"][:2] == (2, "user_id u1, note_id gone")
    assert "like" not in report


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_a_row_that_equals_an_earlier_one_is_left_out(learnt, monkeypatch, batch):
    monkeypatch.setattr(module, "_BATCH", batch)
    kept, report = learnt(
        ("u1", "n1", "click", 0),
        ("u1", "n2", "click", 1),
        ("u1", "n1", "click", 1),
        ("u1", "n2", "like", 1),  # a click at the same time
        ("u1", "n2", "view", 1),
        ("u1", "n2", "click", 2),
    )
    assert kept == [
        ("u1", "n1", "click"),
        ("u1", "n2", "click"),
        ("u1", "n1", "click"),
        ("u1", "n2", "view"),
        ("u1", "n2", "click"),
    ]
    assert report["click twice"][0] == 1


def test_an_empty_log_is_empty(learnt):
    assert learnt() == ([], {})
