"""Time and peak memory of mining related pairs: notellm, a scipy product, a Polars self-join.

    python -m benchmarks.pairs                       # 5 million clicks of the sample world
    python -m benchmarks.pairs --notes 10000 --users 12000 --clicks 300000
    python -m benchmarks.pairs --log clicks.parquet  # a log of your own (schema CLICKS)

All three compute exactly the definition in `notellm.pairs.score`, from the same Arrow table to the same table
of pairs, with the default options. Each run is a separate process. The clock starts when the table is in
memory, all imports are done and notellm's kernel is compiled. The peak memory is that of the process, from
getrusage; the memory before the clock started is given beside it. The pairs of every run are compared with
notellm's.

How each handles the order "first view of A before last click of B":

- notellm: the kernel stops at the first click that is not later.
- scipy: a matrix product has no order, so the order is encoded in its columns. Each user's times get the
  positions 0, 1, 2, ...; p < q holds exactly if, at the highest bit where they differ, p has 0 and q has 1.
  So S has a row for A with ones at the columns (user, bit, prefix above the bit) where its position has 0,
  and T has a row for each such column with 1/N_u at the notes whose position has 1. Then S T is s, and each
  ordered co-click is multiplied once, as in the kernel. The imaginary part of T counts users. Threads share
  blocks of rows of S.
- Polars: self-join on the user, filter first < last, group by the pair; streaming engine.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from benchmarks.common import CORES, arguments, table, write_results
from notellm.data.schema import PAIRS
from notellm.files import read_parquet, write_parquet
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions

OPTIONS = PairOptions(min_users=1)  # the paper's definition, which all three compute
ROWS = 512  # source notes a block of the scipy product
CLOSE = 1e-9  # methods add the same numbers in another order


def encoded(clicks: pa.Table) -> tuple[pl.DataFrame, pa.Array]:
    """Return distinct (user, note) with first time, last click and N_u; note codes ascend with the ids."""
    user = pl.Series(clicks["user_id"].combine_chunks().dictionary_encode().indices)
    notes = clicks["note_id"].combine_chunks().dictionary_encode()
    order = pc.sort_indices(notes.dictionary).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    times = pl.Series(clicks["timestamp"].cast(pa.int64()))
    is_click = pl.Series(pc.equal(clicks["event"], "click"))
    seen = (
        pl.DataFrame({"user": user, "note": rank[notes.indices.to_numpy()], "time": times})
        .with_columns(click_time=pl.when(is_click).then("time"))
        .group_by("user", "note")
        .agg(first=pl.col("time").min(), last=pl.col("click_time").max())
        .with_columns(n=pl.col("last").count().over("user"))
    )
    return seen, notes.dictionary.take(order)


def as_pairs(ids: pa.Array, source: Any, target: Any, score: Any, users: Any) -> pa.Table:
    columns = [ids.take(pa.array(source)), ids.take(pa.array(target)), pa.array(score)]
    return pa.table([*columns, pa.array(users).cast(pa.int32())], schema=PAIRS)


def by_notellm(clicks: pa.Table) -> pa.Table:
    return mine_pairs(clicks, OPTIONS, progress=False)


def by_polars(clicks: pa.Table) -> pa.Table:
    seen, ids = encoded(clicks)
    views = seen.lazy().select("user", "first", source="note")
    opened = seen.lazy().drop_nulls("last").select("user", "last", "n", target="note")
    score = pl.col("score")
    best = (
        views.join(opened, on="user")
        .filter(pl.col("first") < pl.col("last"), pl.col("source") != pl.col("target"))
        .group_by("source", "target")
        .agg(score=(1.0 / pl.col("n")).sum(), users=pl.len())
        .filter(score <= OPTIONS.upper, score >= OPTIONS.lower)
        .filter(score >= score.top_k(OPTIONS.top).min().over("source"))  # the best, ties included
        .collect(engine="streaming")
        .sort("source", "score", "users", "target", descending=[False, True, True, False])
        .group_by("source", maintain_order=True)
        .head(OPTIONS.top)
    )
    return as_pairs(ids, *(best[name].to_arrow() for name in PAIRS.names))


def by_scipy(clicks: pa.Table) -> pa.Table:
    seen, ids = encoded(clicks)
    opened = seen.drop_nulls("last")
    notes = len(ids)
    user = np.concatenate([seen["user"].to_numpy(), opened["user"].to_numpy()])
    moment = np.concatenate([seen["first"].to_numpy(), opened["last"].to_numpy()])
    position = pl.DataFrame({"user": user, "time": moment}).select(
        pl.col("time").rank("dense").over("user").cast(pl.Int64) - 1
    )["time"]
    first, last = position[: len(seen)].to_numpy(), position[len(seen) :].to_numpy()
    bits = int(position.max()).bit_length()  # type: ignore[arg-type]
    # Column of (user, bit, prefix): unique, then numbered without gaps.
    width = 1 << bits

    def entries(frame: pl.DataFrame, place: Any, wanted: int) -> tuple[Any, Any]:
        users = frame["user"].to_numpy().astype(np.int64)
        rows, columns = [], []
        for bit in range(bits):
            here = np.flatnonzero((place >> bit) & 1 == wanted)
            rows.append(here)
            prefix = place[here] >> (bit + 1)
            columns.append((users[here] * bits + bit) * width + prefix)
        return np.concatenate(rows), np.concatenate(columns)

    view, view_key = entries(seen, first, 0)
    click, click_key = entries(opened, last, 1)
    keys, view_column = np.unique(view_key, return_inverse=True)
    position_of_key = np.minimum(np.searchsorted(keys, click_key), len(keys) - 1)
    matched = keys[position_of_key] == click_key
    click, click_row = click[matched], position_of_key[matched]
    left = sparse.csr_array(
        (np.ones(len(view), np.complex128), (seen["note"].to_numpy()[view], view_column)),
        shape=(notes, len(keys)),
    )
    weight = 1.0 / opened["n"].to_numpy()[click] + 1j
    right = sparse.csr_array(
        (weight, (click_row, opened["note"].to_numpy()[click])), shape=(len(keys), notes)
    )

    def block(start: int) -> list[tuple[Any, Any, Any, Any]]:
        product = left[start : start + ROWS] @ right
        best = []
        for row in range(product.shape[0]):
            part = slice(product.indptr[row], product.indptr[row + 1])
            target, value = product.indices[part], product.data[part]
            score = value.real
            keep = (score <= OPTIONS.upper) & (score >= OPTIONS.lower) & (target != start + row)
            target, score, users = target[keep], score[keep], value.imag[keep]
            if len(score) > OPTIONS.top:
                cut = np.partition(score, -OPTIONS.top)[-OPTIONS.top]
                keep = score >= cut
                target, score, users = target[keep], score[keep], users[keep]
            order = np.lexsort((target, -users, -score))[: OPTIONS.top]
            source = np.full(len(order), start + row)
            best.append((source, target[order], score[order], users[order].round().astype(int)))
        return best

    with ThreadPoolExecutor(CORES) as pool:
        rows = [row for part in pool.map(block, range(0, notes, ROWS)) for row in part]
    return as_pairs(ids, *(np.concatenate(column) for column in zip(*rows, strict=True)))


METHODS: dict[str, tuple[str, Callable[[pa.Table], pa.Table]]] = {
    "notellm": ("notellm.pairs.mine_pairs", by_notellm),
    "scipy": ("scipy sparse product, blocked", by_scipy),
    "polars": ("Polars self-join, streaming", by_polars),
}


def peak_mib() -> float:
    """Return the peak resident memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def make_log(path: Path, notes: int, users: int, clicks: int, seed: int) -> None:
    from notellm.data.sample_world import sample_world  # noqa: PLC0415 - heavy, only this process

    # No bots: a bot that clicks 100,000 notes twice makes 10^10 ordered co-clicks, too many to join.
    write_parquet(sample_world(notes, users, clicks, bots=0, seed=seed).clicks, path, force=True)


def measure(method: str, log: Path, pairs: Path) -> dict[str, float]:
    """Measure one run in this process."""
    clicks = read_parquet(log)
    by_notellm(clicks.slice(0, 2))  # compiles the kernel
    before = peak_mib()
    start = time.perf_counter()
    mined = METHODS[method][1](clicks)
    seconds = time.perf_counter() - start
    peak = peak_mib()
    write_parquet(mined, pairs, force=True)
    return {"seconds": seconds, "peak_mib": peak, "before_mib": before, "pairs": mined.num_rows}


def differences(pairs: Path, reference: Path) -> int:
    """Return the number of pairs that only one of two methods kept, all ties at the cut of their source.

    Raises:
        AssertionError: if the methods differ in anything else.
    """
    tables = [pl.read_parquet(path) for path in (pairs, reference)]
    scores = [table.sort("source", "score")["score"].to_numpy() for table in tables]
    counts = [table.group_by("source").len().sort("source") for table in tables]
    assert counts[0].equals(counts[1]), "other numbers of pairs a source"
    assert np.allclose(scores[0], scores[1], rtol=0, atol=CLOSE), "other scores"
    ours, theirs = tables
    both = ours.join(theirs, on=["source", "target"])
    assert (both["users"] == both["users_right"]).all(), "other numbers of users"
    for one, other in (ours, theirs), (theirs, ours):
        only = one.with_columns(cut=pl.col("score").min().over("source")).join(
            other, on=["source", "target"], how="anti"
        )
        assert (only["score"] - only["cut"] < CLOSE).all(), "a pair above the cut is missing"
    return len(ours) - len(both)


def log_facts(log: Path) -> dict[str, int]:
    clicks = read_parquet(log)
    seen, ids = encoded(clicks)
    n = seen.group_by("user").len()["len"].cast(pl.Float64)
    # Ordered pairs of notes of a user: what a method would hold that stores all candidates.
    candidates = int((n * (n - 1) / 2).sum())
    return {
        "clicks": clicks.num_rows,
        "notes": len(ids),
        "users": len(n),
        "distinct": len(seen),
        "candidates": candidates,
    }


def child(*arguments: str) -> Any:
    """Run a step of this script in its own process and return what it prints."""
    command = [sys.executable, "-m", "benchmarks.pairs", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout) if done.stdout else None


def report(facts: dict[str, int], runs: dict[str, list[dict[str, float]]], origin: str) -> Iterable[str]:
    yield (
        f"{facts['clicks']:,} clicks of {facts['users']:,} users on {facts['notes']:,} notes "
        f"({origin}): {facts['distinct']:,} distinct (user, note), about "
        f"{facts['candidates']:,} ordered co-clicks, "
        f"{runs['notellm'][0]['pairs']:,} pairs kept."
    )
    cells = []
    for method, (title, _) in METHODS.items():
        rows = runs[method]
        median = statistics.median(row["seconds"] for row in rows)
        peak = statistics.median(row["peak_mib"] for row in rows)
        before = statistics.median(row["before_mib"] for row in rows)
        each = ", ".join(f"{row['seconds']:.2f}" for row in rows)
        ties = max(int(row["ties"]) for row in rows)
        same = f"yes, up to {ties:,} ties at the cut" if ties else "yes"
        cells.append([title, f"{median:.2f}", f"{peak:,.0f} ({before:,.0f})", each, same])
    yield table(["method", "median s", "peak MiB (before the clock)", "s of each run", "same pairs"], cells)
    yield (
        "Each run is a process of its own; the clock starts with the table in memory and the "
        'kernel compiled. "Ties at the cut" are pairs with the score (to 1e-9) of the last one '
        "kept: the methods add the same numbers in another order. All methods are exact; how "
        "each handles the order of the clicks is in the head of `benchmarks/pairs.py`."
    )


def main() -> None:
    parser = arguments("Time and peak memory of mining related pairs.")
    parser.add_argument("--notes", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--clicks", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--log", type=Path, help="a Parquet click log instead of the sample world")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.step:
        step, *paths = options.step
        if step == "make":
            make_log(Path(paths[0]), options.notes, options.users, options.clicks, options.seed)
        elif step == "facts":
            print(json.dumps(log_facts(Path(paths[0]))))
        elif step == "compare":
            print(json.dumps(differences(Path(paths[0]), Path(paths[1]))))
        else:
            print(json.dumps(measure(step, Path(paths[0]), Path(paths[1]))))
        return

    with tempfile.TemporaryDirectory() as folder:
        log, origin = options.log, "a log from a file"
        if log is None:
            log, origin = (
                Path(folder) / "clicks.parquet",
                f"sample world without bots, seed {options.seed}",
            )
            sizes = (f"--{name}={getattr(options, name)}" for name in ("notes", "users", "clicks", "seed"))
            child(*sizes, "--step", "make", str(log))
        facts = child("--step", "facts", str(log))
        print(facts, flush=True)
        runs: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
        for run in range(options.runs):
            for method in METHODS:
                pairs = str(Path(folder) / f"{method}.parquet")
                row = child("--step", method, str(log), pairs)
                reference = str(Path(folder) / "notellm.parquet")
                row["ties"] = child("--step", "compare", pairs, reference)
                runs[method].append(row)
                print(run + 1, method, row, flush=True)
    write_results(
        options.results,
        "pairs",
        "Mining related pairs",
        report(facts, runs, origin),
        {"facts": facts, "origin": origin, "runs": runs},
    )


if __name__ == "__main__":
    main()
