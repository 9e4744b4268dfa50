"""Rows of cells, collected into an Arrow table of text columns."""

import re
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.ids import encoded
from notellm.data.problems import Report
from notellm.errors import DataError

_CHUNK_ROWS = 50_000
_PACKED_BYTES = 1 << 28  # of text that is packed at once
_LOOKED_AT = 1_000  # rows that show whether a column may be numbers
#: The texts of whole numbers of 64 bits, each number in one way.
_WHOLE = r"^(0|-?[1-9]\d{0,17})$"
_SURROGATE = re.compile("[\ud800-\udfff]")


def packed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of texts in less memory: as codes, or as numbers if all texts are whole numbers.

    A number stands for exactly one text: those with leading zeros, signs or spaces stay texts.
    """
    first = column.slice(0, _LOOKED_AT)
    if len(first) and _are_whole(first) and _are_whole(column):
        return column.cast(pa.int64())
    coded = encoded(column)
    distinct = len(coded.chunk(0).dictionary) if coded.num_chunks else 0
    return coded if distinct * 2 < len(column) else column


def _are_whole(column: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.match_substring_regex(column.drop_null(), _WHOLE), min_count=0).as_py())


def joined(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Return the parts of a column as one; parts of several types become texts."""
    kinds = {column.type for column in columns if not pa.types.is_null(column.type)}
    if len(kinds) > 1:
        columns = [_as_text(column) for column in columns]
        kinds = {pa.large_string()}
    kind = next(iter(kinds), pa.null())
    return pa.chunked_array([chunk for column in columns for chunk in column.cast(kind).chunks], kind)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type):
        return column
    return pa.chunked_array([pl.Series(column).cast(pl.String).to_arrow().cast(pa.large_string())])


class Columns:
    """Collects rows of cells into columns of Arrow text, one chunk at a time.

    Args:
        names: names of the columns.
        path: the file, for messages.
        report: receives how many rows had undecodable bytes, which become U+FFFD.
        pack: keep columns in less memory (:func:`packed`), for a log of many rows.
    """

    def __init__(self, names: list[str], path: Path, report: Report, *, pack: bool = False) -> None:
        self._packs = pack
        self.count = 0
        self._names = names
        self._path = path
        self._report = report
        self._rows: list[list[str | None]] = []
        self._lines: list[int] = []
        self._chunks: list[pa.Table] = []
        self._waiting: list[pa.Table] = []  # text that is still to be packed
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
        self._keep(table)
        self.count += table.num_rows

    def table(self) -> pa.Table:
        """Return what was collected; a table without rows if there is nothing.

        Raises:
            DataError: if there are no columns.
        """
        if self._rows:
            self._flush()
        self._pack()
        if not self._names:
            raise DataError(f"{self._path} has no column that is read")
        action = "broken bytes became U+FFFD"
        self._report.add("broken UTF-8", self._path.name, self._broken, self._first_broken, action)
        empty = pa.table({name: pa.array([], pa.large_string()) for name in self._names})
        if not self._chunks:
            return empty
        names = self._chunks[0].column_names
        return pa.table({name: joined([chunk.column(name) for chunk in self._chunks]) for name in names})

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        try:
            arrays = [pa.array(column, pa.large_string()) for column in columns]
        except UnicodeEncodeError:
            self._repair()
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, pa.large_string()) for column in columns]
        self._keep(pa.table(arrays, names=self._names))
        self._rows, self._lines = [], []

    def _keep(self, table: pa.Table) -> None:
        if not self._packs:
            self._chunks.append(table)
            return
        self._waiting.append(table)
        if sum(each.nbytes for each in self._waiting) > _PACKED_BYTES:
            self._pack()

    def _pack(self) -> None:
        """Keep columns of repeated texts as codes, and columns of whole numbers as numbers."""
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._chunks.append(pa.table({name: packed(table.column(name)) for name in table.column_names}))
            self._waiting = []

    def _repair(self) -> None:
        """Replace undecodable bytes (which were read as surrogates) and lone surrogates by U+FFFD."""
        for i, row in enumerate(self._rows):
            if any(cell and _SURROGATE.search(cell) for cell in row):
                self._rows[i] = [cell and _SURROGATE.sub("\ufffd", cell) for cell in row]
                self._broken += 1
                cells = " | ".join(cell or "" for cell in self._rows[i])
                self._first_broken = self._first_broken or f"line {self._lines[i]}: {cells}"
