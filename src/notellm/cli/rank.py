"""Commands that train and use a ranker, which is a BinLLM: rank train, rank score, rank evaluate."""

from pathlib import Path
from typing import Annotated, Any

import typer

from notellm.cli.common import (
    Force,
    History,
    HistoryFile,
    NewerNotes,
    Output,
    Quiet,
    ReportFolder,
    Resume,
    examples,
    group,
    hide_loading_bars,
    ids_of,
    load_notes,
    show,
    show_dropped,
    show_ranked,
    show_report,
    trusts_code,
    warn,
)
from notellm.cli.options import with_options
from notellm.data.datasets.table import IMPRESSION_NAMES, read_impressions_of
from notellm.errors import ConfigError
from notellm.rank.config import RankOptions

commands = group()
rank = typer.Typer(
    help="Train and use a ranker, which scores notes for a user.", rich_markup_mode=None, no_args_is_help=True
)
commands.add_typer(rank, name="rank")


RankerFolder = Annotated[Path, typer.Argument(help="A ranker directory from: notellm rank train.")]


@rank.command(
    epilog=examples(
        "notellm rank train data -o ranker",
        "notellm rank train split -o ranker            (its train part)",
        "notellm rank train data --vectors vectors.parquet -o ranker   (to rank what recall offers)",
        "notellm rank train data --impressions train.parquet --valid valid.parquet -o ranker",
        "notellm rank train --dataset collm --source ml-1m-collm -o ranker",
        "notellm rank train data -o ranker --backbone Qwen/Qwen3-0.6B --bf16",
        "notellm rank train data -o ranker --resume",
    )
)
@with_options(RankOptions)
def train(
    output: Output,
    folder: Annotated[
        Path | None, typer.Argument(help="A dataset or split folder; with --impressions, the notes.")
    ] = None,
    impressions: Annotated[
        Path | None, typer.Option(help="Training impressions (Parquet), instead of clicks.")
    ] = None,
    valid: Annotated[Path | None, typer.Option(help="Validation impressions (Parquet).")] = None,
    dataset: Annotated[
        str | None, typer.Option(help=f"Instead of a folder a public dataset: {', '.join(IMPRESSION_NAMES)}.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="The folder of the public dataset.")] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            help="Vectors from: notellm embed. Learn to rank recall's candidates, and blend with similarity."
        ),
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option(
            help="Negatives per click; default: 4 of recall's candidates, or 1 of a log without views."
        ),
    ] = None,
    valid_share: Annotated[float, typer.Option(help="Share of the impressions for validation.")] = 0.1,
    test_share: Annotated[float, typer.Option(help="Share of the impressions kept for testing.")] = 0.1,
    *,
    options: RankOptions,  # with_options puts the fields in this place
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Fit codes and tune a BinLLM on impressions; keep the checkpoint with the best validation AUC."""
    from notellm.artifacts.replace import check_replaceable
    from notellm.files import write_parquet
    from notellm.jobs.rank_rows import parts_of_clicks
    from notellm.jobs.rank_tuning import DOUBTFUL_ERROR
    from notellm.jobs.train_rank import train_rank
    from notellm.recall.made_by import maker_of
    from notellm.record import describe, make_record, read_record
    from notellm.vectors import read_vectors

    options.resolved()  # reports mistakes before the data are read
    check_replaceable(output, "ranker", force=force)
    recall_vectors, made_by = (None, None) if vectors is None else (read_vectors(vectors), maker_of(vectors))
    if vectors is not None and made_by is None:
        warn(
            f"{vectors} does not say which model made its vectors, so the ranker cannot tell vectors of "
            "another model from these; notellm embed writes vectors that say it"
        )
    histories = None
    if dataset is not None:
        if source is None or folder is not None or impressions is not None:
            raise ConfigError(f"--dataset {dataset} needs --source, and neither a folder nor --impressions")
        public = read_impressions_of(dataset, source)
        notes, train, validation, test = public.notes, public.train, public.valid, public.test
    elif folder is None:
        raise ConfigError("give a dataset or split folder, or --dataset")
    elif (impressions is None) != (valid is None):
        raise ConfigError("give --impressions and --valid together")
    elif impressions is not None and valid is not None:
        notes, train, validation, test = load_notes(folder), _read(impressions), _read(valid), None
    else:
        parts = parts_of_clicks(
            folder,
            vectors=recall_vectors,
            negatives=negatives,
            valid=valid_share,
            test=test_share,
            seed=options.seed,
            progress=not quiet,
        )
        notes, train, validation, test = parts.notes, parts.train, parts.valid, parts.test
        histories = parts.histories
    hide_loading_bars()
    train_rank(
        notes,
        train,
        validation,
        output,
        options=options,
        vectors=recall_vectors,
        vectors_model=made_by,
        histories=histories,
        resume=resume,
        force=force,
        trust_remote_code=trusts_code(),
        progress=not quiet,
    )
    metrics = read_record(output)["metrics"]
    show_dropped(metrics["dropped"])
    named = {"codes": "codes alone", "untrained": "before tuning", "validation": "tuned"}
    figures = [f"{name} {metrics[key]['auc']:.4f}" for key, name in named.items() if key in metrics]
    show(f"validation AUC: {', '.join(figures)}")
    rows = metrics["validation_rows"]
    if rows["auc_error"] > DOUBTFUL_ERROR:
        warn(
            f"the AUC of {rows['liked'] + rows['not_liked']:,} validation rows ({rows['liked']:,} liked) has "
            f"a standard error of {rows['auc_error']:.2f}, so differences below {2 * rows['auc_error']:.2f} "
            "may be chance, also those by which the checkpoint was chosen; give more clicks, or a larger "
            "share for validation (--valid-share)"
        )
    show(f"ranker -> {output}")
    if test is not None:
        test_file = output.with_name(f"{output.name}.run") / "test.parquet"
        record = make_record(
            kind="impressions",
            config={"part": "test", "seed": options.seed},
            data={"impressions": describe(test)},
        )
        write_parquet(test, test_file, record=record)
        show(f"{test.num_rows:,} test impressions -> {test_file}")


@rank.command(
    epilog=examples(
        "notellm rank score ranker --user u17 --candidates n1,n2,n3",
        "notellm rank score ranker --history n8,n9 --candidates-file candidates.txt",
        "notellm rank score ranker --history-file opened.txt --candidates-file candidates.txt",
    )
)
def score(
    ranker: RankerFolder,
    user: Annotated[str | None, typer.Option(help="Id of the user.")] = None,
    candidates: Annotated[str | None, typer.Option(help="Ids of the notes: a,b,c.")] = None,
    candidates_file: Annotated[
        Path | None, typer.Option(help="A text file with one note id per line.")
    ] = None,
    history: History = None,
    history_file: HistoryFile = None,
    notes: NewerNotes = None,
) -> None:
    """Order candidate notes by how likely the user is to enjoy them."""
    if (candidates is None) == (candidates_file is None):
        raise ConfigError("give either --candidates or --candidates-file")
    loaded = _load_ranker(ranker, notes)
    ids = ids_of("candidates", candidates, candidates_file, loaded.texts)
    ranking = loaded.rank(user, ids or [], history=ids_of("history", history, history_file, loaded.texts))
    known = "nothing (a typical user's order)" if ranking.basis == "nothing" else ranking.basis
    show(f"known of the user: {known}")
    show_ranked(loaded.table, ranking.note_ids, ranking.scores, [None] * len(ranking.note_ids))


@rank.command(
    epilog=examples(
        "notellm rank evaluate ranker ranker.run/test.parquet",
        "notellm rank evaluate ranker test.parquet --train train.parquet --notes data -o report",
    )
)
def evaluate(
    ranker: RankerFolder,
    impressions: Annotated[Path, typer.Argument(help="Test impressions (Parquet).")],
    train: Annotated[
        Path | None, typer.Option(help="The training impressions, for popularity and for warm and cold rows.")
    ] = None,
    notes: NewerNotes = None,
    output: ReportFolder = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure a ranker on test impressions, with item popularity and the codes alone."""
    from notellm.artifacts.replace import check_replaceable
    from notellm.jobs.evaluate_rank import evaluate_rank

    if output is not None:
        check_replaceable(output, "report", force=force)
    rows = _read(impressions)
    train_rows = None if train is None else _read(train)
    result = evaluate_rank(_load_ranker(ranker, notes), rows, train=train_rows, progress=not quiet)
    show_dropped(result.record["metrics"]["dropped"])
    show_report(result, output, force=force)


def _read(path: Path) -> Any:
    """Read a table of impressions."""
    from notellm.files import read_parquet

    return read_parquet(path)


def _load_ranker(folder: Path, notes: Path | None) -> Any:
    """Load a ranker, with the notes of another folder or file if there is one."""
    from notellm.rank.scorer import Ranker

    hide_loading_bars()
    ranker = Ranker.from_pretrained(folder, trust_remote_code=trusts_code())
    return ranker if notes is None else ranker.with_notes(load_notes(notes))
