"""Training the upper layers on stored states of the lower ones is plain training with frozen lower layers."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from notellm.backbone.frozen import SplitModel
from notellm.backbone.load import LoraOptions, add_lora, load_backbone
from notellm.errors import ConfigError, ModelError, StorageError
from notellm.jobs.recall_model import build_recall_model
from notellm.jobs.train_recall import train_recall
from notellm.recall.config import NoteLLMConfig, RecallOptions
from notellm.recall.frozen_states import FOLDER, compute_states
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import EMB_TOKEN
from notellm.recall.trainer import NoteLLMTrainer
from tests.conftest import Checkpoint
from tests.recall.jobs import arguments, losses, trained

SHAPE: Any = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
Build = Callable[[str, bool], NoteLLM]


@pytest.fixture
def build(checkpoints: dict[str, Checkpoint]) -> Build:
    """A function that makes a Llama or a Gemma 3 of four layers, the same at every call."""

    def made(name: str, lora: bool) -> NoteLLM:
        torch.manual_seed(0)
        _, tokenizer = load_backbone(checkpoints["llama"].path, EMB_TOKEN)
        size = {**SHAPE, "vocab_size": len(tokenizer)}
        if name == "llama":
            backbone: Any = LlamaForCausalLM(LlamaConfig(**size))
        else:
            kinds = ["sliding_attention", "full_attention"] * 2
            backbone = Gemma3ForCausalLM(
                Gemma3TextConfig(**size, query_pre_attn_scalar=8, sliding_window=7, layer_types=kinds)
            )
        model = NoteLLM(backbone, tokenizer, NoteLLMConfig(dim=16, template="compact"))
        if lora:
            add_lora(backbone, LoraOptions(rank=4, dropout=0.0, last_layers=2))
            with torch.no_grad():
                for key, weight in model.named_parameters():
                    if "lora_B" in key:
                        weight.normal_(std=0.2)
        return model

    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{}, {"chunk_notes": 3}, {"pairs": False}], ids=["plain", "chunks", "single"]
)
@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_it_is_plain_training_with_the_same_layers_frozen(
    name: str,
    lora: bool,
    more: dict[str, Any],
    build: Build,
    notes: pa.Table,
    pairs: pa.Table,
    tmp_path: Path,
):
    options = dict(more)
    given = pairs if options.pop("pairs", True) else None
    found = []
    for stored in (True, False):
        model = build(name, lora)
        first = trained(model)
        options |= {"train_layers": 2, "learning_rate": 0.02}
        trainer: Any = NoteLLMTrainer(
            model, arguments(tmp_path / str(stored), **options), notes=notes, pairs=given
        )
        frozen = {key: w.clone() for key, w in model.named_parameters() if not w.requires_grad}
        assert any("layers.0" in key for key in frozen)
        assert any("embed_tokens" in key for key in frozen)
        if not stored:
            model.split = None  # the same sequences and frozen weights, but all layers at every step
        stream = trainer.train_dataset
        batch = trainer.data_collator([stream[k] for k in range(4)])
        assert "states" not in batch  # they are computed when the training begins
        trainer.train()
        assert (tmp_path / str(stored) / FOLDER).is_dir() == stored
        after = dict(model.named_parameters())
        assert all(torch.equal(after[key], weight) for key, weight in frozen.items())
        changed = {key: after[key].detach() - weight for key, weight in first.items() if key not in frozen}
        found.append((losses(trainer), changed))
    (ours, change), (theirs, wanted) = found
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    assert max(float(each.abs().max()) for each in wanted.values()) > 1e-3
    for key, each in wanted.items():
        scale = max(float(each.abs().max()), 1e-4)
        torch.testing.assert_close(change[key], each, rtol=0, atol=0.03 * scale, msg=key)


def test_each_note_has_one_sequence_for_each_task(
    build: Build, notes: pa.Table, pairs: pa.Table, tmp_path: Path
):
    trainer: Any = NoteLLMTrainer(
        build("llama", False),
        arguments(tmp_path, train_layers=1, topic_share=0.5, max_steps=20),
        notes=notes,
        pairs=pairs,
    )
    trainer._store_states(trainer.model, trainer.model.split)
    stream = trainer.train_dataset
    seen: dict[int, set[tuple[int, ...]]] = {}
    for k in range(100):
        batch = trainer.data_collator([stream[k], stream[k + 1]])
        assert batch["states"].shape == (*batch["input_ids"].shape, 32)
        for note, ids, mask in zip(batch["note"], batch["input_ids"], batch["attention_mask"], strict=True):
            seen.setdefault(int(note), set()).add(tuple(ids[mask.bool()].tolist()))
    topics = notes.column("topics").to_pylist()
    assert all(len(each) <= (2 if topics[note] else 1) for note, each in seen.items())
    assert any(len(each) == 2 for each in seen.values())


class Job(NamedTuple):
    """What states are computed of."""

    split: SplitModel
    model: NoteLLM
    sequences: list[list[int]]

    def run(self, folder: Path) -> Any:
        return compute_states(folder, self.split, self.model.tokenizer, self.sequences, progress=False)


@pytest.fixture
def job(build: Build, monkeypatch: pytest.MonkeyPatch) -> Job:
    """40 sequences of 3 to 22 tokens in batches of at most 60 tokens."""
    monkeypatch.setattr("notellm.backbone.batch.TOKENS_PER_BATCH", 60)
    model = build("gemma3", False)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(5, 90, 3 + i % 20).tolist() for i in range(40)]
    split = SplitModel(model.backbone, 2)
    split.freeze()
    return Job(split, model, sequences)


def test_stored_states_are_those_of_each_sequence_alone(job: Job, tmp_path: Path):
    states = job.run(tmp_path)
    job.model.eval()
    for chosen in ([0, 39, 17], [5]):
        read = states.read(chosen)
        assert read.dtype == torch.float16
        for each, number in zip(read, chosen, strict=True):
            ids = torch.tensor([job.sequences[number]])
            alone = job.split.lower(ids, torch.ones_like(ids))[0]
            torch.testing.assert_close(each[: len(alone)].float(), alone, rtol=2e-3, atol=1e-3)
            assert not each[len(alone) :].any()


@pytest.mark.parametrize("left", [0, 1, 5_000, 20_001])
def test_a_killed_pass_continues_to_the_same_file(
    left: int, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job.run(tmp_path / "whole")
    (whole,) = (tmp_path / "whole").glob("*.f16")
    cut = tmp_path / "cut" / whole.name
    cut.parent.mkdir()
    cut.write_bytes(whole.read_bytes()[:left])  # a kill leaves a beginning
    passes = []
    lower = SplitModel.lower

    def counted(self: SplitModel, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        return lower(self, input_ids, attention_mask)

    monkeypatch.setattr(SplitModel, "lower", counted)
    job.run(tmp_path / "cut")
    assert cut.read_bytes() == whole.read_bytes()
    resumed = len(passes)
    job.run(tmp_path / "cut")
    assert len(passes) == resumed  # nothing was left to do
    if left > 10_000:
        shutil.rmtree(tmp_path / "cut")
        job.run(tmp_path / "cut")
        assert resumed < len(passes) - resumed


def test_states_of_other_weights_or_sequences_are_not_used(job: Job, tmp_path: Path):
    job.run(tmp_path)
    (first,) = tmp_path.glob("*.f16")
    with torch.no_grad():
        next(job.model.backbone.parameters()).add_(1)
    job.run(tmp_path)
    (second,) = tmp_path.glob("*.f16")
    job.sequences[3][0] += 1
    job.run(tmp_path)
    (third,) = tmp_path.glob("*.f16")
    assert len({first, second, third}) == 3


def test_a_full_disk_and_large_states_are_clear_errors(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("notellm.recall.frozen_states.shutil.disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(StorageError, match=r"take 0\.00 GB, but .* has 0\.00 GB left; free disk space"):
            job.run(tmp_path)
    assert not list(tmp_path.glob("*.f16"))
    with torch.no_grad():
        next(job.model.backbone.parameters()).mul_(1e6)
    with pytest.raises(ModelError, match=r"after layer 2 is .*, which float16 .* does not hold"):
        job.run(tmp_path)


def options(checkpoints: dict[str, Checkpoint], **more: Any) -> RecallOptions:
    given: dict[str, Any] = {
        "backbone": str(checkpoints["llama"].path),
        "dim": 16,
        "template": "compact",
        "max_steps": 4,
        "batch_pairs": 4,
        "evaluations": 4,
        "train_layers": 1,
    }
    return RecallOptions(**(given | more))


class KilledError(Exception):
    """Ends a run in the middle."""


@pytest.mark.slow
@pytest.mark.parametrize(("lora", "at_step"), [(True, 3), (False, 3), (False, 1)])
def test_a_run_that_was_cut_off_ends_with_the_same_model_and_leaves_no_states(
    lora: bool,
    at_step: int,
    checkpoints: dict[str, Checkpoint],
    notes: pa.Table,
    pairs: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    chosen = options(checkpoints, lora=lora, learning_rate=1e-2)
    whole = train_recall(notes, pairs, tmp_path / "whole", options=chosen, progress=False)
    folder = tmp_path / "cut.run" / FOLDER

    save = NoteLLMTrainer._save_optimizer_and_scheduler

    def fail(self: NoteLLMTrainer, output_dir: str) -> None:
        if self.state.global_step == at_step:
            raise KilledError
        save(self, output_dir)

    with monkeypatch.context() as patch:
        patch.setattr(NoteLLMTrainer, "_save_optimizer_and_scheduler", fail)
        with pytest.raises(KilledError):
            train_recall(notes, pairs, tmp_path / "cut", options=chosen, progress=False)
    (file,) = folder.glob("*.f16")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ConfigError, match=r"holds an unfinished run .*; continue it with --resume"):
        train_recall(notes, pairs, tmp_path / "cut", options=chosen, progress=False)
    resumed = train_recall(notes, pairs, tmp_path / "cut", options=chosen, resume=True, progress=False)
    assert resumed.fingerprint() == whole.fingerprint()
    assert not folder.exists()
    again = NoteLLM.from_saved(tmp_path / "cut")
    np.testing.assert_allclose(again.encode(notes), whole.encode(notes), atol=1e-5)
    before = build_recall_model(options(checkpoints, lora=False), notes)
    after = dict(again.backbone.named_parameters())
    changed = {key for key, w in before.backbone.named_parameters() if not torch.equal(w, after[key])}
    assert changed
    assert not any("layers.0." in key or "embed_tokens" in key for key in changed)
    assert any("layers.1." in key for key in changed)


def test_what_cannot_be_is_a_clear_error(checkpoints: dict[str, Checkpoint], notes: pa.Table):
    with pytest.raises(ConfigError, match="train_layers is 1, but the tiny backbone is trained whole"):
        RecallOptions(train_layers=1).resolved()
    with pytest.raises(ConfigError, match="train_layers is 2, but the backbone has 2 layers; give 1 to 1"):
        build_recall_model(options(checkpoints, train_layers=2), notes)


def test_several_processes_are_refused(
    build: Build, notes: pa.Table, pairs: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = arguments(tmp_path, train_layers=1)
    monkeypatch.setattr(type(chosen), "world_size", property(lambda _: 2))
    with pytest.raises(ConfigError, match="train_layers is 1 in a training of 2 processes"):
        NoteLLMTrainer(build("llama", False), chosen, notes=notes, pairs=pairs)
