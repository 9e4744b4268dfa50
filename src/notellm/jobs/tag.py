"""Category and topics of a whole notes table, written by a model to one Parquet file with its record."""

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
    """Write ``note_id``, ``category`` and ``topics`` (list of string) of every note.

    Args:
        model: a trained model.
        notes: notes table.
        path: the output file; a file of tags that is there is replaced.
        topics: how many at most; None lets the model end.
        constrained: hold the category to the known ones; a model that knows none then writes no
            category, and the column is left out.
        force: replace any file that is there.
        progress: show progress bars.

    Raises:
        ConfigError: topics is not positive.
        DataError: there are no notes.
        StorageError: the file cannot be written.
    """
    check_file_replaceable(path, "tags", force=force)
    columns = {"note_id": notes.column("note_id")}
    if model.settings.categories or not constrained:
        names = model.categorize(notes, constrained=constrained, progress=progress)
        columns["category"] = pa.array(names, pa.string())
    written = model.write_topics(notes, n=topics, progress=progress)
    columns["topics"] = pa.array(written, pa.list_(pa.string()))
    record = make_record(
        kind="tags",
        config={"topics": topics, "constrained": constrained},
        data={"model": {"fingerprint": model.fingerprint()}, "notes": describe(notes)},
        metrics={"notes": notes.num_rows, "notes_with_topics": sum(map(bool, written))},
    )
    write_parquet(pa.table(columns), path, record=record, force=force)
