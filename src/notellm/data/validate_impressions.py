"""Check impressions against the notes that they refer to."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.problems import Report
from notellm.data.schema import IMPRESSIONS
from notellm.errors import DataError

_CHUNK_ROWS = 1 << 15


def validate_impressions(impressions: pa.Table, notes: pa.Table) -> tuple[pa.Table, Report]:
    """Check impressions against the notes that they refer to.

    Rows on unknown notes are dropped; unknown notes and missing ids are removed from histories.

    Args:
        impressions: table with the columns of IMPRESSIONS in their types, or in equivalent ones: integer
            labels 0 and 1, dictionary-encoded or large strings, times of another unit (UTC if they have no
            zone). Other columns are dropped.
        notes: table with the column ``note_id``.

    Returns:
        The remaining rows in their order, with the schema IMPRESSIONS; and a report of what was dropped.

    Raises:
        DataError: if a column is missing, has an impossible type or contains nulls, if no row remains, or if
            the labels of all remaining rows are alike.
    """
    report = Report()
    table = _as_impressions(impressions)
    known = pc.unique(notes["note_id"].cast(pa.string()))
    is_known = pc.is_in(table["note_id"], value_set=known)
    unknown = table.filter(pc.invert(is_known))
    if unknown.num_rows:
        example = ", ".join(f"{name} {unknown[name][0].as_py()}" for name in ("user_id", "note_id"))
        where = "impressions: note_id"
        report.add("impression of an unknown note", where, unknown.num_rows, example, "rows dropped")
    table = _known_histories(table.filter(is_known), known, report)
    if table.num_rows == 0:
        raise DataError(
            f"no impression is left of {impressions.num_rows}; do both tables use the same note ids?"
            + (f"\n{report}" if len(report) else "")
        )
    labels = pc.unique(table["label"]).to_pylist()
    if len(labels) == 1:
        raise DataError(
            f"the label of all {table.num_rows} impressions is {labels[0]}, so there is nothing to tell "
            "apart; give impressions of both labels"
        )
    return table, report


def _known_histories(table: pa.Table, known: pa.Array, report: Report) -> pa.Table:
    """Return the table without unknown notes in its histories."""
    column = table["history"]
    chunks, changed, example = [], 0, ""
    for whole in column.chunks:
        for first in range(0, len(whole), _CHUNK_ROWS):
            lists = whole.slice(first, _CHUNK_ROWS)
            lengths = pc.list_value_length(lists).to_numpy()
            row = np.repeat(np.arange(len(lists)), lengths)
            flat = pc.list_flatten(lists)
            is_known = pc.is_in(flat, value_set=known).to_numpy(zero_copy_only=False)
            if not is_known.all():
                example = example or str(flat[int(np.argmin(is_known))].as_py())
                changed += len(np.unique(row[~is_known]))
            kept = np.bincount(row[is_known], minlength=len(lists))
            offsets = pa.array(np.concatenate(([0], np.cumsum(kept))), pa.int32())
            chunks.append(pa.ListArray.from_arrays(offsets, flat.filter(pa.array(is_known))))
    report.add("unknown note in a history", "impressions: history", changed, example, "taken out")
    history = pa.chunked_array(chunks, IMPRESSIONS.field("history").type)
    return table.set_column(table.schema.get_field_index("history"), IMPRESSIONS.field("history"), history)


def _as_impressions(table: pa.Table) -> pa.Table:
    """Return the columns of IMPRESSIONS in their types, and check that they contain no nulls."""
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
    """Return a column in the type of its field."""
    type_ = column.type
    if field.name == "label" and pa.types.is_integer(type_):
        wrong = column.filter(pc.invert(pc.is_in(column, value_set=pa.array([0, 1], type_))))
        if len(wrong):
            raise DataError(
                f"impressions: a label is {wrong[0].as_py()}: give true and false, or 1 and 0; "
                "turn ratings into labels first"
            )
        return column.cast(pa.bool_())
    if field.name in ("label", "timestamp") and type_.id != field.type.id:
        raise DataError(f"impressions: {field.name} is {type_}: give {field.type}")
    try:
        return column.cast(field.type, safe=False)
    except pa.ArrowException as error:
        raise DataError(f"impressions: {field.name} is {type_}: give {field.type}") from error
