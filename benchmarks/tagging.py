"""Category and topics of unseen notes: NoteLLM on MIND (English) and KuaiRec (Chinese).

80 % of the notes are train, 20 % test (split by note, seed 0). The model is trained without pairs, on
generation alone. First-level categories, generated freely and constrained to the known ones, are compared
with TF-IDF and logistic regression; topics with those of the most similar train note. The topics of MIND are
labels of entities, most of which occur in the text; those of KuaiRec are hashtags.
"""

import tempfile
from pathlib import Path

from benchmarks.common import arguments, write_results
from benchmarks.training import load, train
from notellm.data.schema import CLICKS
from notellm.data.split import split_by_note
from notellm.files import read_json
from notellm.jobs.evaluate_recall import evaluate_recall
from notellm.recall.config import RecallOptions
from notellm.record import RECORD

DATASETS = ("MIND", "KuaiRec")


def main() -> None:
    parser = arguments("Category and topics of unseen notes of MIND and KuaiRec.")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--max-steps", type=int, help="end every training earlier")
    chosen = parser.parse_args()

    body, values = [], {}
    for name in chosen.datasets:
        print(name, flush=True)
        split = split_by_note(load(name).notes, CLICKS.empty_table(), test=0.2, valid=0.0, seed=0)
        notes, tested = split.train.notes, split.test.notes
        options = RecallOptions(seed=chosen.seed, max_steps=chosen.max_steps)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "model"
            model, seconds = train(notes, None, output, options)
            record = read_json(output / RECORD)
        result = evaluate_recall(model, split, None, tagged_notes=tested.num_rows)
        categories = len(model.settings.categories)
        body += [
            f"## {name}",
            (
                f"{notes.num_rows:,} train and {tested.num_rows:,} test notes, {categories} categories. "
                f"Trained in {seconds:,.0f} s ({record['metrics']['steps']:,} steps) with seed {chosen.seed}."
            ),
            result.text(markdown=True),
        ]
        values[name] = {
            "train_notes": notes.num_rows,
            "test_notes": tested.num_rows,
            "categories": categories,
            "seconds": seconds,
            "config": record["config"],
            "training": record["metrics"],
            "evaluation": result.to_json(),
        }
    write_results(chosen.results, "tagging", "Category and topics of unseen notes", body, values)


if __name__ == "__main__":
    main()
