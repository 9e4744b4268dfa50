"""The command line: parses, calls the library, prints. Run ``notellm --help``.

One file a group of commands; packages that take time to load are imported inside the commands, so that
``--help`` and mistakes answer at once. A user's mistake ends in one line on standard error and exit status
2, without a traceback.
"""

import logging
import os
import sys
from typing import Annotated

import typer

from notellm import __version__
from notellm.cli import evaluate, prepare, rank, recall, serve
from notellm.errors import NotellmError

app = typer.Typer(
    name="notellm",
    help="From a table of notes and a click log to related notes, topics and categories (NoteLLM), "
    "and to recommendations (BinLLM).",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _group in (prepare, recall, rank, serve, evaluate):  # the order of --help
    app.add_typer(_group.commands)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Entry point of the ``notellm`` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Threads that wait for each other by spinning take many times as long on cores that are busy otherwise.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        app(standalone_mode=False)
    except NotellmError as error:
        print(f"notellm: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.TyperException as error:
        print(f"notellm: {error}", file=sys.stderr)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        print("notellm: stopped", file=sys.stderr)
        sys.exit(130)
