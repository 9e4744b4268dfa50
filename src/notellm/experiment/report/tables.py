"""The tables of a report: methods by figures, differences between methods, breakdowns.

Every table says beside it how many queries, notes or rows its figures are of, in how large a pool, and how
many seeds they are a mean over.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from notellm.experiment.report.blocks import MARKS, Cell, Grid
from notellm.experiment.report.blocks import Row as TableRow
from notellm.experiment.report.findings import ABLATION, SURE, Difference, Findings, Row, distinct
from notellm.experiment.report.findings import basis as basis_of
from notellm.experiment.report.words import NONE, Form, breakdown_name, count, line, listed, probability

#: What the figures of a table are counted over.
COUNTED = {"recall": "queries", "writing": "notes", "rank": "rows", ABLATION: "queries or notes"}
_NOT_TESTED = "Within groups nothing was tested: compare the intervals."
_MOST_GROUPS = 6  # of a breakdown whose groups stand below each other, with all figures


@dataclass(frozen=True)
class Column:
    """A column of a table of methods: a figure in a group of queries."""

    figure: str
    breakdown: str = ""
    group: str = "all"

    @property
    def title(self) -> str:
        """Name of the column."""
        return self.figure if not self.breakdown else f"{self.figure}, {self.group}"


def method_grids(findings: Findings, table: str, wide: Sequence[str] = ()) -> list[Grid]:
    """Return the tables with a row for each method and a column for each figure.

    Args:
        findings: the results.
        table: "recall", "writing" or "rank". The figures of categories and of topics are of other methods and
            notes, so that they become two tables.
        wide: breakdowns whose groups become further columns.
    """
    figures = findings.figures(table, breakdown="")
    sets = _alike(findings, table, figures) if table == "writing" else [figures]
    grids = []
    for names in sets:
        columns = [Column(name) for name in names]
        for breakdown in wide:
            columns += [
                Column(name, breakdown, group)
                for group in findings.groups(table, breakdown)
                for name in findings.figures(table, breakdown=breakdown, group=group)
            ]
        if columns:
            grids.append(_methods(findings, table, columns))
    return grids


def _alike(findings: Findings, table: str, figures: Sequence[str]) -> list[list[str]]:
    """Put figures together that are of the same methods and number of notes."""
    sets: list[tuple[set[str], object, list[str]]] = []
    for name in figures:
        rows = findings.rows(table, figure=name, breakdown="")
        methods, basis = {row["method"] for row in rows}, basis_of(rows)
        for others, other_basis, names in sets:
            if basis == other_basis and (methods <= others or others <= methods):
                names.append(name)
                others.update(methods)
                break
        else:
            sets.append((methods, basis, [name]))
    return [names for _, _, names in sets]


def _methods(findings: Findings, table: str, columns: Sequence[Column]) -> Grid:
    """Return one table of methods by columns."""
    methods = distinct(
        row["method"]
        for row in findings.rows(table)
        if Column(row["figure"], row["breakdown"], row["group"]) in columns
    )
    seeds = {name: _seeds(findings, table, name, columns) for name in methods}
    with_seeds = len(set(seeds.values())) > 1
    rows = []
    for method in methods:
        cells = [_cell(findings, table, method, column) for column in columns]
        first = [Cell(line(method)), *([Cell(seeds[method])] if with_seeds else [])]
        rows.append(TableRow([*first, *cells]))
    head = ["method", *(["seeds"] if with_seeds else []), *(line(column.title) for column in columns)]
    reading = _reading(findings, table, columns, "" if with_seeds else next(iter(seeds.values()), ""))
    caption = f"{counted_text(findings, table, columns)}. {reading}"
    return Grid(caption, head, rows, _remarks(findings, table, columns, rows))


def _row(findings: Findings, table: str, method: str, column: Column) -> Row | None:
    return findings.row(table, method, column.figure, breakdown=column.breakdown, group=column.group)


def _seeds(findings: Findings, table: str, method: str, columns: Sequence[Column]) -> str:
    """Return the number of seeds of a method, as ``3``, or ``1 to 3`` if it differs between columns."""
    found = [row["seeds"] for column in columns if (row := _row(findings, table, method, column))]
    numbers = sorted({int(number) for number in found if number is not None})
    return " to ".join(count(number) for number in distinct([numbers[0], numbers[-1]])) if numbers else NONE


def _cell(findings: Findings, table: str, method: str, column: Column) -> Cell:
    """Return the cell of a method with its mark."""
    row = _row(findings, table, method, column)
    if row is None:
        return Cell(NONE)
    basis = basis_of(
        findings.rows(table, figure=column.figure, breakdown=column.breakdown, group=column.group)
    )
    other = [] if basis == (row["count"], row["pool"]) else [f"of {count(row['count'])} only"]
    mark = ""
    if method in findings.winners(table, column.figure, column.breakdown, column.group):
        mark = "best"
    elif not column.breakdown and method in findings.level(table, column.figure):
        mark = "level"
    return figure_cell(row, findings.form(table, column.figure), mark, other)


def figure_cell(row: Row, form: Form, mark: str = "", others: Sequence[str] = ()) -> Cell:
    """Return a cell with a mean, its deviation over seeds and its interval."""
    text = " ".join(filter(None, [form.number(row["mean"]), form.deviation(row["deviation"])]))
    return Cell(text, [*filter(None, [form.interval(row["low"], row["high"])]), *others], mark)


def counted_text(findings: Findings, table: str, columns: Sequence[Column], *, pool: bool = True) -> str:
    """Return how many queries the figures are of and in how large a pool.

    For example "3,120 queries; pool of 9,214 notes" or "AUC: 10,401 rows; UAUC: 1,230 users".

    Args:
        findings: the results.
        table: the table of the figures.
        columns: the figures with their groups.
        pool: say how large the pool is.
    """
    bases: dict[tuple[int | None, int | None], list[Column]] = {}
    for column in columns:
        where = {"figure": column.figure, "breakdown": column.breakdown, "group": column.group}
        basis = basis_of(findings.rows(table, **where))
        if basis is not None:
            bases.setdefault(basis, []).append(column)
    texts = []
    for (number, notes), members in bases.items():
        by_user = all(_is_by_user(findings, table, column, number) for column in members)
        noun = "users" if by_user else COUNTED.get(table, "rows")
        text = f"{count(number)} {noun}" if number is not None else f"number of {noun} not known"
        if notes is not None and pool:
            text += f"; pool of {count(notes)} notes"
        if len(bases) > 1:
            text = f"{', '.join(line(column.title) for column in members)}: {text}"
        texts.append(text)
    return "; ".join(texts)


def _is_by_user(findings: Findings, table: str, column: Column, number: int | None) -> bool:
    """Tell whether a figure of rank is counted over users: it is no AUC and has another number than AUC."""
    rows = findings.rows(table, figure="AUC", breakdown=column.breakdown, group=column.group)
    basis = basis_of(rows)
    return table == "rank" and column.figure != "AUC" and basis is not None and basis[0] != number


def _reading(findings: Findings, table: str, columns: Sequence[Column], seeds: str = "") -> str:
    """Return how the cells of a table are read: units, intervals, seeds."""
    rows = [row for column in columns for row in findings.rows(table, figure=column.figure)]
    parts = []
    forms = {findings.form(table, column.figure).scale for column in columns}
    if forms == {100}:
        parts.append("In %.")
    elif 100 in forms:
        plain = [column.title for column in columns if findings.form(table, column.figure).scale == 1]
        parts.append(f"In %, but {listed([line(name) for name in plain])} as numbers.")
    if any(row["low"] is not None for row in rows):
        parts.append("In brackets the 95 % interval.")
    if any(row["deviation"] is not None for row in rows):
        parts.append("± is the standard deviation over seeds.")
    if seeds not in ("", NONE, "1"):
        parts.append(f"Means over {seeds} seeds.")
    return " ".join(parts)


def _remarks(
    findings: Findings, table: str, columns: Sequence[Column], rows: Sequence[TableRow]
) -> list[str]:
    """Return what the marks of a table mean, which methods were not tested, and which figures fall."""
    remarks = []
    if any(cell.mark == "best" for row in rows for cell in row.cells):
        remarks.append(f"{MARKS['best'][0]} {MARKS['best'][1]}.")
    if any(cell.mark == "level" for row in rows for cell in row.cells):
        remarks.append(
            f"{MARKS['level'][0]} {MARKS['level'][1]}: corrected p of the paired difference is {SURE} or "
            "more."
        )
    falling = distinct(c.figure for c in columns if findings.form(table, c.figure).better < 0)
    if falling:
        remarks.append(f"Less is better: {listed([line(name) for name in falling])}.")
    plain = [column for column in columns if not column.breakdown]
    figure = findings.headline([column.figure for column in plain])
    if len(plain) < len(columns):
        remarks.append(_NOT_TESTED)
    untested = findings.untested(table, figure) if figure else []
    if untested and findings.differences(table):
        remarks.append(
            f"Not compared with the best {line(figure or '')} by a test: "
            f"{listed([line(name) for name in untested])}."
        )
    return remarks


def difference_grid(findings: Findings, table: str) -> Grid | None:
    """Return the table of paired differences with their corrected p; None if nothing was compared."""
    found = [(row, each) for row, each in findings.differences(table) if not row["part"]]
    if not found:
        return None
    order = findings.figures(table, breakdown="")
    figures = sorted(
        distinct(each.figure for _, each in found), key=lambda f: (f not in order, _at(order, f))
    )
    by_pair = {(each.method, each.against, each.figure): each for _, each in found}
    rows = []
    for against in distinct(each.against for _, each in found):
        rows.append(TableRow([Cell(f"less {line(against)}")], heads=True))
        for method in distinct(each.method for _, each in found if each.against == against):
            cells = [
                _difference_cell(by_pair.get((method, against, f)), findings.form(table, f)) for f in figures
            ]
            rows.append(TableRow([Cell(line(method)), *cells]))
    columns = [Column(figure) for figure in figures]
    percent = {findings.form(table, figure).scale for figure in figures} == {100}
    unit = "In percentage points." if percent else "In the unit of each figure."
    counted = counted_text(findings, table, columns)
    caption = f"{counted}. {unit} {correction_text([each for _, each in found])}"
    return Grid(caption, ["method", *map(line, figures)], rows, difference_remarks(rows))


def _at(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def correction_text(differences: Sequence[Difference]) -> str:
    """Return how the p-values were corrected."""
    numbers = sorted({each.comparisons for each in differences if each.comparisons is not None})
    if not numbers:
        return "Paired bootstrap."
    family = count(numbers[0]) if len(numbers) == 1 else f"{count(numbers[0])} to {count(numbers[-1])}"
    return (
        f"Paired bootstrap on the same queries; p is two-sided and corrected for {family} comparisons "
        "(Holm), beside it the p of the single comparison."
    )


def difference_remarks(rows: Sequence[TableRow]) -> list[str]:
    """Return what the marks of the rows mean."""
    used = {cell.mark for row in rows for cell in row.cells}
    return [f"{sign} {meaning}." for mark, (sign, meaning) in MARKS.items() if mark in used]


def _difference_cell(difference: Difference | None, form: Form) -> Cell:
    """Return a difference with its interval, its p-values and its mark."""
    if difference is None:
        return Cell(NONE)
    below = [form.interval(difference.low, difference.high, sign=True), p_values(difference)]
    return Cell(
        form.number(difference.difference, sign=True),
        [*filter(None, below)],
        difference_mark(difference, form),
    )


def p_values(difference: Difference) -> str:
    """Return the corrected p of a difference and its own, as "p = 0.016 (single 0.004)"."""
    corrected, single = probability(difference.p_adjusted), probability(difference.p)
    return f"{corrected} (single {single.removeprefix('p ').removeprefix('= ')})" if single else corrected


def difference_mark(difference: Difference, form: Form) -> str:
    """Return the mark of a difference: "ahead", "behind" or "same"; "" if it was not tested."""
    if not form.better or difference.difference is None or difference.p_adjusted is None:
        return ""
    if not difference.sure:
        return "same"
    return "ahead" if difference.difference * form.better > 0 else "behind"


def breakdown_grid(findings: Findings, table: str, breakdown: str) -> Grid:
    """Return the figures by groups of queries.

    A few groups stand below each other, with all figures. Of many groups there is a row each, with a column
    for each method, of the figure that sums up the table.
    """
    groups = findings.groups(table, breakdown)
    if len(groups) > _MOST_GROUPS:
        return _many_groups(findings, table, breakdown, groups)
    figures = findings.figures(table, breakdown=breakdown)
    rows: list[TableRow] = []
    columns: list[Column] = []
    for group in groups:
        here = [Column(figure, breakdown, group) for figure in figures]
        columns += here
        counted = counted_text(findings, table, here)
        rows.append(TableRow([Cell(f"{line(group)}: {counted}")], heads=True))
        for method in findings.methods(table):
            if any(_row(findings, table, method, column) for column in here):
                cells = [_cell(findings, table, method, column) for column in here]
                rows.append(TableRow([Cell(line(method)), *cells]))
    caption = f"By {breakdown_name(breakdown)}. {_reading(findings, table, columns)}"
    return Grid(caption, ["method", *map(line, figures)], rows, _group_remarks(rows))


def _group_remarks(rows: Sequence[TableRow]) -> list[str]:
    """Return what the mark of the best method of a group means."""
    marked = any(cell.mark for row in rows for cell in row.cells)
    return [f"{MARKS['best'][0]} best of its group. {_NOT_TESTED}"] if marked else []


def _many_groups(findings: Findings, table: str, breakdown: str, groups: Sequence[str]) -> Grid:
    figure = findings.headline(findings.figures(table, breakdown=breakdown)) or ""
    methods = [
        method
        for method in findings.methods(table)
        if findings.rows(table, breakdown=breakdown, method=method)
    ]
    rows = []
    for group in groups:
        column = Column(figure, breakdown, group)
        counted = counted_text(findings, table, [column], pool=False)
        cells = [_cell(findings, table, method, column) for method in methods]
        rows.append(TableRow([Cell(line(group), [counted]), *cells]))
    caption = f"{line(figure)} by {breakdown_name(breakdown)}. {_reading(findings, table, [Column(figure)])}"
    pools = {row["pool"] for row in findings.rows(table, breakdown=breakdown)} - {None}
    if len(pools) == 1:
        caption += f" Pool of {count(pools.pop())} notes."
    return Grid(caption, [breakdown_name(breakdown), *map(line, methods)], rows, _group_remarks(rows))


def table_name(table: str) -> str:
    """Return the title of a table."""
    names = {
        "recall": "Related notes",
        "writing": "Categories and topics",
        "rank": "Rank",
        ABLATION: "Ablations",
    }
    return names.get(table, line(table))
