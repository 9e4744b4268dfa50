"""Read a list of values as a column, for the tests of this folder."""

import pyarrow as pa

from notellm.data.problems import Report


def read(rule, values, kind=None, options=None):
    """Return the cells that a rule makes of values, and the report."""
    report = Report()
    column = pa.chunked_array([pa.array(values, kind)])
    return rule(column, "t.csv: c", report, options).to_list(), report


def problems(report):
    """Return the number of rows by problem."""
    return {each.problem: each.count for each in report.problems}
