"""BinLLM on the ML-1M split of CoLLM and BinLLM, in its forms, beside its codes alone and what is published.

Every run fits codes and tunes the tiny backbone on train, chooses by the AUC of valid (`valid_small`, as the
public code), and is measured on test, whose rows no choice has seen. "before tuning" is the tiny backbone
with its first weights, of which only the answer's direction has been fitted to training rows.

Every finished run is kept in the working folder; a benchmark that was killed goes on after the last of
them, where options, data and code are still the same.
"""

import shutil
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.collaborative import read
from benchmarks.common import ROOT, arguments, code_fingerprint, table, write_results
from notellm.data.datasets.collm import CollmData
from notellm.files import read_json, write_json
from notellm.jobs.evaluate_rank import evaluate_rank
from notellm.jobs.train_rank import train_rank
from notellm.rank.collaborative.kinds import KINDS
from notellm.rank.config import RankOptions
from notellm.record import describe, read_record

#: Name -> what differs from the defaults.
VARIANTS: dict[str, dict[str, Any]] = {
    "BinLLM": {},
    "codes only": {"form": "codes_only"},
    "text only": {"form": "text_only"},
    "two-step": {"two_step": True},
    "decimal codes": {"code_text": "decimal"},
    "8 bits": {"bits": 8},
    "64 bits": {"bits": 64},
    "16 bits": {"bits": 16},
    "codes of seen rows": {"out_of_fold": 0},
}
#: Variants whose codes come from another collaborative model; `--variants` adds them.
COLLABORATIVE: dict[str, dict[str, Any]] = {
    "BinLLM, LightGCN": {"collaborative": "lightgcn"},
    "BinLLM, SASRec": {"collaborative": "sasrec"},
}
#: Test AUC and UAUC in BinLLM (arXiv 2406.03210), of Vicuna-7B but for BinMF: "BinLLM" here is tuned in one
#: step (there "intuitive tuning", its main figures are of two steps), "text only" is TALLRec there.
PUBLISHED = {
    "BinMF": (0.7189, 0.6654),
    "BinLLM": (0.7286, 0.6842),
    "two-step": (0.7425, 0.6956),
    "codes only": (0.7307, 0.6797),
    "text only": (0.7097, 0.6818),
}
Run = dict[str, Any]


def run_one(data: CollmData, variant: str, options: RankOptions, work: Path) -> Run:
    """Fit and measure a variant, or read what is finished."""
    path = work / f"{variant.replace(' ', '-')}-{options.seed}.json"
    tables = {"notes": data.notes, "train": data.train, "valid": data.valid, "test": data.test}
    made_of = {
        "variant": variant,
        "config": asdict(options.resolved()),
        "data": {name: describe(part) for name, part in tables.items()},
        "code": code_fingerprint(),
    }
    if path.is_file() and (finished := read_json(path))["made_of"] == made_of:
        print(f"{variant}, seed {options.seed}: finished before ({path})", flush=True)
        return dict(finished)
    print(f"{variant}, seed {options.seed}: tuning", flush=True)
    output = path.with_suffix("")
    shutil.rmtree(output.with_name(f"{output.name}.run"), ignore_errors=True)  # of other code, it may be
    begin = time.perf_counter()
    ranker = train_rank(data.notes, data.train, data.valid, output, options=options)
    fit = {**read_record(output)["metrics"], "seconds": round(time.perf_counter() - begin, 1)}
    result = evaluate_rank(ranker, data.test, train=data.train)
    run = {"made_of": made_of, "fit": fit, "evaluation": result.to_json()}
    write_json(run, path, replace=True)
    return run


def codes_alone(run: Run) -> str:
    """Name of ranking by the codes of a run alone."""
    return KINDS[run["made_of"]["config"]["collaborative"]].label


def figures(run: Run, method: str, group: str = "all") -> dict[str, float]:
    """AUC and UAUC of a method on the test rows."""
    for result in run["evaluation"]["ranking"]:
        if result["name"] == method:
            part = result if group == "all" else result["by_group"][group]
            return {name: part["figures"][name]["mean"] for name in ("AUC", "UAUC")}
    raise KeyError(method)


def spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


def report(runs: list[Run]) -> Iterable[str]:
    by_variant: dict[str, list[Run]] = {}
    for run in runs:
        by_variant.setdefault(run["made_of"]["variant"], []).append(run)
    first = next(iter(by_variant.values()))
    yield "Test rows; mean ± standard deviation over the seeds; published: Vicuna-7B, but for BinMF."
    rows = []
    methods = ("item popularity", codes_alone(first[0]))
    for name in methods:
        if name in {result["name"] for result in first[0]["evaluation"]["ranking"]}:
            found = [figures(run, name) for run in first]
            rows.append([name, str(len(found)), *columns(found), *published(name), "", ""])
    for variant, own in by_variant.items():
        found = [figures(run, "BinLLM") for run in own]
        seconds = [run["fit"]["seconds"] for run in own]
        rows.append(
            [
                variant,
                str(len(own)),
                *columns(found),
                *published(variant),
                f"{statistics.fmean(run['fit']['prompt_tokens'] for run in own):.0f}",
                f"{statistics.fmean(seconds):,.0f}",
            ]
        )
    yield table(
        ["method", "seeds", "AUC", "UAUC", "published AUC", "UAUC", "prompt tokens", "seconds to fit"], rows
    )
    if not COLLABORATIVE.keys().isdisjoint(by_variant):
        yield "## Codes alone"
        yield "The same test rows, scored by h_u . h_i of each variant's codes, without the language model."
        alone = {
            codes_alone(variant_runs[0]): [figures(run, codes_alone(run)) for run in variant_runs]
            for variant_runs in by_variant.values()
        }
        rows = [[name, str(len(found)), *columns(found)] for name, found in alone.items()]
        yield table(["codes", "seeds", "AUC", "UAUC"], rows)
    yield "## BinLLM less its codes alone"
    rows = []
    compared = [run for run in runs if run["made_of"]["variant"] in (next(iter(by_variant)), *COLLABORATIVE)]
    for run in compared:
        found = run["evaluation"]["ahead"].get(codes_alone(run), {})
        cells = [f"{v['mean']:+.4f} [{v['low']:+.4f}, {v['high']:+.4f}]" for v in found.values()]
        rows.append([run["made_of"]["variant"], str(run["made_of"]["config"]["seed"]), *cells])
    yield "95 % bootstrap intervals over the users of the test rows, both methods on the same ones."
    yield table(["variant", "seed", "AUC", "UAUC"], rows)
    yield "## By what training has seen"
    rows = []
    for group in ("warm", "cold user", "cold item"):
        for name, own in [(methods[-1], first), *by_variant.items()]:
            method = name if name in methods else "BinLLM"
            found = [figures(run, method, group) for run in own]
            rows.append([group, name, *columns(found)])
    yield table(["test rows", "method", "AUC", "UAUC"], rows, left=2)
    yield "## Validation"
    rows = []
    for run in runs:
        fit = run["fit"]
        steps = [fit[name] for name in ("codes", "untrained", "validation") if name in fit]
        cells = [f"{step['auc']:.4f} / {step['uauc']:.4f}" for step in steps]
        cells = [""] * (3 - len(cells)) + cells
        rows.append([run["made_of"]["variant"], str(run["made_of"]["config"]["seed"]), *cells])
    yield "AUC / UAUC, by which everything was chosen."
    yield table(["variant", "seed", "codes alone", "before tuning", "tuned"], rows)


def columns(found: Sequence[dict[str, float]]) -> list[str]:
    return [spread([values[name] for values in found]) for name in ("AUC", "UAUC")]


def published(name: str) -> list[str]:
    return [f"{value:.4f}" for value in PUBLISHED[name]] if name in PUBLISHED else ["", ""]


def options(variant: str, seed: int, max_steps: int | None) -> RankOptions:
    """Return the options of a variant's run."""
    return RankOptions(seed=seed, max_steps=max_steps, **(VARIANTS | COLLABORATIVE)[variant])


def main() -> None:
    parser = arguments("BinLLM and its variants on ML-1M.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS | COLLABORATIVE, default=list(VARIANTS))
    parser.add_argument("--name", default="ranking", help="name of the files of results")
    parser.add_argument("--max-steps", type=int, help="end every step of tuning earlier")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "ranking")
    chosen = parser.parse_args()
    data = read()
    runs = [
        run_one(data, name, options(name, seed, chosen.max_steps), chosen.work)
        for name in chosen.variants
        for seed in chosen.seeds
    ]
    write_results(
        chosen.results,
        "ranking",
        "BinLLM on ML-1M",
        report(runs),
        {"published": PUBLISHED, "runs": runs},
        name=chosen.name,
    )


if __name__ == "__main__":
    main()
