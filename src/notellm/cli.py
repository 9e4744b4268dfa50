"""The command line: parses, calls the library, prints. Run ``notellm --help``.

A user's mistake ends in one line on standard error and exit status 2, without a traceback.
"""

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from notellm import __version__
from notellm.errors import ConfigError, DataError, NotellmError

app = typer.Typer(
    name="notellm",
    help="From a table of notes and a click log to related notes, topics and categories (NoteLLM).",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Dataset(StrEnum):
    """Public datasets that can be read as they are distributed."""

    microlens = "microlens"
    movielens = "movielens"
    mind = "mind"
    kuairec = "kuairec"
    sample = "sample"


class By(StrEnum):
    """What separates train from test."""

    note = "note"
    time = "time"


Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write; replaced when complete.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.", min=0)]


def _examples(*lines: str) -> str:
    r"""An epilog of examples; \b keeps the lines apart."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@app.command(
    epilog=_examples(
        "notellm prepare --notes notes.csv --clicks clicks.parquet -o data",
        "notellm prepare --notes items.jsonl --column note_id=item_id --column content=text -o data",
        "notellm prepare --dataset microlens --source MicroLens-50k -o data",
        "notellm prepare --dataset sample --sample-notes 3000 -o data",
    )
)
def prepare(
    output: Output,
    notes: Annotated[Path | None, typer.Option(help="Notes: Parquet, CSV, TSV or JSON lines.")] = None,
    clicks: Annotated[Path | None, typer.Option(help="Clicks: the same formats; may be left out.")] = None,
    dataset: Annotated[Dataset | None, typer.Option(help="A public dataset instead of own files.")] = None,
    source: Annotated[Path | None, typer.Option(help="The folder of the public dataset.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS, where a column is called otherwise; repeatable.")
    ] = None,
    hashtags: Annotated[
        bool, typer.Option("--hashtags", help="Move #hashtags of the text to topics.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at any problem instead of repairing.")
    ] = False,
    sample_notes: Annotated[int, typer.Option(help="Notes of --dataset sample.", min=1)] = 3_000,
    sample_users: Annotated[int, typer.Option(help="Users of --dataset sample.", min=1)] = 2_000,
    sample_clicks: Annotated[int, typer.Option(help="Clicks of --dataset sample.", min=0)] = 60_000,
    seed: Seed = 0,
) -> None:
    """Read notes and clicks, check and clean them, and report every problem in one table."""
    from notellm import data
    from notellm.pipeline.folders import save_dataset

    report = data.Report()
    if (dataset is None) == (notes is None):
        raise ConfigError("give either --notes (and --clicks), or --dataset")
    if dataset is Dataset.sample:
        world = data.sample_world(sample_notes, sample_users, sample_clicks, seed=seed)
        raw_notes, raw_clicks = world.notes, world.clicks
    elif dataset is not None:
        if source is None:
            raise ConfigError(f"--dataset {dataset} needs --source, the folder where its files lie")
        readers = {
            Dataset.microlens: data.read_microlens,
            Dataset.movielens: data.read_movielens,
            Dataset.mind: data.read_mind,
            Dataset.kuairec: data.read_kuairec,
        }
        raw_notes, raw_clicks = readers[dataset](source)
    else:
        names = _columns(column or [])
        note_columns = {ours: theirs for ours, theirs in names.items() if ours in data.NOTES.names}
        click_columns = {ours: theirs for ours, theirs in names.items() if ours in data.CLICKS.names}
        read = data.read_notes(str(notes), columns=note_columns, hashtags=hashtags)
        raw_notes, report = read.table, read.report
        raw_clicks = data.CLICKS.empty_table()
        if clicks is not None:
            read = data.read_clicks(clicks, columns=click_columns)
            raw_clicks, report = read.table, report + read.report
    if strict and len(report):
        raise DataError(f"strict: the files have {len(report)} kinds of problems\n{report}")
    good_notes, good_clicks, found = data.validate(raw_notes, raw_clicks, strict=strict)
    config = {"dataset": dataset, "notes": notes, "clicks": clicks, "source": source, "hashtags": hashtags}
    save_dataset(
        output, good_notes, good_clicks, report + found, config={k: v and str(v) for k, v in config.items()}
    )
    print(report + found)
    print(f"{good_notes.num_rows:,} notes, {good_clicks.num_rows:,} clicks -> {output}")


@app.command(
    epilog=_examples("notellm split data -o split", "notellm split data --by time --test 0.2 -o split")
)
def split(
    data: Annotated[Path, typer.Argument(help="A dataset folder from: notellm prepare.")],
    output: Output,
    by: Annotated[By, typer.Option(help="Unseen notes, or later clicks.")] = By.note,
    test: Annotated[float | None, typer.Option(help="Share of test: 0.3 by note, 0.2 by time.")] = None,
    valid: Annotated[
        float | None, typer.Option(help="Share of validation: 0.05 by note, 0.1 by time.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Split a dataset into train, valid and test without leaks: by note or by time."""
    from notellm.evaluate import split_by_note, split_by_time
    from notellm.pipeline.folders import PARTS, load_dataset, save_split

    part = load_dataset(data)
    shares = {name: value for name, value in (("test", test), ("valid", valid)) if value is not None}
    if by is By.note:
        made = split_by_note(part.notes, part.clicks, seed=seed, **shares)
    else:
        made = split_by_time(part.notes, part.clicks, **shares)
    save_split(output, made, config={"by": by.value, **shares}, seed=seed if by is By.note else None)
    for name in PARTS:
        piece = getattr(made, name)
        print(f"{name:5}  {piece.notes.num_rows:>9,} notes  {piece.clicks.num_rows:>11,} clicks")
    print(f"-> {output}")


@app.command(
    epilog=_examples("notellm pairs split", "notellm pairs data --window-days 7 --top 10 --min-users 2")
)
def pairs(
    folder: Annotated[Path, typer.Argument(help="A dataset or split folder; pairs.parquet goes into it.")],
    upper: Annotated[float, typer.Option(help="Drop pairs that score more (u).")] = 30.0,
    lower: Annotated[float, typer.Option(help="Drop pairs that score less (l).")] = 0.01,
    top: Annotated[int, typer.Option(help="Keep so many targets a note (t).")] = 10,
    window_days: Annotated[float | None, typer.Option(help="Only the last days of the log.")] = None,
    min_users: Annotated[int, typer.Option(help="Drop pairs that fewer users made.")] = 2,
    quiet: Quiet = False,
) -> None:
    """Mine related pairs: who views one note and afterwards clicks another."""
    from notellm.pairs import PairOptions
    from notellm.pipeline.folders import mine_folder

    options = PairOptions(upper, lower, top, window_days, min_users)
    for name, count in mine_folder(folder, options, progress=not quiet).items():
        print(f"{name or folder}: {count:,} related pairs")


@app.command(
    epilog=_examples(
        "notellm train split -o model",
        "notellm train split -o model --backbone Qwen/Qwen3-0.6B --template chinese --bf16",
        "notellm train split -o model --resume",
        "notellm train split -o tags --no-pairs      (category and topics only)",
    )
)
def train(
    folder: Annotated[Path, typer.Argument(help="A split folder (with pairs), or a dataset folder.")],
    output: Output,
    backbone: Annotated[
        str, typer.Option(help='"tiny", or a causal language model by name or path.')
    ] = "tiny",
    template: Annotated[
        str | None, typer.Option(help="english, chinese, compact, or a JSON file of one's own.")
    ] = None,
    lora: Annotated[
        bool | None, typer.Option("--lora/--full", help="Adapters only, or every weight.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the related pairs.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps instead of epochs.")] = None,
    batch_pairs: Annotated[int | None, typer.Option(help="Pairs in a batch (B).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the transformer's layers.")] = None,
    embedding_learning_rate: Annotated[float | None, typer.Option(help="Of the token embeddings.")] = None,
    head_learning_rate: Annotated[float | None, typer.Option(help="Of the projection and tau.")] = None,
    alpha: Annotated[float, typer.Option(help="Weight of the generation loss.")] = 0.01,
    topic_share: Annotated[float | None, typer.Option(help="Share of notes that do topics (r).")] = None,
    tau: Annotated[float | None, typer.Option(help="Starting log inverse temperature.")] = None,
    dim: Annotated[int, typer.Option(help="Dimensions of the vector (d).", min=1)] = 128,
    title_tokens: Annotated[int, typer.Option(help="Budget of the title.")] = 20,
    content_tokens: Annotated[int, typer.Option(help="Budget of the content.")] = 80,
    chunk_notes: Annotated[int | None, typer.Option(help="Notes per pass, where memory is short.")] = None,
    evaluations: Annotated[int, typer.Option(help="How often to measure validation Recall.")] = 5,
    sampling_correction: Annotated[
        bool, typer.Option("--sampling-correction/--paper-loss", help="Correct in-batch negatives.")
    ] = True,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 (GPU).")] = False,
    no_pairs: Annotated[bool, typer.Option("--no-pairs", help="Train category and topics only.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut off.")] = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a NoteLLM on notes and their related pairs; the best checkpoint by validation is kept."""
    from notellm.pipeline.fit import FitOptions, fit
    from notellm.pipeline.folders import is_split, load_dataset, load_pairs
    from notellm.recall.trainer import Validation

    home = folder / "train" if is_split(folder) else folder
    part = load_dataset(home)
    related = None if no_pairs else load_pairs(home)
    if related is None and not no_pairs:
        raise DataError(f"{home} has no related pairs; mine them with: notellm pairs {folder}")
    validation = None
    if is_split(folder) and not no_pairs:
        held_out = load_pairs(folder / "valid")
        if held_out is not None and held_out.num_rows:
            validation = Validation(load_dataset(folder / "valid").notes, held_out)
        else:
            print("the valid part has no related pairs: the last checkpoint is kept, not the best")
    _hide_loading_bars()
    options = FitOptions(
        backbone=backbone,
        template=template,
        lora=lora,
        epochs=epochs,
        max_steps=max_steps,
        batch_pairs=batch_pairs,
        learning_rate=learning_rate,
        embedding_learning_rate=embedding_learning_rate,
        head_learning_rate=head_learning_rate,
        alpha=alpha,
        topic_share=topic_share,
        tau=tau,
        sampling_correction=sampling_correction,
        dim=dim,
        title_tokens=title_tokens,
        content_tokens=content_tokens,
        chunk_notes=chunk_notes,
        evaluations=evaluations,
        bf16=bf16,
        seed=seed,
    )
    fit(
        part.notes,
        related,
        output,
        validation=validation,
        options=options,
        resume=resume,
        progress=not quiet,
    )
    print(f"model -> {output}")


@app.command(epilog=_examples("notellm embed model data -o vectors.parquet"))
def embed(
    model: Annotated[str, typer.Argument(help="A model directory.")],
    notes: Annotated[Path, typer.Argument(help="A dataset folder, or a notes file.")],
    output: Output,
    quiet: Quiet = False,
) -> None:
    """Write the vector of every note to a Parquet file; a killed run goes on where it stopped."""
    from notellm.recall.embed import embed_to_parquet

    table = _notes(notes)
    embed_to_parquet(_model(model), table, output, progress=not quiet)
    print(f"{table.num_rows:,} vectors -> {output}")


@app.command(
    epilog=_examples(
        "notellm related vectors.parquet --id 4711 --notes data",
        'notellm related vectors.parquet --model model --title "Cold brew at the camp site" --notes data',
        "notellm related vectors.parquet --all -o related.parquet",
    )
)
def related(
    vectors: Annotated[Path, typer.Argument(help="Vectors from: notellm embed.")],
    note_id: Annotated[list[str] | None, typer.Option("--id", help="A note's id; repeatable.")] = None,
    title: Annotated[str, typer.Option(help="Title of a note never seen before.")] = "",
    content: Annotated[str, typer.Option(help="Its content.")] = "",
    topic: Annotated[list[str] | None, typer.Option(help="Its topics; repeatable.")] = None,
    model: Annotated[str | None, typer.Option(help="The model directory, for a text.")] = None,
    notes: Annotated[Path | None, typer.Option(help="Show titles from this folder or file.")] = None,
    every: Annotated[bool, typer.Option("--all", help="The item-to-item table of all notes.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="For --all: a Parquet file.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many related notes.")] = 10,
    quiet: Quiet = False,
) -> None:
    """Find related notes: by id, for a new text, or for all notes at once."""
    from notellm.recall import related as search
    from notellm.recall.embed import read_vectors
    from notellm.recall.prompt import Note

    text = bool(title or content or topic)
    if sum([bool(note_id), text, every]) != 1:
        raise ConfigError("ask in one way: --id, or a text (--title, --content, --topic), or --all")
    ids, matrix = read_vectors(vectors)
    if every:
        if output is None:
            raise ConfigError("--all writes a Parquet file: give --output")
        count = search.write_item_to_item(ids, matrix, output, k=k, progress=not quiet)
        print(f"related notes of {count:,} notes -> {output}")
        return
    titles = {} if notes is None else _titles(notes)
    if note_id:
        answers = search.related_by_id(ids, matrix, note_id, k=k)
        asked = [f"{one}  {titles.get(one, '')}" for one in note_id]
    else:
        if model is None:
            raise ConfigError("a text needs --model, the directory of the model that made the vectors")
        query = _model(model).encode([Note(title, content, tuple(topic or ()))])
        answers = search.related_by_vector(ids, matrix, query, k=k)
        asked = [title or content or " ".join(topic or ())]
    for question, answer in zip(asked, answers, strict=True):
        print(question)
        for found, cosine in answer:
            print(f"  {cosine:.3f}  {found}  {titles.get(found, '')}".rstrip())


@app.command(
    epilog=_examples(
        'notellm tag model --title "Sourdough without kneading" --content "Flour, water, salt, time."',
        "notellm tag model --notes data -o tags.parquet",
        "notellm tag model --notes data --topics 3 --free -o tags.parquet",
    )
)
def tag(
    model: Annotated[str, typer.Argument(help="A model directory.")],
    notes: Annotated[Path | None, typer.Option(help="A dataset folder or notes file.")] = None,
    title: Annotated[str, typer.Option(help="Title of one note.")] = "",
    content: Annotated[str, typer.Option(help="Content of one note.")] = "",
    topics: Annotated[int | None, typer.Option(help="How many topics; left out: the model ends.")] = None,
    free: Annotated[bool, typer.Option("--free", help="Let the category be written freely.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="For --notes: a Parquet file.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write topics (hashtags) and the category of one note or of many."""
    import pyarrow as pa

    from notellm.files import write_parquet
    from notellm.recall.prompt import Note

    if bool(title or content) == (notes is not None):
        raise ConfigError("give one note's --title or --content, or --notes for many")
    writer = _model(model)
    knows_categories = bool(writer.settings.categories)
    if notes is None:
        rows = [Note(title, content)]
        if knows_categories or free:
            print(f"category: {writer.categorize(rows, constrained=not free)[0]}")
        print(f"topics: {', '.join(writer.write_topics(rows, n=topics)[0])}")
        return
    if output is None:
        raise ConfigError("--notes writes a Parquet file: give --output")
    table = _notes(notes)
    written = {"note_id": table.column("note_id")}
    if knows_categories or free:
        names = writer.categorize(table, constrained=not free, progress=not quiet)
        written["category"] = pa.array(names, pa.string())
    hashtags = writer.write_topics(table, n=topics, progress=not quiet)
    written["topics"] = pa.array(hashtags, pa.list_(pa.string()))
    write_parquet(pa.table(written), output)
    print(f"tags of {table.num_rows:,} notes -> {output}")


@app.command(epilog=_examples("notellm evaluate model split -o report"))
def evaluate(
    model: Annotated[str, typer.Argument(help="A model directory.")],
    folder: Annotated[Path, typer.Argument(help="The split folder it was trained on, with pairs.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder for the report.")] = None,
    min_users: Annotated[int, typer.Option(help="Related pairs of fewer users are no truth.")] = 2,
    untrained: Annotated[
        bool, typer.Option("--untrained/--no-untrained", help="Measure the model before training, too.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Measure a model on the test part beside popularity, TF-IDF, co-occurrence and itself untrained."""
    from notellm.files import read_json
    from notellm.pipeline.evaluate import evaluate_model
    from notellm.pipeline.fit import FitOptions, build_model
    from notellm.pipeline.folders import load_pairs, load_split
    from notellm.record import RECORD

    parts = load_split(folder)
    trained = _model(model)
    before = None
    if untrained:
        record = read_json(Path(model) / RECORD)
        before = build_model(FitOptions(**record["config"]), parts.train.notes)
    result = evaluate_model(
        trained,
        parts,
        load_pairs(folder / "test"),
        untrained=before,
        min_users=min_users,
        progress=not quiet,
    )
    print(result.text())
    if output is not None:
        result.save(output)
        print(f"report -> {output}")


@app.command(epilog=_examples("notellm demo", "notellm demo --notes 600 --max-steps 50 -o quick-demo"))
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to work.")] = Path("notellm-demo"),
    notes: Annotated[int, typer.Option(help="Notes of the sample world.", min=200)] = 2_000,
    max_steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 70,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Do everything once on the built-in sample world: mine, train, evaluate, show. No download."""
    from notellm.pipeline.demo import run_demo

    _hide_loading_bars()
    run_demo(output, notes=notes, max_steps=max_steps, seed=seed, progress=not quiet, say=print)


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


def _columns(given: list[str]) -> dict[str, str]:
    names = {}
    for entry in given:
        ours, equals, theirs = entry.partition("=")
        if not (ours and equals and theirs):
            raise ConfigError(f"--column {entry!r}: give OURS=THEIRS, for example note_id=item_id")
        names[ours] = theirs
    return names


def _model(path: str) -> Any:
    """A trained model; a causal language model alone has no projection, so it is refused."""
    from notellm.errors import ModelError
    from notellm.recall.model import CONFIG, NoteLLM

    if not (Path(path) / CONFIG).is_file():
        raise ModelError(f"{path} is not a NoteLLM directory (it has no {CONFIG}); train one: notellm train")
    _hide_loading_bars()
    return NoteLLM.from_pretrained(path)


def _hide_loading_bars() -> None:
    """Loading and saving weights takes a moment; transformers' bars for it would hide what matters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _notes(path: Path) -> Any:
    from notellm.data import CLICKS, read_notes, validate
    from notellm.pipeline.folders import load_dataset

    if path.is_dir():
        return load_dataset(path).notes
    notes, _, report = validate(read_notes(path).table, CLICKS.empty_table())
    if len(report):
        print(report)
    return notes


def _titles(path: Path) -> dict[str, str]:
    table = _notes(path)
    columns = (table.column(name).to_pylist() for name in ("note_id", "title", "content"))
    return {note_id: (title or content)[:70] for note_id, title, content in zip(*columns, strict=True)}


if __name__ == "__main__":
    main()
