"""Results as tables for people and as plain values for JSON.

A table has a row for each method and exposure group, and a column for each figure, in % with its
95 % interval; pool size and number of queries stand in the caption. As JSON all figures are shares
(0 to 1).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from notellm.artifacts import write_folder
from notellm.errors import DataError
from notellm.evaluate.bootstrap import Interval
from notellm.evaluate.retrieval import RetrievalResult
from notellm.files import write_json
from notellm.record import write_record

_GROUPS = {"all": "all", "low": "low exposure", "high": "high exposure"}


def markdown_table(results: Sequence[RetrievalResult]) -> str:
    """Results on one pool as a Markdown table with its caption.

    Raises:
        DataError: no result, or results of different pools, queries or figures.
    """
    caption, rows = _cells(results)
    return "\n".join([caption, "", *markdown_lines(rows, texts=2)]) + "\n"


def text_table(results: Sequence[RetrievalResult]) -> str:
    """Results on one pool as aligned plain text with its caption.

    Raises:
        DataError: no result, or results of different pools, queries or figures.
    """
    caption, rows = _cells(results)
    return "\n".join([caption, *aligned_lines(rows, texts=2)]) + "\n"


def save_report(
    folder: str | Path,
    title: str,
    text: str,
    values: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    force: bool = False,
) -> None:
    """Write ``report.md``, ``results.json`` and ``record.json`` into a folder, whole or not at all.

    Args:
        folder: where; a report that is there is replaced.
        title: of the report.
        text: the report in Markdown.
        values: all figures as JSON values.
        record: how they were made.
        force: as in ``artifacts.write_folder``.

    Raises:
        StorageError: it cannot be written.
    """
    with write_folder(folder, "report", force=force) as aside:
        (aside / "report.md").write_text(f"# {title}\n\n{text}", encoding="utf-8")
        write_json(values, aside / "results.json")
        write_record(aside, record)


def markdown_lines(rows: Sequence[Sequence[str]], *, texts: int) -> list[str]:
    """Rows, the head first, as lines of a Markdown table; all but the first ``texts`` columns are figures."""
    ruler = [*["---"] * texts, *["---:"] * (len(rows[0]) - texts)]
    return ["| " + " | ".join(row) + " |" for row in (rows[0], ruler, *rows[1:])]


def aligned_lines(rows: Sequence[Sequence[str]], *, texts: int) -> list[str]:
    """Rows, the head first, in columns: the first ``texts`` to the left, the figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def as_json(result: RetrievalResult) -> dict[str, Any]:
    """A result as JSON values: name, group, pool, queries, figures and the groups by exposure."""
    values: dict[str, Any] = {
        "name": result.name,
        "group": result.group,
        "pool": result.pool,
        "queries": result.queries,
        "figures": {name: dataclasses.asdict(value) for name, value in result.figures.items()},
    }
    if result.by_exposure:
        values["by_exposure"] = {name: as_json(part) for name, part in result.by_exposure.items()}
    return values


def _cells(results: Sequence[RetrievalResult]) -> tuple[str, list[list[str]]]:
    """Caption and rows, the head first: the groups of all methods one after the other."""
    if not results:
        raise DataError("there is no result to put in a table: give one or more")
    first = results[0]
    for result in results:
        if (
            result.pool != first.pool
            or result.query_ids != first.query_ids
            or list(result.figures) != list(first.figures)
        ):
            raise DataError(
                f"{first.name} and {result.name} are not on the same pool, queries and figures: "
                "put them in tables of their own"
            )
    counts = ", ".join(
        [
            f"{first.queries:,} queries",
            *(f"{part.queries:,} of {_GROUPS[name]}" for name, part in first.by_exposure.items()),
        ]
    )
    caption = (
        f"{counts}; pool of {first.pool:,} notes, all but the query are candidates; "
        "% [95 % bootstrap interval over queries]."
    )
    head = ["method", "queries", *first.figures]
    rows = [
        [part.name, _GROUPS[part.group], *map(_percent, part.figures.values())]
        for group in ("all", *first.by_exposure)
        for result in results
        for part in [result if group == "all" else result.by_exposure[group]]
    ]
    return caption, [head, *rows]


def _percent(value: Interval) -> str:
    return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
