"""Commands of the store and the service: store build, show, related and impressions, and serve."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from notellm.cli import transfer
from notellm.cli.common import (
    Force,
    Output,
    Quiet,
    StorePlace,
    examples,
    group,
    hide_loading_bars,
    load_model,
    load_notes,
    load_service,
    show,
    trusts_code,
    write_related,
)
from notellm.errors import ConfigError

commands = group()
store = typer.Typer(
    help="Build and use a store, which keeps notes with their vectors.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
store.add_typer(transfer.commands)
commands.add_typer(store, name="store")

Model = Annotated[str, typer.Option(help="The model directory.")]


@store.command(
    epilog=examples(
        "notellm store build store --model model --notes data",
        "notellm store build store --model model --notes data --vectors vectors.parquet",
        "notellm store build store --model newer-model          (the same notes, new vectors)",
    )
)
def build(
    place: StorePlace,
    model: Model,
    notes: Annotated[Path | None, typer.Option(help="A dataset folder, or a notes file.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Vectors of these notes by this model, from: notellm embed.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make a store, add notes to it, or give its notes the vectors of another model."""
    from notellm.jobs.build_store import build_store

    table = None if notes is None else load_notes(notes, states=True)
    loaded = load_model(model)
    if vectors is not None and table is None:
        raise ConfigError("--vectors are those of --notes; give both")
    built = build_store(place, loaded, table, vectors=vectors, progress=not quiet)
    show(f"{built.notes:,} notes ({built.embedded:,} embedded, {built.kept:,} unchanged) -> {place}")


@store.command("show", epilog=examples("notellm store show store"))
def show_store(place: StorePlace) -> None:
    """Show the content of a store in numbers."""
    from notellm.store.notes import NoteStore

    reader = NoteStore.for_reading(place)
    rows = reader.read(["hidden", "expires_at", "category"])
    show(f"model      {reader.model}  ({reader.dim} dimensions)")
    show(f"notes      {rows.num_rows:,}")
    show(f"hidden     {sum(rows.column('hidden').to_pylist()):,}")
    show(f"expiring   {rows.num_rows - rows.column('expires_at').null_count:,}")
    show(f"categories {len(set(rows.column('category').to_pylist()) - {''}):,}")


@store.command(
    epilog=examples(
        "notellm store related store -o item-to-item.parquet",
        "notellm store related store -o item-to-item.parquet --lexical 0     (again: only changed notes)",
    )
)
def related(
    place: StorePlace,
    output: Output,
    k: Annotated[int, typer.Option("-k", help="Number of related notes.", min=1)] = 10,
    lexical: Annotated[
        float | None,
        typer.Option(
            help="Share of the words in the score, 0 (vectors only) to 1; default: that of a model that was "
            "trained without validation notes.",
            min=0,
            max=1,
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write the item-to-item table of all visible notes, by vectors and words.

    If it exists and no note has changed, nothing is computed; with --lexical 0 only changed notes are.
    """
    from notellm.artifacts.replace import check_file_replaceable
    from notellm.lexical.hybrid import DEFAULT_SHARE
    from notellm.recall.related import Words
    from notellm.store.notes import NoteStore
    from notellm.store.rows import visible_vectors

    check_file_replaceable(output, "related", force=force)
    reader = NoteStore.for_reading(place)
    rows = reader.read()
    ids, matrix = visible_vectors(rows)
    share = DEFAULT_SHARE if lexical is None else lexical
    words = Words.of(ids, rows, share) if share else None
    write_related(ids, matrix, output, k=k, words=words, force=force, quiet=quiet)


@store.command(
    epilog=examples(
        "notellm store impressions store -o train.parquet --valid valid.parquet",
        "notellm rank train data --impressions train.parquet --valid valid.parquet -o newer-ranker",
    )
)
def impressions(
    place: StorePlace,
    output: Output,
    valid: Annotated[
        Path | None, typer.Option(help="Another file, which gets the newest impressions, to choose by.")
    ] = None,
    valid_share: Annotated[float, typer.Option(help="Share of the impressions in that file.")] = 0.1,
    force: Force = False,
) -> None:
    """Write impressions of the lists that a service recommended, and of the clicks that name them.

    What was passed over is a negative: a note above one that the user reacted to, or viewed and not opened.
    """
    from notellm.jobs.shown_impressions import write_shown_impressions

    done = write_shown_impressions(place, output, valid=valid, valid_share=valid_share, force=force)
    if len(done.report):
        show(done.report)
    show(f"{done.rows:,} impressions, {done.liked:,} liked -> {output}")
    if valid is not None:
        show(f"{done.valid:,} impressions, the newest -> {valid}")


@commands.command(
    epilog=examples(
        "notellm serve store --model model --ranker ranker --no-keys",
        "NOTELLM_WRITE_KEYS=... notellm serve store --model model --index hnsw --host 0.0.0.0",
        "notellm serve store --model model --index http://milvus:19530",
    )
)
def serve(
    place: StorePlace,
    model: Model,
    ranker: Annotated[
        str | None, typer.Option(help="A ranker directory; without one there are no recommendations.")
    ] = None,
    index: Annotated[str, typer.Option(help="exact, hnsw, or the URI of a Milvus server.")] = "exact",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65_535)] = 8_000,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Require no API keys; allowed on a loopback address only.")
    ] = False,
    max_body: Annotated[int, typer.Option(help="Largest body of a request, in bytes.", min=1)] = 1 << 20,
    max_requests: Annotated[int, typer.Option(help="Largest number of concurrent requests.", min=1)] = 256,
    timeout: Annotated[float, typer.Option(help="Longest time of a request, in seconds.", min=0.1)] = 30.0,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second of one key; default: no limit.")
    ] = None,
    max_connections: Annotated[
        int | None,
        typer.Option(help="Open connections; default: as many as open files allow (ulimit -n).", min=1),
    ] = None,
    max_connections_per_address: Annotated[
        int | None,
        typer.Option(
            help="Open connections of one address; default: half. Behind a proxy set it to the total.", min=1
        ),
    ] = None,
    sync: Annotated[
        bool,
        typer.Option(
            "--sync/--no-sync",
            help="Flush each write to disk before it is answered; otherwise a power failure loses some.",
        ),
    ] = True,
    click_days: Annotated[
        float, typer.Option(help="Days for which clicks are kept.", min=1, max=36_500)
    ] = 90,
    explore: Annotated[
        float,
        typer.Option(
            help="Share of the places of a list that go to fresh notes which few users have been shown.",
            min=0,
            max=1,
        ),
    ] = 0.0,
    quiet: Quiet = False,
) -> None:
    """Serve a store over HTTP, with a web page. API keys: NOTELLM_WRITE_KEYS, NOTELLM_READ_KEYS.

    The token of a Milvus server: NOTELLM_MILVUS_TOKEN.
    """
    start = time.perf_counter()
    run = load_service()
    from notellm.engine.engine import Engine

    seconds = {"imports": round(time.perf_counter() - start, 2)}
    keys = run.keys_from(os.environ, no_keys=no_keys, host=host)
    limits = run.Limits(
        body=max_body,
        together=max_requests,
        seconds=timeout,
        rate=rate,
        connections=max_connections,
        per_address=max_connections_per_address,
    )
    hide_loading_bars()
    token = os.environ.get("NOTELLM_MILVUS_TOKEN", "")
    engine = Engine.open(
        place,
        model,
        ranker=ranker,
        index=index,
        token=token,
        sync=sync,
        trust_remote_code=trusts_code(),
        click_days=click_days,
        explore=explore,
        progress=not quiet,
    )
    run.serve(
        engine,
        host=host,
        port=port,
        keys=keys,
        limits=limits,
        ready=lambda: show(f"http://{run.in_url(host)}:{port}/"),
        seconds=seconds,
    )
