"""Users who were forgotten while a renewal was running: the new ranker must not know them either."""

from pathlib import Path

from notellm.files import json_text, parquet_batches
from notellm.jobs.folders import EVENTS_FILE
from notellm.rank.scorer import Ranker
from notellm.record import RECORD, read_record
from notellm.store.clicks import ClickLog

_ROWS = 1 << 16


def forgotten_since(snapshot: Path, store: str) -> set[str]:
    """Return the users of a snapshot whose newest click the log of the store does not have any more.

    Args:
        snapshot: the exported store.
        store: the store.

    Raises:
        StorageError: if the log cannot be read.
        DataError: if the snapshot cannot be read.
    """
    newest: dict[str, str] = {}  # by user; the events are ascending by time
    for batch in parquet_batches(snapshot / EVENTS_FILE, _ROWS, ["user_id", "click_id"]):
        newest.update(zip(batch["user_id"].to_pylist(), batch["click_id"].to_pylist(), strict=True))
    users = {click_id: user_id for user_id, click_id in newest.items()}
    for batch in ClickLog.for_reading(store).batches(["click_id"]):
        for click_id in batch["click_id"].to_pylist():
            users.pop(click_id, None)
    return set(users.values())


def forget_users(ranker: Path, users: set[str], *, trust_remote_code: bool = False) -> int:
    """Write a ranker anew without users; return how many of them it knew.

    Args:
        ranker: the ranker directory.
        users: the users.
        trust_remote_code: as in ``Ranker.from_pretrained``.

    Raises:
        ModelError: if it cannot be opened.
        StorageError: if it cannot be written.
    """
    opened = Ranker.from_pretrained(ranker, trust_remote_code=trust_remote_code)
    known = {user_id for user_id in users if opened.knows(user_id)}
    if known:
        card = ranker / "README.md"
        extra = {RECORD: json_text(read_record(ranker))}
        if card.is_file():
            extra["README.md"] = card.read_text(encoding="utf-8")
        opened.without_users(known).save_pretrained(ranker, extra=extra)
    return len(known)
