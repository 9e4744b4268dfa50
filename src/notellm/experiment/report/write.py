"""Writing the report of an experiment into a folder, and reading its results back.

report.html, report.md, plots/NAME.svg    for readers
FRAME.parquet, results.json               all figures and texts, from which it can be written again
record.json                               how it was made
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from notellm.artifacts.replace import check_replaceable
from notellm.artifacts.write import write_folder
from notellm.errors import DataError
from notellm.experiment.report.findings import Findings
from notellm.experiment.report.markdown import PLOTS, markdown
from notellm.experiment.report.page import html_page
from notellm.experiment.report.plots import draw_plots
from notellm.experiment.report.sections import build_report
from notellm.experiment.results import FRAMES, Check, Claim, Example, Neighbour, Results
from notellm.files import read_json, read_parquet, write_json, write_parquet
from notellm.record import describe, make_record, write_record

_RESULTS = "results.json"
_ARROW: Mapping[Any, pa.DataType] = {pl.String: pa.string(), pl.Float64: pa.float64(), pl.Int64: pa.int64()}


def write_report(
    results: Results,
    folder: str | Path,
    *,
    record: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Write a report into a folder, whole or not at all.

    Args:
        results: what the experiment found.
        folder: the folder; an older report in it is replaced.
        record: how the results were made (``make_record`` with kind "report"); None names only the frames.
        force: replace a folder that would otherwise be kept (see ``write_folder``).

    Raises:
        MissingDependencyError: if matplotlib is not installed.
        DataError: if a frame is missing or has other columns than ``FRAMES``.
        StorageError: if the folder may not be replaced or cannot be written.
    """
    check_replaceable(folder, "report", force=force)
    tables = {name: _arrow(name, results.frames.get(name)) for name in FRAMES}
    drawings = draw_plots(results)
    report = build_report(results, drawings)
    with write_folder(folder, "report", force=force) as new:
        _write_text(new / "report.html", html_page(report))
        _write_text(new / "report.md", markdown(report))
        (new / PLOTS).mkdir()
        for drawing in drawings:
            _write_text(new / PLOTS / f"{drawing.name}.svg", _standalone(drawing.svg))
        for name, table in tables.items():
            write_parquet(table, new / f"{name}.parquet")
        write_json(_texts(results), new / _RESULTS)
        write_record(new, _record(results, tables) if record is None else record)


def read_results(folder: str | Path) -> Results:
    """Read the results of a written report, so that it can be written again.

    Raises:
        StorageError: if a file is missing or cannot be read.
        DataError: if a file is damaged or has another form.
    """
    source = Path(folder)
    texts = read_json(source / _RESULTS)
    frames = {}
    for name in FRAMES:
        table = read_parquet(source / f"{name}.parquet")
        frames[name] = pl.DataFrame(pl.from_arrow(table))
        _arrow(name, frames[name])
    try:
        return Results(
            title=texts["title"],
            facts=dict(texts["facts"]),
            frames=frames,
            checks=[Check(**each) for each in texts["checks"]],
            claims=[Claim(**each) for each in texts["claims"]],
            examples={kind: [_example(each) for each in found] for kind, found in texts["examples"].items()},
            left_out=list(texts["left_out"]),
            notes=list(texts["notes"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{source / _RESULTS} is not the results of an experiment ({error!r}); run the experiment again"
        ) from error


def _example(values: Mapping[str, Any]) -> Example:
    near = tuple(Neighbour(**each) for each in values["neighbours"])
    return Example(values["query"], values["target"], float(values["rank"]), near)


def _arrow(name: str, frame: pl.DataFrame | None) -> pa.Table:
    """Return a frame as an Arrow table.

    Raises:
        DataError: if it is missing or has other columns.
    """
    wanted = dict(FRAMES[name])
    if frame is None or dict(frame.schema) != wanted:
        found = "missing" if frame is None else f"with the columns {', '.join(frame.columns)}"
        raise DataError(
            f"the frame {name!r} is {found}; it needs the columns {', '.join(wanted)}: make it with "
            "notellm.experiment.results.frame"
        )
    schema = pa.schema([(column, _ARROW[kind]) for column, kind in wanted.items()])
    return frame.to_arrow().cast(schema)


def _texts(results: Results) -> dict[str, Any]:
    """Return everything but the frames as JSON values."""
    values = {
        "title": results.title,
        "facts": results.facts,
        "checks": [dataclasses.asdict(each) for each in results.checks],
        "claims": [dataclasses.asdict(each) for each in results.claims],
        "examples": {
            kind: [dataclasses.asdict(each) for each in found] for kind, found in results.examples.items()
        },
        "left_out": results.left_out,
        "notes": results.notes,
    }
    whole: dict[str, Any] = _storable(values)
    return whole


def _storable(value: Any) -> Any:
    """Return JSON values whose texts can be encoded; an argument of a command may have bytes of no text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_storable(key): _storable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(each) for each in value]
    return value


def _standalone(svg: str) -> str:
    """Return a plot as a file: black on white, whatever is around it."""
    style = ' style="background: #fff; color: #1b1f24; font-family: sans-serif; '
    whole = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return whole.replace(' style="', style, 1) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _record(results: Results, tables: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Return a record that names the frames and has the headline of each method."""
    findings = Findings(results)
    metrics: dict[str, dict[str, float]] = {}
    for table in ("recall", "writing", "rank"):
        for row in findings.rows(table, breakdown=""):
            if row["mean"] is not None:
                metrics.setdefault(f"{table}: {row['method']}", {})[row["figure"]] = row["mean"]
    data = {name: describe(table) for name, table in tables.items()}
    return make_record(kind="report", config={}, data=data, metrics=metrics)
