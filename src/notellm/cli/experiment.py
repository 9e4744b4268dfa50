"""The command that runs the papers' comparisons: experiment."""

from pathlib import Path
from typing import Annotated

import typer

from notellm.cli.common import Force, Output, Quiet, examples, group, hide_loading_bars, show, trusts_code
from notellm.cli.options import with_options
from notellm.errors import ConfigError
from notellm.experiment.options import ExperimentOptions

commands = group()


@commands.command(
    epilog=examples(
        "notellm experiment data -o report",
        "notellm experiment data -o report --budget 2h",
        "notellm experiment data -o report --sentence-encoder sentence-transformers/all-MiniLM-L6-v2",
        "notellm experiment split -o report --backbone Qwen/Qwen3-0.6B --no-rank",
        "notellm experiment --dataset collm --source ml-1m-collm -o report   (rankers only)",
    )
)
@with_options(ExperimentOptions)
def experiment(
    output: Output,
    folder: Annotated[
        Path | None,
        typer.Argument(help="A dataset or split folder, or a folder of notes and impressions."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Instead of a folder: a public dataset with impressions, such as collm."),
    ] = None,
    source: Annotated[Path | None, typer.Option(help="The folder of the public dataset.")] = None,
    *,
    options: ExperimentOptions,  # with_options puts the fields in this place
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run the papers' comparisons on your data: tables, ablations, statistics and one report.

    What takes long is kept in OUTPUT.runs: a killed experiment continues there, and a further one computes
    only what is missing. Ctrl-C writes the report of what is finished.
    """
    from notellm.experiment.run import run_experiment

    if (folder is None) == (dataset is None):
        raise ConfigError("give either a folder, or --dataset and --source")
    if dataset is not None and source is None:
        raise ConfigError(f"--dataset {dataset} needs --source, the folder of its files")
    hide_loading_bars()
    run_experiment(
        (dataset, source) if dataset is not None and source is not None else Path(str(folder)),
        output,
        options,
        force=force,
        trust_remote_code=trusts_code(),
        progress=not quiet,
        say=show,
    )
    show(f"report -> {output / 'report.html'}")
