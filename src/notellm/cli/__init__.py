"""The command line, which parses arguments, calls the library and prints. Run ``notellm --help``.

Each file holds a group of commands. Packages that take time to load are imported inside the commands, so that
``--help`` and mistakes are answered at once. A user's mistake ends in one line on standard error and exit
status 2, without a traceback.
"""

import errno
import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from notellm.cli import evaluate, experiment, prepare, rank, recall, recommend, renew, serve
from notellm.cli.common import printable, trusted
from notellm.errors import NotellmError
from notellm.version import __version__

app = typer.Typer(
    name="notellm",
    help="From a table of notes and a click log to related notes, topics and categories (NoteLLM), "
    "and to recommendations (BinLLM).",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _group in (
    prepare,
    recall,
    rank,
    recommend,
    serve,
    renew,
    evaluate,
    experiment,
):  # in the order of --help
    app.add_typer(_group.commands)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run Python code that comes with a model; it runs with your rights.",
        ),
    ] = False,
) -> None:
    trusted.set(trust_remote_code)
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the ``notellm`` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Threads that spin while they wait for each other are many times slower on busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        app(standalone_mode=False)
    except (NotellmError, typer.TyperException) as error:
        _fail(str(error), 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except OSError as error:  # except a closed pipe, which typer handles
        if error.errno not in _ENVIRONMENT:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror}", 2)


#: Errors of a disk, a permission or a path. They are no fault of the program, so one line reports them.
_ENVIRONMENT = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENFILE", "ESTALE"),
        *("ENOENT", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP"),
    )
    if hasattr(errno, name)
}


def _fail(message: str, status: int) -> NoReturn:
    """Exit with one line on standard error."""
    text = printable(f"notellm: {message}").encode(sys.stderr.encoding or "utf-8", "backslashreplace")
    print(text.decode(sys.stderr.encoding or "utf-8"), file=sys.stderr)
    sys.exit(status)
