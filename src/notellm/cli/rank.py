"""Commands of rank, which tune and use a BinLLM: rank train, rank score, rank evaluate; and recommend."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from notellm.cli.common import (
    Force,
    Output,
    Quiet,
    Seed,
    examples,
    group,
    hide_loading_bars,
    load_notes,
    show,
    trusts_code,
)
from notellm.errors import ConfigError, DataError

commands = group()
rank = typer.Typer(
    help="Tune and use a BinLLM, which scores a note for a user.", rich_markup_mode=None, no_args_is_help=True
)
commands.add_typer(rank, name="rank")


class Form(StrEnum):
    """What the prompts hold."""

    with_codes = "with_codes"
    text_only = "text_only"
    codes_only = "codes_only"


class CodeText(StrEnum):
    """How codes are written."""

    binary = "binary"
    decimal = "decimal"


class Unknown(StrEnum):
    """The code of who was never seen."""

    average = "average"
    folded = "folded"
    none = "none"


class Dataset(StrEnum):
    """Public datasets of impressions."""

    collm = "collm"


RankerFolder = Annotated[Path, typer.Argument(help="A ranker directory from: notellm rank train.")]
Notes = Annotated[Path | None, typer.Option(help="A dataset folder or notes file with newer notes, too.")]
History = Annotated[str | None, typer.Option(help="Note ids the user liked, oldest first: a,b,c.")]


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
def train(
    output: Output,
    folder: Annotated[
        Path | None, typer.Argument(help="A dataset or split folder; with --impressions the notes.")
    ] = None,
    impressions: Annotated[Path | None, typer.Option(help="Own training impressions (Parquet).")] = None,
    valid: Annotated[Path | None, typer.Option(help="Own validation impressions (Parquet).")] = None,
    dataset: Annotated[Dataset | None, typer.Option(help="A public dataset instead.")] = None,
    source: Annotated[Path | None, typer.Option(help="The folder of the public dataset.")] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            help="From: notellm embed. Learn to rank what recall offers, and blend with its similarity."
        ),
    ] = None,
    negatives: Annotated[
        int | None, typer.Option(help="Drawn per click: 4 of recall's candidates, 1 of a log without views.")
    ] = None,
    valid_share: Annotated[float, typer.Option(help="Share of the impressions that choose.")] = 0.1,
    test_share: Annotated[float, typer.Option(help="Share of the impressions kept for a test.")] = 0.1,
    backbone: Annotated[
        str, typer.Option(help='"tiny", or a causal language model by name or path.')
    ] = "tiny",
    template: Annotated[
        str | None, typer.Option(help="notes, movies, books, compact, or a JSON file of one's own.")
    ] = None,
    lora: Annotated[
        bool | None, typer.Option("--lora/--full", help="Adapters only, or every weight.")
    ] = None,
    form: Annotated[Form, typer.Option(help="Titles and codes, or one alone.")] = Form.with_codes,
    two_step: Annotated[
        bool | None, typer.Option("--two-step/--one-step", help="Tune on the text alone first.")
    ] = None,
    bits: Annotated[int, typer.Option(help="Of a code, a multiple of 8.")] = 32,
    code_text: Annotated[CodeText, typer.Option(help="How codes are written.")] = CodeText.binary,
    unknown: Annotated[Unknown, typer.Option(help="Code of who was never seen.")] = Unknown.average,
    code_epochs: Annotated[int, typer.Option(help="Passes of the collaborative model, at most.")] = 500,
    out_of_fold: Annotated[int, typer.Option(help="Folds for the codes of training rows; 0: none.")] = 5,
    epochs: Annotated[float | None, typer.Option(help="Passes over the impressions.")] = None,
    text_epochs: Annotated[float | None, typer.Option(help="Passes of the first of two steps.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps instead of epochs.")] = None,
    batch: Annotated[int, typer.Option(help="Impressions in a batch.")] = 64,
    learning_rate: Annotated[float | None, typer.Option(help="Of the layers.")] = None,
    embedding_learning_rate: Annotated[float | None, typer.Option(help="Of the token embeddings.")] = None,
    text_embedding_learning_rate: Annotated[
        float | None, typer.Option(help="The same where prompts hold no codes.")
    ] = None,
    history: Annotated[int, typer.Option(help="Liked notes that a prompt names.")] = 10,
    title_tokens: Annotated[int, typer.Option(help="Budget of a title.")] = 20,
    content_tokens: Annotated[int, typer.Option(help="Budget of the candidate's content.")] = 40,
    evaluations: Annotated[int | None, typer.Option(help="How often to measure validation AUC.")] = None,
    patience: Annotated[int | None, typer.Option(help="Measurements without gain before the end.")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 (GPU).")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was cut off.")] = False,
    force: Force = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Fit codes and tune a BinLLM on impressions; the best checkpoint by validation AUC is kept."""
    from notellm.artifacts.replace import check_replaceable
    from notellm.data.impressions import click_histories
    from notellm.data.split import split_impressions
    from notellm.files import write_parquet
    from notellm.jobs.train_rank import RankOptions, train_rank
    from notellm.record import describe, make_record, read_record
    from notellm.vectors import read_vectors

    options = RankOptions(
        backbone=backbone,
        template=template,
        lora=lora,
        form=form.value,
        two_step=two_step,
        bits=bits,
        code_text=code_text.value,
        unknown=unknown.value,
        code_epochs=code_epochs,
        out_of_fold=out_of_fold,
        epochs=epochs,
        text_epochs=text_epochs,
        max_steps=max_steps,
        batch=batch,
        learning_rate=learning_rate,
        embedding_learning_rate=embedding_learning_rate,
        text_embedding_learning_rate=text_embedding_learning_rate,
        history=history,
        title_tokens=title_tokens,
        content_tokens=content_tokens,
        evaluations=evaluations,
        patience=patience,
        bf16=bf16,
        seed=seed,
    )
    options.resolved()  # mistakes are told before the data are read
    check_replaceable(output, "ranker", force=force)
    recall = None if vectors is None else read_vectors(vectors)
    histories = None
    if dataset is not None:
        if source is None or folder is not None or impressions is not None:
            raise ConfigError(f"--dataset {dataset} needs --source, and neither a folder nor --impressions")
        notes, train, chosen, test = _collm(source)
    elif folder is None:
        raise ConfigError("give a dataset or split folder, or --dataset")
    elif (impressions is None) != (valid is None):
        raise ConfigError("give --impressions and --valid together")
    elif impressions is not None and valid is not None:
        notes, train, chosen, test = load_notes(folder), _read(impressions), _read(valid), None
    else:
        part = _clicked(folder)
        notes, histories = part.notes, click_histories(part.clicks)
        rows = _impressions(part.clicks, recall, negatives, seed, progress=not quiet)
        train, chosen, test = split_impressions(rows, valid=valid_share, test=test_share, seed=seed)
    hide_loading_bars()
    train_rank(
        notes,
        train,
        chosen,
        output,
        options=options,
        vectors=recall,
        histories=histories,
        resume=resume,
        force=force,
        trust_remote_code=trusts_code(),
        progress=not quiet,
    )
    metrics = read_record(output)["metrics"]
    for problem, count in metrics["dropped"].items():
        show(f"left out: {count:,} rows, {problem}")
    named = {"codes": "codes alone", "untrained": "before tuning", "validation": "tuned"}
    figures = [f"{name} {metrics[key]['auc']:.4f}" for key, name in named.items() if key in metrics]
    show(f"validation AUC: {', '.join(figures)}")
    show(f"ranker -> {output}")
    if test is not None:
        kept = output.with_name(f"{output.name}.run") / "test.parquet"
        about = make_record(
            kind="impressions", config={"part": "test", "seed": seed}, data={"impressions": describe(test)}
        )
        write_parquet(test, kept, record=about)
        show(f"{test.num_rows:,} test impressions -> {kept}")


@rank.command(
    epilog=examples(
        "notellm rank score ranker --user u17 --candidates n1,n2,n3",
        "notellm rank score ranker --history n8,n9 --candidates-file candidates.txt",
    )
)
def score(
    ranker: RankerFolder,
    user: Annotated[str | None, typer.Option(help="The user's id.")] = None,
    candidates: Annotated[str | None, typer.Option(help="Note ids: a,b,c.")] = None,
    candidates_file: Annotated[Path | None, typer.Option(help="A text file, one note id a line.")] = None,
    history: History = None,
    notes: Notes = None,
) -> None:
    """Order candidates by how likely a user is to enjoy them."""
    if (candidates is None) == (candidates_file is None):
        raise ConfigError("give either --candidates or --candidates-file")
    ids = _ids(candidates or "") if candidates_file is None else _lines(candidates_file)
    found = _load_ranker(ranker, notes)
    ranking = found.rank(user, ids, history=None if history is None else _ids(history))
    known = "nothing (a typical user's order)" if ranking.basis == "nothing" else ranking.basis
    show(f"known of the user: {known}")
    _show(found, ranking.note_ids, ranking.scores)


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
        Path | None, typer.Option(help="The training impressions, for popularity and cold rows.")
    ] = None,
    notes: Notes = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder for the report.")] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure a ranker on test impressions beside item popularity and its codes alone."""
    from notellm.artifacts.replace import check_replaceable
    from notellm.jobs.evaluate_rank import evaluate_rank

    if output is not None:
        check_replaceable(output, "report", force=force)
    rows = _read(impressions)
    seen = None if train is None else _read(train)
    result = evaluate_rank(_load_ranker(ranker, notes), rows, train=seen, progress=not quiet)
    for problem, count in result.record["metrics"]["dropped"].items():
        show(f"left out: {count:,} rows, {problem}")
    show(result.text())
    if output is not None:
        result.save(output, force=force)
        show(f"report -> {output}")


@commands.command(
    epilog=examples(
        "notellm recommend --vectors vectors.parquet --ranker ranker --user u17",
        "notellm recommend --model model --ranker ranker --notes data --user u17 -k 5",
        "notellm recommend --vectors vectors.parquet --ranker ranker --history n8,n9 --no-rerank",
    )
)
def recommend(
    ranker: Annotated[Path, typer.Option(help="A ranker directory.")],
    model: Annotated[str | None, typer.Option(help="A NoteLLM directory, which embeds the notes.")] = None,
    vectors: Annotated[Path | None, typer.Option(help="Vectors from: notellm embed.")] = None,
    notes: Notes = None,
    user: Annotated[str | None, typer.Option(help="The user's id; none: popular notes.")] = None,
    history: History = None,
    k: Annotated[int, typer.Option("-k", help="How many notes.")] = 20,
    exclude: Annotated[str, typer.Option(help="Note ids that shall not come back: a,b,c.")] = "",
    recall_k: Annotated[int, typer.Option(help="Candidates that are ranked.")] = 100,
    per_note: Annotated[int | None, typer.Option(help="Candidates one opened note may bring.")] = None,
    last: Annotated[int, typer.Option(help="Opened notes that bring candidates.")] = 10,
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Rank, or recall alone.")] = True,
    quiet: Quiet = False,
) -> None:
    """Recommend notes to a user: those near what they opened, ranked; never what they have seen."""
    from notellm.errors import ModelError
    from notellm.recall.checkpoint import is_checkpoint
    from notellm.recommend.recommender import Recommender

    if (model is None) == (vectors is None):
        raise ConfigError("give either --model or --vectors")
    if model is not None and not is_checkpoint(model):
        raise ModelError(f"{model} is not a NoteLLM directory; train one: notellm train")
    hide_loading_bars()
    table = None if notes is None else load_notes(notes)
    recommender = Recommender.load(
        model or str(vectors), ranker, notes=table, trust_remote_code=trusts_code(), progress=not quiet
    )
    result = recommender.recommend(
        user,
        history=None if history is None else _ids(history),
        k=k,
        exclude=_ids(exclude),
        recall_k=recall_k,
        per_note=per_note,
        last=last,
        rerank=rerank,
    )
    show(result.basis)
    reasons = [f"  <- {reason}" if reason else "" for reason in result.reasons]
    _show(recommender.ranker, result.note_ids, result.scores, reasons)


def _clicked(folder: Path) -> Any:
    """Notes and clicks of a dataset folder, or of a split folder's train part."""
    from notellm.jobs.folders import is_split, load_dataset

    part = load_dataset(folder / "train" if is_split(folder) else folder)
    if not part.clicks.num_rows:
        raise DataError(f"{folder} has no clicks to learn from; prepare it with --clicks")
    return part


def _impressions(clicks: Any, recall: Any, negatives: int | None, seed: int, *, progress: bool) -> Any:
    """Impressions of clicks: beside what recall offered, where there is one."""
    from notellm.data.impressions import impressions_from_clicks
    from notellm.recommend.candidates import impressions_from_candidates

    given = {} if negatives is None else {"negatives": negatives}
    if recall is None:
        return impressions_from_clicks(clicks, seed=seed, **given)
    return impressions_from_candidates(clicks, recall, seed=seed, progress=progress, **given)


def _collm(source: Path) -> tuple[Any, ...]:
    from notellm.data.datasets.collm import read_collm

    data = read_collm(source)
    return data.notes, data.train, data.valid, data.test


def _read(path: Path) -> Any:
    from notellm.files import read_parquet

    return read_parquet(path)


def _load_ranker(folder: Path, notes: Path | None) -> Any:
    from notellm.rank.scorer import Ranker

    hide_loading_bars()
    ranker = Ranker.from_pretrained(folder, trust_remote_code=trusts_code())
    return ranker if notes is None else ranker.with_notes(load_notes(notes))


def _ids(given: str) -> list[str]:
    return [part.strip() for part in given.split(",") if part.strip()]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8: {error}") from error


def _show(ranker: Any, note_ids: list[str], scores: Any, ends: list[str] | None = None) -> None:
    """A line a note: score, id, title, and what else there is to say."""
    names = ("note_id", "title", "content")
    titles = {
        note_id: " ".join((title or content).split())[:70]
        for note_id, title, content in zip(*(ranker.table[n].to_pylist() for n in names), strict=True)
    }
    for note_id, value, end in zip(note_ids, scores, ends or [""] * len(note_ids), strict=True):
        show(f"  {value:.3f}  {note_id}  {titles[note_id]}{end}".rstrip())
