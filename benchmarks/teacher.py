"""What a teacher gives the tiny backbone before any training, on development draws of MicroLens or MovieLens.

    python -m benchmarks.teacher TEACHER --notes 1000

Split by note; the tiny backbone is built from some of the train notes, with and without their clicks, with
and without the teacher. Queries, targets and pool are those of ``microlens``: test notes, whose related notes
have at least 2 users. Figures in %.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.compute as pc

from benchmarks.common import table
from benchmarks.training import MIN_USERS, load
from notellm.data.split import split_by_note
from notellm.evaluate.retrieval import evaluate_related, targets_from_pairs, vector_scorer
from notellm.jobs.recall_model import build_recall_model
from notellm.jobs.runs import Run
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions
from notellm.recall.config import RecallOptions

FIGURES = ("R@10", "R@100", "MRR")


def main() -> None:
    parser = argparse.ArgumentParser(description="The tiny backbone before training, with a teacher.")
    parser.add_argument("teacher", help="as notellm train --teacher")
    parser.add_argument("--teacher-layers", type=int)
    parser.add_argument("--data", choices=["MicroLens", "MovieLens"], default="MicroLens")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13], help="seeds of the split")
    parser.add_argument("--notes", type=int, help="train notes that are drawn; all by default")
    chosen = parser.parse_args()

    data = load(chosen.data)
    rows = []
    with TemporaryDirectory() as folder:
        run = Run(Path(folder) / "model", "model", force=False)  # keeps what the teacher says
        for seed in chosen.seeds:
            share = {"MicroLens": 0.3, "MovieLens": 0.4}[chosen.data]
            split = split_by_note(data.notes, data.clicks, test=share, valid=0.05, seed=seed)
            pairs = mine_pairs(split.test.clicks, PairOptions(min_users=MIN_USERS), progress=False)
            queries, targets = targets_from_pairs(pairs, min_users=MIN_USERS)
            notes = split.train.notes
            drawn = np.sort(np.random.default_rng(seed).permutation(notes.num_rows)[: chosen.notes])
            notes = notes.take(drawn)
            clicks = split.train.clicks
            clicks = clicks.filter(pc.is_in(clicks["note_id"], notes["note_id"].combine_chunks()))
            for known in (clicks, None):
                for teacher in (None, chosen.teacher):
                    layers = None if teacher is None else chosen.teacher_layers
                    options = RecallOptions(teacher=teacher, teacher_layers=layers)
                    model = build_recall_model(options, notes, known, run=run, progress=True)
                    found = evaluate_related(
                        vector_scorer(model.encode(split.test.notes)),
                        split.test.notes["note_id"],
                        queries,
                        targets,
                        ks=(10, 100),
                        resamples=1,
                        progress=False,
                    ).figures
                    row = [str(seed), "no" if known is None else "yes", "no" if teacher is None else "yes"]
                    rows.append([*row, *(f"{100 * found[name].mean:.1f}" for name in FIGURES)])
                    print(*rows[-1], flush=True)
    print(table(["seed", "clicks", "teacher", *FIGURES], rows, left=3))


if __name__ == "__main__":
    main()
