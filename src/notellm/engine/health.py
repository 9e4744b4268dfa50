"""Whether an engine can write at present."""

import shutil
import time

from notellm.engine.live import State
from notellm.engine.writing import settle

#: Free bytes on the store's disk below which writes are likely to fail: a few commits and their tidying.
_RESERVE = 64 << 20
#: Seconds between two checks whether writes are possible again after one has failed.
_CHECK_INTERVAL = 5.0


def why_not_writable(state: State) -> str | None:
    """Return why a write would fail now; see ``Engine.writable``."""
    if state.failure is not None:
        _check_again(state)
    if (failure := state.failure) is not None:
        return f"the last write failed: {failure}"
    folder = state.paths.store
    try:
        free = free_bytes(state)
    except OSError as error:
        return f"the store {folder} cannot be found: {error.strerror or error}"
    if free is not None and free < _RESERVE:
        return (
            f"the disk of the store {folder} has {free / 2**20:,.0f} MiB left; it needs "
            f"{_RESERVE / 2**20:,.0f} MiB: free some space"
        )
    return None


def free_bytes(state: State) -> int | None:
    """Return the free bytes on the disk of the store; None if it is in object storage.

    Raises:
        OSError: if it cannot be found.
    """
    folder = state.paths.store
    return None if "://" in folder else shutil.disk_usage(folder).free


def _check_again(state: State) -> None:
    """Find out whether the cause of a failed write is gone, unless a write is running."""
    is_too_soon = time.monotonic() - state.checked_at < _CHECK_INTERVAL
    if is_too_soon or not state.write_lock.acquire(blocking=False):
        return
    try:
        state.checked_at = time.monotonic()
        state.live.store.check_disk()
        settle(state)
        state.failure = None
    except Exception as error:  # noqa: BLE001 - a write would meet the same error, whatever it is
        state.failure = str(error)
    finally:
        state.write_lock.release()
