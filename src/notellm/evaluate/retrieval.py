"""Retrieval of related notes: Recall@k and MRR with intervals, over a pool, by exposure.

For a query A and its target B (a related note, from the click log), every note of the pool but A is
a candidate. With the scores s of a method,

    rank(B)  = 1 + #{C: s(C) > s(B)} + 1/2 #{C != B: s(C) = s(B)}        C over the candidates
    Recall@k = mean over queries of [rank <= k]          MRR = mean over queries of 1 / rank

The rank is the expected one when ties are broken at random, so a method that gives all notes one
score stands in the middle, not on top. A query with several targets contributes the share of them
within k, and the reciprocal of the best rank.

A method is a `Scorer`: a function from query positions in the pool to scores. It is called with a
block of queries at a time, small enough for a block of scores to stay under 64 MiB.

Every figure has a 95 % bootstrap interval over the queries (percentiles of resampled means; the
same seed resamples the same way).

By exposure, as in NoteLLM (arXiv 2403.01744; there: under 1,500 views, 30 % of the notes, and over
75,000, 10 %): a query is "low" when its exposure is at most the 30 % quantile over the notes of the
pool, "high" when it is above the 90 % quantile. It is the query's exposure that counts, since the
query is the note that needs neighbours. Notes without a target count in the quantiles only.
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
from tqdm import tqdm

from notellm.data.matrices import Ids, as_array
from notellm.errors import ConfigError, DataError
from notellm.evaluate.bootstrap import Interval, intervals

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Scores of query positions against the whole pool: int64 (queries,) -> float32 (queries, pool).
Scorer = Callable[[Ints], Floats]

LOW_QUANTILE, HIGH_QUANTILE = 0.3, 0.9
_CELLS = 2**24  # float32 scores of a block: 64 MiB


@dataclass(frozen=True)
class RetrievalResult:
    """How well a method finds the targets.

    Args:
        name: of the method.
        group: "all", "low" or "high": the exposure of the queries.
        pool: notes in the pool, the query among them.
        queries: number of queries.
        figures: "R@k" for every k, and "MRR".
        per_query: the same names, one value a query; what `paired_difference` compares.
        query_ids: the queries, in the order of ``per_query``.
        by_exposure: the "low" and "high" groups, where exposure was given and they have queries.
    """

    name: str
    group: str
    pool: int
    queries: int
    figures: Mapping[str, Interval]
    per_query: Mapping[str, npt.NDArray[np.float64]] = field(repr=False)
    query_ids: tuple[str, ...] = field(repr=False)
    by_exposure: Mapping[str, "RetrievalResult"] = field(default_factory=dict)


def targets_from_pairs(
    pairs: pa.Table, *, min_users: int = 2, best_only: bool = True
) -> tuple[pa.Array, pa.Array]:
    """Queries and their targets: the related notes that enough users made.

    Args:
        pairs: table with the schema PAIRS, mined from the clicks of the part under evaluation.
        min_users: pairs of fewer users are noise, not truth.
        best_only: one target a query, its best by score, then users, then the smaller id; otherwise
            all of them.

    Returns:
        Query ids and target ids, aligned; ascending by query, best target first.

    Raises:
        DataError: no pair is left.
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
    """Rank every query's targets among all notes of the pool but the query itself.

    Args:
        scorer: the method; its positions are those of ``pool_ids``.
        pool_ids: ids of the notes of the split, distinct.
        queries: query ids; one with several targets stands once for each.
        targets: target ids, aligned with ``queries``.
        ks: depths of Recall@k.
        name: of the method, for the report.
        exposure: (pool,) clicks of each note of the pool in the log; None for no groups.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
        progress: show a bar that counts queries.

    Raises:
        ConfigError: no k, or one below 1, or less than 1 resample.
        DataError: a query or target that is not in the pool, a query that is its own target, no
            queries, or a scorer that returns another shape or NaN.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks is {tuple(ks)}: give depths of 1 or more, as in (10, 100, 1000)")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}: give 1 or more")
    pool = as_array(pool_ids)
    if len(pool) != pc.count_distinct(pool).as_py():
        raise DataError("pool_ids holds an id twice: give each note of the pool once")
    query, target = _positions("query", queries, pool), _positions("target", targets, pool)
    if len(query) != len(target) or len(query) == 0:
        raise DataError(f"{len(query)} queries and {len(target)} targets: give one target for each, and some")
    if (query == target).any():
        own = pool[int(query[query == target][0])].as_py()
        raise DataError(f"query {own!r} is its own target: related notes are other notes")

    asked, first, row_query = np.unique(query, return_index=True, return_inverse=True)
    by_first = np.argsort(first)  # queries in the order they came
    place = np.empty(len(asked), np.int64)
    place[by_first] = np.arange(len(asked))
    asked, row_query = asked[by_first], place[row_query]
    ranks = _ranks(scorer, asked, row_query, target, len(pool), name, progress=progress)

    per_query = {f"R@{k}": _mean_by(row_query, ranks <= k) for k in ks}
    best = np.full(len(asked), np.inf)
    np.minimum.at(best, row_query, ranks)
    per_query["MRR"] = 1.0 / best
    asked_ids = np.array(pool.take(pa.array(asked)).to_pylist(), dtype=object)

    def result(group: str, chosen: Any, **groups: Any) -> RetrievalResult:
        values = {metric: value[chosen] for metric, value in per_query.items()}
        return RetrievalResult(
            name=name,
            group=group,
            pool=len(pool),
            queries=int(chosen.sum()),
            figures=intervals(values, resamples, seed),
            per_query=values,
            query_ids=tuple(asked_ids[chosen]),
            **groups,
        )

    by_exposure = {}
    if exposure is not None:
        for group, chosen in _exposure_groups(np.asarray(exposure), asked, len(pool)).items():
            if chosen.any():
                by_exposure[group] = result(group, chosen)
    return result("all", np.ones(len(asked), bool), by_exposure=by_exposure)


def paired_difference(
    first: RetrievalResult, second: RetrievalResult, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """``first`` minus ``second`` on the same queries, with a paired bootstrap interval.

    Both methods are resampled together, so what is hard or easy for both cancels. An interval above
    0 says ``first`` is better; one that holds 0 says that these queries cannot tell.

    Returns:
        The metrics that both have, as differences of shares (-1 to 1).

    Raises:
        DataError: the results are not on the same queries and pool.
    """
    if first.query_ids != second.query_ids or first.pool != second.pool:
        raise DataError(
            f"{first.name} has {first.queries} queries in a pool of {first.pool}, {second.name} "
            f"{second.queries} in {second.pool}: compare methods on the same queries and pool"
        )
    differences = {
        metric: values - second.per_query[metric]
        for metric, values in first.per_query.items()
        if metric in second.per_query
    }
    return intervals(differences, resamples, seed)


def vector_scorer(vectors: npt.ArrayLike) -> Scorer:
    """Cosine of dense vectors, float (pool, width). A zero vector scores 0 with everything."""
    matrix = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit = np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0)
    return lambda queries: unit[queries] @ unit.T


def sparse_cosine_scorer(matrix: sparse.sparray | sparse.spmatrix) -> Scorer:
    """Cosine of sparse rows, (pool, features): TF-IDF of the text, or the users who clicked."""
    rows = sparse.csr_array(matrix, dtype=np.float32)
    norms = sparse.linalg.norm(rows, axis=1)
    unit = sparse.diags_array(1.0 / np.where(norms > 0, norms, 1.0)) @ rows
    unit = sparse.csr_array(unit, dtype=np.float32)
    columns = sparse.csr_array(unit.T)
    return lambda queries: (unit[queries] @ columns).toarray()


def constant_scorer(scores: npt.ArrayLike) -> Scorer:
    """The same scores for every query, (pool,): popularity, for one."""
    row = np.asarray(scores, np.float32)
    return lambda queries: np.broadcast_to(row, (len(queries), len(row)))


def _ranks(
    scorer: Scorer,
    asked: Ints,
    row_query: Ints,
    target: Ints,
    pool: int,
    name: str,
    *,
    progress: bool,
) -> npt.NDArray[np.float64]:
    """Rank of each row's target among the candidates of its query; `asked` are pool positions."""
    ranks = np.empty(len(target))
    block = max(1, _CELLS // pool)
    by_query = np.argsort(row_query, kind="stable")
    starts = np.searchsorted(row_query[by_query], np.arange(len(asked) + 1))
    with tqdm(total=len(asked), desc=name, unit="query", disable=not progress) as bar:
        for start in range(0, len(asked), block):
            queries = asked[start : start + block]
            scores = np.asarray(scorer(queries), np.float32)  # block x pool
            if scores.shape != (len(queries), pool):
                raise DataError(
                    f"the scorer of {name} returned shape {scores.shape}: "
                    f"give one score a query and pool note, {(len(queries), pool)}"
                )
            if np.isnan(scores).any():
                raise DataError(f"the scorer of {name} returned NaN: give numbers, or -inf")
            for i, query in enumerate(queries):
                row = scores[i]
                for j in by_query[starts[start + i] : starts[start + i + 1]]:
                    own = row[target[j]]
                    higher = np.count_nonzero(row > own) - (row[query] > own)
                    tied = np.count_nonzero(row == own) - 1 - (row[query] == own)
                    ranks[j] = 1 + higher + tied / 2
            bar.update(len(queries))
    return ranks


def _exposure_groups(exposure: npt.NDArray[Any], asked: Ints, pool: int) -> dict[str, npt.NDArray[np.bool_]]:
    if exposure.shape != (pool,):
        raise DataError(f"exposure has shape {exposure.shape}: give one number a note, ({pool},)")
    low, high = np.quantile(exposure, [LOW_QUANTILE, HIGH_QUANTILE])
    return {"low": exposure[asked] <= low, "high": exposure[asked] > high}


def _mean_by(groups: Ints, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Mean of the values of each group; groups are 0, 1, ..., none empty."""
    return np.bincount(groups, weights=values) / np.bincount(groups)


def _positions(what: str, ids: Ids, pool: pa.Array) -> Ints:
    """Positions of ids in the pool."""
    wanted = as_array(ids)
    found = pc.index_in(wanted, value_set=pool)
    if found.null_count:
        missing = wanted.filter(pc.is_null(found))
        raise DataError(
            f"{len(missing)} of {len(wanted)} {what} ids are not in the pool, such as "
            f"{missing[0].as_py()!r}: mine the pairs from clicks on the pool's notes"
        )
    return np.asarray(found.to_numpy(), np.int64)
