"""What the commands share: options, how text is printed, and how a model or notes are opened."""

import re
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="Where to write; only a former result is replaced."),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace a result of another kind, too; files that are not notellm's stay."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was cut off.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.", min=0)]


#: What a terminal acts on instead of showing it (control characters, marks that change the direction of
#: writing), and halves of characters, which cannot be written at all.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


#: What ``notellm --trust-remote-code`` sets for the command after it.
trusted: ContextVar[bool] = ContextVar("trusted", default=False)


def printable(text: str) -> str:
    r"""Text from somebody's data as it may be printed: what a terminal would act on becomes ``\u001b``."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def show(*values: object) -> None:
    """Print values, made printable, in whatever encoding standard output has."""
    text = printable(" ".join(map(str, values)))
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def group() -> typer.Typer:
    """The commands of one file."""
    return typer.Typer(rich_markup_mode=None)


def examples(*lines: str) -> str:
    r"""An epilog of examples; \b keeps the lines apart."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def load_model(path: str) -> Any:
    """A trained model; a causal language model alone has no projection, so it is refused."""
    from notellm.recall.model import NoteLLM

    hide_loading_bars()
    return NoteLLM.from_saved(path, trust_remote_code=trusts_code())


def trusts_code() -> bool:
    """Whether the command was started as ``notellm --trust-remote-code ...``."""
    return trusted.get()


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
    from notellm.data.read import read_notes
    from notellm.data.schema import CLICKS
    from notellm.data.validate import validate
    from notellm.jobs.folders import load_dataset

    if path.is_dir():
        return load_dataset(path).notes
    notes, _, report = validate(read_notes(path).table, CLICKS.empty_table())
    if len(report):
        show(report)
    return notes
