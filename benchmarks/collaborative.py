"""Collaborative models and binary codes on the ML-1M split of CoLLM and BinLLM, next to what is published.

Every model is trained with several seeds on train and chosen by the AUC of valid (`valid_small`, as the
public code); every figure is of test, whose rows no choice here has seen. Cold users are those without a
row in train: 42 % of the test rows.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from benchmarks.common import ROOT, arguments, table, write_results
from notellm.data.datasets.collm import CollmData, read_collm
from notellm.evaluate.ranking import cold_groups, evaluate_ranking
from notellm.rank.codes.codes import inner_product
from notellm.rank.codes.fit import fit_codes, fit_out_of_fold
from notellm.rank.codes.options import CodeOptions
from notellm.rank.collaborative.base import CollaborativeModel, Floats
from notellm.rank.collaborative.lightgcn import LightGCN
from notellm.rank.collaborative.mf import MatrixFactorization
from notellm.rank.collaborative.options import TrainingOptions
from notellm.rank.collaborative.sasrec import SASRec
from notellm.rank.collaborative.train import train_collaborative

FOLDER = "ml-1m-collm"
BITS = (8, 16, 32, 64)
#: Test AUC and UAUC in BinLLM (arXiv 2406.03210).
PUBLISHED = {
    "MF": (0.6482, 0.6361),
    "LightGCN": (0.5959, 0.6499),
    "SASRec": (0.7078, 0.6884),
    "codes, 32 bits": (0.7189, 0.6654),
}
MF = "MF"
#: Models whose published figures are those of users without training row scored by vectors never trained.
COLD_ZERO, SUFFIX = (MF, "LightGCN"), ", cold users 0"
Run = dict[str, Any]
Ids: TypeAlias = pa.ChunkedArray

MODELS: dict[str, tuple[Callable[[Ids, Ids, int], CollaborativeModel], TrainingOptions]] = {
    MF: (
        lambda users, items, seed: MatrixFactorization(users, items, dimensions=256, biases=False, seed=seed),
        TrainingOptions(),
    ),
    "MF with biases": (
        lambda users, items, seed: MatrixFactorization(users, items, dimensions=32, seed=seed),
        TrainingOptions(),
    ),
    "LightGCN": (
        lambda users, items, seed: LightGCN(users, items, seed=seed),
        TrainingOptions(weight_decay=1e-5),
    ),
    "SASRec": (
        lambda users, items, seed: SASRec(users, items, dimensions=32, layers=1, seed=seed),
        TrainingOptions(weight_decay=1e-3, batch=512, epochs=30, patience=5),
    ),
}


def main() -> None:
    parser = arguments("Collaborative models and binary codes on ML-1M.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--models", nargs="+", choices=[*MODELS, "codes"], default=[*MODELS, "codes"])
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # the steps are too small to share, and so the figures hang on no core count

    data = read()
    runs: dict[str, list[Run]] = {}
    for seed in chosen.seeds:
        for name in (name for name in MODELS if name in chosen.models):
            scores, run = trained(data, name, seed)
            runs.setdefault(name, []).append(run | judged(data, scores))
            if name in COLD_ZERO:
                known = ~cold_groups(data.train, data.test)["cold user"]
                zero = run | judged(data, np.where(known, scores, np.float32(0)))
                runs.setdefault(f"{name}{SUFFIX}", []).append(zero)
        for bits in BITS if "codes" in chosen.models else ():
            for name, run in coded(data, bits, seed).items():
                runs.setdefault(name, []).append(run)
    fold = out_of_fold(data, chosen.seeds[0]) if "codes" in chosen.models else None
    write_results(
        chosen.results,
        "collaborative",
        "Collaborative models and binary codes",
        report(data, runs, fold, chosen.seeds),
        {"seeds": chosen.seeds, "published": PUBLISHED, "runs": runs, "out_of_fold": fold},
    )


def read() -> CollmData:
    """The split; ends the program where it is absent."""
    folder = Path(os.environ.get("NOTELLM_DATA", ROOT.parent / "shared" / "data")) / FOLDER
    if not folder.is_dir():
        sys.exit(f"ML-1M is not in {folder}: set NOTELLM_DATA to the folder that holds {FOLDER}/")
    return read_collm(folder)


def trained(data: CollmData, name: str, seed: int) -> tuple[Floats, Run]:
    """Scores of the test rows, and how the training went."""
    build, options = MODELS[name]
    model = build(data.train["user_id"].unique(), data.train["note_id"].unique(), seed)
    start = time.perf_counter()
    training = train_collaborative(model, data.train, data.valid, replace(options, seed=seed))
    seconds = time.perf_counter() - start
    scores = model.scores(data.test["user_id"], data.test["note_id"], data.test["history"])
    run = {"seed": seed, "config": model.config, "training": training.to_json(), "seconds": seconds}
    return scores, run


def coded(data: CollmData, bits: int, seed: int) -> dict[str, Run]:
    """Codes of one length, with and without folding users in where it is 32."""
    options = CodeOptions(bits=bits).with_training(seed=seed)
    start = time.perf_counter()
    codes = fit_codes(data.train, data.valid, options)
    run: Run = {
        "seed": seed,
        "config": asdict(options.resolved()),
        "training": codes.description["training"],
        "seconds": time.perf_counter() - start,
    }
    columns = data.test["user_id"], data.test["note_id"], data.test["history"]
    name = f"codes, {bits} bits"
    found = {name: run | judged(data, codes.scores(*columns))}
    if bits == 32:
        found[f"{name}, folded"] = run | judged(data, replace(codes, unknown="folded").scores(*columns))
    return found


def judged(data: CollmData, scores: Floats) -> Run:
    """AUC and UAUC of the test rows, all of them and by what training has seen."""
    groups = cold_groups(data.train, data.test)
    result = evaluate_ranking(data.test, scores, groups=groups, resamples=1)
    return {
        part.group: {name: part.figures[name].mean for name in ("AUC", "UAUC")}
        for part in (result, *result.by_group.values())
    }


def out_of_fold(data: CollmData, seed: int) -> dict[str, float]:
    """How codes of 32 bits know the training rows, having seen them and not, and how far both agree."""
    options = CodeOptions()
    start = time.perf_counter()
    result = fit_out_of_fold(data.train, data.valid, options.with_training(seed=seed))
    seconds = time.perf_counter() - start
    users = result.codes.user_bits(data.train["user_id"])
    items = result.codes.item_bits(data.train["note_id"])
    return {
        "seconds": seconds,
        "seen AUC": auc(data.train, inner_product(users, items)),
        "unseen AUC": auc(data.train, inner_product(result.user_bits, result.item_bits)),
        "user agreement": float((users == result.user_bits).mean()),
        "item agreement": float((items == result.item_bits).mean()),
        "user kappa": kappa(users, result.user_bits),
        "item kappa": kappa(items, result.item_bits),
    }


def auc(impressions: pa.Table, scores: Floats) -> float:
    return evaluate_ranking(impressions, scores, resamples=1).figures["AUC"].mean


def kappa(first: Any, second: Any) -> float:
    """Cohen's kappa, the mean over the bits of which the rarer value makes 2 % or more in the first."""
    p, q = first.mean(0), second.mean(0)
    chance = p * q + (1 - p) * (1 - q)
    varying = np.minimum(p, 1 - p) > 0.02
    values = ((first == second).mean(0) - chance)[varying] / (1 - chance)[varying]
    return float(values.mean())


def report(
    data: CollmData, runs: Mapping[str, Sequence[Run]], fold: Mapping[str, float] | None, seeds: Sequence[int]
) -> list[str]:
    """The parts of the result."""
    groups = {"all": data.test.num_rows}
    groups |= {name: int(mask.sum()) for name, mask in cold_groups(data.train, data.test).items()}
    rows, by_group = [], []
    for name, of_seeds in runs.items():
        published = None if name in COLD_ZERO else PUBLISHED.get(name.removesuffix(SUFFIX))
        rows.append(
            [
                name,
                spread([run["all"]["AUC"] for run in of_seeds]),
                spread([run["all"]["UAUC"] for run in of_seeds]),
                "-" if published is None else f"{published[0]:.4f} / {published[1]:.4f}",
                spread([run["training"]["valid_auc"] for run in of_seeds]),
                f"{fmean(run['seconds'] for run in of_seeds):.0f}",
            ]
        )
        by_group.append(
            [
                name,
                *(
                    " / ".join(
                        f"{fmean(run[group][figure] for run in of_seeds):.4f}" for figure in ("AUC", "UAUC")
                    )
                    for group in groups
                ),
            ]
        )
    head = ["model", "test AUC", "test UAUC", "published AUC / UAUC", "valid AUC", "seconds"]
    body = [
        (
            f"ML-1M as split by CoLLM: {data.train.num_rows:,} train, {data.valid.num_rows:,} valid and "
            f"{data.test.num_rows:,} test rows. Mean ± standard deviation over the seeds "
            f"{', '.join(map(str, seeds))}; everything was chosen by the AUC of valid. A user or an item "
            'without training row has the mean vector, and the code of it; with "cold users 0" '
            "the score 0, as from a vector that was never trained and has decayed: that is how the published "
            "figures of MF and LightGCN come about."
        ),
        table(head, rows),
        "The same by what training has seen of user and item, AUC / UAUC, means over the seeds:",
        table(["model", *(f"{name} ({count:,} rows)" for name, count in groups.items())], by_group),
    ]
    if fold is not None:
        body.append(
            "Out of fold (32 bits, 5 folds, first seed): on the training rows codes that saw them have AUC "
            f"{fold['seen AUC']:.4f}, codes that did not {fold['unseen AUC']:.4f}. Of the user bits "
            f"{fold['user agreement']:.1%} are the same, of the item bits {fold['item agreement']:.1%}; "
            f"Cohen's kappa over the bits that vary {fold['user kappa']:.2f} and "
            f"{fold['item kappa']:.2f}. {fold['seconds']:.0f} s."
        )
    return body


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
