"""Impressions checked against the notes that they speak of."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.problems import Report
from notellm.data.schema import IMPRESSIONS
from notellm.errors import DataError

_CHUNK_ROWS = 1 << 15


def validate_impressions(impressions: pa.Table, notes: pa.Table) -> tuple[pa.Table, Report]:
    """Check impressions against the notes that they speak of.

    Rows on unknown notes are dropped; unknown notes, and missing ids, are taken out of histories.

    Args:
        impressions: the columns of IMPRESSIONS, of their types or of types that hold the same:
            integer labels 0 and 1, dictionary-encoded or large strings, times of another unit (without
            a zone: UTC). More columns are dropped.
        notes: table with the column ``note_id``.

    Returns:
        The rows left, in their order, in the schema IMPRESSIONS; and what was dropped.

    Raises:
        DataError: a column is missing, of an impossible type or holds nulls; no row is left; or the
            rows left have one label only.
    """
    report = Report()
    table = _as_impressions(impressions)
    known = pc.unique(notes["note_id"].cast(pa.string()))
    there = pc.is_in(table["note_id"], value_set=known)
    unknown = table.filter(pc.invert(there))
    if unknown.num_rows:
        example = ", ".join(f"{name} {unknown[name][0].as_py()}" for name in ("user_id", "note_id"))
        where = "impressions: note_id"
        report.add("impression of an unknown note", where, unknown.num_rows, example, "rows dropped")
    table = _known_histories(table.filter(there), known, report)
    if table.num_rows == 0:
        raise DataError(
            f"no impression is left of {impressions.num_rows}; do both tables use the same note ids?"
            + (f"\n{report}" if len(report) else "")
        )
    labels = pc.unique(table["label"]).to_pylist()
    if len(labels) == 1:
        raise DataError(
            f"the label of all {table.num_rows} impressions is {labels[0]}: there is nothing to tell "
            "apart; give impressions of both labels"
        )
    return table, report


def _known_histories(table: pa.Table, known: pa.Array, report: Report) -> pa.Table:
    """The table without unknown notes in its histories."""
    column = table["history"]
    chunks, touched, example = [], 0, ""
    for whole in column.chunks:
        for first in range(0, len(whole), _CHUNK_ROWS):
            lists = whole.slice(first, _CHUNK_ROWS)
            lengths = pc.list_value_length(lists).to_numpy()
            owner = np.repeat(np.arange(len(lists)), lengths)
            flat = pc.list_flatten(lists)
            there = pc.is_in(flat, value_set=known).to_numpy(zero_copy_only=False)
            if not there.all():
                example = example or str(flat[int(np.argmin(there))].as_py())
                touched += len(np.unique(owner[~there]))
            kept = np.bincount(owner[there], minlength=len(lists))
            offsets = pa.array(np.concatenate(([0], np.cumsum(kept))), pa.int32())
            chunks.append(pa.ListArray.from_arrays(offsets, flat.filter(pa.array(there))))
    report.add("unknown note in a history", "impressions: history", touched, example, "taken out")
    history = pa.chunked_array(chunks, IMPRESSIONS.field("history").type)
    return table.set_column(table.schema.get_field_index("history"), IMPRESSIONS.field("history"), history)


def _as_impressions(table: pa.Table) -> pa.Table:
    """The columns of IMPRESSIONS in their types, without nulls."""
    columns = []
    for field in IMPRESSIONS:
        if field.name not in table.column_names:
            raise DataError(
                f"impressions has no column {field.name!r}; its columns are "
                f"{', '.join(table.column_names)}: give {', '.join(IMPRESSIONS.names)}"
            )
        column = table[field.name]
        if column.null_count:
            raise DataError(
                f"impressions: {field.name} is null in {column.null_count} of {len(column)} rows: "
                "give a value in every row"
            )
        columns.append(_cast(column, field))
    return pa.table(columns, schema=IMPRESSIONS)


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """A column in the type of its field."""
    type_ = column.type
    if field.name == "label" and pa.types.is_integer(type_):
        wrong = column.filter(pc.invert(pc.is_in(column, value_set=pa.array([0, 1], type_))))
        if len(wrong):
            raise DataError(
                f"impressions: a label is {wrong[0].as_py()}: give true and false, or 1 and 0; "
                "of ratings decide first which are high"
            )
        return column.cast(pa.bool_())
    if field.name in ("label", "timestamp") and type_.id != field.type.id:
        raise DataError(f"impressions: {field.name} is {type_}: give {field.type}")
    try:
        return column.cast(field.type, safe=False)
    except pa.ArrowException as error:
        raise DataError(f"impressions: {field.name} is {type_}: give {field.type}") from error
