"""The working folder of a training run, ``OUTPUT.run``, and what all trainings have in common.

The folder holds ``started.json`` (the options and fingerprints of the data that the run was started with),
checkpoints, TensorBoard logs, the start of the projection of a pretrained backbone, and for a ranker the
fitted codes and answers. A killed run is continued from there with the same options and data, and ends with
the weights of an uninterrupted one. When the result is written, all but the logs and ``started.json`` is
removed. A folder without ``started.json`` is never touched. Of several processes that train together the main
one alone writes.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import torch
from transformers import PrinterCallback, ProgressCallback, Trainer

from notellm.artifacts.replace import check_replaceable, remove_keeping_last
from notellm.backbone.processes import is_main_process, process_count
from notellm.backbone.trainer import last_checkpoint
from notellm.errors import ConfigError, StorageError
from notellm.files import json_text, read_json, write_json
from notellm.jobs.training_progress import TrainingProgress
from notellm.recall.frozen_states import FOLDER
from notellm.recall.teacher import FOLDER as TEACHER
from notellm.record import RECORD, describe, make_record

#: File of a working folder: the configuration and the fingerprints of the data.
STARTED = "started.json"
#: Folders of a ranker's run: the fitted codes, the fitted answers (their names begin so), and inside a step
#: of tuning its result.
FITTED, FITTED_ANSWERS, TUNED = "fitted_codes", "fitted_answers", "tuned"
#: Folder of the start of a projection, and of the hidden states that it is being computed from.
START_FOLDER = "start"
_UNFINISHED = (
    FITTED,
    f"{FITTED_ANSWERS}*",
    START_FOLDER,
    FOLDER,
    TEACHER,
    "checkpoint-*",
    "*/checkpoint-*",
    f"*/{TUNED}",
)


class Run:
    """A training run that writes one model or ranker directory.

    Args:
        output: the directory to write; its working folder lies beside it.
        kind: kind of the directory, "model" or "ranker".
        force: as in ``artifacts.write_folder``.

    Raises:
        StorageError: if ``output`` may not be replaced, or the working folder was not made by notellm.
    """

    def __init__(self, output: str | Path, kind: str, *, force: bool) -> None:
        if is_main_process():
            check_replaceable(output, kind, force=force)
        self.output = Path(output)
        self.folder = self.output.with_name(f"{self.output.name}.run")
        self.kind = kind
        self.force = force
        self.started: dict[str, Any] = {}
        if is_main_process():
            check_run_folder(self.folder)

    def describe(self, options: Any, data: Mapping[str, Any]) -> None:
        """Describe what the run is started with, for its working folder and its record.

        Args:
            options: the resolved options, a dataclass.
            data: tables by name; None where there is none, a mapping for tables that belong together,
                and a mapping with the "fingerprint" of a model.
        """
        self.started = {"config": asdict(options), "data": _described(data)}

    def check_unfinished(self, *, resume: bool, steps: Sequence[str] = (".",)) -> None:
        """Refuse to mix this run with an unfinished one in its folder.

        Args:
            resume: whether the caller asked to continue the unfinished run.
            steps: folders of the working folder that hold checkpoints.

        Raises:
            ConfigError: if there is an unfinished run and ``resume`` is false, or that run was started with
                other options or data.
            StorageError: if its ``started.json`` cannot be read.
        """
        if not is_main_process():  # would see what the main process has begun to write
            return
        for step in steps:
            last_checkpoint(self.folder / step)  # removes checkpoints that a kill left incomplete
        if unfinished := unfinished_parts(self.folder):
            left = str(unfinished[-1].relative_to(self.folder))
            check_resumable(self.folder, left, self.started, resume=resume)

    def start(self) -> None:
        """Write ``started.json``, by which the folder is recognised from now on."""
        if is_main_process():
            write_json(self.started, self.folder / STARTED, replace=True)

    def keep(self) -> Path | None:
        """Start the run, and return its folder, where what takes long is kept for a resumed run.

        Of several processes the main one alone keeps anything; the others get None.
        """
        self.start()
        return self.folder if is_main_process() else None

    def save(
        self,
        save: Callable[..., None],
        card: Callable[[str, dict[str, Any]], str],
        *,
        metrics: Mapping[str, Any],
        fingerprint: str,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write the result with its record and its card, then remove what the run kept for resuming.

        Args:
            save: method that writes the directory, such as ``NoteLLM.save_pretrained``.
            card: function that makes the card from the directory's name and its record.
            metrics: figures of the run.
            fingerprint: fingerprint of the trained model.
            files: contents of further files by name.

        Raises:
            StorageError: if the directory cannot be written.
        """
        if not is_main_process():
            return
        record = make_record(
            kind=self.kind,
            **self.started,
            seed=self.started["config"]["seed"],
            metrics=metrics,
            fingerprint=fingerprint,
        )
        texts = {RECORD: json_text(record), "README.md": card(self.output.name, record)}
        save(self.output, extra={**texts, **(files or {})}, force=self.force)
        discard_unfinished(self.folder)


def _described(data: Any) -> Any:
    """Return the fingerprints of tables, in the structure in which the tables were passed."""
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, pa.Table):
        return describe(data)
    return {name: _described(value) for name, value in data.items()}


def training_options(
    folder: Path, *, steps: int, evaluations: int, measured: bool = True, progress: bool
) -> dict[str, Any]:
    """Return the keyword arguments of ``TrainingArguments`` that all trainings share.

    Args:
        folder: where checkpoints and logs go.
        steps: number of updates.
        evaluations: how often a checkpoint is written and measured.
        measured: whether there are validation data, by which the best checkpoint is chosen.
        progress: show a progress bar.
    """
    every = max(1, steps // evaluations)
    without_gpu = torch.accelerator.current_accelerator(check_available=True) is None
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "eval_strategy": "steps" if measured else "no",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "load_best_model_at_end": measured,
        "greater_is_better": True,
        "disable_tqdm": not progress,
        "report_to": "tensorboard" if find_spec("tensorboard") else "none",
        "use_cpu": without_gpu,
        # Several processes without a GPU find no backend by themselves, and would train each for itself.
        "ddp_backend": "gloo" if without_gpu and process_count() > 1 else None,
    }


def train_or_resume(trainer: Trainer) -> None:
    """Train from the newest checkpoint in the trainer's folder, or from the start if there is none."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(TrainingProgress())
    checkpoint = last_checkpoint(Path(cast("str", trainer.args.output_dir)))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def check_run_folder(folder: Path) -> None:
    """Refuse to work in a folder that notellm did not make.

    Args:
        folder: working folder of a run that is about to start or to be continued.

    Raises:
        StorageError: if it is a file, or a folder with content but without ``started.json``.
    """
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file, but the run needs a folder of that name; move the file away")
    # A kill while `started.json` was written leaves only its hidden workspace.
    content = folder.iterdir() if folder.is_dir() else ()
    if any(not path.name.endswith(".part") for path in content) and not (folder / STARTED).is_file():
        raise StorageError(
            f"{folder} is not the working folder of a notellm run (it has no {STARTED}); "
            "move it away, or choose another output"
        )


def unfinished_parts(folder: Path) -> list[Path]:
    """Return what a run keeps until its result is written: what was fitted, checkpoints, finished steps."""
    return [path for pattern in _UNFINISHED for path in sorted(folder.glob(pattern))]


def discard_unfinished(folder: Path) -> None:
    """Remove what a run keeps until its result is written; its logs and ``started.json`` stay.

    Raises:
        StorageError: if the folder was not made by notellm.
    """
    check_run_folder(folder)
    for path in unfinished_parts(folder):
        shutil.rmtree(path, ignore_errors=True)


def remove_run(folder: Path) -> None:
    """Remove the working folder of a run; do nothing if it is absent.

    Raises:
        StorageError: if the folder was not made by notellm, or cannot be removed.
    """
    if folder.exists():
        check_run_folder(folder)
        remove_keeping_last(folder, STARTED)


def check_resumable(folder: Path, left: str, started: dict[str, Any], *, resume: bool) -> None:
    """Refuse to continue a run that was started with other options or data.

    Args:
        folder: working folder of the unfinished run.
        left: name of the unfinished part, for the error message.
        started: "config" and "data" of the run that wants to continue.
        resume: whether the caller asked to continue.

    Raises:
        ConfigError: if the caller did not ask, or the options or data differ.
        StorageError: if ``started.json`` cannot be read.
    """
    if not resume:
        raise ConfigError(
            f"{folder} holds an unfinished run ({left}); continue it with --resume, "
            "or remove that folder to start over"
        )
    before = read_json(folder / STARTED)
    if not (isinstance(before, dict) and all(isinstance(before.get(n), dict) for n in ("config", "data"))):
        raise StorageError(f"{folder / STARTED} is damaged; remove {folder} to start over")
    config, data = before["config"], before["data"]
    changed = [
        f"{name} was {config.get(name)!r}, is {value!r}"
        for name, value in started["config"].items()
        if config.get(name) != value
    ]
    changed += [f"other {name} data" for name, value in started["data"].items() if data.get(name) != value]
    if changed:
        raise ConfigError(
            f"the unfinished run in {folder} was started differently ({'; '.join(changed)}); pass the same "
            "options and data, or remove that folder to start over"
        )
