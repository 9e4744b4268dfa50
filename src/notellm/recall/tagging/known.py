"""Known notes: what a tagger remembers of the notes whose topics and category are known.

Of each note it keeps its id, its topics and category, the counts of its words, and its vector after the
prompt of each task. The prompt of the topics task holds no topics. So the topics of a note are no part of
what it is compared by when topics are asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from notellm.data.note import Note
from notellm.errors import DataError, ModelError, StorageError
from notellm.files import read_parquet, write_parquet
from notellm.lexical.terms import BUCKETS, term_counts
from notellm.recall.prompt import Task
from notellm.vectors import vector_matrix

FILE = "known.parquet"
_MOST = np.iinfo(np.uint16).max  # more often than this no word is counted


@dataclass(frozen=True)
class KnownNotes:
    """Notes whose topics or category are known.

    Attributes:
        note_ids: (n,) their ids.
        topics: (n,) the topics of each; empty if unknown.
        categories: (n,) the category of each; "" if unknown.
        counts: (n, BUCKETS) from ``term_counts``, of title and content.
        vectors: for each task that some note has an answer to, (n, dim) float32 of unit norm.
    """

    note_ids: list[str]
    topics: list[tuple[str, ...]]
    categories: list[str]
    counts: sp.csr_matrix
    vectors: Mapping[Task, np.ndarray]

    def __len__(self) -> int:
        return len(self.note_ids)

    def answers(self, task: Task) -> list[tuple[str, ...]]:
        """Return what is known of each note for a task: its topics, or its category as a tuple of one."""
        if task == "topics":
            return self.topics
        return [(category,) if category else () for category in self.categories]

    def take(self, rows: np.ndarray) -> "KnownNotes":
        """Return some of the notes."""
        return KnownNotes(
            [self.note_ids[row] for row in rows],
            [self.topics[row] for row in rows],
            [self.categories[row] for row in rows],
            self.counts[rows],
            {task: vectors[rows] for task, vectors in self.vectors.items()},
        )

    def joined(self, others: Sequence["KnownNotes"]) -> "KnownNotes":
        """Return these notes followed by others, whose vectors are of the same tasks."""
        pieces = [self, *others]
        return KnownNotes(
            [note_id for piece in pieces for note_id in piece.note_ids],
            [topics for piece in pieces for topics in piece.topics],
            [category for piece in pieces for category in piece.categories],
            sp.csr_matrix(sp.vstack([piece.counts for piece in pieces])),
            {task: np.concatenate([piece.vectors[task] for piece in pieces]) for task in self.vectors},
        )

    def task_counts(self, task: Task) -> sp.csr_matrix:
        """Return the counts of the words that are read for a task; topics are read for the category only."""
        if task == "topics":
            return self.counts
        return self.counts + term_counts([" ".join(topics) for topics in self.topics])

    # ---------------------------------------------------------------- files

    def write(self, folder: Path) -> None:
        """Write the notes into a folder, as one Parquet file."""
        counts = self.counts
        offsets = pa.array(counts.indptr, pa.int32())
        columns = {
            "note_id": pa.array(self.note_ids, pa.string()),
            "topics": pa.array([list(topics) for topics in self.topics], pa.list_(pa.string())),
            "category": pa.array(self.categories, pa.string()),
            "terms": pa.ListArray.from_arrays(offsets, pa.array(counts.indices, pa.int32())),
            "counts": pa.ListArray.from_arrays(
                offsets, pa.array(np.minimum(counts.data, _MOST).astype(np.uint16))
            ),
        }
        for task, vectors in self.vectors.items():
            flat = pa.array(vectors.astype(np.float16).ravel())
            columns[f"{task}_vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        write_parquet(pa.table(columns), folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "KnownNotes":
        """Read what :meth:`write` wrote.

        Raises:
            ModelError: if the file is missing or is not one of known notes.
        """
        try:
            table = read_parquet(folder / FILE).combine_chunks()
            vectors: dict[Task, np.ndarray] = {}
            for task in ("category", "topics"):
                if f"{task}_vector" in table.column_names:
                    column = table.column(f"{task}_vector")
                    vectors[task] = vector_matrix(column, column.type.list_size)
            terms, counts = (table.column(name).combine_chunks() for name in ("terms", "counts"))
            data = counts.flatten().to_numpy().astype(np.float32)
            matrix = sp.csr_matrix(
                (data, terms.flatten().to_numpy(), np.asarray(terms.offsets)), shape=(table.num_rows, BUCKETS)
            )
            return cls(
                table.column("note_id").to_pylist(),
                [tuple(topics) for topics in table.column("topics").to_pylist()],
                table.column("category").to_pylist(),
                matrix,
                vectors,
            )
        except (AttributeError, DataError, KeyError, StorageError, TypeError, ValueError) as error:
            raise ModelError(
                f"{folder / FILE} does not hold known notes: {error}; copy the folder again"
            ) from error


def text_counts(notes: Sequence[Note]) -> sp.csr_matrix:
    """Return the counts of the words of title and content, (notes, BUCKETS) float32."""
    return term_counts([f"{note.title}\n{note.content}" for note in notes])
