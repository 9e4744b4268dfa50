"""Training: chunks, processes, kills and seeds change nothing; related notes come closer."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from notellm.backbone.trainer import last_checkpoint, load_trained
from notellm.data.schema import NOTES, PAIRS
from notellm.errors import ConfigError, DataError, StorageError
from notellm.recall.learnt import TASKS
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import IGNORED
from notellm.recall.trainer import NoteLLMTrainer, NoteLLMTrainingArguments, Validation, validation_metrics
from tests.conftest import SMALL, Checkpoint, fresh
from tests.recall import jobs
from tests.recall.test_losses import gcl_by_hand

ROOT = Path(__file__).parents[2]
Make = Callable[..., Any]  # a NoteLLMTrainer, whose model is ours


@pytest.fixture(scope="module")
def saved(checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("start") / "model"
    fresh("llama", checkpoints, notes).save_pretrained(path)
    return path


@pytest.fixture
def make(saved: Path, tmp_path: Path, notes: pa.Table, pairs: pa.Table) -> Make:
    """A trainer of one of the named cases of ``jobs``."""
    return lambda name, **more: jobs.case(saved, tmp_path, notes, pairs, name, **more)


def first_step(trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first batch, dropout drawn from a fixed seed."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.current_gradient_accumulation_steps = 1
    torch.manual_seed(1)
    loss = trainer.training_step(trainer.model, batch)
    return float(loss), {k: w.grad for k, w in trainer.model.named_parameters() if w.grad is not None}


def assert_close(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 1e-5
) -> None:
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=tolerance)


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("corrected", [False, True])
def test_the_joint_loss_is_the_formulas(make: Make, notes: pa.Table, pairs: pa.Table, corrected: bool):
    """Vectors from the model; everything after them in plain Python."""
    trainer = make("plain", sampling_correction=corrected)
    batch = next(iter(trainer.get_train_dataloader()))
    model = trainer.model.eval()
    with torch.no_grad():
        loss = float(trainer.compute_loss(model, batch))
        vectors = (
            model(batch["input_ids"], batch["attention_mask"], batch["position"]).vectors.double().tolist()
        )
        generation = float(
            model.backbone(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
            ).loss
        )
    ids, partner = batch["note"].tolist(), batch["partner"].tolist()
    rows = notes.select(["title", "content", "topics"]).to_pylist()
    edges = {(int(p["source"][1:]), int(p["target"][1:])) for p in pairs.to_pylist()}
    edges |= {(b, a) for a, b in edges}
    excluded: list[set[int]] = []
    for i, note in enumerate(ids):
        p = ids[partner[i]]
        excluded.append(
            {
                j
                for j, other in enumerate(ids)
                if j not in {i, partner[i]}
                and (other in {note, p} or rows[other] in (rows[note], rows[p]) or (note, other) in edges)
            }
        )
    assert sum(len(some) for some in excluded) > 3
    uses = [sum((p["source"] == f"n{i}") + (p["target"] == f"n{i}") for p in pairs.to_pylist()) for i in ids]
    offset = np.log(uses).tolist() if corrected else None
    contrastive = gcl_by_hand(vectors, partner, excluded, 3.0, offset)
    assert generation > 0.1
    assert loss == pytest.approx((contrastive + 0.5 * generation) / 1.5, rel=1e-5)


def test_with_the_papers_negatives_every_other_note_of_the_batch_is_one(make: Make):
    trainer = make("contrastive", mask_false_negatives=False, sampling_correction=False)
    masked = make("contrastive", sampling_correction=False)
    batch = next(iter(trainer.get_train_dataloader()))
    model = trainer.model.eval()
    masked.model.eval()
    with torch.no_grad():
        loss = float(trainer.compute_loss(model, batch))
        without = float(masked.compute_loss(masked.model, batch))
        vectors = (
            model(batch["input_ids"], batch["attention_mask"], batch["position"]).vectors.double().tolist()
        )
    by_hand = gcl_by_hand(vectors, batch["partner"].tolist(), [set()] * len(vectors), 3.0)
    assert loss == pytest.approx(by_hand, rel=1e-5)
    assert loss > without + 1e-3  # false negatives were in the batch, and only add to the sum below


def test_gradient_caching_knows_the_papers_negatives_too(make: Make):
    plain, gradients = first_step(make("plain", mask_false_negatives=False))
    chunked, theirs = first_step(make("plain", mask_false_negatives=False, chunk_notes=3))
    assert plain == pytest.approx(chunked, rel=1e-5)
    assert plain != pytest.approx(first_step(make("plain"))[0], rel=1e-3)
    assert_close(gradients, theirs)


@pytest.mark.parametrize("more", [{}, {"chunk_notes": 3}, {"tau": 1.5}])
def test_a_fixed_tau_stays_while_other_weights_learn(make: Make, more: dict[str, Any]):
    trainer = make("plain", learn_tau=False, **more)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    assert float(before["tau"]) == more.get("tau", 3.0)
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert torch.equal(after["tau"], before["tau"])
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert {"projection.weight", "projection.bias"} < moved
    assert after["tau"].requires_grad  # a later training may learn it


def test_a_fixed_tau_changes_no_gradient_of_the_others(make: Make):
    loss, gradients = first_step(make("plain", learn_tau=False))
    with_tau, theirs = first_step(make("plain"))
    assert loss == with_tau
    assert set(theirs) - set(gradients) == {"tau"}
    assert_close(gradients, {name: theirs[name] for name in gradients})


def test_both_losses_and_tau_are_logged(make: Make):
    trainer = make("plain")
    trainer.train()
    (first, *_) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert first["loss"] == pytest.approx((first["contrastive"] + 0.5 * first["generation"]) / 1.5, rel=1e-4)
    assert first["tau"] != 3.0


# ---------------------------------------------------------------- gradient caching


@pytest.mark.parametrize("name", ["plain", "contrastive", "generation", "lora"])
@pytest.mark.parametrize("chunk", [3, 100])
def test_gradient_caching_changes_neither_loss_nor_gradient(make: Make, name: str, chunk: int):
    plain, gradients = first_step(make(name))
    chunked, theirs = first_step(make(name, chunk_notes=chunk))
    assert plain == pytest.approx(chunked, rel=1e-5)
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-3
    assert_close(gradients, theirs)


def test_with_dropout_the_cached_gradient_is_that_of_the_same_draw(make: Make):
    """Against the chunks done with graph, all at once."""
    trainer = make("dropout", chunk_notes=3)
    loss, gradients = first_step(trainer)
    other = make("dropout")
    batch = other._prepare_inputs(next(iter(other.get_train_dataloader())))
    torch.manual_seed(1)
    other.model.train()
    keys = ("input_ids", "attention_mask", "position", "labels")
    first = [other.model(*(batch[k][i : i + 3] for k in keys[:3])).vectors for i in range(0, 16, 3)]
    assert not torch.equal(first[0], other.model(*(batch[k][:3] for k in keys[:3])).vectors)  # dropout is on
    torch.manual_seed(1)
    outputs = [other.model(*(batch[k][i : i + 3] for k in keys)) for i in range(0, 16, 3)]
    contrastive = other._contrastive(torch.cat([o.vectors for o in outputs]), outputs[0].tau, batch)
    generation = sum(o.generation_sum for o in outputs) / (batch["labels"] != IGNORED).sum()
    wanted = (contrastive + 0.5 * generation) / 1.5
    wanted.backward()
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert_close(gradients, {k: w.grad for k, w in other.model.named_parameters() if w.grad is not None})


@pytest.mark.parametrize("name", ["plain", "chunks", "lora"])
def test_activation_checkpointing_changes_nothing(make: Make, name: str):
    plain, saving = make(name), make(name, activation_checkpointing=True)
    plain.train()
    saving.train()
    assert saving.model.backbone.is_activation_checkpointing
    assert jobs.losses(plain) == pytest.approx(jobs.losses(saving), rel=1e-5)
    assert_close(jobs.trained(plain.model), jobs.trained(saving.model))


def test_accumulated_batches(make: Make):
    plain, chunked = make("plain", gradient_accumulation_steps=2), make("accumulated")
    plain.train()
    chunked.train()
    assert jobs.losses(plain) == pytest.approx(jobs.losses(chunked), rel=1e-4)
    assert_close(jobs.trained(plain.model), jobs.trained(chunked.model))


# ---------------------------------------------------------------- processes and kills


@pytest.fixture(scope="module")
def data(notes: pa.Table, pairs: pa.Table, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("data")
    pq.write_table(notes, folder / "notes.parquet")
    pq.write_table(pairs, folder / "pairs.parquet")
    return folder


def start(job: str, *paths: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.recall.jobs", job, *map(str, paths)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def two_processes(saved: Path, data: Path, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        start("distributed", saved, folder, data, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")
    ]
    output = [process.communicate(timeout=200)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], output[0][-3000:] + output[1][-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", jobs.COMPARABLE)
def test_two_processes_do_what_one_does(make: Make, two_processes: Path, name: str):
    trainer = make(name)
    before = jobs.trained(trainer.model)
    trainer.train()
    after = jobs.trained(trainer.model)
    moved = {k for k in after if not torch.equal(before[k], after[k])}
    assert "projection.weight" in moved or name == "generation"
    first, second = (load_file(two_processes / f"{name}-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert_close(after, first, tolerance=2e-5)
    assert jobs.losses(trainer) == pytest.approx(
        json.loads((two_processes / f"{name}-0.json").read_text()), rel=1e-4
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    saved: Path, data: Path, notes: pa.Table, pairs: pa.Table, tmp_path: Path
):
    process = start("killed", saved, tmp_path / "killed", data)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == -signal.SIGKILL, output[-3000:]
    half = tmp_path / "killed" / "checkpoint-6"
    assert (half / "model.safetensors").is_file()
    assert last_checkpoint(tmp_path / "killed") == tmp_path / "killed" / "checkpoint-4"
    assert not half.exists()

    def run(folder: str) -> Any:
        model = jobs.load(saved, jobs.CASES["dropout"]["lora"])
        return NoteLLMTrainer(
            model, jobs.arguments(tmp_path / folder, **jobs.RESUME), notes=notes, pairs=pairs
        )

    whole = run("whole")
    whole.train()
    resumed = run("killed")
    checkpoint = load_file(tmp_path / "killed" / "checkpoint-4" / "model.safetensors")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-4"))
    ours, theirs = jobs.trained(resumed.model), jobs.trained(whole.model)
    assert resumed.state.global_step == whole.state.global_step == 7
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    assert any(not torch.equal(weight, theirs[name]) for name, weight in checkpoint.items())
    assert set(checkpoint) == set(ours)  # with LoRA only what is trained is in a checkpoint
    assert all("lora_" in name or "backbone" not in name for name in checkpoint)
    assert 0 < len(checkpoint) < len(dict(whole.model.named_parameters()))


def test_one_seed_one_result(make: Make):
    results = []
    for seed in (3, 3, 4):
        trainer = make("dropout", seed=seed)
        trainer.train()
        results.append(jobs.trained(trainer.model))
    one, two, other = results
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------- checkpoints


def test_incomplete_checkpoints_are_ignored(tmp_path: Path):
    assert last_checkpoint(tmp_path) is None
    for step, state in (
        (9, None),
        (100, '{"global_step": 100}'),
        (20, '{"global_step": 20}'),
        (200, '{"global_'),
    ):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-20"]


def test_a_checkpoint_of_another_model_is_refused(make: Make, saved: Path, tmp_path: Path):
    trainer = make("lora")
    trainer.save_model(str(tmp_path / "weights"))
    with pytest.raises(ConfigError, match="belongs to another model"):
        load_trained(jobs.load(saved), tmp_path / "weights")
    with pytest.raises(StorageError, match=r"has no readable model\.safetensors"):
        load_trained(trainer.model, tmp_path)
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(StorageError, match=r"has no readable model\.safetensors"):
        load_trained(trainer.model, tmp_path / "weights")


# ---------------------------------------------------------------- learning


def complements(count: int, seed: int, prefix: str) -> tuple[pa.Table, pa.Table]:
    """Notes of six concepts without a common word; who clicks on concept 2c also clicks on 2c + 1."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = rng.choice([f"c{i % 6}{letter}word" for letter in "abcdefgh"], 4, replace=False)
        rows.append(
            {
                "note_id": f"{prefix}{i}",
                "title": " ".join(words[:2]),
                "content": " ".join(words[2:]),
                "topics": [str(words[0])],
                "category": f"group {i % 6 // 2}",
                "published_at": None,
            }
        )
    links: list[dict[str, Any]] = []
    for i in range(0, count - 5, 2):
        others = rng.choice([j for j in range(count) if j % 6 == i % 6 + 1], 4, replace=False)
        links += [
            {"source": f"{prefix}{i}", "target": f"{prefix}{j}", "score": 1.0, "users": 5} for j in others
        ]
    return pa.Table.from_pylist(rows, schema=NOTES), pa.Table.from_pylist(links, schema=PAIRS)


@pytest.fixture(scope="module")
def learning(tmp_path_factory) -> tuple[NoteLLMTrainer, dict[str, float], Validation]:
    """A tiny model trained on concepts that only clicks connect; validated on notes it never saw."""
    notes, pairs = complements(120, 0, "train")
    validation = Validation(*complements(90, 1, "held"))
    model = NoteLLM.from_corpus(notes, tiny=SMALL, dim=16)
    before = validation_metrics(model, validation)
    args = jobs.arguments(
        tmp_path_factory.mktemp("learning"),
        optim="adamw_torch",
        learning_rate=5e-3,
        max_steps=60,
        per_device_train_batch_size=16,
        eval_strategy="steps",
        eval_steps=20,
        save_strategy="steps",
        save_steps=20,
        load_best_model_at_end=True,
        metric_for_best_model="recall@10",
        greater_is_better=True,
    )
    trainer = NoteLLMTrainer(model, args, notes=notes, pairs=pairs, validation=validation)
    trainer.train()
    return trainer, before, validation


def test_training_lowers_the_loss_and_brings_related_notes_closer(learning):
    trainer, before, validation = learning
    history = jobs.losses(trainer)
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:5])
    after = validation_metrics(trainer.model, validation)
    assert before["recall@10"] < 0.1
    assert after["recall@10"] > before["recall@10"] + 0.15
    assert after["mrr"] > before["mrr"]


def test_the_best_checkpoint_is_loaded_at_the_end(learning):
    trainer, _, validation = learning
    measured = {e["step"]: e["eval_recall@10"] for e in trainer.state.log_history if "eval_recall@10" in e}
    assert set(measured) == {20, 40, 60}
    best = max(measured.values())
    assert trainer.state.best_metric == best
    assert validation_metrics(trainer.model, validation)["recall@10"] == best
    weights = load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    assert all(torch.equal(weights[name], w) for name, w in trainer.model.named_parameters())


def test_a_worse_model_gives_way_to_the_best_checkpoint(learning):
    trainer, _, _ = learning
    with torch.no_grad():
        trainer.model.projection.weight.zero_()
    trainer._load_best_model()
    assert float(trainer.model.projection.weight.detach().abs().max()) > 0


def test_it_learns_to_write_the_category_too(learning):
    notes, _ = complements(90, 1, "held")
    model = NoteLLM.from_corpus(complements(120, 0, "train")[0], tiny=SMALL, dim=16)
    trainer = NoteLLMTrainer(
        model,
        jobs.arguments(
            Path(learning[0].args.output_dir) / "generation",
            optim="adamw_torch",
            learning_rate=1e-2,
            max_steps=60,
            per_device_train_batch_size=16,
            topic_share=0.2,
        ),
        notes=complements(120, 0, "train")[0],
        pairs=None,
    )
    trainer.train()
    history = jobs.losses(trainer)
    assert history[-1] < 0.5 * history[0]
    found = model.categorize(notes, categories=["group 0", "group 1", "group 2"])
    assert np.mean([a == b for a, b in zip(found, notes.column("category").to_pylist(), strict=True)]) > 0.8


# ---------------------------------------------------------------- the output head alone


def train_head(model: NoteLLM, notes: pa.Table, folder: Path, **options: Any) -> NoteLLMTrainer:
    args = jobs.arguments(
        folder, optim="adamw_torch", max_steps=40, only_head=True, weight_decay=0.3, seed=1, **options
    )
    args.learning_rate = 1e-2
    trainer = NoteLLMTrainer(model, args, notes=notes, pairs=None)
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", ["tiny", "llama", "neox"])
def test_training_the_head_alone_changes_no_vector(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path, name: str
):
    model = fresh(name, checkpoints, notes)
    before = model.encode(notes)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    history = jobs.losses(train_head(model, notes, tmp_path))
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:5])
    np.testing.assert_array_equal(model.encode(notes), before)
    after = model.state_dict()
    changed = {key for key, value in weights.items() if not torch.equal(value, after[key])}
    head = model.backbone.get_output_embeddings()
    assert len(changed) == 1
    assert after[changed.pop()].data_ptr() == head.weight.data_ptr()
    assert model.learnt == frozenset(TASKS)


def test_a_model_whose_head_was_trained_alone_can_be_trained_whole(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, pairs: pa.Table, tmp_path: Path
):
    model = fresh("tiny", checkpoints, notes)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    train_head(model, notes, tmp_path / "head")
    NoteLLMTrainer(model, jobs.arguments(tmp_path / "whole"), notes=notes, pairs=pairs)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == trainable


def test_a_tied_head_cannot_be_trained_alone(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path
):
    model = fresh("qwen2", checkpoints, notes)
    with pytest.raises(ConfigError, match="tied to the token embeddings"):
        train_head(model, notes, tmp_path)
    assert all(weight.requires_grad for name, weight in model.named_parameters() if "backbone" in name)


# ---------------------------------------------------------------- options


def test_epochs_count_passes_over_the_pairs(make: Make, pairs: pa.Table):
    args = make("plain", max_steps=-1, num_train_epochs=2, per_device_train_batch_size=16).args
    assert args.max_steps == round(2 * len(pairs) / 16)


def test_arguments_can_be_used_again(saved: Path, notes: pa.Table, pairs: pa.Table, tmp_path: Path):
    args = jobs.arguments(tmp_path, max_steps=-1, num_train_epochs=1)
    long = NoteLLMTrainer(jobs.load(saved), args, notes=notes, pairs=pairs)
    short = NoteLLMTrainer(jobs.load(saved), args, notes=notes, pairs=pairs.slice(0, 24))
    assert long.args.max_steps == round(len(pairs) / 8)
    assert short.args.max_steps == 3


def test_a_process_that_sees_several_gpus_takes_one(
    saved: Path, notes: pa.Table, pairs: pa.Table, tmp_path: Path
):
    args = jobs.arguments(tmp_path, max_steps=-1, num_train_epochs=1)
    assert args.n_gpu == 0
    args._n_gpu = 4
    trainer = NoteLLMTrainer(jobs.load(saved), args, notes=notes, pairs=pairs)
    assert trainer.args.n_gpu == 1
    assert trainer.args.train_batch_size == args.per_device_train_batch_size
    assert trainer.args.max_steps == round(len(pairs) / args.per_device_train_batch_size)


def test_tau_may_start_elsewhere(make: Make):
    assert float(make("plain", tau=1.5).model.tau.detach()) == 1.5
    assert float(make("plain").model.tau.detach()) == 3.0


def test_without_pairs_a_learnt_tau_stays(make: Make):
    trainer = make("generation", tau=1.5)
    trainer.train()
    assert float(trainer.model.tau.detach()) == 3.0


def test_embeddings_and_projection_may_have_their_own_rates(make: Make):
    trainer = make("plain", embedding_learning_rate=0.7, head_learning_rate=0.3, weight_decay=0.2)
    model = trainer.model
    tables = [model.backbone.get_input_embeddings().weight]
    output = model.backbone.get_output_embeddings().weight
    heads = [model.projection.weight, model.projection.bias, model.tau, output]
    seen = 0
    for group in trainer.create_optimizer().param_groups:
        for parameter in group["params"]:
            own = (
                0.7
                if any(parameter is p for p in tables)
                else 0.3
                if any(parameter is p for p in heads)
                else 0.1
            )
            assert group["lr"] == own
            assert (group["weight_decay"] > 0) == (parameter.ndim > 1)
            seen += 1
    assert seen == len([p for p in model.parameters() if p.requires_grad]) > len(tables) + len(heads)
    rates = {group["lr"] for group in make("plain").create_optimizer().param_groups}
    assert rates == {0.1}


def test_every_wrong_argument_is_named(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        NoteLLMTrainingArguments(
            output_dir=str(tmp_path), alpha=-1, topic_share=2, chunk_notes=0, per_device_train_batch_size=1
        )
    for part in ("alpha is -1", "topic_share is 2", "chunk_notes is 0", "per_device_train_batch_size is 1"):
        assert part in str(caught.value)


def test_what_cannot_be_learnt_is_refused(saved: Path, notes: pa.Table, pairs: pa.Table, tmp_path: Path):
    def build(table: pa.Table, links: pa.Table | None, **options: Any) -> NoteLLMTrainer:
        return NoteLLMTrainer(jobs.load(saved), jobs.arguments(tmp_path, **options), notes=table, pairs=links)

    with pytest.raises(DataError, match="which is not in the notes table"):
        build(notes.slice(0, 10), pairs)
    with pytest.raises(DataError, match="no related pairs to train on"):
        build(notes, pairs.slice(0, 0))
    with pytest.raises(DataError, match="neither topics nor a category"):
        build(notes.select(["note_id", "title"]), None)
    with pytest.raises(DataError, match="alpha is 0"):
        build(notes, None, alpha=0.0)
    with pytest.raises(ConfigError, match="no validation notes"):
        build(notes, pairs).evaluate()
