"""The next click on MicroLens: recall by NoteLLM, then rank by BinLLM, against popularity and co-occurrence.

Every user's last click is held out, and of some users it is to be found among all notes that the user has
not clicked. Everything is trained on the clicks before, of all users; no note is new. The candidates that
rank sees are the recall's first 100.

- popularity: clicks of a note;
- co-occurrence: sum over the user's last ten notes of (users of both) / root(users of one x users of other);
- recall: `Recommender.recommend(rerank=False)`;
- recall, then rank: `Recommender.recommend()`.

A log of clicks alone has no dislikes. The ranker learns from the clicks that recall had among its candidates,
beside others of these, and its P(enjoy) is blended with recall's similarities (`rank train --vectors`).
"""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.common import ROOT, arguments, code_fingerprint, table, write_results
from benchmarks.training import MIN_USERS, load, points, train
from notellm.data.impressions import click_histories
from notellm.data.matrices import click_matrix
from notellm.data.split import split_impressions
from notellm.evaluate.baselines import popularity
from notellm.evaluate.bootstrap import Interval, intervals
from notellm.evaluate.next_click import NextClickResult, evaluate_recommendations, next_click_table
from notellm.evaluate.tables import intervals_json
from notellm.jobs.train_rank import train_rank
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions
from notellm.rank.config import RankOptions
from notellm.rank.scorer import Ranker
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recommend.candidates import Vectors, impressions_from_candidates
from notellm.recommend.options import RecommendOptions
from notellm.recommend.recommender import Recommender
from notellm.record import RECORD, describe, read_record
from notellm.vectors import vector_table

DEPTHS = (20, 100)
#: Of the users' last training rows, how many choose the ranker's checkpoint.
VALID_SHARE, VALID_ROWS = 0.05, 4_000
Lists = Mapping[str, Sequence[str]]


def hold_out(clicks: pa.Table) -> tuple[pa.Table, dict[str, str]]:
    """The clicks before each user's last one, and that one; users of one click are in training alone."""
    log = pl.from_arrow(clicks)
    assert isinstance(log, pl.DataFrame)
    log = log.with_row_index("row").sort("timestamp", "row")
    size, place = pl.len().over("user_id"), pl.int_range(pl.len()).over("user_id")
    last = log.filter((place == size - 1) & (size > 1))
    rest = clicks.take(pa.array(np.sort(log.join(last, on="row", how="anti")["row"].to_numpy())))
    return rest, dict(zip(last["user_id"], last["note_id"], strict=True))


def by_score(scores: np.ndarray, ids: Sequence[str], seen: Iterable[int], depth: int) -> list[str]:
    """The notes of the highest scores above 0 that were not seen."""
    scores = scores.copy()
    scores[list(seen)] = 0
    best = np.argsort(-scores, kind="stable")[:depth]
    return [ids[i] for i in best if scores[i] > 0]


def baselines(notes: pa.Table, clicks: pa.Table, histories: Mapping[str, Sequence[str]]) -> dict[str, Lists]:
    """Lists of popularity and co-occurrence."""
    ids: list[str] = notes["note_id"].to_pylist()
    row = {note_id: i for i, note_id in enumerate(ids)}
    opened = click_matrix(notes["note_id"], clicks)  # notes x users
    counts = popularity(notes["note_id"], clicks)
    norm = 1 / np.sqrt(np.maximum(counts, 1))
    popular, together = {}, {}
    for user, history in histories.items():
        seen = [row[note_id] for note_id in history]
        popular[user] = by_score(counts, ids, seen, max(DEPTHS))
        last = list(dict.fromkeys(reversed(seen)))[: RecommendOptions.last]
        users = (opened[last] * norm[last][:, None]).sum(axis=0)  # how much of these notes each opened
        together[user] = by_score(norm * (opened @ users), ids, seen, max(DEPTHS))
    return {"popularity": popular, "co-occurrence": together}


def recall_model(
    notes: pa.Table, pairs: pa.Table, clicks: pa.Table, output: Path, options: RecallOptions
) -> tuple[NoteLLM, float | None]:
    """A model and the seconds of its training; None where one of the same options and data was there."""
    if made_before(output, options, {"notes": notes, "pairs": pairs, "clicks": clicks, "validation": None}):
        return NoteLLM.from_pretrained(output), None
    return train(notes, pairs, output, options, clicks)


def fitted_ranker(
    notes: pa.Table,
    train: pa.Table,
    valid: pa.Table,
    output: Path,
    options: RankOptions,
    vectors: Vectors,
    vectors_model: str,
    histories: Lists,
) -> tuple[Ranker, float | None]:
    """A ranker and the seconds of `train_rank`; None where one of the same options and data was there."""
    near = vector_table(pa.array(vectors[0]), vectors[1])
    if made_before(output, options, {"notes": notes, "train": train, "valid": valid, "vectors": near}):
        return Ranker.from_pretrained(output), None
    start = time.perf_counter()
    ranker = train_rank(
        notes,
        train,
        valid,
        output,
        options=options,
        vectors=vectors,
        vectors_model=vectors_model,
        histories=histories,
        resume=True,
    )
    return ranker, time.perf_counter() - start


def made_before(
    output: Path, options: RecallOptions | RankOptions, data: Mapping[str, pa.Table | None]
) -> bool:
    """Whether a model lies there that these options made of these data."""
    if not (output / RECORD).is_file():
        return False
    made = read_record(output)
    wanted = {name: None if table is None else describe(table) for name, table in data.items()}
    return bool(made["config"] == dataclasses.asdict(options.resolved()) and made["data"] == wanted)


def ahead(results: Sequence[NextClickResult]) -> dict[str, dict[str, Interval]]:
    """By how much the last method is ahead of each other one, on the same resampled users."""
    *others, last = results
    return {
        other.name: intervals({k: last.per_user[k] - other.per_user[k] for k in other.per_user}, 1000, 0)
        for other in others
    }


def took(seconds: float | None) -> str:
    return "before this run" if seconds is None else f"{seconds:,.0f} s"


def main() -> None:
    parser = arguments("Recommending the next click on MicroLens.")
    parser.add_argument("--users", type=int, default=5_000, help="users whose last click is to be found")
    parser.add_argument("--max-steps", type=int, help="end the trainings earlier")
    parser.add_argument("--rank-steps", type=int, default=200, help="steps of tuning the ranker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "recommend")
    chosen = parser.parse_args()
    work = chosen.work / code_fingerprint()  # what is there was made by this code

    data = load("MicroLens")
    clicks, held_out = hold_out(data.clicks)
    drawn = np.random.default_rng(chosen.seed).permutation(sorted(held_out))[: chosen.users].tolist()
    clicked = click_histories(clicks)
    histories = {user: clicked[user] for user in drawn}
    lists: dict[str, Lists] = dict(baselines(data.notes, clicks, histories))

    pairs = mine_pairs(clicks, PairOptions(min_users=MIN_USERS), progress=False)
    recall_options = RecallOptions(seed=chosen.seed, max_steps=chosen.max_steps)
    model, recall_seconds = recall_model(data.notes, pairs, clicks, work / "recall", recall_options)
    vectors = data.notes["note_id"].to_pylist(), model.encode(data.notes)

    rows = impressions_from_candidates(clicks, vectors, seed=chosen.seed)
    first, _, latest = split_impressions(rows, valid=0, test=VALID_SHARE, seed=chosen.seed)
    drawn_rows = np.random.default_rng(chosen.seed).permutation(len(latest))[:VALID_ROWS]
    steps = chosen.rank_steps if chosen.max_steps is None else chosen.max_steps
    rank_options = RankOptions(seed=chosen.seed, max_steps=steps)
    ranker, rank_seconds = fitted_ranker(
        data.notes,
        first,
        latest.take(pa.array(np.sort(drawn_rows))),
        work / "rank",
        options=rank_options,
        vectors=vectors,
        vectors_model=model.fingerprint(),
        histories=clicked,
    )
    recommender = Recommender.from_vectors(*vectors, ranker, made_by=model.fingerprint())

    answer_seconds: dict[str, float] = {}
    for name, rerank in (("recall", False), ("recall, then rank", True)):
        start = time.perf_counter()
        lists[name] = {
            user: recommender.recommend(user, k=max(DEPTHS), rerank=rerank).note_ids for user in drawn
        }
        answer_seconds[name] = (time.perf_counter() - start) / len(drawn)
    relevant = {user: [held_out[user]] for user in drawn}
    results = [
        evaluate_recommendations(found, relevant, ks=DEPTHS, name=name) for name, found in lists.items()
    ]
    lead = ahead(results)
    write_results(
        chosen.results,
        "recommend",
        "The next click on MicroLens",
        [
            next_click_table(results).markdown(),
            "Recall, then rank is ahead, in points on the same users, by",
            table(
                ["of", *lead[results[0].name]],
                [[name, *map(points, found.values())] for name, found in lead.items()],
            ),
            f"Training: recall {took(recall_seconds)}, rank {took(rank_seconds)}. A list takes "
            + ", ".join(f"{1000 * value:,.1f} ms ({name})" for name, value in answer_seconds.items())
            + f". R@100 of recall is the most that ranking its {RecommendOptions.recall_k} candidates "
            "can reach.",
        ],
        {
            "results": [result.to_json() for result in results],
            "ahead": {name: intervals_json(differences) for name, differences in lead.items()},
            "seconds": {"recall": recall_seconds, "rank": rank_seconds, "list": answer_seconds},
            "config": {
                "recall": dataclasses.asdict(recall_options.resolved()),
                "rank": dataclasses.asdict(rank_options.resolved()),
            },
            "data": {"notes": describe(data.notes), "clicks": describe(data.clicks)},
        },
    )


if __name__ == "__main__":
    main()
