"""Arrow columns of any text type as plain, valid UTF-8 text."""

import polars as pl
import pyarrow as pa

from notellm.data.problems import Report


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column without dictionary encoding."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a type is text, or bytes that may be text."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def utf8(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    """Return the column as valid UTF-8 text, which Arrow does not check when it reads a file."""
    if pa.types.is_null(column.type):
        return pl.Series([None] * len(column), dtype=pl.String)
    try:
        text = column.cast(pa.large_string()) if not pa.types.is_large_string(column.type) else column
        text.validate(full=True)
    except pa.ArrowInvalid:
        cells = column.cast(pa.large_binary()).to_pylist()
        decoded = [None if cell is None else cell.decode(errors="replace") for cell in cells]
        broken = [new for cell, new in zip(cells, decoded, strict=True) if cell != (new and new.encode())]
        report.add("broken UTF-8", where, len(broken), broken[0], "broken bytes became U+FFFD")
        return pl.Series(decoded, dtype=pl.String)
    return pl.Series(text)
