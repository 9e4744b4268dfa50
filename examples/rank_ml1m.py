"""Rank MovieLens-1M with binary codes (BinLLM), beside the same language model without codes.

    python examples/rank_ml1m.py path/to/ml-1m

The folder holds the split of CoLLM and BinLLM: train.parquet, valid.parquet, test.parquet, items.parquet and
movies_text.csv. Its fitting takes some minutes on one core.
"""

import argparse
import tempfile
from pathlib import Path

from notellm import RankOptions, evaluate_rank, train_rank
from notellm.data.datasets.collm import read_collm
from notellm.rank.config import Form


def main() -> None:
    """Train both rankers and evaluate them on the test part."""
    parser = argparse.ArgumentParser(description="Rank MovieLens-1M with and without binary codes.")
    parser.add_argument("source", type=Path, help="folder of the split")
    parser.add_argument("--max-steps", type=int, default=100, help="steps of the tuning")
    parser.add_argument("--code-epochs", type=int, default=200, help="epochs of the collaborative model")
    chosen = parser.parse_args()
    data = read_collm(chosen.source)
    print(data.report)
    with tempfile.TemporaryDirectory() as folder:
        forms: tuple[Form, ...] = ("text_only", "with_codes")
        for form in forms:
            options = RankOptions(form=form, max_steps=chosen.max_steps, code_epochs=chosen.code_epochs)
            output = Path(folder) / form
            ranker = train_rank(data.notes, data.train, data.valid, output, options=options, progress=False)
            print(f"\n{form}\n{evaluate_rank(ranker, data.test, progress=False).text()}")


if __name__ == "__main__":
    main()
