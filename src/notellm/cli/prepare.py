"""Commands that prepare the data: prepare, split, pairs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from notellm.cli.common import Force, Output, Quiet, Seed, examples, group, show
from notellm.cli.options import with_options
from notellm.data.datasets.table import CLICK_NAMES, read_clicks_of
from notellm.errors import ConfigError, DataError
from notellm.pairs.score import PairOptions

commands = group()


#: The name under which --dataset offers the built-in sample world.
_SAMPLE = "sample"


class By(StrEnum):
    """How train and test are separated."""

    note = "note"
    time = "time"


_SHARES = {By.note: {"test": 0.3, "valid": 0.05}, By.time: {"test": 0.2, "valid": 0.1}}


@commands.command(
    epilog=examples(
        "notellm prepare --notes notes.csv --clicks clicks.parquet -o data",
        "notellm prepare --notes items.jsonl --column note_id=item_id --column content=text -o data",
        "notellm prepare --dataset microlens --source MicroLens-50k -o data",
        "notellm prepare --dataset sample --sample-notes 3000 -o data",
    )
)
def prepare(
    output: Output,
    notes: Annotated[Path | None, typer.Option(help="Notes: Parquet, CSV, TSV or JSON lines.")] = None,
    clicks: Annotated[Path | None, typer.Option(help="Clicks: the same formats; optional.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=f"Instead of --notes and --clicks: {', '.join(CLICK_NAMES)} or {_SAMPLE}."),
    ] = None,
    source: Annotated[Path | None, typer.Option(help="The folder of the public dataset.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS, for a column of another name; repeatable.")
    ] = None,
    hashtags: Annotated[
        bool, typer.Option("--hashtags", help="Move #hashtags from the text to the topics.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at any problem instead of repairing it.")
    ] = False,
    sample_notes: Annotated[int, typer.Option(help="Number of notes of --dataset sample.", min=1)] = 3_000,
    sample_users: Annotated[int, typer.Option(help="Number of users of --dataset sample.", min=1)] = 2_000,
    sample_clicks: Annotated[int, typer.Option(help="Number of clicks of --dataset sample.", min=0)] = 60_000,
    force: Force = False,
    seed: Seed = 0,
) -> None:
    """Read notes and clicks, check and clean them, and report every problem in one table."""
    from notellm.artifacts.replace import check_replaceable
    from notellm.data.problems import Report
    from notellm.data.read import read_clicks, read_notes
    from notellm.data.sample_world import sample_world
    from notellm.data.schema import CLICKS, NOTES
    from notellm.data.validate import validate
    from notellm.jobs.folders import save_dataset

    check_replaceable(output, "dataset", force=force)
    report = Report()
    names: dict[str, str] = {}
    if (dataset is None) == (notes is None):
        raise ConfigError("give either --notes (and --clicks), or --dataset")
    if dataset == _SAMPLE:
        world = sample_world(sample_notes, sample_users, sample_clicks, seed=seed)
        raw_notes, raw_clicks = world.notes, world.clicks
    elif dataset is not None:
        if dataset not in CLICK_NAMES:
            raise ConfigError(f"no dataset {dataset!r}: give one of {', '.join(CLICK_NAMES)} or {_SAMPLE}")
        if source is None:
            raise ConfigError(f"--dataset {dataset} needs --source, the folder of its files")
        raw_notes, raw_clicks = read_clicks_of(dataset, source)
    else:
        names = _columns(column or [])
        note_columns = {ours: theirs for ours, theirs in names.items() if ours in NOTES.names}
        click_columns = {ours: theirs for ours, theirs in names.items() if ours in CLICKS.names}
        read = read_notes(str(notes), columns=note_columns, hashtags=hashtags)
        raw_notes, report = read.table, read.report
        raw_clicks = CLICKS.empty_table()
        if clicks is not None:
            read = read_clicks(clicks, columns=click_columns)
            raw_clicks, report = read.table, report + read.report
    if strict and len(report):
        raise DataError(f"strict: the files have {len(report)} kinds of problems\n{report}")
    good_notes, good_clicks, problems = validate(raw_notes, raw_clicks, strict=strict)
    sample = dataset == _SAMPLE
    config = {
        "dataset": dataset,
        "source": source and str(source),
        "notes": notes and str(notes),
        "clicks": clicks and str(clicks),
        "columns": names,
        "hashtags": hashtags,
        "strict": strict,
        "sample": {"notes": sample_notes, "users": sample_users, "clicks": sample_clicks} if sample else None,
    }
    save_dataset(
        output,
        good_notes,
        good_clicks,
        report + problems,
        config=config,
        seed=seed if sample else None,
        force=force,
    )
    show(report + problems)
    show(f"{good_notes.num_rows:,} notes, {good_clicks.num_rows:,} clicks -> {output}")


@commands.command(
    epilog=examples("notellm split data -o split", "notellm split data --by time --test 0.2 -o split")
)
def split(
    data: Annotated[Path, typer.Argument(help="A dataset folder from: notellm prepare.")],
    output: Output,
    by: Annotated[By, typer.Option(help="Test on unseen notes, or on later clicks.")] = By.note,
    test: Annotated[
        float | None, typer.Option(help="Share of the test part; default: 0.3 by note, 0.2 by time.")
    ] = None,
    valid: Annotated[
        float | None, typer.Option(help="Share of the validation part; default: 0.05 by note, 0.1 by time.")
    ] = None,
    near_duplicates: Annotated[
        float | None,
        typer.Option(
            help="By note: keep texts of this Jaccard index or more (0.5 to 1) in one part, such as 0.8; "
            "default: equal texts only."
        ),
    ] = None,
    force: Force = False,
    seed: Seed = 0,
) -> None:
    """Split a dataset into train, valid and test: by note, where the parts share no text, or by time."""
    from notellm.artifacts.replace import check_replaceable
    from notellm.data.split import split_by_note, split_by_time
    from notellm.jobs.folders import PARTS, load_dataset, save_split

    check_replaceable(output, "split", force=force)
    part = load_dataset(data)
    chosen = {"test": test, "valid": valid}
    shares = _SHARES[by] | {name: share for name, share in chosen.items() if share is not None}
    config: dict[str, Any] = {"by": by.value, **shares}
    if by is By.note:
        parts = split_by_note(part.notes, part.clicks, near_duplicates=near_duplicates, seed=seed, **shares)
        if near_duplicates is not None:
            config["near_duplicates"] = near_duplicates
    elif near_duplicates is not None:
        raise ConfigError(
            "--near-duplicates belongs to --by note: a split by time moves no note for its text"
        )
    else:
        parts = split_by_time(part.notes, part.clicks, **shares)
    save_split(output, parts, part, config=config, seed=seed if by is By.note else None, force=force)
    if len(parts.report):
        show(parts.report)
    for name in PARTS:
        piece = getattr(parts, name)
        show(f"{name:5}  {piece.notes.num_rows:>9,} notes  {piece.clicks.num_rows:>11,} clicks")
    show(f"-> {output}")


@commands.command(
    epilog=examples("notellm pairs split", "notellm pairs data --window-days 7 --top 10 --min-users 2")
)
@with_options(PairOptions)
def pairs(
    folder: Annotated[
        Path, typer.Argument(help="A dataset or split folder; pairs.parquet is written into it.")
    ],
    options: PairOptions,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Mine related pairs: notes that users view, and notes that they click afterwards."""
    from notellm.jobs.folders import mine_folder

    for name, count in mine_folder(folder, options, force=force, progress=not quiet).items():
        show(f"{name or folder}: {count:,} related pairs")


def _columns(entries: list[str]) -> dict[str, str]:
    """Return the column names in a file by the names that notellm uses."""
    names = {}
    for entry in entries:
        ours, equals, theirs = entry.partition("=")
        if not (ours and equals and theirs):
            raise ConfigError(f"--column is {entry!r}; write OURS=THEIRS, for example note_id=item_id")
        names[ours] = theirs
    return names
