"""Write impressions of a store's recommended lists to files, with which ``rank train`` trains a ranker."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from notellm.artifacts.replace import check_file_replaceable
from notellm.data.problems import Report
from notellm.data.shown_impressions import impressions_from_shown
from notellm.data.split import split_impressions_by_time
from notellm.errors import ConfigError, StorageError
from notellm.files import write_parquet
from notellm.record import describe, make_record
from notellm.store.clicks import ClickLog
from notellm.store.shown import ShownLog
from notellm.store.tables import versions


@dataclass(frozen=True)
class WrittenImpressions:
    """What was written.

    Attributes:
        rows: impressions in the first file.
        liked: those of them with a true label.
        valid: impressions in the second file; 0 without one.
        report: clicks that do not fit a list, and lists that give no rows.
    """

    rows: int
    liked: int
    valid: int
    report: Report


def write_shown_impressions(
    store: str | Path,
    output: str | Path,
    *,
    valid: str | Path | None = None,
    valid_share: float = 0.1,
    force: bool = False,
) -> WrittenImpressions:
    """Write the impressions of the lists that a service recommended, even while it runs.

    Args:
        store: the store.
        output: the Parquet file, schema ``data.schema.IMPRESSIONS``.
        valid: another file, which gets the newest rows instead of ``output``; None for none.
        valid_share: share of the rows that it gets.
        force: replace files of other kinds, too.

    Raises:
        ConfigError: if both files are one, or an option is out of its range.
        DataError: if the lists and clicks give no impressions of both labels, or too few for two files.
        StorageError: if there is no store, it cannot be read, or a file cannot be written.
    """
    outputs = [output] if valid is None else [output, valid]
    if len({Path(path).resolve() for path in outputs}) < len(outputs):
        raise ConfigError(f"both parts would be written to {output}; give --valid another file")
    if not 0 < valid_share < 1:
        raise ConfigError(f"the share for validation is {valid_share}: give one above 0 and below 1")
    for path in outputs:
        check_file_replaceable(path, "impressions", force=force)
    if not versions(store):
        raise StorageError(f"{store} is no store; make one: notellm store build")
    shown, clicks = ShownLog.for_reading(store).read(), ClickLog.for_reading(store).read()
    rows, report = impressions_from_shown(shown, clicks)
    parts = [rows]
    if valid is not None:
        train, _, newest = split_impressions_by_time(rows, valid=0, test=valid_share)
        parts = [train, newest]
    data = {"shown": describe(shown), "clicks": describe(clicks)}
    for path, part, name in zip(outputs, parts, ("train", "valid"), strict=False):
        config = {"part": name, "valid_share": None if valid is None else valid_share}
        metrics = {"rows": part.num_rows, "liked": _liked(part)}
        record = make_record(kind="impressions", config=config, data=data, metrics=metrics)
        write_parquet(part, path, record=record, force=force)
    written = [part.num_rows for part in parts]
    return WrittenImpressions(written[0], _liked(parts[0]), sum(written[1:]), report)


def _liked(rows: pa.Table) -> int:
    return int(pc.sum(rows["label"]).as_py() or 0)
