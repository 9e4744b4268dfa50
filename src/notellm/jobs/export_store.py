"""Export a store as Parquet, while another process serves it and writes to it.

    FOLDER/  notes.parquet  vectors.parquet  clicks.parquet  events.parquet  problems.parquet  record.json

The folder is a dataset folder. Beside the columns of NOTES its notes have ``hidden`` and ``expires_at``;
``vectors.parquet`` is what ``recall.embed`` writes, ``events.parquet`` the log as it is (CLICK_LOG), and
``clicks.parquet`` what training learns from it (``jobs.training_clicks``). Both are sorted by time, then by
click id. The notes come from one version of the store, the clicks from another, which is not the later one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from notellm.artifacts.replace import check_replaceable
from notellm.artifacts.write import write_folder
from notellm.data.problems import Report
from notellm.data.schema import CLICKS, NOTES, TIME
from notellm.data.sorting import joined, sorted_pieces
from notellm.errors import ConfigError, StorageError
from notellm.files import write_parquet_pieces
from notellm.jobs.folders import CLICKS_FILE, EVENTS_FILE, NOTES_FILE, VECTORS_FILE, write_account
from notellm.jobs.training_clicks import training_clicks
from notellm.progress import progress_bar
from notellm.record import describe_parquet, fingerprint_of_columns, make_record
from notellm.store.age import MOST_DAYS
from notellm.store.clicks import CLICK_LOG, ClickLog
from notellm.store.notes import NoteStore
from notellm.store.rows import check_stored_vectors, rows_schema

_BATCH = 4_096  # notes that are read and written at once
_CLICKS = 1 << 17  # least number of clicks that are written at once
#: Yields tables or batches with a progress bar; called with their number of rows and a word for them.
_Show = Callable[[Iterator[Any], int, str], Iterator[Any]]


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        notes: number of notes, each with its vector.
        events: number of rows of the log.
        clicks: number of rows for training.
        report: what became of the rows of the log that are no clicks for training as they are.
    """

    notes: int
    events: int
    clicks: int
    report: Report


def export_store(
    uri: str | Path,
    folder: str | Path,
    *,
    days: float | None = None,
    force: bool = False,
    progress: bool = True,
) -> Exported:
    """Write the notes, vectors and clicks of a store into a folder, whole or not at all.

    All that was acknowledged before the call is in it. Rows pass through memory in batches; the ids of all
    notes, and of the notes that users dislike, stay in memory.

    Args:
        uri: the store, which another process may write to.
        folder: folder to write; an earlier dataset is replaced.
        days: export the clicks of the last days only; None exports all.
        force: as in ``artifacts.write_folder``.
        progress: show progress bars.

    Raises:
        ConfigError: if ``days`` is not above 0, or above ``store.age.MOST_DAYS``.
        StorageError: if there is no store, it is damaged, files of the version that is read were removed
            meanwhile, or the folder cannot be written or lies in the store.
    """
    if days is not None and not 0 < days <= MOST_DAYS:
        raise ConfigError(f"days is {days:g}; it must be above 0 and at most {MOST_DAYS:,}")
    _check_outside(folder, str(uri))
    check_replaceable(folder, "dataset", force=force)
    log = ClickLog.for_reading(uri)  # first, so that a note that was published before its click is there
    store = NoteStore.for_reading(uri)
    show = partial(_shown, progress=progress)
    report = Report()
    with write_folder(folder, "dataset", force=force) as aside:
        ids = _write_notes(store, aside, show)
        rows = _since(show(_read(log.batches(), log.uri), len(log), "read clicks"), days)
        pieces = joined(
            sorted_pieces(rows, CLICK_LOG, aside, time="timestamp", id_="click_id"), CLICK_LOG, _CLICKS
        )
        write_parquet_pieces(show(pieces, len(log), "sort clicks"), aside / EVENTS_FILE)
        events = describe_parquet(aside / EVENTS_FILE, CLICK_LOG)
        clicks = joined(training_clicks(aside / EVENTS_FILE, ids, report), CLICKS, _CLICKS)
        write_parquet_pieces(show(clicks, events["rows"], "clicks"), aside / CLICKS_FILE)
        data = {
            "notes": describe_parquet(aside / NOTES_FILE, NOTES),
            "clicks": describe_parquet(aside / CLICKS_FILE, CLICKS),
        }
        _write_vectors(store, aside, data["notes"], show)
        config = {"store": str(uri), "model": store.model, "days": days}
        write_account(aside, report, config=config, data={**data, "events": events})
    return Exported(data["notes"]["rows"], events["rows"], data["clicks"]["rows"], report)


def _check_outside(folder: str | Path, store: str) -> None:
    """Refuse a folder within the store, where no file of others belongs."""
    if "://" not in store and Path(store).resolve() in Path(folder).resolve().parents:
        raise StorageError(f"{folder} lies in the store {store}; name a folder outside of it")


def _write_notes(store: NoteStore, folder: Path, show: _Show) -> pa.ChunkedArray:
    """Write the notes without their vectors, and return their ids."""
    schema = pa.schema([field for field in rows_schema(store.dim) if field.name != "vector"])
    pieces = joined(_read(store.batches(schema.names, _BATCH), store.uri), schema, _BATCH)
    write_parquet_pieces(show(pieces, len(store), "notes"), folder / NOTES_FILE)
    # From the file: an id that LanceDB gave would keep the texts of its whole batch in memory.
    return pq.read_table(folder / NOTES_FILE, columns=["note_id"]).column("note_id")


def _write_vectors(store: NoteStore, folder: Path, notes: dict[str, Any], show: _Show) -> None:
    """Write the vectors of all notes with the record of their model.

    The record holds their fingerprint and comes first in the file, so they are read twice. One version of
    a table gives its rows in the same order every time.
    """
    fields = [rows_schema(store.dim).field(name) for name in ("note_id", "vector")]
    schema = pa.schema([each.with_nullable(True) for each in fields])  # as embed writes them

    def column(name: str) -> Iterator[pa.ChunkedArray]:
        for batch in _read(store.batches([name], _BATCH), store.uri):
            yield pa.chunked_array([batch.column(0).cast(schema.field(name).type)])

    def pieces() -> Iterator[pa.Table]:
        for piece in joined(_read(store.batches(schema.names, _BATCH), store.uri), schema, _BATCH):
            check_stored_vectors(piece, store.dim, store.uri)
            yield piece

    record = make_record(
        kind="vectors",
        config={"dim": store.dim},
        data={"model": {"fingerprint": store.model}, "notes": notes},
        metrics={"notes": notes["rows"]},
        fingerprint=fingerprint_of_columns(column, schema, notes["rows"]),
    )
    write_parquet_pieces(show(pieces(), len(store), "vectors"), folder / VECTORS_FILE, record=record)


def _since(batches: Iterator[pa.RecordBatch], days: float | None) -> Iterator[pa.RecordBatch]:
    """Yield the clicks of the last days only."""
    if days is None:
        yield from batches
        return
    since = pa.scalar(datetime.now(UTC) - timedelta(days=days), TIME)
    for batch in batches:
        yield batch.filter(pc.greater_equal(batch.column("timestamp"), since))


def _read(batches: Iterator[pa.RecordBatch], store: str) -> Iterator[pa.RecordBatch]:
    """Yield what is read from a store; if that fails, say what may be the reason."""
    try:
        yield from batches
    except StorageError as error:
        raise StorageError(
            f"{error}; a service removes files of earlier versions of {store} after five minutes, and at "
            "once when it forgets a user: if one serves it, export again"
        ) from error


def _shown(pieces: Iterator[Any], total: int, what: str, *, progress: bool) -> Iterator[Any]:
    """Yield tables or batches with a progress bar."""
    with progress_bar(total=total, unit="row", desc=what, disable=not progress) as bar:
        for piece in pieces:
            yield piece
            bar.update(piece.num_rows)
