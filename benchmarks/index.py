"""Recall and speed of the HNSW index compared with exact search, at 200,000 and 1,000,000 vectors.

The vectors are those of `benchmarks.catalogue`, with 128 dimensions. Queries are random notes; each is
excluded from its own results. Both indexes answer the same queries one by one, on one thread. Recall is the
share of the exact k nearest that the graph finds. With a filter (a category that a random tenth of the notes
has) every result is checked, and exact search is compared with plain NumPy.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.catalogue import catalogue, more_vectors
from benchmarks.common import arguments, table, write_results
from notellm.store.index.base import Found, Index
from notellm.store.index.exact import ExactIndex
from notellm.store.index.filters import Filter
from notellm.store.index.hnsw import HnswIndex
from notellm.store.rows import rows_of_table

SIZES = (200_000, 1_000_000)
KS = (10, 100)


def entries(vectors: np.ndarray, seed: int) -> pa.Table:
    """Return notes with only a vector and a category, which is "tenth" for a random tenth of them."""
    count = len(vectors)
    tenth = np.random.default_rng(seed).random(count) < 0.1
    empty = pa.nulls(count, pa.timestamp("us", tz="UTC"))
    notes = pa.table(
        {
            "note_id": pa.array([f"n{i}" for i in range(count)]),
            "title": pa.array([""] * count),
            "content": pa.array([""] * count),
            "topics": pa.array([[]] * count, pa.list_(pa.string())),
            "category": pa.array(np.where(tenth, "tenth", "other")),
            "published_at": empty,
        }
    )
    return rows_of_table(notes, vectors)


def ask(
    index: Index, queries: np.ndarray, query_ids: list[str], k: int, where: Filter | None
) -> tuple[Found, list[float]]:
    """Search one by one; return the results and the seconds of each."""
    ids, scores, seconds = [], [], []
    for query, note_id in zip(queries, query_ids, strict=True):
        start = time.perf_counter()
        (neighbours,), (cosines,) = index.search(query[None], k, where=where, exclude=[(note_id,)])
        seconds.append(time.perf_counter() - start)
        ids.append(neighbours)
        scores.append(cosines)
    return (ids, scores), seconds


def brute_force(vectors: np.ndarray, allowed: np.ndarray, query: int, k: int) -> np.ndarray:
    """Return the k best scores among the allowed rows, without the query's row."""
    rows = np.flatnonzero(allowed)
    scores = vectors[rows[rows != query]] @ vectors[query]
    best: np.ndarray = np.sort(scores)[::-1][:k]
    return best


def measure(vectors: np.ndarray, queries: int, seed: int) -> list[dict[str, Any]]:
    rows = entries(vectors, seed)
    exact, graph = ExactIndex(vectors.shape[1]), HnswIndex(vectors.shape[1], progress=True)
    exact.upsert(rows)
    start = time.perf_counter()
    graph.upsert(rows)
    built = time.perf_counter() - start
    measured = graph.measure_recall(queries=200, seed=seed)
    drawn = np.random.default_rng(seed + 1).choice(len(vectors), queries, replace=False)
    query_ids = [f"n{row}" for row in drawn]
    tenth = np.array(rows["category"].to_pylist()) == "tenth"
    results = []
    for where, name in ((None, "none"), (Filter(categories=["tenth"]), "a tenth of the notes")):
        for k in KS:
            (ids, cosines), slow = ask(exact, vectors[drawn], query_ids, k, where)
            (near, _), quick = ask(graph, vectors[drawn], query_ids, k, where)
            recall = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(near, ids, strict=True)])
            allowed = np.ones(len(vectors), bool) if where is None else tenth
            wrong = sum(not allowed[int(note_id[1:])] for own_ids in (*ids, *near) for note_id in own_ids)
            apart = max(
                float(np.abs(brute_force(vectors, allowed, int(row), k) - scores).max())
                for row, scores in list(zip(drawn, cosines, strict=True))[:50]
            )
            results.append(
                {
                    "notes": len(vectors),
                    "filter": name,
                    "k": k,
                    "queries": queries,
                    "recall": float(recall),
                    "exact_ms": float(np.median(slow) * 1e3),
                    "hnsw_ms": float(np.median(quick) * 1e3),
                    "ratio": float(np.median(slow) / np.median(quick)),
                    "results_outside_filter": wrong,
                    "exact_less_brute_force": apart,
                    "build_seconds": built,
                    "recall_written_at_build": measured["recall"],
                    "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                }
            )
            print(results[-1], flush=True)
    return results


def options() -> argparse.Namespace:
    parser = arguments(__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="where notes and vectors are kept")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    asked = options()
    torch.set_num_threads(1)
    _, _, vectors = catalogue(asked.work)
    runs = []
    for size in asked.sizes:
        runs += measure(more_vectors(vectors, size), asked.queries, asked.seed)
    head = ["notes", "filter", "k", "recall", "exact ms", "HNSW ms", "times faster", "outside the filter"]
    rows = [
        [
            f"{run['notes']:,}",
            run["filter"],
            str(run["k"]),
            f"{run['recall']:.4f}",
            f"{run['exact_ms']:.2f}",
            f"{run['hnsw_ms']:.2f}",
            f"{run['ratio']:.1f}",
            str(run["results_outside_filter"]),
        ]
        for run in runs
    ]
    builds = {run["notes"]: run for run in runs}.values()
    built = "; ".join(
        f"{run['build_seconds']:.0f} s ({run['notes']:,} notes, Recall@100 written at build "
        f"{run['recall_written_at_build']:.4f})"
        for run in builds
    )
    apart = max(run["exact_less_brute_force"] for run in runs)
    body = [
        f"{asked.queries} queries one by one, median times, one thread.",
        table(head, rows, left=2),
        f"Built in {built}. Exact search less brute force, at most: {apart:.1e}.",
    ]
    write_results(asked.results, "index", "HNSW beside exact search", body, {"runs": runs})


if __name__ == "__main__":
    main()
