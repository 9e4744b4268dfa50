"""Write the category and topics of a whole notes table to one Parquet file with its record."""

from pathlib import Path

import pyarrow as pa

from notellm.artifacts.replace import check_file_replaceable
from notellm.files import write_parquet
from notellm.recall.model import NoteLLM
from notellm.record import describe, make_record


def tag_to_parquet(
    model: NoteLLM,
    notes: pa.Table,
    path: str | Path,
    *,
    topics: int | None = None,
    constrained: bool = True,
    force: bool = False,
    progress: bool = True,
) -> None:
    """Write the columns ``note_id``, ``category`` and ``topics`` (list of string) of every note.

    What the model has not learnt to write is left empty: the category null, the topics an empty list.

    Args:
        model: a trained model.
        notes: notes table.
        path: the output file; an earlier file of tags is replaced.
        topics: largest number of topics of a note; None lets the model decide where to end.
        constrained: choose the category among those that the model knows; if it knows none although it may
            have learnt to write categories, the column ``category`` is left out.
        force: replace an existing file of any kind.
        progress: show progress bars.

    Raises:
        ConfigError: if topics is not positive.
        DataError: if there are no notes.
        StorageError: if the file cannot be written.
    """
    check_file_replaceable(path, "tags", force=force)
    columns = {"note_id": notes.column("note_id")}
    if model.unlearnt("category") is not None:
        columns["category"] = pa.nulls(notes.num_rows, pa.string())
    elif model.settings.categories or not constrained:
        categories = model.categorize(notes, constrained=constrained, progress=progress)
        columns["category"] = pa.array(categories, pa.string())
    topics_of_notes: list[list[str]] = [[] for _ in range(notes.num_rows)]
    if model.unlearnt("topics") is None:
        topics_of_notes = model.write_topics(notes, n=topics, progress=progress)
    columns["topics"] = pa.array(topics_of_notes, pa.list_(pa.string()))
    record = make_record(
        kind="tags",
        config={"topics": topics, "constrained": constrained},
        data={"model": {"fingerprint": model.fingerprint()}, "notes": describe(notes)},
        metrics={"notes": notes.num_rows, "notes_with_topics": sum(map(bool, topics_of_notes))},
    )
    write_parquet(pa.table(columns), path, record=record, force=force)
