"""What the trainer's tests run, in their own process or in others: ``python -m tests.recall.jobs``.

A job is named and fully determined, so that two processes, or a killed and a resumed run, can be compared
with one process that went through.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from notellm.backbone.load import LoraOptions
from notellm.recall.model import NoteLLM
from notellm.recall.trainer import NoteLLMTrainer, NoteLLMTrainingArguments

#: Options of the training and of the model ("lora") by name of the job; each makes a few steps.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks": {"chunk_notes": 3},
    "contrastive": {"alpha": 0.0},
    "generation": {"pairs": False},
    "accumulated": {"gradient_accumulation_steps": 2, "chunk_notes": 5},
    "lora": {"lora": LoraOptions(rank=4, dropout=0.0)},
    "dropout": {"lora": LoraOptions(rank=4, dropout=0.3)},
}
#: Two processes draw other dropout masks than one.
COMPARABLE = [name for name in CASES if name != "dropout"]


def arguments(folder: Path, **options: Any) -> NoteLLMTrainingArguments:
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.1,
        "alpha": 0.5,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
    }
    return NoteLLMTrainingArguments(**(defaults | options))


def load(saved: Path, lora: LoraOptions | None = None) -> NoteLLM:
    """The model all jobs start from; adapters are filled, since empty ones hide their dropout."""
    torch.manual_seed(0)
    model = NoteLLM.from_pretrained(saved, lora=lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    return model


def case(
    saved: Path, folder: Path, notes: pa.Table, pairs: pa.Table, name: str, **more: Any
) -> NoteLLMTrainer:
    """The trainer of a named case, not yet run."""
    options = CASES[name] | more
    model = load(saved, options.pop("lora", None))
    given = pairs if options.pop("pairs", True) else None
    return NoteLLMTrainer(model, arguments(folder, **options), notes=notes, pairs=given)


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: w.detach().clone() for k, w in model.named_parameters() if w.requires_grad}


def losses(trainer: NoteLLMTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def distributed(saved: Path, folder: Path, notes: pa.Table, pairs: pa.Table) -> None:
    """Every case, as one process of two; each process writes what it ends with."""
    rank = os.environ["RANK"]
    for name in COMPARABLE:
        trainer = case(
            saved,
            folder,
            notes,
            pairs,
            name,
            per_device_train_batch_size=4,
            ddp_backend="gloo",
        )
        trainer.train()
        save_file(
            trained(trainer.accelerator.unwrap_model(trainer.model)), folder / f"{name}-{rank}.safetensors"
        )
        (folder / f"{name}-{rank}.json").write_text(json.dumps(losses(trainer)))


RESUME = {
    "max_steps": 7,
    "save_strategy": "steps",
    "save_steps": 2,
    "optim": "adamw_torch",
    "learning_rate": 0.01,
}


class KilledWhileSaving(NoteLLMTrainer):
    """Dies by SIGKILL in the middle of writing its third checkpoint."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.state.global_step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_optimizer_and_scheduler(output_dir)


def killed(saved: Path, folder: Path, notes: pa.Table, pairs: pa.Table) -> None:
    KilledWhileSaving(
        load(saved, CASES["dropout"]["lora"]), arguments(folder, **RESUME), notes=notes, pairs=pairs
    ).train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    job, saved_at, folder_at, data_at = sys.argv[1:]
    tables = (pq.read_table(Path(data_at) / f"{name}.parquet") for name in ("notes", "pairs"))
    {"distributed": distributed, "killed": killed}[job](Path(saved_at), Path(folder_at), *tables)
