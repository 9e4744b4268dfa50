"""The tables of ablations and costs of a report."""

from collections.abc import Sequence

import polars as pl

from notellm.experiment.report.blocks import Cell, Grid
from notellm.experiment.report.blocks import Row as TableRow
from notellm.experiment.report.findings import ABLATION, Difference, Findings, Row, distinct
from notellm.experiment.report.tables import (
    correction_text,
    difference_mark,
    difference_remarks,
    figure_cell,
    p_values,
    table_name,
)
from notellm.experiment.report.words import NONE, Form, count, duration, line, listed, option_name


def ablation_grid(findings: Findings) -> Grid | None:
    """Return a table with the settings of each option and their figures; None without ablations."""
    figures = findings.figures(ABLATION)
    if not figures:
        return None
    rows: list[TableRow] = []
    for part in findings.parts():
        meaning = option_name(part)
        title = line(part) if meaning == part.replace("_", " ") else f"{line(part)}: {meaning}"
        rows += [TableRow([Cell(title)], heads=True), *_part_rows(findings, part, figures)]
    percent = {findings.form(ABLATION, figure).scale for figure in figures} == {100}
    caption = f"{_ablation_counts(findings)}{'In %. ' if percent else ''}In brackets the 95 % interval."
    tested = [difference for _, difference in findings.differences(ABLATION)]
    if tested:
        caption += f" Δ is the difference from the reference. {correction_text(tested)}"
    remarks = difference_remarks(rows)
    falling = [line(figure) for figure in figures if findings.form(ABLATION, figure).better < 0]
    if falling:
        remarks.append(f"Less is better: {listed(falling)}.")
    return Grid(caption, ["setting", *map(line, figures)], rows, remarks)


def _part_rows(findings: Findings, part: str, figures: Sequence[str]) -> list[TableRow]:
    """Return a row for each setting of an option, and for each method if there are several."""
    several = len(distinct(row["method"] for row in findings.rows(ABLATION))) > 1
    reference = findings.reference(part)
    tested = {
        (row["setting"], each.method, each.figure): each for row, each in findings.differences(ABLATION, part)
    }
    rows = []
    for setting in findings.settings(part):
        for method in distinct(row["method"] for row in findings.rows(ABLATION, part=part, setting=setting)):
            cells = [
                _ablation_cell(
                    findings.row(ABLATION, method, figure, part=part, setting=setting),
                    tested.get((setting, method, figure)),
                    findings.form(ABLATION, figure),
                )
                for figure in figures
            ]
            name = f"{line(setting)}, {line(method)}" if several else line(setting)
            rows.append(TableRow([Cell(name, ["reference"] if setting == reference else []), *cells]))
    return rows


def _ablation_counts(findings: Findings) -> str:
    """Return the queries and pools of all ablations, as "3,120 queries; pool of 9,214 notes."."""
    bases = distinct((row["count"], row["pool"]) for row in findings.rows(ABLATION))
    texts = [
        f"{count(number)} notes"
        if pool is None
        else f"{count(number)} queries in a pool of {count(pool)} notes"
        for number, pool in bases
    ]
    return f"{'; '.join(texts)}. " if texts else ""


def _ablation_cell(row: Row | None, difference: Difference | None, form: Form) -> Cell:
    if row is None:
        return Cell(NONE)
    if difference is None:
        return figure_cell(row, form)
    change = f"Δ {form.number(difference.difference, sign=True)} "
    change += form.interval(difference.low, difference.high, sign=True)
    return figure_cell(row, form, difference_mark(difference, form), [change.strip(), p_values(difference)])


def cost_grid(findings: Findings) -> Grid | None:
    """Return what the runs took, means over seeds; None if nothing was noted."""
    frame = findings.results.frames["costs"]
    if frame.is_empty():
        return None
    numbers = ("steps", "seconds", "notes_per_second", "peak_memory_mib")
    means = frame.group_by("table", "part", "setting", "method", maintain_order=True).agg(
        pl.len().alias("runs"), *(pl.col(name).mean() for name in numbers)
    )
    rows = []
    for table in distinct(means["table"]):
        rows.append(TableRow([Cell(table_name(table))], heads=True))
        for row in means.filter(pl.col("table") == table).to_dicts():
            name = f"{row['part']} {row['setting']}, {row['method']}" if row["part"] else row["method"]
            values = [count(row["runs"]), count(row["steps"]), duration(row["seconds"])]
            values += [count(row["notes_per_second"]), count(row["peak_memory_mib"])]
            rows.append(TableRow([Cell(line(name)), *map(Cell, values)]))
    head = ["method", "runs", "steps", "time", "notes a second", "peak memory, MiB"]
    caption = (
        "Means over the runs of a method. Memory is that of the whole process, libraries and data included."
    )
    return Grid(caption, head, rows)
