"""What is shown while a model is trained."""

import pytest

from notellm.data.sample_world import sample_world
from notellm.jobs.train_recall import train_recall
from notellm.jobs.training_progress import line_of
from notellm.recall.config import RecallOptions


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        (
            {"loss": 2.71621, "learning_rate": 1e-3, "grad_norm": 5.8, "epoch": 0.3},
            "step 20 of 60: loss 2.716",
        ),
        (
            {"eval_recall@10": 0.123456, "eval_mrr": 0.05, "epoch": 1.0},
            "step 20 of 60: validation recall@10 0.1235, mrr 0.05",
        ),
        ({"train_runtime": 95.4, "train_loss": 0.4}, "trained 20 steps in 95 s"),
        ({"epoch": 1.0}, ""),
    ],
)
def test_an_entry_of_the_log_is_a_line_of_words(logs, line):
    assert line_of(logs, 20, 60) == line


@pytest.mark.slow
@pytest.mark.parametrize("progress", [True, False])
def test_a_training_shows_lines_and_no_dictionaries_or_nothing(tmp_path, capsys, progress):
    world = sample_world(notes=60, users=30, clicks=400, bots=0, seed=5)
    options = RecallOptions(max_steps=2, dim=16, batch_pairs=8)
    train_recall(world.notes, None, tmp_path / "model", options=options, progress=progress)
    shown = capsys.readouterr()
    assert "{" not in shown.out + shown.err
    assert ("trained 2 steps in" in shown.err) is progress
    assert shown.out == ""
