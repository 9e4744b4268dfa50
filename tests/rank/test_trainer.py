"""Tuning: the loss is the formula, a kill changes nothing, and the best checkpoint is kept."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from notellm.errors import ConfigError, DataError
from notellm.rank.batch import RankCollator, RankRows
from notellm.rank.trainer import KEYS, BinLLMTrainer, BinLLMTrainingArguments
from tests.rank.small import random_codes, ranking_model, rows_of


@pytest.fixture(scope="module")
def codes(notes):
    return random_codes(notes.column("note_id").to_pylist())


@pytest.fixture(params=["tiny", "qwen2"])
def start(request, checkpoints, notes, codes, tmp_path):
    """A new model, training rows, validation rows."""
    model = ranking_model(request.param, checkpoints, notes, tmp_path)
    return model, rows_of(model, notes, codes, 48, 1), rows_of(model, notes, codes, 40, 2)


@pytest.fixture
def tiny_start(checkpoints, notes, codes, tmp_path):
    model = ranking_model("tiny", checkpoints, notes, tmp_path)
    return model, rows_of(model, notes, codes, 48, 1), rows_of(model, notes, codes, 40, 2)


def arguments(folder, **options):
    return BinLLMTrainingArguments(
        output_dir=str(folder),
        **{
            "per_device_train_batch_size": 8,
            "max_steps": 8,
            "learning_rate": 1e-3,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            **options,
        },
    )


STEPS = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def test_the_loss_is_the_formula(start, tmp_path):
    model, train, _ = start
    trainer = BinLLMTrainer(model, arguments(tmp_path), train=train)
    batch = RankCollator(model.tokenizer)([train[i] for i in range(20)])
    model.eval()
    with torch.no_grad():
        loss, logits = trainer.compute_loss(model, batch, return_outputs=True)
        z = model(*(batch[key] for key in KEYS)).double().tolist()
    np.testing.assert_allclose(logits, z, rtol=1e-6)
    terms = [-math.log(1 / (1 + math.exp(-x if y else x))) for x, y in zip(z, train.labels[:20], strict=True)]
    assert len(set(train.labels[:20].tolist())) == 2
    assert float(loss) == pytest.approx(sum(terms) / 20, rel=1e-5)


def test_resumed_is_uninterrupted(start, tmp_path):
    model, train, valid = start
    first = weights_of(model)
    BinLLMTrainer(model, arguments(tmp_path / "whole", **STEPS), train=train, valid=valid).train()
    whole = weights_of(model)
    assert any(not torch.equal(first[name], whole[name]) for name in whole)
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    model.load_state_dict(first)
    trainer = BinLLMTrainer(model, arguments(tmp_path / "more", **STEPS), train=train, valid=valid)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    resumed = weights_of(model)
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=1e-6)


def test_one_seed_gives_one_result(tiny_start, tmp_path):
    model, train, _ = tiny_start
    first, results = weights_of(model), []
    for seed in (1, 1, 2):
        model.load_state_dict(first)
        BinLLMTrainer(model, arguments(tmp_path, seed=seed, max_steps=3), train=train).train()
        results.append(weights_of(model))
    one, same, other = results
    assert all(torch.equal(weight, same[name]) for name, weight in one.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in one.items())


def test_the_best_checkpoint_is_kept_and_patience_ends_the_run(tiny_start, tmp_path):
    """At a ruinous rate the AUC falls from the first measurement on, or soon after."""
    model, train, valid = tiny_start
    options = STEPS | {"save_steps": 1, "eval_steps": 1, "save_total_limit": None}
    trainer = BinLLMTrainer(
        model,
        arguments(
            tmp_path, **options, max_steps=40, learning_rate=0.3, patience=3, load_best_model_at_end=True
        ),
        train=train,
        valid=valid,
    )
    trainer.train()
    aucs = [entry["eval_auc"] for entry in trainer.state.log_history if "eval_auc" in entry]
    assert len(aucs) < 40
    best = int(np.argmax(aucs))
    assert len(aucs) == best + 1 + 3
    assert len(set(aucs)) > 1
    kept = roc_auc_score(valid.labels, model.predict(valid.ids))
    assert kept == pytest.approx(aucs[best], abs=1e-6)
    assert trainer.evaluate()["eval_auc"] == kept


def test_embeddings_have_their_own_rate(tiny_start, tmp_path):
    model, train, _ = tiny_start
    trainer = BinLLMTrainer(model, arguments(tmp_path, embedding_learning_rate=0.0), train=train)
    groups = trainer.create_optimizer().param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    table = model.backbone.get_input_embeddings().weight
    assert [g["lr"] for g in groups if any(p is table for p in g["params"])] == [0.0]
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
    before = table.detach().clone()
    trainer.train()
    assert torch.equal(table, before)


def test_rows_of_one_label_are_refused(tiny_start, tmp_path):
    model, train, _ = tiny_start
    same = RankRows(train.ids, np.ones(len(train), np.float32))
    with pytest.raises(DataError, match="the training rows have one label only"):
        BinLLMTrainer(model, arguments(tmp_path), train=same)
    with pytest.raises(DataError, match="the validation rows have one label only"):
        BinLLMTrainer(model, arguments(tmp_path), train=train, valid=same)
    with pytest.raises(DataError, match="the training rows have one label only"):
        BinLLMTrainer(model, arguments(tmp_path), train=RankRows([], np.empty(0, np.float32)))
    with pytest.raises(ConfigError, match="patience needs validation rows"):
        BinLLMTrainer(model, arguments(tmp_path, patience=2), train=train)
    with pytest.raises(ConfigError, match="no validation rows"):
        BinLLMTrainer(model, arguments(tmp_path), train=train).evaluate()
