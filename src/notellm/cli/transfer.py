"""Commands that move the data of a store: store export, store import."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notellm.cli.common import (
    Force,
    Output,
    Quiet,
    StorePlace,
    columns_of,
    connected,
    examples,
    group,
    show,
    show_guesses,
)
from notellm.cli.options import with_options
from notellm.errors import ConfigError
from notellm.jobs.prepare_options import LogOptions

if TYPE_CHECKING:
    from notellm.client import Client
    from notellm.jobs.import_clicks import Write

commands = group()

_REQUEST = 1_000  # clicks that a service takes in one request
_TOO_LARGE = 413  # the status of a request that is larger than the service allows


@commands.command(
    epilog=examples(
        "notellm store export store -o exported",
        "notellm store export store -o exported --days 30           (the clicks of the last 30 days)",
        "notellm store build new --model model --notes exported --vectors exported/vectors.parquet",
        "notellm pairs exported",
    )
)
def export(
    place: StorePlace,
    output: Output,
    days: Annotated[
        float | None, typer.Option(help="Export the clicks of the last days only; default: all.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write notes, vectors and clicks of a store into a dataset folder, while the store is in use.

    clicks.parquet is what training learns from; events.parquet is the log as it is, with likes and dislikes.
    """
    from notellm.jobs.export_store import export_store

    exported = export_store(place, output, days=days, force=force, progress=not quiet)
    if len(exported.report):
        show(exported.report)
    show(
        f"{exported.notes:,} notes with vectors, {exported.events:,} events, {exported.clicks:,} clicks for "
        f"training -> {output}"
    )


@commands.command(
    "import",
    epilog=examples(
        "notellm store import store --clicks clicks.csv.gz",
        "notellm store import store --clicks log.jsonl --column timestamp=at --event open=click",
        "notellm store import store --clicks exported/events.parquet",
        "NOTELLM_KEY=... notellm store import --url http://127.0.0.1:8000 --clicks clicks.parquet",
    ),
)
@with_options(LogOptions)
def import_(
    clicks: Annotated[
        Path,
        typer.Option(
            help="Clicks as notellm prepare reads them: a file, a folder of parts or a pattern; or an "
            "exported store, or its events.parquet."
        ),
    ],
    place: Annotated[
        str | None, typer.Argument(help="The store, if no service has it open; otherwise give --url.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="The address of the service that has the store open; its key: NOTELLM_KEY."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            "--clicks-column",
            help="OURS=THEIRS, for a column of another name; #3 is the third, a.b a nested one. Repeatable.",
        ),
    ] = None,
    click_days: Annotated[
        float,
        typer.Option(help="Leave out older clicks; the same as of notellm serve.", min=1, max=36_500),
    ] = 90,
    *,
    options: LogOptions,  # with_options puts the fields in this place
    quiet: Quiet = False,
) -> None:
    """Add the clicks of a file to the log of a store, each once, however often this is repeated."""
    from notellm.jobs.import_clicks import BATCH, import_clicks, log_of

    if (place is None) == (url is None):
        raise ConfigError("give either STORE or --url, the address of the service that has it open")
    columns = columns_of(column or [], "--column")
    with log_of(place) if place is not None else _service(str(url)) as write:
        imported = import_clicks(
            clicks,
            write,
            batch=BATCH if place is not None else _REQUEST,
            max_age=timedelta(days=click_days),
            options=options,
            columns=columns,
            progress=not quiet,
        )
    if len(imported.report):
        show(imported.report)
    show_guesses(imported.report)
    show(f"{imported.written:,} clicks added, {imported.repeated:,} were there already -> {place or url}")


@contextmanager
def _service(url: str) -> Iterator["Write"]:
    """Give the function that writes clicks through a service."""
    from notellm.jobs.import_clicks import Written

    with connected(url) as client:

        def write(clicks: list[Any]) -> Written:
            rows = [
                {
                    "user_id": click.user_id,
                    "note_id": click.note_id,
                    "event": click.event,
                    "time": click.timestamp,
                    "click_id": click.click_id,
                    "request_id": click.request_id or None,
                }
                for click in clicks
            ]
            new, unknown = _sent(client, rows)
            return Written(new, frozenset(unknown))

        yield write


def _sent(client: "Client", rows: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Send clicks, in halves if they are too large for one request; return new clicks and unknown notes."""
    from notellm.client import ServiceError

    try:
        answer = client.click(rows)
    except ServiceError as error:
        if error.status != _TOO_LARGE or len(rows) == 1:
            raise
        half = len(rows) // 2
        (first, unknown), (second, others) = _sent(client, rows[:half]), _sent(client, rows[half:])
        return first + second, unknown + others
    return int(answer["written"]), list(answer["unknown_notes"])
