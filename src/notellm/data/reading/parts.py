"""A table in several files: their rows as one table, and their reports as one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pyarrow as pa

from notellm.data.cells.nested import Role, unwrapped
from notellm.data.problems import Problem, Report
from notellm.data.reading.collect import joined


def first_rows(tables: list[pa.Table], rows: int) -> list[pa.Table]:
    """Return the first rows of tables; a file is read in blocks, which may hold more."""
    kept = []
    for table in tables:
        kept.append(table.slice(0, max(0, rows)))
        rows -= table.num_rows
    return kept


def joined_tables(tables: list[pa.Table], roles: Mapping[str, Role], where: str, report: Report) -> pa.Table:
    """Join the tables of several files; columns whose types differ become text."""
    if len(tables) == 1:
        return tables[0]
    columns: dict[str, pa.ChunkedArray] = {}
    for name, role in roles.items():
        if not any(name in table.column_names for table in tables):
            continue
        parts = [
            table.column(name) if name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows)])
            for table in tables
        ]
        if len({part.type for part in parts}) > 1:
            parts = [unwrapped(part, role, f"{where}: {name}", report) for part in parts]
        columns[name] = joined(parts)
    return pa.table(columns)


def merged(reports: list[Report], where: str) -> Iterator[Problem]:
    """Yield the problems of several files, the same ones once."""
    if len(reports) == 1:
        yield from reports[0].problems
        return
    groups: dict[tuple[str, ...], list[Problem]] = {}
    for report in reports:
        for problem in report.problems:
            column = problem.where.rpartition(": ")[2] if ": " in problem.where else ""
            key = (problem.problem, column, problem.action, problem.option)
            groups.setdefault(key, []).append(problem)
    for same in groups.values():
        place = same[0].where if len(same) == 1 else f"{where}: {len(same)} files"
        yield replace(same[0], where=place, count=sum(each.count for each in same))
