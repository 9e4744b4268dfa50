"""Rows of cells, collected into an Arrow table of text columns."""

import re
from pathlib import Path

import pyarrow as pa

from notellm.data.problems import Report
from notellm.errors import DataError

_CHUNK_ROWS = 50_000
_SURROGATE = re.compile("[\ud800-\udfff]")


class Columns:
    """Collects rows of cells into columns of Arrow text, one chunk at a time.

    Args:
        names: names of the columns.
        path: the file, for messages.
        report: receives how many rows had undecodable bytes, which become U+FFFD.
    """

    def __init__(self, names: list[str], path: Path, report: Report) -> None:
        self.count = 0
        self._names = names
        self._path = path
        self._report = report
        self._rows: list[list[str | None]] = []
        self._lines: list[int] = []
        self._chunks: list[pa.Table] = []
        self._broken = 0
        self._first_broken = ""

    def add(self, row: list[str | None] | list[str], line: int) -> None:
        """Add a row, one cell for each column.

        Args:
            row: the cells.
            line: the line on which the row begins, for the report.
        """
        self._rows.append(row)  # type: ignore[arg-type]
        self._lines.append(line)
        self.count += 1
        if len(self._rows) == _CHUNK_ROWS:
            self._flush()

    def add_table(self, table: pa.Table) -> None:
        """Add rows that are columns already."""
        if self._rows:
            self._flush()
        self._chunks.append(table)
        self.count += table.num_rows

    def table(self) -> pa.Table:
        """Return what was collected; a table without rows if there is nothing.

        Raises:
            DataError: if there are no columns.
        """
        if self._rows:
            self._flush()
        if not self._names:
            raise DataError(f"{self._path} has no column that is read")
        action = "broken bytes became U+FFFD"
        self._report.add("broken UTF-8", self._path.name, self._broken, self._first_broken, action)
        empty = pa.table({name: pa.array([], pa.large_string()) for name in self._names})
        return pa.concat_tables(self._chunks) if self._chunks else empty

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        try:
            arrays = [pa.array(column, pa.large_string()) for column in columns]
        except UnicodeEncodeError:
            self._repair()
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, pa.large_string()) for column in columns]
        self._chunks.append(pa.table(arrays, names=self._names))
        self._rows, self._lines = [], []

    def _repair(self) -> None:
        """Replace undecodable bytes (which were read as surrogates) and lone surrogates by U+FFFD."""
        for i, row in enumerate(self._rows):
            if any(cell and _SURROGATE.search(cell) for cell in row):
                self._rows[i] = [cell and _SURROGATE.sub("\ufffd", cell) for cell in row]
                self._broken += 1
                cells = " | ".join(cell or "" for cell in self._rows[i])
                self._first_broken = self._first_broken or f"line {self._lines[i]}: {cells}"
