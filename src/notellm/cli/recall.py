"""Commands that train and use a NoteLLM: train, embed, related, tag."""

from pathlib import Path
from typing import Annotated

import typer

from notellm.cli.common import (
    Force,
    Output,
    Quiet,
    Resume,
    display_titles,
    examples,
    group,
    hide_loading_bars,
    load_model,
    load_notes,
    show,
    trusts_code,
    warn,
    write_related,
)
from notellm.cli.options import with_options
from notellm.errors import ConfigError, DataError
from notellm.recall.config import RecallOptions

commands = group()


@commands.command(
    epilog=examples(
        "notellm train split -o model",
        "notellm train split -o model --backbone Qwen/Qwen3-0.6B --template chinese --bf16",
        "notellm train split -o model --resume",
        "notellm train split -o tags --no-pairs      (category and topics only)",
    )
)
@with_options(RecallOptions)
def train(
    folder: Annotated[Path, typer.Argument(help="A split folder (with pairs), or a dataset folder.")],
    output: Output,
    options: RecallOptions,
    no_pairs: Annotated[
        bool, typer.Option("--no-pairs", help="Train category and topics only, without related pairs.")
    ] = False,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Train a NoteLLM on notes and their related pairs; keep the checkpoint with the best validation."""
    from notellm.backbone.processes import is_main_process
    from notellm.jobs.folders import is_split, load_dataset, load_pairs, why_no_pairs
    from notellm.jobs.train_recall import train_recall
    from notellm.recall.trainer import Validation

    train_folder = folder / "train" if is_split(folder) else folder
    part = load_dataset(train_folder)
    related = None if no_pairs else load_pairs(train_folder)
    if related is None and not no_pairs:
        raise DataError(f"{train_folder} has no related pairs; mine them with: notellm pairs {folder}")
    if related is not None and not related.num_rows:
        raise DataError(
            f"{train_folder} has 0 related pairs to train on: {why_no_pairs(train_folder)}; then mine again "
            f"with: notellm pairs {folder}; or train without them: --no-pairs"
        )
    validation = None
    if is_split(folder) and not no_pairs:
        held_out = load_pairs(folder / "valid")
        if held_out is not None and held_out.num_rows:
            validation = Validation(load_dataset(folder / "valid").notes, held_out)
        else:
            reason = "not mined" if held_out is None else why_no_pairs(folder / "valid")
            show(
                f"the valid part has no related pairs, so the last checkpoint is kept, not the best: {reason}"
            )
    hide_loading_bars()
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
    if is_main_process():
        show(f"model -> {output}")


@commands.command(epilog=examples("notellm embed model data -o vectors.parquet"))
def embed(
    model: Annotated[str, typer.Argument(help="A model directory.")],
    notes: Annotated[Path, typer.Argument(help="A dataset folder, or a notes file.")],
    output: Output,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write the vector of every note to a Parquet file; a killed run continues where it stopped."""
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
        "notellm related vectors.parquet --all --notes data -o related.parquet",
    )
)
def related(
    vectors: Annotated[Path, typer.Argument(help="Vectors from: notellm embed.")],
    note_id: Annotated[list[str] | None, typer.Option("--id", help="Id of a note; repeatable.")] = None,
    title: Annotated[str, typer.Option(help="Title of a new note.")] = "",
    content: Annotated[str, typer.Option(help="Content of the new note.")] = "",
    topic: Annotated[list[str] | None, typer.Option(help="Topic of the new note; repeatable.")] = None,
    model: Annotated[str | None, typer.Option(help="The model directory, for a new note.")] = None,
    notes: Annotated[
        Path | None,
        typer.Option(help="A dataset folder or notes file: its words count, too, and its titles are shown."),
    ] = None,
    lexical: Annotated[
        float | None,
        typer.Option(
            help="Share of the words of --notes in the score, 0 (vectors only) to 1; default: the model's.",
            min=0,
            max=1,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Write the item-to-item table of all notes.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The Parquet file of --all.")] = None,
    k: Annotated[int, typer.Option("-k", help="Number of related notes.")] = 10,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Find the related notes of a note, of a new text, or of all notes, by vectors and words."""
    from notellm.data.note import Note
    from notellm.lexical.terms import text_of
    from notellm.recall import related as search
    from notellm.recall.made_by import check_maker, maker_of, share_of
    from notellm.vectors import read_vectors

    is_new = bool(title or content or topic)
    if sum([bool(note_id), is_new, every]) != 1:
        raise ConfigError("give one of --id, a new note (--title, --content, --topic), and --all")
    if lexical and notes is None:
        raise ConfigError("--lexical counts the words of notes; give --notes")
    ids, matrix = read_vectors(vectors)
    table = None if notes is None else load_notes(notes)
    share = share_of(vectors) if lexical is None else lexical
    words = None
    if table is not None and share > 0:
        try:
            words = search.Words.of(ids, table, share)
        except DataError as error:
            if lexical is not None:
                raise
            warn(f"words are not counted: {error}")
    if every:
        if output is None:
            raise ConfigError("--all writes a Parquet file; give --output")
        write_related(ids, matrix, output, k=k, words=words, force=force, quiet=quiet)
        return
    titles = {} if table is None else display_titles(table)
    if note_id:
        neighbours = search.related_by_id(ids, matrix, note_id, k=k, words=words)
        headings = [f"{query_id}  {titles.get(query_id, '')}" for query_id in note_id]
    else:
        if model is None:
            raise ConfigError("a new note needs --model, the directory of the model that made the vectors")
        asked = load_model(model)
        warn(check_maker(vectors, maker_of(vectors), model, asked.verified_fingerprint()))
        new = Note(title, content, tuple(topic or ()))
        neighbours = search.related_by_vector(
            ids, matrix, asked.encode([new]), k=k, words=words, texts=[text_of(new)]
        )
        headings = [title or content or " ".join(topic or ())]
    for heading, related_notes in zip(headings, neighbours, strict=True):
        show(heading)
        for related_id, score in related_notes:
            show(f"  {score:.3f}  {related_id}  {titles.get(related_id, '')}".rstrip())


@commands.command(
    epilog=examples(
        'notellm tag model --title "Sourdough without kneading" --content "Flour, water, salt, time."',
        'notellm tag model --title "Sourdough without kneading" --notes data      (titles of known notes)',
        "notellm tag model --notes data -o tags.parquet",
        "notellm tag model --notes data --topics 3 --least 0.2 -o tags.parquet",
    )
)
def tag(
    model: Annotated[str, typer.Argument(help="A model directory.")],
    notes: Annotated[
        Path | None,
        typer.Option(
            help="A dataset folder or notes file: the notes to tag; for a single note, the known notes, "
            "whose titles are shown."
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of a single note.")] = "",
    content: Annotated[str, typer.Option(help="Content of a single note.")] = "",
    topics: Annotated[
        int | None, typer.Option(help="Number of topics of each note; default: the probabilities decide.")
    ] = None,
    least: Annotated[
        float | None,
        typer.Option(
            help="Least probability, 0 to 1, of a category, and of topics unless --topics gives their "
            "number; default: 0.02."
        ),
    ] = None,
    free: Annotated[
        bool, typer.Option("--free", help="Let the model write freely, not only names that it knows.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The Parquet file of the tags of many notes.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Choose the topics (hashtags) and the category of one note, or of many; a killed run continues."""
    from notellm.artifacts.replace import check_file_replaceable
    from notellm.cli.tags import show_tags, tag_many
    from notellm.recall.tagging.tagger import LEAST, check_request

    single = bool(title.strip() or content.strip())
    if not single and notes is None:
        raise ConfigError("give --title or --content for a single note, or --notes for many")
    if single and output is not None:
        raise ConfigError(
            "the tags of a single note are printed; leave out --output, or --title and --content"
        )
    if not single and output is None:
        raise ConfigError("--notes writes a Parquet file; give --output")
    if free and least is not None:
        raise ConfigError("what is written freely has no probability; give either --free or --least")
    if output is not None:
        check_file_replaceable(output, "tags", force=force)
    least = LEAST if least is None else least
    check_request(topics, least)
    if notes is None or output is None:
        titles = {} if notes is None else display_titles(load_notes(notes))
        show_tags(load_model(model), title, content, titles, topics=topics, least=least, free=free)
        return
    tagger, table = load_model(model), load_notes(notes)
    options = {"topics": topics, "least": least, "free": free, "force": force}
    tag_many(tagger, table, output, progress=not quiet, **options)
