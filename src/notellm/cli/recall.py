"""Commands of recall, which train and use a NoteLLM: train, embed, related, tag."""

from pathlib import Path
from typing import Annotated

import typer

from notellm.cli.common import (
    Force,
    Output,
    Quiet,
    Seed,
    examples,
    group,
    hide_loading_bars,
    load_model,
    load_notes,
    show,
    trusts_code,
)
from notellm.errors import ConfigError, DataError

commands = group()


@commands.command(
    epilog=examples(
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
    head_learning_rate: Annotated[
        float | None, typer.Option(help="Of projection, tau and output head.")
    ] = None,
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
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was cut off.")] = False,
    force: Force = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a NoteLLM on notes and their related pairs; the best checkpoint by validation is kept."""
    from notellm.jobs.folders import is_split, load_dataset, load_pairs
    from notellm.jobs.train_recall import RecallOptions, train_recall
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
            show("the valid part has no related pairs: the last checkpoint is kept, not the best")
    hide_loading_bars()
    options = RecallOptions(
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
    train_recall(
        part.notes,
        related,
        output,
        clicks=part.clicks if part.clicks.num_rows else None,
        validation=validation,
        options=options,
        resume=resume,
        force=force,
        trust_remote_code=trusts_code(),
        progress=not quiet,
    )
    show(f"model -> {output}")


@commands.command(epilog=examples("notellm embed model data -o vectors.parquet"))
def embed(
    model: Annotated[str, typer.Argument(help="A model directory.")],
    notes: Annotated[Path, typer.Argument(help="A dataset folder, or a notes file.")],
    output: Output,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write the vector of every note to a Parquet file; a killed run goes on where it stopped."""
    from notellm.artifacts.replace import check_file_replaceable
    from notellm.recall.embed import embed_to_parquet

    check_file_replaceable(output, "vectors", force=force)
    table = load_notes(notes)
    embed_to_parquet(load_model(model), table, output, force=force, progress=not quiet)
    show(f"{table.num_rows:,} vectors -> {output}")


@commands.command(
    epilog=examples(
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
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Find related notes: by id, for a new text, or for all notes at once."""
    from notellm.data.note import Note
    from notellm.recall import related as search
    from notellm.recall.item_to_item import write_item_to_item
    from notellm.vectors import read_vectors

    text = bool(title or content or topic)
    if sum([bool(note_id), text, every]) != 1:
        raise ConfigError("ask in one way: --id, or a text (--title, --content, --topic), or --all")
    ids, matrix = read_vectors(vectors)
    if every:
        if output is None:
            raise ConfigError("--all writes a Parquet file: give --output")
        done = write_item_to_item(ids, matrix, output, k=k, force=force, progress=not quiet)
        show(f"related notes of {done.notes:,} notes ({done.computed:,} computed) -> {output}")
        return
    titles = {} if notes is None else _titles(notes)
    if note_id:
        answers = search.related_by_id(ids, matrix, note_id, k=k)
        asked = [f"{one}  {titles.get(one, '')}" for one in note_id]
    else:
        if model is None:
            raise ConfigError("a text needs --model, the directory of the model that made the vectors")
        query = load_model(model).encode([Note(title, content, tuple(topic or ()))])
        answers = search.related_by_vector(ids, matrix, query, k=k)
        asked = [title or content or " ".join(topic or ())]
    for question, answer in zip(asked, answers, strict=True):
        show(question)
        for found, cosine in answer:
            show(f"  {cosine:.3f}  {found}  {titles.get(found, '')}".rstrip())


@commands.command(
    epilog=examples(
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
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write topics (hashtags) and the category of one note or of many."""
    from notellm.artifacts.replace import check_file_replaceable
    from notellm.data.note import Note
    from notellm.jobs.tag import tag_to_parquet

    if bool(title or content) == (notes is not None):
        raise ConfigError("give one note's --title or --content, or --notes for many")
    if output is not None:
        check_file_replaceable(output, "tags", force=force)
    writer = load_model(model)
    if notes is None:
        rows = [Note(title, content)]
        if writer.settings.categories or free:
            show(f"category: {writer.categorize(rows, constrained=not free)[0]}")
        show(f"topics: {', '.join(writer.write_topics(rows, n=topics)[0])}")
        return
    if output is None:
        raise ConfigError("--notes writes a Parquet file: give --output")
    table = load_notes(notes)
    tag_to_parquet(
        writer, table, output, topics=topics, constrained=not free, force=force, progress=not quiet
    )
    show(f"tags of {table.num_rows:,} notes -> {output}")


def _titles(path: Path) -> dict[str, str]:
    table = load_notes(path)
    columns = (table.column(name).to_pylist() for name in ("note_id", "title", "content"))
    return {note_id: (title or content)[:70] for note_id, title, content in zip(*columns, strict=True)}
