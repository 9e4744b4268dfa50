"""Read a list of values as a column, for the tests of this folder."""

import pyarrow as pa

from notellm.data.problems import Report


def read(rule, values, kind=None, options=None):
    """Return the cells that a rule makes of values, and the report."""
    report = Report()
    column = pa.chunked_array([array_of(values, kind)])
    return rule(column, "t.csv: c", report, options).to_list(), report


def array_of(values, kind=None):
    """Return values as an array; members of objects in the order in which they are written."""
    first = next((value for value in values if value is not None), None)
    if kind is None and isinstance(first, dict):
        kind = pa.struct([(name, pa.array([value]).type) for name, value in first.items()])
    return pa.array(values, kind)


def problems(report):
    """Return the number of rows by problem."""
    return {each.problem: each.count for each in report.problems}
