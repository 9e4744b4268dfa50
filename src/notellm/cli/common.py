"""What the commands share: options, examples in a help text, and how a model or notes are opened."""

from pathlib import Path
from typing import Annotated, Any

import typer

Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write; replaced when complete.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.", min=0)]


def group() -> typer.Typer:
    """The commands of one file."""
    return typer.Typer(rich_markup_mode=None)


def examples(*lines: str) -> str:
    r"""An epilog of examples; \b keeps the lines apart."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def load_model(path: str) -> Any:
    """A trained model; a causal language model alone has no projection, so it is refused."""
    from notellm.errors import ModelError
    from notellm.recall.checkpoint import CONFIG, is_checkpoint
    from notellm.recall.model import NoteLLM

    if not is_checkpoint(path):
        raise ModelError(f"{path} is not a NoteLLM directory (it has no {CONFIG}); train one: notellm train")
    hide_loading_bars()
    return NoteLLM.from_pretrained(path)


def load_service() -> Any:
    """The module that runs the service, whose packages are an extra."""
    try:
        from notellm.serve import run
    except ImportError as error:
        from notellm.errors import MissingDependencyError

        raise MissingDependencyError(
            f"the service needs {error.name}: pip install 'notellm[serve]'"
        ) from error
    return run


def hide_loading_bars() -> None:
    """Loading and saving weights takes a moment; transformers' bars for it would hide what matters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def load_notes(path: Path) -> Any:
    """The notes of a dataset folder, or those of a notes file cleaned."""
    from notellm.data import CLICKS, read_notes, validate
    from notellm.pipeline.folders import load_dataset

    if path.is_dir():
        return load_dataset(path).notes
    notes, _, report = validate(read_notes(path).table, CLICKS.empty_table())
    if len(report):
        print(report)
    return notes
