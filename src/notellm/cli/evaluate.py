"""Commands that show results: evaluate, demo, record."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from notellm.cli.common import (
    Force,
    Quiet,
    ReportFolder,
    Seed,
    examples,
    group,
    hide_loading_bars,
    load_model,
    load_service,
    show,
    show_report,
    trusts_code,
)

commands = group()


@commands.command(epilog=examples("notellm evaluate model split -o report"))
def evaluate(
    model: Annotated[str, typer.Argument(help="A model directory.")],
    folder: Annotated[
        Path, typer.Argument(help="The split folder that the model was trained on, with pairs.")
    ],
    output: ReportFolder = None,
    min_users: Annotated[int, typer.Option(help="Ignore related pairs of fewer users.")] = 2,
    untrained: Annotated[
        bool,
        typer.Option(
            "--untrained/--no-untrained",
            help="Also measure the model before training; a teacher then reads the notes again.",
        ),
    ] = True,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model on the test part, with popularity, TF-IDF, co-occurrence and the untrained model."""
    from notellm.artifacts.replace import check_replaceable
    from notellm.jobs.evaluate_recall import evaluate_recall
    from notellm.jobs.folders import load_pairs, load_split
    from notellm.jobs.recall_model import build_untrained

    if output is not None:
        check_replaceable(output, "report", force=force)
    parts = load_split(folder)
    trained = load_model(model)
    before = None
    if untrained:
        before = build_untrained(
            model,
            parts.train.notes,
            parts.train.clicks,
            trust_remote_code=trusts_code(),
            progress=not quiet,
        )
    result = evaluate_recall(
        trained,
        parts,
        load_pairs(folder / "test"),
        untrained=before,
        min_users=min_users,
        progress=not quiet,
    )
    show_report(result, output, force=force)


@commands.command(
    epilog=examples(
        "notellm demo",
        "notellm demo --serve                                    (made once, then only opened)",
        "notellm demo --notes 600 --max-steps 50 -o quick-demo",
    )
)
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Working folder.")] = Path("notellm-demo"),
    notes: Annotated[int, typer.Option(help="Number of notes of the sample world.", min=200)] = 2_000,
    max_steps: Annotated[int, typer.Option(help="Number of training steps.", min=1)] = 70,
    serve: Annotated[
        bool, typer.Option("--serve", help="Open the demo in a browser; a finished demo is not made again.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of --serve.", min=1, max=65_535)] = 8_000,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Run every stage once on the built-in sample world: mine, train, evaluate, show. No download."""
    from notellm.jobs.demo import is_finished, run_demo

    hide_loading_bars()
    service = load_service() if serve else None
    if serve and is_finished(output):
        show(f"{output} holds a demo; run notellm demo without --serve to make it again")
    else:
        run_demo(output, notes=notes, max_steps=max_steps, seed=seed, progress=not quiet, say=show)
    if service is not None:
        from notellm.engine.engine import Engine

        engine = Engine.open(output / "store", output / "model", ranker=output / "ranker")
        url = f"http://127.0.0.1:{port}/"

        def ready() -> None:
            show(f"open {url}  (Ctrl-C stops it)")
            service.open_browser(url)

        service.serve(
            engine,
            host="127.0.0.1",
            port=port,
            keys=service.Keys(),
            limits=service.Limits(),
            ready=ready,
            level=logging.WARNING,
        )


@commands.command(epilog=examples("notellm record model", "notellm record vectors.parquet"))
def record(
    path: Annotated[Path, typer.Argument(help="A folder or Parquet file that notellm wrote.")],
) -> None:
    """Show how a result was made: options, versions, seed, fingerprints of its data, figures."""
    from notellm.files import json_text
    from notellm.record import read_record

    show(json_text(read_record(path)).rstrip("\n"))
