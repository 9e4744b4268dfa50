"""A pretrained language model as BinLLM on a sample of ML-1M, beside the tiny backbone on the same rows.

Codes (matrix factorization) are fitted once, on all training rows, and are the same for every variant. Each
variant's answers are fitted to, and its model is tuned on, the same drawn training rows; rows of drawn
validation users choose the checkpoint, and rows of drawn test users measure it. The pretrained backbone is
tuned with LoRA; it reads the wording `brief` and decimal codes. Every finished variant is kept.
"""

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.collaborative import read
from benchmarks.common import ROOT, arguments, code_fingerprint, table, write_results
from notellm.data.datasets.collm import CollmData
from notellm.files import read_json, write_json
from notellm.jobs.evaluate_rank import evaluate_rank
from notellm.jobs.rank_codes import codes_of_run
from notellm.jobs.rank_tuning import CodedRows, ranking_figures, tune
from notellm.jobs.train_rank import build_rank_model, liked_histories
from notellm.rank.batch import NoteTexts, impression_codes, questions
from notellm.rank.config import TINY, RankOptions
from notellm.rank.scorer import Ranker
from notellm.record import describe

FORMS = {"text only": "text_only", "with codes": "with_codes", "codes only": "codes_only"}
PRETRAINED = "pretrained"
VARIANTS = [f"{kind}, {form}" for form in FORMS for kind in (TINY, PRETRAINED)]
BINMF, BINLLM = "BinMF", "BinLLM"
MOST_OF_A_USER = 20
Run = dict[str, Any]


def drawn_rows(rows: pa.Table, count: int, seed: int) -> np.ndarray:
    """Return which rows are drawn, (rows,) bool."""
    return np.isin(np.arange(rows.num_rows), np.random.default_rng(seed).permutation(rows.num_rows)[:count])


def rows_of_drawn_users(rows: pa.Table, count: int, seed: int) -> pa.Table:
    """Return ``count`` rows or a few more of drawn users, up to ``MOST_OF_A_USER`` of each."""
    draw = np.random.default_rng(seed)
    owner = np.unique(rows["user_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    kept: list[int] = []
    for user in draw.permutation(owner.max() + 1):
        if len(kept) >= count:
            break
        kept += draw.permutation(np.flatnonzero(owner == user))[:MOST_OF_A_USER].tolist()
    return rows.take(np.sort(kept))


def options_of(variant: str, chosen: Any) -> RankOptions:
    """Return the resolved options of a variant."""
    kind, form = variant.split(", ")
    own: dict[str, Any] = {}
    if kind == PRETRAINED:
        own = {"backbone": str(chosen.backbone), "layers": chosen.layers, "template": "brief"}
        own["code_text"] = chosen.code_text
    return RankOptions(
        **own,
        form=FORMS[form],  # type: ignore[arg-type]
        two_step=False,
        history=chosen.history,
        max_steps=chosen.steps,
        batch=chosen.batch,
        evaluations=1,
        seed=chosen.seed,
    ).resolved()


def run_one(data: CollmData, variant: str, chosen: Any) -> Run:
    """Tune and measure a variant, or read what is finished."""
    options = options_of(variant, chosen)
    drawn = drawn_rows(data.train, chosen.rows, options.seed)
    train = data.train.filter(pa.array(drawn))
    valid = rows_of_drawn_users(data.valid, chosen.valid, options.seed)
    test = rows_of_drawn_users(data.test, chosen.test, options.seed)
    path = chosen.work / f"{variant.replace(', ', '-').replace(' ', '-')}.json"
    tables = {"notes": data.notes, "train": train, "valid": valid, "test": test}
    made_of = {
        "variant": variant,
        "config": asdict(options) | {"backbone": Path(options.backbone).name},
        "data": {name: describe(part) for name, part in tables.items()},
        "code": code_fingerprint(),
    }
    if path.is_file() and (finished := read_json(path))["made_of"] == made_of:
        print(f"{variant}: finished before ({path})", flush=True)
        return dict(finished)
    print(f"{variant}: tuning", flush=True)
    of_codes = RankOptions(seed=options.seed).resolved()
    codes, train_codes = codes_of_run(
        chosen.work / f"codes-{options.seed}", data.train, data.valid, of_codes, progress=True
    )
    begin = time.process_time()
    model = build_rank_model(options, data.notes, train)
    coded = options.form != "text_only"
    valid_codes = impression_codes(valid, codes) if coded else None
    words = None
    if options.backbone != TINY:
        asked = questions(model, NoteTexts(model, data.notes), valid, valid_codes)
        words = ranking_figures(valid, model.predict(model.tokenize(asked), progress=True))
    folder = path.with_suffix(".run")
    shutil.rmtree(folder, ignore_errors=True)  # of other code, it may be
    rows = CodedRows(train, train_codes.filter(drawn) if coded else None)
    metrics = tune(model, folder, data.notes, rows, CodedRows(valid, valid_codes), options, progress=True)
    seconds = time.process_time() - begin
    ranker = Ranker(model, codes if coded else None, data.notes, liked_histories(train, valid))
    result = evaluate_rank(ranker, test, train=data.train)
    run = {
        "made_of": made_of,
        "fit": metrics | {"words": words, "cpu_seconds": round(seconds, 1)},
        "evaluation": result.to_json(),
    }
    write_json(run, path, replace=True)
    shutil.rmtree(folder)
    return run


def report(runs: list[Run]) -> Iterable[str]:
    sizes = {name: part["rows"] for name, part in runs[0]["made_of"]["data"].items()}
    yield (
        f"{sizes['train']:,} training rows; {sizes['valid']:,} validation and {sizes['test']:,} test rows of "
        f"drawn users, up to {MOST_OF_A_USER} of each. Validation, AUC / UAUC: the language model's own Yes "
        "and No; the answer that is fitted to the training rows; and after tuning (the better of the last "
        "two is kept). Test: AUC and UAUC with 95 % bootstrap intervals over users."
    )
    rows: list[list[str]] = []
    for run in runs:
        found = {result["name"]: result["figures"] for result in run["evaluation"]["ranking"]}
        if BINMF in found and not any(row[0] == BINMF for row in rows):
            for name in (BINMF, "item popularity"):
                rows.insert(0, [name, *[""] * 3, *tested(found[name]), "", ""])
        fit = run["fit"]
        step = next(fit[name] for name in ("text_step", "codes_step") if name in fit)
        cells = [pair(fit["words"]), pair(fit["untrained"]), f"{step['history'][-1]['auc']:.4f}"]
        cost = [f"{fit['prompt_tokens']:.0f}", f"{fit['cpu_seconds']:,.0f}"]
        rows.append([run["made_of"]["variant"], *cells, *tested(found[BINLLM]), *cost])
    validation = ["own Yes and No", "fitted answer", "tuned (AUC)"]
    yield table(["method", *validation, "test AUC", "test UAUC", "prompt tokens", "CPU seconds"], rows)
    yield "## BinLLM less BinMF"
    rows = [
        [
            run["made_of"]["variant"],
            *(f"{v['mean']:+.4f} [{v['low']:+.4f}, {v['high']:+.4f}]" for v in found.values()),
        ]
        for run in runs
        if (found := run["evaluation"]["ahead"].get(BINMF))
    ]
    yield table(["variant", "AUC", "UAUC"], rows)


def pair(figures: dict[str, float] | None) -> str:
    return "" if figures is None else " / ".join(f"{value:.4f}" for value in figures.values())


def tested(figures: dict[str, dict[str, float]]) -> list[str]:
    """AUC and UAUC of the test rows with their intervals."""
    return [
        "{mean:.4f} [{low:.4f}, {high:.4f}]".format(**figures[name]) if name in figures else ""
        for name in ("AUC", "UAUC")
    ]


def main() -> None:
    parser = arguments("A pretrained language model as BinLLM on a sample of ML-1M.")
    parser.add_argument(
        "--backbone", type=Path, required=True, help="GGUF file or folder of a causal language model"
    )
    parser.add_argument("--layers", type=int, default=6, help="its first layers")
    parser.add_argument("--code-text", choices=("binary", "decimal"), default="decimal")
    parser.add_argument("--history", type=int, default=5, help="liked titles in a prompt")
    parser.add_argument("--rows", type=int, default=400, help="training rows")
    parser.add_argument("--valid", type=int, default=160, help="validation rows")
    parser.add_argument("--test", type=int, default=500, help="test rows")
    parser.add_argument("--steps", type=int, default=12, help="updates of tuning")
    parser.add_argument("--batch", type=int, default=16, help="rows in a batch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "ranking_pretrained")
    chosen = parser.parse_args()
    data = read()
    runs = [run_one(data, variant, chosen) for variant in chosen.variants]
    write_results(
        chosen.results,
        "ranking_pretrained",
        "A pretrained language model as BinLLM",
        report(runs),
        {"runs": runs},
    )


if __name__ == "__main__":
    main()
