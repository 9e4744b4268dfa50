"""Commands that prepare the data: prepare, split, pairs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from notellm.cli.common import Force, Output, Quiet, Seed, columns_of, examples, group, show, show_guesses
from notellm.cli.options import with_options
from notellm.data.datasets.table import CLICK_NAMES
from notellm.errors import ConfigError
from notellm.jobs.prepare_options import PrepareOptions
from notellm.pairs.score import PairOptions

commands = group()


#: The name under which --dataset offers the built-in sample world.
_SAMPLE = "sample"


_SHOWN_ROWS = 10
_CELL = 40  # characters of a cell that --dry-run shows


class By(StrEnum):
    """How train and test are separated."""

    note = "note"
    time = "time"


_SHARES = {By.note: {"test": 0.3, "valid": 0.05}, By.time: {"test": 0.2, "valid": 0.1}}


@commands.command(
    epilog=examples(
        "notellm prepare --notes notes.csv --clicks clicks.parquet --dry-run",
        "notellm prepare --notes notes.csv --clicks clicks.parquet -o data",
        "notellm prepare --notes items.jsonl --column note_id=item_id --column content=text -o data",
        "notellm prepare --notes artists.tsv --notes-column note_id=id --clicks 'plays/*.csv.gz' -o data",
        "notellm prepare --dataset microlens --source MicroLens-50k -o data",
        "notellm prepare --dataset sample --sample-notes 3000 -o data",
    )
)
@with_options(PrepareOptions)
def prepare(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where to write; only an earlier result of this kind is replaced."
        ),
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option(
            help="Notes: Parquet, CSV, TSV or JSON, gzip or zstd; a file, a folder of parts or a pattern."
        ),
    ] = None,
    clicks: Annotated[Path | None, typer.Option(help="Clicks: in the same forms; optional.")] = None,
    topics: Annotated[
        Path | None, typer.Option(help="Topics beside those of the notes: a table with note_id and topics.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=f"Instead of --notes and --clicks: {', '.join(CLICK_NAMES)} or {_SAMPLE}."),
    ] = None,
    source: Annotated[Path | None, typer.Option(help="The folder of the public dataset.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="OURS=THEIRS, for a column of another name in all tables; #3 is the third, a.b a nested "
            "one. Repeatable."
        ),
    ] = None,
    notes_column: Annotated[list[str] | None, typer.Option(help="The same, of the notes alone.")] = None,
    clicks_column: Annotated[list[str] | None, typer.Option(help="The same, of the clicks alone.")] = None,
    topics_column: Annotated[list[str] | None, typer.Option(help="The same, of --topics alone.")] = None,
    hashtags: Annotated[
        bool, typer.Option("--hashtags", help="Move #hashtags from the text to the topics.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read a sample and show what would be done; write nothing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at any problem instead of repairing it.")
    ] = False,
    sample_notes: Annotated[int, typer.Option(help="Number of notes of --dataset sample.", min=1)] = 3_000,
    sample_users: Annotated[int, typer.Option(help="Number of users of --dataset sample.", min=1)] = 2_000,
    sample_clicks: Annotated[int, typer.Option(help="Number of clicks of --dataset sample.", min=0)] = 60_000,
    *,
    options: PrepareOptions,  # with_options puts the fields in this place
    force: Force = False,
    seed: Seed = 0,
) -> None:
    """Read notes and clicks, check and clean them, and report every problem in one table."""
    from notellm.artifacts.replace import check_replaceable
    from notellm.data.convert import click_log
    from notellm.data.problems import Report
    from notellm.data.sample_world import sample_world
    from notellm.jobs.folders import save_dataset
    from notellm.jobs.prepare import (
        SAMPLE_ROWS,
        Raw,
        Sources,
        check_by_rules,
        clean,
        configuration,
        read_dataset,
        read_sources,
    )

    if (dataset is None) == (notes is None):
        raise ConfigError("give either --notes (and --clicks), or --dataset")
    if output is None and not dry_run:
        raise ConfigError("give --output (-o), the folder to write; or --dry-run, which writes nothing")
    if output is not None:
        check_replaceable(output, "dataset", force=force)
    tables = {"": column, "notes": notes_column, "clicks": clicks_column, "topics": topics_column}
    columns = {
        table: columns_of(entries or [], f"--{table}-column" if table else "--column")
        for table, entries in tables.items()
    }
    if dataset is not None:
        given: dict[str, object] = {"clicks": clicks, "topics": topics, "hashtags": hashtags or None}
        given |= {f"{table}-column".lstrip("-"): named or None for table, named in columns.items()}
        if unused := next((name for name, value in given.items() if value is not None), None):
            raise ConfigError(f"--{unused} goes with --notes, not with --dataset; leave it out")
    if notes is not None:
        sources = Sources(notes, clicks, topics, columns, hashtags)
        raw = read_sources(sources, options, rows=SAMPLE_ROWS if dry_run else None)
    elif dataset == _SAMPLE:
        world = sample_world(sample_notes, sample_users, sample_clicks, seed=seed)
        check_by_rules(_SAMPLE, options)
        raw = Raw(world.notes, click_log(world.clicks, "clicks", Report()), Report())
    else:
        if dataset not in CLICK_NAMES:
            raise ConfigError(f"no dataset {dataset!r}: give one of {', '.join(CLICK_NAMES)} or {_SAMPLE}")
        if source is None:
            raise ConfigError(f"--dataset {dataset} needs --source, the folder of its files")
        raw = read_dataset(dataset, source, options)
    if dry_run:
        _show_sample(raw)
        return
    good_notes, good_clicks, report = clean(raw, options, strict=strict)
    sample = dataset == _SAMPLE
    config = configuration(
        options,
        dataset=dataset,
        source=source and str(source),
        notes=notes and str(notes),
        clicks=clicks and str(clicks),
        topics=topics and str(topics),
        columns=columns,
        hashtags=hashtags,
        strict=strict,
        sample={"notes": sample_notes, "users": sample_users, "clicks": sample_clicks} if sample else None,
    )
    save_dataset(
        Path(str(output)),
        good_notes,
        good_clicks,
        report,
        config=config,
        seed=seed if sample else None,
        force=force,
    )
    show(report)
    show_guesses(report)
    show(f"{good_notes.num_rows:,} notes, {len(good_clicks):,} clicks -> {output}")


def _show_sample(raw: Any) -> None:
    """Show what reading a sample found: columns, guesses, and the first rows as they would become."""
    from notellm.data.convert import RAW_CLICKS

    for table, rows in (("notes", raw.notes), ("clicks", next(raw.log.pieces(RAW_CLICKS)))):
        if table in raw.roles:
            roles = ", ".join(f"{ours} from {theirs!r}" for ours, theirs in raw.roles[table].items())
            show(f"{table}: {roles}")
        for row in rows.slice(0, _SHOWN_ROWS).to_pylist():
            show(f"  {', '.join(f'{name} {_brief(value)}' for name, value in row.items())}")
    show("")
    show(raw.report)
    show_guesses(raw.report)
    show(
        f"nothing was written: this is what the first {raw.notes.num_rows:,} notes and "
        f"{len(raw.log):,} clicks say"
    )


def _brief(value: Any) -> str:
    """Return a cell in at most forty characters."""
    if value is None or value == "":
        return "-"
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"


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
    epilog=examples(
        "notellm pairs split",
        "notellm pairs data --window-days 7 --top 10 --min-users 2",
        "notellm pairs data --engine spark://master:7077 --log hdfs:///logs/clicks/",
        "notellm pairs data --engine bigquery://project/dataset --log clicks",
    )
)
@with_options(PairOptions)
def pairs(
    folder: Annotated[
        Path, typer.Argument(help="A dataset or split folder; pairs.parquet is written into it.")
    ],
    options: PairOptions,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Mine where the log lies: duckdb, local[N] or spark://HOST:PORT, an address of Ibis."
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(help="With --engine: table, Parquet file, folder or pattern; else the folder's clicks."),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Mine related pairs: notes that users view, and notes that they click afterwards."""
    from notellm.data.problems import Report
    from notellm.jobs.folders import mine_folder
    from notellm.pairs.counts import report_of, why_none

    if engine is not None:
        from notellm.jobs.warehouse_pairs import mine_folder_there

        mined = mine_folder_there(folder, engine, options, log=log, force=force)
    elif log is not None:
        raise ConfigError(f"--log {log} belongs to --engine, which says where it lies")
    else:
        mined = mine_folder(folder, options, force=force, progress=not quiet)
    report = Report()
    for name, counts in mined.items():
        reason = why_none(counts, options)
        show(f"{name or folder}: {counts.kept:,} related pairs{reason and f': {reason}'}")
        report += report_of(counts, options, f"{name} clicks: timestamp".strip())
    if len(report):
        show(report)
