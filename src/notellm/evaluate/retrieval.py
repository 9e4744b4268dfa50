"""Recall@k and MRR of related notes over a pool, with intervals, and by the exposure of the query.

For a query A and its target B, a related note in the click log, every note of the pool but A is a candidate.
With the scores s of a method, and C over the candidates,

    rank(B)  = 1 + #{C: s(C) > s(B)} + 1/2 #{C != B: s(C) = s(B)}
    Recall@k = mean over queries of [rank <= k]          MRR = mean over queries of 1 / rank

The rank is its expectation when ties are broken at random. A query with several targets contributes the share
of them within k, and the reciprocal of their best rank. Exposure groups follow NoteLLM (arXiv 2403.01744).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from notellm.data.ids import Ids, as_array
from notellm.errors import ConfigError, DataError
from notellm.evaluate.bootstrap import Interval, intervals
from notellm.evaluate.tables import Table, check_comparable, intervals_json
from notellm.lexical.hybrid import hybrid_scores
from notellm.progress import progress_bar

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: A method: takes positions of queries in the pool, int64 (queries,), and returns their scores against all
#: notes of the pool, float32 (queries, pool).
Scorer = Callable[[Ints], Floats]

#: Queries with at most the first quantile of the pool's exposure are "low", those above the second "high".
LOW_QUANTILE, HIGH_QUANTILE = 0.3, 0.9
_CELLS = 2**24  # largest number of float32 scores held at once: 64 MiB
_GROUPS = {"all": "all", "low": "low exposure", "high": "high exposure"}


@dataclass(frozen=True)
class RetrievalResult:
    """How well a method finds the targets.

    Args:
        name: the method.
        group: exposure of the queries: "all", "low" or "high".
        pool: number of notes in the pool, which contains the queries.
        queries: number of queries.
        figures: "R@k" for every k, and "MRR", with intervals over queries.
        per_query: (queries,) values of each figure, which ``paired_difference`` compares.
        query_ids: the queries, in the order of ``per_query``.
        by_exposure: results of the groups "low" and "high", if exposure is known and they have queries.
    """

    name: str
    group: str
    pool: int
    queries: int
    figures: Mapping[str, Interval]
    per_query: Mapping[str, npt.NDArray[np.float64]] = field(repr=False)
    query_ids: tuple[str, ...] = field(repr=False)
    by_exposure: Mapping[str, "RetrievalResult"] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return name, group, pool, queries, figures and the groups by exposure."""
        values: dict[str, Any] = {
            "name": self.name,
            "group": self.group,
            "pool": self.pool,
            "queries": self.queries,
            "figures": intervals_json(self.figures),
        }
        if self.by_exposure:
            values["by_exposure"] = {group: part.to_json() for group, part in self.by_exposure.items()}
        return values


def targets_from_pairs(
    pairs: pa.Table, *, min_users: int = 2, best_only: bool = True
) -> tuple[pa.Array, pa.Array]:
    """Return queries and their targets: the pairs of related notes that enough users made.

    Args:
        pairs: table with the schema PAIRS, mined from the clicks of the part under evaluation.
        min_users: pairs of fewer users are left out as noise.
        best_only: return one target per query, the best by score, then by users, then the smaller id;
            otherwise return all targets.

    Returns:
        Query ids and target ids, aligned; ascending by query, best target first.

    Raises:
        DataError: if no pair has enough users.
    """
    frame = pl.DataFrame(pl.from_arrow(pairs)).filter(pl.col("users") >= min_users)
    if frame.is_empty():
        raise DataError(
            f"none of {pairs.num_rows} pairs has {min_users} users or more: "
            "lower min_users or give more clicks"
        )
    frame = frame.sort("source", "score", "users", "target", descending=[False, True, True, False])
    if best_only:
        frame = frame.group_by("source", maintain_order=True).head(1)
    columns = (
        frame.select("source", "target")
        .to_arrow()
        .cast(pa.schema([("source", pa.string()), ("target", pa.string())]))
    )
    return columns["source"].combine_chunks(), columns["target"].combine_chunks()


def evaluate_related(
    scorer: Scorer,
    pool_ids: Ids,
    queries: Ids,
    targets: Ids,
    *,
    ks: Sequence[int] = (10, 100, 1000),
    name: str = "method",
    exposure: npt.ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> RetrievalResult:
    """Rank the targets of every query among all notes of the pool but the query itself.

    Args:
        scorer: the method; it is called with a block of positions in ``pool_ids`` at a time.
        pool_ids: ids of the pool's notes, distinct.
        queries: query ids; a query with several targets is repeated for each.
        targets: target ids, aligned with ``queries``.
        ks: depths of Recall@k.
        name: the method, for the report.
        exposure: (pool,) number of clicks on each note of the pool; None for no exposure groups.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
        progress: show a progress bar over queries.

    Raises:
        ConfigError: if ``ks`` is empty or has a depth below 1, or ``resamples`` is below 1.
        DataError: if there are no queries, a query or target is not in the pool, a query is its own target,
            or the scorer returns another shape or NaN.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks is {tuple(ks)}: give depths of 1 or more, as in (10, 100, 1000)")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}: give 1 or more")
    pool = as_array(pool_ids)
    if len(pool) != pc.count_distinct(pool).as_py():
        raise DataError("pool_ids contains an id twice: give each note of the pool once")
    query, target = _positions("query", queries, pool), _positions("target", targets, pool)
    if len(query) != len(target) or len(query) == 0:
        raise DataError(
            f"{len(query)} queries and {len(target)} targets: give one target per query, and at least one"
        )
    if (query == target).any():
        query_id = pool[int(query[query == target][0])].as_py()
        raise DataError(f"query {query_id!r} is its own target: give another note as its target")

    distinct, first, query_of_row = np.unique(query, return_index=True, return_inverse=True)
    by_first = np.argsort(first)  # keeps the queries in the order of their first row
    place = np.empty(len(distinct), np.int64)
    place[by_first] = np.arange(len(distinct))
    distinct, query_of_row = distinct[by_first], place[query_of_row]
    ranks = _ranks(scorer, distinct, query_of_row, target, len(pool), name, progress=progress)

    per_query = {f"R@{k}": _mean_by(query_of_row, ranks <= k) for k in ks}
    best = np.full(len(distinct), np.inf)
    np.minimum.at(best, query_of_row, ranks)
    per_query["MRR"] = 1.0 / best
    query_ids = np.array(pool.take(pa.array(distinct)).to_pylist(), dtype=object)

    def result(group: str, chosen: Any, **groups: Any) -> RetrievalResult:
        values = {metric: value[chosen] for metric, value in per_query.items()}
        return RetrievalResult(
            name=name,
            group=group,
            pool=len(pool),
            queries=int(chosen.sum()),
            figures=intervals(values, resamples, seed),
            per_query=values,
            query_ids=tuple(query_ids[chosen]),
            **groups,
        )

    by_exposure = {}
    if exposure is not None:
        for group, chosen in _exposure_groups(np.asarray(exposure), distinct, len(pool)).items():
            if chosen.any():
                by_exposure[group] = result(group, chosen)
    return result("all", np.ones(len(distinct), bool), by_exposure=by_exposure)


def paired_difference(
    first: RetrievalResult, second: RetrievalResult, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return the figures of ``first`` minus those of ``second``, with paired bootstrap intervals.

    Both methods are resampled together, so what is hard or easy for both cancels out. If the interval is
    above 0, ``first`` is better; if it contains 0, these queries cannot tell.

    Returns:
        The figures that both have, as differences of shares (-1 to 1).

    Raises:
        DataError: if the results are not on the same queries and pool.
    """
    if first.query_ids != second.query_ids or first.pool != second.pool:
        raise DataError(
            f"{first.name} has {first.queries} queries in a pool of {first.pool}, {second.name} has "
            f"{second.queries} in {second.pool}: compare methods on the same queries and pool"
        )
    differences = {
        figure: values - second.per_query[figure]
        for figure, values in first.per_query.items()
        if figure in second.per_query
    }
    return intervals(differences, resamples, seed)


def retrieval_table(results: Sequence[RetrievalResult]) -> Table:
    """Return a table of results on one pool, group by group, one row per method, figures in %.

    Raises:
        DataError: if there is no result, or the results are of different pools, queries or figures.
    """
    check_comparable(
        results,
        lambda result: (result.pool, result.query_ids, list(result.figures)),
        "pool, queries and figures",
    )
    first = results[0]
    rows = [
        [part.name, _GROUPS[part.group], *(f"{value.percent():.1f}" for value in part.figures.values())]
        for group in ("all", *first.by_exposure)
        for result in results
        for part in [result if group == "all" else result.by_exposure[group]]
    ]
    groups = (f"{part.queries:,} of {_GROUPS[name]}" for name, part in first.by_exposure.items())
    counts = ", ".join([f"{first.queries:,} queries", *groups])
    caption = (
        f"{counts}; pool of {first.pool:,} notes, all but the query are candidates; "
        "% [95 % bootstrap interval over queries]."
    )
    return Table(["method", "queries", *first.figures], rows, caption, text_columns=2)


def vector_scorer(vectors: npt.ArrayLike) -> Scorer:
    """Return a scorer by the cosine of dense vectors, (pool, dim); a zero vector scores 0."""
    matrix = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit = np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0)
    return lambda queries: unit[queries] @ unit.T


def sparse_cosine_scorer(matrix: sparse.sparray | sparse.spmatrix) -> Scorer:
    """Return a scorer by the cosine of sparse rows, (pool, features): TF-IDF, or the users who clicked."""
    rows = sparse.csr_array(matrix, dtype=np.float32)
    norms = sparse.linalg.norm(rows, axis=1)
    unit = sparse.diags_array(1.0 / np.where(norms > 0, norms, 1.0)) @ rows
    unit = sparse.csr_array(unit, dtype=np.float32)
    columns = sparse.csr_array(unit.T)
    return lambda queries: (unit[queries] @ columns).toarray()


def constant_scorer(scores: npt.ArrayLike) -> Scorer:
    """Return a scorer with the same scores, (pool,), for every query, such as popularity."""
    row = np.asarray(scores, np.float32)
    return lambda queries: np.broadcast_to(row, (len(queries), len(row)))


def hybrid_scorer(vectors: Scorer, lexical: Scorer, share: float) -> Scorer:
    """Return a scorer by vectors and words: (1 - share) of the first scores and share of the second."""
    return lambda queries: hybrid_scores(vectors(queries), lexical(queries), share).astype(np.float32)


def _ranks(
    scorer: Scorer,
    queries: Ints,
    query_of_row: Ints,
    target: Ints,
    pool: int,
    name: str,
    *,
    progress: bool,
) -> npt.NDArray[np.float64]:
    """Return the rank of each row's target among the candidates of its query.

    Args:
        scorer: the method.
        queries: (queries,) positions of the distinct queries in the pool.
        query_of_row: (rows,) index into ``queries`` of each row.
        target: (rows,) position of each row's target in the pool.
        pool: number of notes in the pool.
        name: the method, for messages.
        progress: show a progress bar over queries.
    """
    ranks = np.empty(len(target))
    block = max(1, _CELLS // pool)
    rows_by_query = np.argsort(query_of_row, kind="stable")
    starts = np.searchsorted(query_of_row[rows_by_query], np.arange(len(queries) + 1))
    with progress_bar(total=len(queries), desc=name, unit="query", disable=not progress) as bar:
        for start in range(0, len(queries), block):
            part = queries[start : start + block]
            scores = np.asarray(scorer(part), np.float32)  # block x pool
            if scores.shape != (len(part), pool):
                raise DataError(
                    f"the scorer of {name} returned shape {scores.shape}: "
                    f"give one score per query and note of the pool, {(len(part), pool)}"
                )
            if np.isnan(scores).any():
                raise DataError(f"the scorer of {name} returned NaN: give numbers, or -inf")
            for i, query in enumerate(part):
                row = scores[i]
                for j in rows_by_query[starts[start + i] : starts[start + i + 1]]:
                    target_score = row[target[j]]
                    higher = np.count_nonzero(row > target_score) - (row[query] > target_score)
                    tied = np.count_nonzero(row == target_score) - 1 - (row[query] == target_score)
                    ranks[j] = 1 + higher + tied / 2
            bar.update(len(part))
    return ranks


def _exposure_groups(
    exposure: npt.NDArray[Any], queries: Ints, pool: int
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which queries have low and high exposure, compared with all notes of the pool."""
    if exposure.shape != (pool,):
        raise DataError(f"exposure has shape {exposure.shape}: give one number per note, ({pool},)")
    low, high = np.quantile(exposure, [LOW_QUANTILE, HIGH_QUANTILE])
    return {"low": exposure[queries] <= low, "high": exposure[queries] > high}


def _mean_by(groups: Ints, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the mean of the values of each group; groups are 0, 1, ..., none of them empty."""
    return np.bincount(groups, weights=values) / np.bincount(groups)


def _positions(what: str, ids: Ids, pool: pa.Array) -> Ints:
    """Return the positions of ids in the pool; ``what`` names them in the message if some are missing."""
    wanted = as_array(ids)
    positions = pc.index_in(wanted, value_set=pool)
    if positions.null_count:
        missing = wanted.filter(pc.is_null(positions))
        raise DataError(
            f"{len(missing)} of {len(wanted)} {what} ids are not in the pool, such as "
            f"{missing[0].as_py()!r}: mine the pairs from clicks on the pool's notes"
        )
    return np.asarray(positions.to_numpy(), np.int64)
