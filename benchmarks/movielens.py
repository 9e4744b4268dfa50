"""A split by time: NoteLLM on MovieLens with the texts of TMDB.

The newest 20 % of the clicks are test, the 10 % before them are valid; pairs are mined from the clicks of
their own part. The pool is all notes, whether or not they were seen in training, so popularity and item
co-occurrence of the train clicks are baselines, too. Category and topics are measured on the notes that are
in neither train nor valid.
"""

import tempfile
from pathlib import Path

from benchmarks.common import arguments, write_results
from benchmarks.training import MIN_USERS, load, train
from notellm.data.split import split_by_time
from notellm.files import read_json
from notellm.jobs.evaluate_recall import evaluate_recall
from notellm.jobs.recall_model import build_recall_model
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions
from notellm.recall.config import RecallOptions
from notellm.recall.trainer import Validation
from notellm.record import RECORD


def main() -> None:
    parser = arguments("NoteLLM and its baselines on MovieLens, split by time.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--max-steps", type=int, help="end the training earlier")
    parser.add_argument("--min-users", type=int, default=MIN_USERS, help="drop pairs of fewer users")
    chosen = parser.parse_args()

    data = load("MovieLens")
    split = split_by_time(data.notes, data.clicks, test=0.2, valid=0.1)
    parts = {name: getattr(split, name) for name in ("train", "valid", "test")}
    mining = PairOptions(min_users=chosen.min_users)
    pairs = {name: mine_pairs(part.clicks, mining, progress=False) for name, part in parts.items()}
    options = RecallOptions(seed=chosen.seed, max_steps=chosen.max_steps)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "model"
        validation = Validation(split.valid.notes, pairs["valid"])
        model, seconds = train(
            split.train.notes, pairs["train"], output, options, split.train.clicks, validation
        )
        record = read_json(output / RECORD)
    result = evaluate_recall(
        model,
        split,
        pairs["test"],
        untrained=build_recall_model(options, split.train.notes, split.train.clicks),
        min_users=chosen.min_users,
    )
    users = len(data.clicks["user_id"].unique())
    sizes = {
        name: {"notes": part.notes.num_rows, "clicks": part.clicks.num_rows, "pairs": pairs[name].num_rows}
        for name, part in parts.items()
    }
    counts = "; ".join(
        f"{name}: {', '.join(f'{count:,} {what}' for what, count in size.items())}"
        for name, size in sizes.items()
    )
    body = [
        (
            f"MovieLens, split by time ({counts}). {users:,} users in all, so few that a pair needs only "
            f"{chosen.min_users} of them, for training and as truth. Trained in {seconds:,.0f} s with seed "
            f"{chosen.seed}."
        ),
        result.text(markdown=True),
    ]
    values = {
        "min_users": chosen.min_users,
        "users": users,
        "sizes": sizes,
        "seconds": seconds,
        "config": record["config"],
        "training": record["metrics"],
        "evaluation": result.to_json(),
    }
    write_results(chosen.results, "movielens", "Related notes in a split by time", body, values)


if __name__ == "__main__":
    main()
