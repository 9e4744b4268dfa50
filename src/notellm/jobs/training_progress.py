"""The progress of a training, in words: a bar, and a line for each entry of the trainer's log."""

import sys
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from notellm.progress import progress_bar

#: Entries of the log that say nothing to whoever watches.
_LEFT_OUT = frozenset({"epoch", "learning_rate", "grad_norm", "step", "total_flos"})
_OF_THE_END = "train_runtime"
_VALIDATION = "eval_"


class TrainingProgress(TrainerCallback):
    """Shows a bar with rate and remaining time; takes the place of the callbacks that print dictionaries."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the bar; a run that is continued begins where it stopped."""
        del args, control
        if state.is_world_process_zero:
            self._bar = progress_bar(
                total=state.max_steps, initial=state.global_step, unit="step", desc="train", leave=False
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Move the bar."""
        del args, control
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write a line."""
        del args, control
        if self._bar is not None and logs and (text := line_of(logs, state.global_step, state.max_steps)):
            self._bar.write(text, file=sys.stderr)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the bar."""
        del args, state, control
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def line_of(logs: Mapping[str, Any], step: int, steps: int) -> str:
    """Return what an entry of the log says, in one line; empty if it says nothing.

    Args:
        logs: figures by name; those of the validation data begin with ``eval_``.
        step: number of steps so far.
        steps: number of steps in all.
    """
    if _OF_THE_END in logs:
        return f"trained {step:,} steps in {float(logs[_OF_THE_END]):,.0f} s"
    figures = {name: value for name, value in logs.items() if name not in _LEFT_OUT}
    measured = [name for name in figures if name.startswith(_VALIDATION)]
    said = ", ".join(
        f"{name.removeprefix(_VALIDATION)} {float(value):.4g}" for name, value in figures.items()
    )
    return f"step {step:,} of {steps:,}: {'validation ' if measured else ''}{said}" if said else ""
