"""Candidates per second of ranking: the shared beginning of the prompts computed once, or every prompt whole.

Users of the ML-1M split of CoLLM and BinLLM with ten liked notes or more, candidates drawn from its notes,
the tiny backbone as it is before tuning (weights do not change the time). Both ways give the same scores;
they are timed in turn, and each figure is the median over users. Tokens of a candidate are kept between
calls in both.
"""

import statistics
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.collaborative import read
from benchmarks.common import arguments, table, write_results
from notellm.data.datasets.collm import CollmData
from notellm.rank.codes.fit import fit_codes
from notellm.rank.codes.options import CodeOptions
from notellm.rank.collaborative.options import TrainingOptions
from notellm.rank.model import BinLLM
from notellm.rank.scorer import Ranker

SIZES = (1, 10, 100, 1_000)


def make_ranker(data: CollmData) -> Ranker:
    few = CodeOptions(penalties=(17.0,), training=TrainingOptions(epochs=5, progress=False))
    codes = fit_codes(data.train, data.valid, few)
    model = BinLLM.from_corpus(data.notes, data.train)
    longest: dict[str, list[str]] = {}
    for user, history in zip(
        data.train["user_id"].to_pylist(), data.train["history"].to_pylist(), strict=True
    ):
        if len(history) > len(longest.get(user, [])):
            longest[user] = history
    histories = {user: history for user, history in longest.items() if len(history) >= 10}
    return Ranker(model, codes, data.notes, histories)


def measure(ranker: Ranker, size: int, users: int, seed: int) -> dict[str, Any]:
    """Seconds of both ways for each of some users, and how far their scores differ."""
    rng = np.random.default_rng(seed)
    names = rng.choice(sorted(ranker.histories), users + 1, replace=False)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    difference = 0.0
    for turn, user in enumerate(names):
        candidates = rng.choice(ranker.texts.ids, size, replace=False).tolist()
        ranker.scores(user, candidates)  # keeps the candidates' tokens
        found: dict[bool, np.ndarray] = {}
        for shared in (True, False) if turn % 2 else (False, True):
            start = time.perf_counter()
            found[shared], _ = ranker.scores(user, candidates, shared=shared)
            if turn:  # the first user warms up
                seconds[shared].append(time.perf_counter() - start)
        difference = max(difference, float(np.abs(found[True] - found[False]).max()))
    once, whole = (statistics.median(seconds[way]) for way in (True, False))
    return {
        "candidates": size,
        "users": users,
        "shared_seconds": seconds[True],
        "whole_seconds": seconds[False],
        "shared_per_second": size / once,
        "whole_per_second": size / whole,
        "ratio": whole / once,
        "largest_difference": difference,
    }


def report(runs: list[dict[str, Any]]) -> Iterable[str]:
    yield (
        "Candidates per second for one user with a history of ten titles and a code of 32 bits; medians over "
        f"{runs[0]['users']} users."
    )
    yield table(
        ["candidates", "shared beginning", "whole prompts", "ratio", "largest difference of scores"],
        [
            [
                f"{run['candidates']:,}",
                f"{run['shared_per_second']:,.0f}",
                f"{run['whole_per_second']:,.0f}",
                f"{run['ratio']:.1f}",
                f"{run['largest_difference']:.0e}",
            ]
            for run in runs
        ],
        left=0,
    )


def main() -> None:
    parser = arguments("Shared and whole computation of the ranking prompts.")
    parser.add_argument("--users", type=int, default=7, help="users per size")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    chosen = parser.parse_args()
    ranker = make_ranker(read())
    runs = [measure(ranker, size, chosen.users, seed=0) for size in chosen.sizes]
    write_results(chosen.results, "scoring", "Ranking with a shared beginning", report(runs), {"runs": runs})


if __name__ == "__main__":
    main()
