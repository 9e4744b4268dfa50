"""Commands that move the data of a store: store export."""

from typing import Annotated

import typer

from notellm.cli.common import Force, Output, Quiet, StorePlace, examples, group, show

commands = group()


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
