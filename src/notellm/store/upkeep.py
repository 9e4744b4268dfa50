"""Upkeep of a store's table: tidying, repairing the index of ids, and checking the disk."""

import logging
import os
import shutil
from datetime import timedelta
from typing import Any

from notellm.errors import StorageError
from notellm.store.durable import TableFiles
from notellm.store.lance import index_ids, storage_errors
from notellm.store.manifest import DATA

log = logging.getLogger("notellm.store")

_KEPT = timedelta(minutes=5)  # how long files of earlier versions stay, for readers that still use them
_ROOM = 64 << 20  # free bytes that tidying needs besides a copy of all data
_PROBE = 1 << 20  # bytes written to find out whether the disk accepts anything


def optimize(table: Any, files: TableFiles | None, store: str) -> None:
    """Join small files, update the index of ids, and drop files of earlier versions.

    Args:
        table: the table as LanceDB opened it.
        files: its files; None in object storage.
        store: URI of the store, for error messages.

    Raises:
        StorageError: if the disk has too little space, or LanceDB fails.
    """
    kept = _KEPT
    if files is not None:
        with storage_errors(store):
            free, needed = shutil.disk_usage(store).free, files.size() + _ROOM
            if free < needed:
                raise StorageError(
                    f"the disk of the store {store} has {free / 2**20:,.0f} MiB left; tidying needs "
                    f"{needed / 2**20:,.0f} MiB: make room"
                )
            # LanceDB joins files and removes earlier ones in one step. The newest version is flushed, so it
            # has to stay until its replacement is flushed, too.
            kept = max(kept, files.age(table.version))
    with storage_errors(store):
        # Nobody else writes here, so files that no version names are left over from failed writes.
        table.optimize(cleanup_older_than=kept, delete_unverified=files is not None)


def repair_index(table: Any, files: TableFiles | None, store: str) -> str | None:
    """Build the index of ids again if its files are damaged.

    Returns:
        What was repaired, in a sentence, which is logged, too; None if the index is whole.
    """
    if files is None or (trouble := files.index_trouble()) is None:
        return None
    with storage_errors(store):
        for index in table.list_indices():
            table.drop_index(index.name)
        index_ids(table)
    sentence = f"{files.table / trouble.file} {trouble.reason}: the index of ids was built again"
    log.warning("%s", sentence)
    return sentence


def check_disk(files: TableFiles, store: str) -> None:
    """Write and remove a small file.

    Raises:
        StorageError: if the disk does not accept it.
    """
    with storage_errors(store):
        probe = files.table / DATA / ".tmpprobe"
        try:
            with probe.open("wb") as file:
                file.write(bytes(_PROBE))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
