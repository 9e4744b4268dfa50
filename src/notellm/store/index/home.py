"""The index of a store, from one run to the next: opened or built, saved, and closed.

Where an index is kept between two runs, and whether at all, is up to its class.
"""

import logging

import pyarrow as pa

from notellm.errors import StorageError
from notellm.store.index.base import Index, Place
from notellm.store.index.kinds import KINDS, kind_for

log = logging.getLogger("notellm.store")


class IndexHome:
    """The place of the index of one store and one model.

    Args:
        store: URI of the store.
        fingerprint: fingerprint of the model.
        option: "exact", "hnsw", or the URI of a Milvus server (or of a Milvus Lite file, which ends in .db).
        token: token of that server.

    Raises:
        ConfigError: if ``option`` names no kind of index.
    """

    def __init__(self, store: str, fingerprint: str, option: str, token: str = "") -> None:
        self.place = Place(store, fingerprint, option, token)
        self._kind = kind_for(option)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model."""
        return self.place.fingerprint

    def open(self, rows: pa.Table, *, progress: bool = False) -> Index:
        """Open the index that an earlier run left, or build and save a new one.

        Args:
            rows: all rows of the store (schema ``store.rows.rows_schema``).
            progress: show a progress bar while an index is built.
        """
        index = self._kind.open(rows, self.place)
        if index is None:
            index = self.build(rows, progress=progress)
            self.save(index)
        return index

    def build(self, rows: pa.Table, *, current: Index | None = None, progress: bool = False) -> Index:
        """Build an index of these rows while ``current`` goes on answering."""
        return self._kind.build(rows, self.place, current=current, progress=progress)

    def save(self, index: Index) -> None:
        """Write what spares the next start from building the index; a failure is only logged."""
        try:
            index.save(self.place)
        except StorageError as error:
            _warn(error)

    def close(self, index: Index) -> None:
        """Close an index that holds exactly what the store holds, and leave it for the next start."""
        try:
            index.close(self.place)
        except StorageError as error:
            _warn(error)

    def drop_others(self) -> None:
        """Remove what indexes of other models left beside the store."""
        for kind in KINDS:
            kind.drop_others(self.place)


def _warn(error: StorageError) -> None:
    # Nothing is lost: without a saved index the next start has more to do.
    log.warning(
        "the index was not saved; unless a later attempt succeeds, the next start builds it: %s", error
    )
