"""Sort rows that do not fit into memory: sorted runs on disk, which are merged.

    runs    the rows in pieces of ``RUN``, each sorted in memory and written to a file of a folder
    merge   of each run one batch is in memory; what is not above the least of their last keys is complete:
            it is sorted and given out, and the runs whose batch is used up are read on

The memory is that of two runs, and of one batch of each run. The key is a time and an id, so the order of the
result does not depend on that of the rows, unless two have the same time and id.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

#: Rows of a run, and of the tables that are given out.
RUN = 1 << 18
_BATCH = 1 << 12  # rows of a run that the merge holds
# Not Parquet, whose readers hold much more than the batch that they give.
_WRITING = pa.ipc.IpcWriteOptions(compression="lz4")

_Key = tuple[int, str]


def joined(batches: Iterable[pa.RecordBatch | pa.Table], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Yield batches as tables of ``rows`` rows or somewhat more; the last one may be smaller, even empty.

    Args:
        batches: record batches or tables with the columns of ``schema``.
        schema: schema of the tables.
        rows: least number of rows of a table but the last.
    """
    waiting: list[pa.Table] = []
    count, is_first = 0, True
    for batch in batches:
        piece = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        waiting.append(piece.select(schema.names).cast(schema))
        count += batch.num_rows
        if count >= rows:
            yield pa.concat_tables(waiting)
            waiting, count, is_first = [], 0, False
    if count or is_first:
        yield pa.concat_tables([schema.empty_table(), *waiting])


def sorted_pieces(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path, *, time: str, id_: str, run: int = RUN
) -> Iterator[pa.Table]:
    """Yield rows ascending by time, those of one time by id, in tables of about ``run`` rows.

    Args:
        batches: the rows in any order.
        schema: their schema.
        folder: an existing folder for the files of the runs, which are removed at the end.
        time: name of the column of times, without nulls.
        id_: name of the column of ids, without nulls.
        run: number of rows that are sorted in memory.
    """
    order = [(time, "ascending"), (id_, "ascending")]
    with TemporaryDirectory(dir=folder) as place:
        paths: list[Path] = []
        for table in joined(batches, schema, run):
            paths.append(Path(place) / str(len(paths)))
            with pa.ipc.new_file(paths[-1], schema, options=_WRITING) as writer:
                writer.write_table(table.sort_by(order), max_chunksize=_BATCH)
        merged = (piece.sort_by(order) for piece in _merged(paths, time, id_))
        yield from joined(merged, schema, run)


def _merged(paths: list[Path], time: str, id_: str) -> Iterator[pa.Table]:
    """Yield the rows of sorted files; those of each table come before those of the next one."""
    runs = [_Run(path, time, id_) for path in paths]
    while runs := [run for run in runs if len(run)]:
        bound = min(run.last for run in runs)
        yield pa.concat_tables([part for run in runs if (part := run.until(bound)).num_rows])


class _Run:
    """A sorted file, of which one batch is in memory."""

    def __init__(self, path: Path, time: str, id_: str) -> None:
        self._columns = time, id_
        file = pa.ipc.open_file(pa.OSFile(str(path)))
        self._batches = map(file.get_batch, range(file.num_record_batches))
        self._rows = file.schema.empty_table()
        self._next()

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def _next(self) -> None:
        """Read the next batch; an empty one stays at the end."""
        batch = next(self._batches, None)
        self._rows = self._rows.slice(0, 0) if batch is None else pa.Table.from_batches([batch])
        time, self._ids = (self._rows.column(name) for name in self._columns)
        self._times = time.cast(pa.int64()).to_numpy()
        if len(self):
            self.last: _Key = int(self._times[-1]), self._ids[-1].as_py()

    def until(self, bound: _Key) -> pa.Table:
        """Take the rows of the batch that are not above a key, and read on if it is used up."""
        first = int(np.searchsorted(self._times, bound[0], "left"))
        end = int(np.searchsorted(self._times, bound[0], "right"))
        count = first + bisect_right(self._ids.slice(first, end - first).to_pylist(), bound[1])
        part = self._rows.slice(0, count)
        if count == len(self):
            self._next()
        else:
            self._rows = self._rows.slice(count)
            self._times, self._ids = self._times[count:], self._ids.slice(count)
        return part
