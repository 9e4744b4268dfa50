"""Shared parts of the commands: options, printing, and loading of models and notes."""

import os
import re
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notellm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from notellm.client import Client

Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="Where to write; only an earlier result of this kind is replaced."),
]
ReportFolder = Annotated[
    Path | None, typer.Option("--output", "-o", help="Also write the report to this folder.")
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Also replace a result of another kind; files of others are kept."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was cut off.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
History = Annotated[
    str | None, typer.Option(help="Ids of the notes that the user liked, oldest first: a,b,c.")
]
HistoryFile = Annotated[
    Path | None,
    typer.Option(help="A text file with one note id per line, instead of --history; ids may hold commas."),
]
StorePlace = Annotated[str, typer.Argument(help="A directory, or a URI of object storage.")]
NewerNotes = Annotated[
    Path | None, typer.Option(help="A dataset folder or notes file, for newer notes than the ranker's.")
]

#: Characters that a terminal acts on instead of showing (control characters, changes of writing direction),
#: and surrogates, which cannot be encoded.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_TIMEOUT = 60.0  # seconds that one answer of a service may take
_RETRIES = 8  # of a request that a busy service puts off

#: Whether ``notellm`` was started with ``--trust-remote-code``.
trusted: ContextVar[bool] = ContextVar("trusted", default=False)


def group() -> typer.Typer:
    """Make an empty group for the commands of one file."""
    return typer.Typer(rich_markup_mode=None)


def examples(*lines: str) -> str:
    r"""Return an epilog of examples; \b keeps their lines apart."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def printable(text: str) -> str:
    r"""Return a text with every character that a terminal would act on written as ``\u001b``."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def show(*values: object) -> None:
    """Print values, made printable, in the encoding of standard output."""
    text = printable(" ".join(map(str, values)))
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def warn(doubt: str | None) -> None:
    """Print what is doubtful about a result on the standard error, as one line; None prints nothing."""
    if doubt is not None:
        text = printable(" ".join(doubt.split()))
        encoding = sys.stderr.encoding or "utf-8"
        print(f"doubtful: {text}".encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def show_guesses(report: Any) -> None:
    """Print the options that state what reading guessed, if there is any."""
    if report.options:
        show(f"to state what was guessed: {' '.join(report.options)}")


def show_report(report: Any, output: Path | None, *, force: bool) -> None:
    """Print the report of an evaluation, and save it if a folder is asked for."""
    show(report.text())
    if output is not None:
        report.save(output, force=force)
        show(f"report -> {output}")


def show_ranked(table: Any, note_ids: Sequence[str], scores: Iterable[float], reasons: Sequence[Any]) -> None:
    """Print ranked notes, one a line: score, id, title, and the opened note that led to it if there is one.

    Args:
        table: notes table with the titles.
        note_ids: the notes, best first.
        scores: their scores.
        reasons: the opened note of each; None for none.
    """
    titles = display_titles(table)
    for note_id, score, reason in zip(note_ids, scores, reasons, strict=True):
        source = f"  <- {reason}" if reason else ""
        show(f"  {score:.3f}  {note_id}  {titles[note_id]}{source}".rstrip())


def show_dropped(dropped: Mapping[str, int]) -> None:
    """Print how many rows were left out, one problem a line."""
    for problem, count in dropped.items():
        show(f"left out: {count:,} rows, {problem}")


def columns_of(entries: Sequence[str], flag: str) -> dict[str, str]:
    """Return the names of columns in a file by the names that notellm uses, from entries OURS=THEIRS.

    Args:
        entries: the entries.
        flag: the option that they were given with.

    Raises:
        ConfigError: if an entry has another form, or one of our names is given twice.
    """
    names: dict[str, str] = {}
    for entry in entries:
        ours, equals, theirs = entry.partition("=")
        if not (ours and equals and theirs):
            raise ConfigError(f"{flag} is {entry!r}; write OURS=THEIRS, for example note_id=item_id")
        if names.get(ours, theirs) != theirs:
            raise ConfigError(
                f"{flag} gives {ours} twice, {names[ours]!r} and {theirs!r}; say of which table with "
                f"--notes-column {ours}=... and --clicks-column {ours}=..."
            )
        names[ours] = theirs
    return names


_TITLE_LENGTH = 70  # characters


def display_titles(notes: Any) -> dict[str, str]:
    """Return the titles to show of a notes table, each on one line, by note id."""
    from notellm.data.note import Note

    columns = (notes[name].to_pylist() for name in ("note_id", "title", "content"))
    return {
        note_id: " ".join(Note(title, content).display_title.split())[:_TITLE_LENGTH]
        for note_id, title, content in zip(*columns, strict=True)
    }


def ids_of(option: str, text: str | None, file: Path | None, known: Container[str]) -> list[str] | None:
    """Return the ids of a list such as ``a,b,c``, or of a file with one id per line; None without either.

    Args:
        option: name of the option that takes the list; that of the file is followed by ``-file``.
        text: the list.
        file: the file.
        known: the ids that exist. An id may hold commas, which a list cannot express.

    Raises:
        ConfigError: if both are given, or a part of the list is no known id, but is one together with its
            neighbours.
        DataError: if the file cannot be read.
    """
    if text is not None and file is not None:
        raise ConfigError(f"give either --{option} or --{option}-file")
    if file is not None:
        return _lines(file)
    if text is None:
        return None
    parts = text.split(",")
    for at, part in enumerate(parts):
        if part.strip() and part.strip() not in known:
            _check_commas(option, parts, at, known)
    return [part.strip() for part in parts if part.strip()]


_LONGEST_JOIN = 16  # parts that are joined in search of an id with commas


def _check_commas(option: str, parts: Sequence[str], at: int, known: Container[str]) -> None:
    """Refuse a list whose part ``at``, which is no id, makes one together with its neighbours."""
    for first in range(max(0, at - _LONGEST_JOIN + 1), at + 1):
        for last in range(max(at + 1, first + 2), min(first + _LONGEST_JOIN, len(parts)) + 1):
            joined = ",".join(parts[first:last]).strip()
            if joined in known:
                raise ConfigError(
                    f"--{option} is split at commas, and {parts[at].strip()!r} is no note, but {joined!r} "
                    f"is: write ids with commas into a file, one a line, and give --{option}-file"
                )


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank."""
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8: {error}") from error


def load_model(path: str) -> Any:
    """Load a trained NoteLLM; a language model alone has no projection and is refused."""
    from notellm.recall.model import NoteLLM

    hide_loading_bars()
    return NoteLLM.from_saved(path, trust_remote_code=trusts_code())


def load_notes(path: Path, *, states: bool = False) -> Any:
    """Load the notes of a dataset folder, or of a notes file, which are cleaned.

    Args:
        path: the folder or file.
        states: also load which notes are hidden or expire, if the folder is an exported store.
    """
    from notellm.data.read import read_notes
    from notellm.data.schema import CLICKS
    from notellm.data.validate import validate
    from notellm.jobs.folders import load_dataset, load_stored_notes

    if path.is_dir():
        return load_stored_notes(path) if states else load_dataset(path).notes
    notes, _, report = validate(read_notes(path).table, CLICKS.empty_table())
    if len(report):
        show(report)
    return notes


def load_service() -> Any:
    """Import the module that runs the service, whose packages are an extra."""
    try:
        from notellm.serve import run
    except ImportError as error:
        from notellm.errors import MissingDependencyError

        raise MissingDependencyError(
            f"the service needs {error.name}: pip install 'notellm[serve]'"
        ) from error
    return run


def connected(url: str) -> "Client":
    """Return a client of a service, with the key of NOTELLM_KEY, which waits while the service is busy.

    Raises:
        ConfigError: if the address is not one of HTTP.
        MissingDependencyError: if the package that it needs is not installed.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"the url of the service is {url!r}; it must begin with http:// or https://")
    from notellm.client import Client

    return Client(url, key=os.environ.get("NOTELLM_KEY"), timeout=_TIMEOUT, retries=_RETRIES)


def trusts_code() -> bool:
    """Return whether the command was started as ``notellm --trust-remote-code ...``."""
    return trusted.get()


def hide_loading_bars() -> None:
    """Hide the progress bars of transformers, which takes only a moment to load and save weights."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def write_related(
    ids: Any, vectors: Any, output: Path, *, k: int, words: Any = None, force: bool, quiet: bool
) -> None:
    """Write the item-to-item table of some notes, and print what was done.

    Args:
        ids: note ids.
        vectors: their vectors, (n, d) float32 of unit norm.
        output: the Parquet file.
        k: number of related notes of each.
        words: the words of the notes (``recall.related.Words``); None compares vectors only.
        force: as in ``artifacts.write_file``.
        quiet: show no progress bar.
    """
    from notellm.recall.item_to_item import write_item_to_item

    result = write_item_to_item(ids, vectors, output, k=k, words=words, force=force, progress=not quiet)
    show(f"related notes of {result.notes:,} notes ({result.computed:,} computed) -> {output}")
