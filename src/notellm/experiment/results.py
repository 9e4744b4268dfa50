"""What an experiment found, as tables: what its computing part hands to its report.

Every table is a Polars frame in long form: one row for each figure of a method in a group of queries. Shares
are from 0 to 1, differences from -1 to 1. A ``table`` is "recall" (related notes), "writing" (categories and
topics), "rank" (impressions), or "ablation", whose ``part`` names the option that varies and whose
``setting`` is its value; both are "" in the other tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

_PLACE = {"table": pl.String, "part": pl.String, "setting": pl.String, "method": pl.String}

#: ``mean`` of a figure over queries and seeds with its bootstrap interval over queries (``low``, ``high``),
#: and the standard ``deviation`` of its means over the seeds (null for fewer than two). ``breakdown`` and
#: ``group`` name the queries: "" and "all", or for example "exposure" and "low". ``count`` queries (notes,
#: rows) were measured in a pool of ``pool`` notes (null where there is none).
FIGURES = {
    **_PLACE,
    "breakdown": pl.String,
    "group": pl.String,
    "figure": pl.String,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "deviation": pl.Float64,
    "seeds": pl.Int64,
    "count": pl.Int64,
    "pool": pl.Int64,
}
#: ``method`` less the method ``against``, on the same queries: paired bootstrap, two-sided ``p``, and the
#: same corrected for the ``comparisons`` of its family (Holm 1979).
DIFFERENCES = {
    **_PLACE,
    "against": pl.String,
    "figure": pl.String,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "p_adjusted": pl.Float64,
    "comparisons": pl.Int64,
}
#: What a run took; null where it does not apply.
COSTS = {
    **_PLACE,
    "seed": pl.Int64,
    "steps": pl.Int64,
    "seconds": pl.Float64,
    "notes_per_second": pl.Float64,
    "peak_memory_mib": pl.Float64,
}
#: A figure of the validation notes or rows during a training.
CURVES = {**_PLACE, "seed": pl.Int64, "step": pl.Int64, "figure": pl.String, "value": pl.Float64}
#: The vectors of some notes in two dimensions.
MAP = {"note_id": pl.String, "title": pl.String, "category": pl.String, "x": pl.Float64, "y": pl.Float64}
#: How often what was predicted with a probability came true, by bins of the probability.
RELIABILITY = {
    "table": pl.String,
    "method": pl.String,
    "predicted": pl.Float64,
    "observed": pl.Float64,
    "count": pl.Int64,
}

#: The frames of the results by name, with their columns.
FRAMES: Mapping[str, Mapping[str, Any]] = {
    "figures": FIGURES,
    "differences": DIFFERENCES,
    "costs": COSTS,
    "curves": CURVES,
    "map": MAP,
    "reliability": RELIABILITY,
}


def frame(name: str, rows: list[dict[str, Any]] | None = None) -> pl.DataFrame:
    """Return the rows of a frame with its columns; a column that a row lacks is "" or null there.

    Args:
        name: name of the frame in ``FRAMES``.
        rows: rows as mappings; None for none.
    """
    columns = FRAMES[name]
    table = pl.DataFrame(rows or [], schema=dict(columns), orient="row")
    texts = [column for column, kind in columns.items() if kind == pl.String]
    return table.with_columns(pl.col(texts).fill_null(""))


@dataclass(frozen=True)
class Check:
    """A check that nothing of the test part was known in training.

    Attributes:
        name: what must not be, as "a test note in the training pairs".
        passed: whether it is not.
        detail: what was counted, with an example where it failed.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and what these data say about it.

    Attributes:
        claim: the claim, as "Writing topics and categories (CSFT) helps recall".
        paper: the paper's figures.
        here: the figures of this experiment.
        verdict: "holds", "does not hold", or "cannot tell".
    """

    claim: str
    paper: str
    here: str
    verdict: str


@dataclass(frozen=True)
class Neighbour:
    """A note near the query of an example.

    Attributes:
        title: its title.
        score: its score.
        related: whether it is a related note of the query in the log.
    """

    title: str
    score: float
    related: bool


@dataclass(frozen=True)
class Example:
    """A query with its nearest notes.

    Attributes:
        query: title of the query.
        target: title of its best related note.
        rank: rank of the target among all candidates, from 1.
        neighbours: the nearest notes, best first.
    """

    query: str
    target: str
    rank: float
    neighbours: tuple[Neighbour, ...]


@dataclass
class Results:
    """All that an experiment found.

    Attributes:
        title: what was measured, as "MicroLens, split by note".
        facts: what the results depend on, by name: data, split, command, versions, machine, time taken.
        frames: the frames of ``FRAMES`` by name; those without rows are empty.
        checks: checks for leaks.
        claims: what became of the papers' claims.
        examples: queries whose target was found ("found"), and whose target was not ("missed").
        left_out: what was not computed, and why, in sentences.
        notes: what else a reader of the figures should know, in sentences.
    """

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    frames: dict[str, pl.DataFrame] = field(default_factory=lambda: {name: frame(name) for name in FRAMES})
    checks: list[Check] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    examples: dict[str, list[Example]] = field(default_factory=lambda: {"found": [], "missed": []})
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to a frame; a column that a row lacks is "" or null there."""
        self.frames[name] = pl.concat([self.frames[name], frame(name, rows)])
