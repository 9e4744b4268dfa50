"""Which notes a model was trained on: their ids, kept in its directory beside the weights.

A service says by them how many of its notes the model has never seen. A model that was not trained by
``notellm train`` has no such file.
"""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from notellm.errors import DataError, ModelError, StorageError
from notellm.files import read_parquet

#: Name of the file, Parquet with the one column ``note_id``.
TRAINED_NOTES = "trained_notes.parquet"


def trained_notes_file(notes: pa.Table) -> bytes:
    """Return the content of the file for the notes of a training, a table with the schema NOTES."""
    file = io.BytesIO()
    pq.write_table(notes.select(["note_id"]).replace_schema_metadata(), file, compression="zstd")
    return file.getvalue()


def read_trained_notes(folder: str | Path) -> pa.ChunkedArray | None:
    """Return the ids of the notes that the model in a directory was trained on; None if it does not say.

    Raises:
        ModelError: if the file is damaged.
    """
    path = Path(folder) / TRAINED_NOTES
    if not path.is_file():
        return None
    try:
        return read_parquet(path, ["note_id"]).column("note_id").cast(pa.string())
    except (DataError, StorageError, pa.ArrowException) as error:
        raise ModelError(
            f"{path} does not hold the notes of a training: {error}; copy the folder again"
        ) from error
