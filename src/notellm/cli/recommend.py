"""The command that recommends notes to a user: recommend."""

from pathlib import Path
from typing import Annotated

import typer

from notellm.cli.common import (
    History,
    HistoryFile,
    NewerNotes,
    Quiet,
    examples,
    group,
    hide_loading_bars,
    ids_of,
    load_notes,
    show,
    show_ranked,
    trusts_code,
    warn,
)
from notellm.cli.options import with_options
from notellm.errors import ConfigError
from notellm.recommend.options import RecommendOptions

commands = group()


@commands.command(
    epilog=examples(
        "notellm recommend --vectors vectors.parquet --ranker ranker --user u17",
        "notellm recommend --model model --ranker ranker --notes data --user u17 -k 5",
        "notellm recommend --vectors vectors.parquet --ranker ranker --history n8,n9 --no-rerank",
        "notellm recommend --vectors vectors.parquet --ranker ranker --history-file opened.txt",
    )
)
@with_options(RecommendOptions)
def recommend(
    ranker: Annotated[Path, typer.Option(help="A ranker directory.")],
    model: Annotated[
        str | None, typer.Option(help="A NoteLLM directory, whose model embeds the notes.")
    ] = None,
    vectors: Annotated[Path | None, typer.Option(help="Vectors from: notellm embed.")] = None,
    notes: NewerNotes = None,
    user: Annotated[
        str | None, typer.Option(help="Id of the user; without a user, popular notes are recommended.")
    ] = None,
    history: History = None,
    history_file: HistoryFile = None,
    exclude: Annotated[
        str | None, typer.Option(help="Ids of notes that must not be recommended: a,b,c.")
    ] = None,
    exclude_file: Annotated[
        Path | None,
        typer.Option(
            help="A text file with one such id per line, instead of --exclude; ids may hold commas."
        ),
    ] = None,
    *,
    options: RecommendOptions,  # with_options puts the fields in this place
    quiet: Quiet = False,
) -> None:
    """Recommend notes to a user: notes near those that the user opened, ranked, none of them seen before."""
    from dataclasses import asdict

    from notellm.errors import ModelError
    from notellm.recall.model import NoteLLM
    from notellm.recommend.recommender import Recommender

    if (model is None) == (vectors is None):
        raise ConfigError("give either --model or --vectors")
    if model is not None and not NoteLLM.is_saved(model):
        raise ModelError(f"{model} is not a NoteLLM directory; train one with: notellm train")
    hide_loading_bars()
    table = None if notes is None else load_notes(notes)
    recommender = Recommender.load(
        model or str(vectors), ranker, notes=table, trust_remote_code=trusts_code(), progress=not quiet
    )
    for doubt in recommender.doubts:
        warn(doubt)
    known = recommender.ranker.texts
    excluded = ids_of("exclude", exclude, exclude_file, known) or []
    if unknown := [note_id for note_id in excluded if note_id not in known]:
        warn(f"{len(unknown):,} of the {len(excluded):,} ids to exclude are no notes, such as {unknown[0]!r}")
    result = recommender.recommend(
        user,
        history=ids_of("history", history, history_file, known),
        exclude=excluded,
        **asdict(options),
    )
    show(result.basis)
    show_ranked(recommender.ranker.table, result.note_ids, result.scores, result.reasons)
