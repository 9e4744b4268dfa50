"""Related notes that were not seen in training: NoteLLM on MicroLens, beside its baselines and a variant.

30 % of the notes are test and 5 % valid (split by note, seed 7), so no text or click of a test note is in
training. A query is a test note, its target is its best related test note, and the candidates are all other
test notes. Pairs, for training and as targets, have at least 2 users. Two variants are trained, each with
several seeds: joint (the default `RecallOptions`, GCL + alpha CSFT) and contrastive (the same with alpha =
0).

Every finished training is kept in the working folder with its figures for every query. A benchmark that was
killed continues after the last of them if options, data and code are unchanged.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, arguments, code_fingerprint, table, write_results
from benchmarks.training import MIN_USERS, load, points, train
from notellm.data.split import Split, split_by_note
from notellm.evaluate.bootstrap import Interval
from notellm.evaluate.retrieval import RetrievalResult, paired_difference
from notellm.evaluate.tables import intervals_json
from notellm.evaluate.tagging_topics import TopicResult
from notellm.files import read_json, write_json
from notellm.jobs.evaluate_recall import HYBRID, Evaluation, evaluate_recall
from notellm.jobs.evaluate_tagging import NAME
from notellm.jobs.recall_model import build_recall_model
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions
from notellm.recall.config import RecallOptions
from notellm.recall.lexical_share import fit_lexical_share
from notellm.recall.model import NoteLLM
from notellm.recall.trainer import Validation
from notellm.record import RECORD, fingerprint

VARIANTS = {"joint": f"{NAME}", "contrastive": f"{NAME}, contrastive only"}
UNTRAINED = f"{NAME} untrained"
GROUPS = {"low": "low exposure", "high": "high exposure"}

#: The defaults were chosen on other splits, except for one run of an earlier setting (README, log of
#: experiments).
SPLIT_SEED = 7
#: Figures of one method and group in one run, as shares.
Figures = Mapping[str, float]


def split_microlens() -> Split:
    data = load("MicroLens")
    return split_by_note(data.notes, data.clicks, test=0.3, valid=0.05, seed=SPLIT_SEED)


def run_all(
    split: Split, wanted: list[tuple[str, RecallOptions, bool]], work: Path, *, keep_models: bool = False
) -> list[dict[str, Any]]:
    """Train and measure each variant with its options (and topics, if asked), or read finished runs.

    With ``keep_models``, models of finished runs whose options and data are the same are only measured again.
    """
    mining = PairOptions(min_users=MIN_USERS)
    pairs = {
        name: mine_pairs(getattr(split, name).clicks, mining, progress=False)
        for name in ("train", "valid", "test")
    }
    data = {
        "notes": {name: fingerprint(getattr(split, name).notes) for name in pairs},
        "pairs": {name: fingerprint(value) for name, value in pairs.items()},
    }
    validation = Validation(split.valid.notes, pairs["valid"])
    runs = []
    for variant, options, with_topics in wanted:
        path = work / f"{variant}-{options.seed}.json"
        made_of = {
            "variant": variant,
            "config": dataclasses.asdict(options.resolved()),
            "data": data,
            "code": code_fingerprint(),
            "with_topics": with_topics,
        }
        finished = read_json(path) if path.is_file() else {"made_of": {}}
        if finished["made_of"] == made_of:
            print(f"{variant}, seed {options.seed}: finished before ({path})", flush=True)
            runs.append(finished)
            continue
        output = work / f"{variant}-{options.seed}"
        trained_by = finished.get("trained_by", finished["made_of"].get("code"))
        if keep_models and _same_training(finished["made_of"], made_of):
            print(f"{variant}, seed {options.seed}: measured again, trained by {trained_by}", flush=True)
            model, seconds = NoteLLM.from_saved(output), finished["seconds"]
            vectors = model.encode(validation.notes)
            model.lexical_share = fit_lexical_share(validation, split.train.notes, vectors)["share"]
        else:
            print(f"{variant}, seed {options.seed}: training", flush=True)
            trained_by = made_of["code"]
            model, seconds = train(
                split.train.notes, pairs["train"], output, options, split.train.clicks, validation
            )
        result = evaluate_recall(
            model,
            split,
            pairs["test"],
            untrained=build_recall_model(options, split.train.notes, split.train.clicks),
            min_users=MIN_USERS,
            tagged_notes=1_000 if with_topics else 0,
        )
        (trained,) = (each for each in result.related if each.name == NAME)
        run = {
            "made_of": made_of,
            "trained_by": trained_by,
            "lexical_share": model.lexical_share,
            "seconds": seconds,
            "training": read_json(output / RECORD)["metrics"],
            "evaluation": result.to_json(),
            "per_query": {
                "pool": trained.pool,
                "query_ids": list(trained.query_ids),
                "figures": {name: v.tolist() for name, v in trained.per_query.items()},
            },
        }
        write_json(run, path, replace=True)
        runs.append(run)
    return runs


def _same_training(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether two trainings differ only in their code, and in options that one of them lacks."""
    if not old:
        return False
    settings = [dict(made_of["config"]) for made_of in (old, new)]
    for name in settings[0].keys() ^ settings[1].keys():
        if any(each.pop(name, None) is not None for each in settings):
            return False
    return settings[0] == settings[1] and all(
        old[name] == new[name] for name in ("variant", "data", "with_topics")
    )


def figures(run: dict[str, Any], method: str, group: str = "all") -> Figures:
    for result in run["evaluation"]["related"]:
        if result["name"] == method:
            part = result if group == "all" else result["by_exposure"][group]
            return {name: value["mean"] for name, value in part["figures"].items()}
    raise KeyError(method)


def baselines(run: dict[str, Any]) -> list[str]:
    """Return the methods of a run that do not depend on the seed."""
    names = [result["name"] for result in run["evaluation"]["related"]]
    return [name for name in names if name not in (NAME, UNTRAINED, HYBRID)]


def by_method(runs: list[dict[str, Any]], group: str = "all") -> dict[str, list[tuple[str, str, Figures]]]:
    """Return the runs of each method as (seed, training seconds, figures)."""
    methods: dict[str, list[tuple[str, str, Figures]]] = {
        name: [("", "", figures(runs[0], name, group))] for name in baselines(runs[0])
    }
    untrained = {run["made_of"]["config"]["seed"]: figures(run, UNTRAINED, group) for run in runs}
    methods[UNTRAINED] = [(str(seed), "", values) for seed, values in untrained.items()]
    for run in runs:
        seed, seconds = str(run["made_of"]["config"]["seed"]), f"{run['seconds']:,.0f}"
        variant = VARIANTS[run["made_of"]["variant"]]
        for suffix, method in (("", NAME), (", hybrid", HYBRID)):
            methods.setdefault(variant + suffix, []).append((seed, seconds, figures(run, method, group)))
    return methods


def mean_and_deviation(values: Sequence[float], *, unit: float = 100, digits: int = 1) -> str:
    mean = f"{unit * statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {unit * statistics.stdev(values):.{digits}f}"


def per_run_table(methods: dict[str, list[tuple[str, str, Figures]]]) -> str:
    rows = [
        [method, seed, seconds, *(f"{100 * value:.1f}" for value in values.values())]
        for method, runs in methods.items()
        for seed, seconds, values in runs
    ]
    return table(["method", "seed", "training s", *methods["TF-IDF"][0][2]], rows)


def summary_table(methods: dict[str, list[tuple[str, str, Figures]]]) -> str:
    names = list(methods["TF-IDF"][0][2])
    rows = [
        [method, *(mean_and_deviation([values[name] for _, _, values in runs]) for name in names)]
        for method, runs in methods.items()
    ]
    return table(["method", *names], rows)


def ratio_table(methods: dict[str, list[tuple[str, str, Figures]]]) -> str:
    """Return the ratio of each method's mean to that of TF-IDF."""
    base = methods["TF-IDF"][0][2]
    rows = [
        [
            method,
            *(
                f"{statistics.mean(values[name] for _, _, values in runs) / base[name]:.2f}"
                if base[name]
                else "-"
                for name in base
            ),
        ]
        for method, runs in methods.items()
        if method != "TF-IDF"
    ]
    return table(["method", *base], rows)


def differences(runs: list[dict[str, Any]]) -> dict[str, dict[str, Interval]]:
    """Return joint minus contrastive on the same queries, for each seed that has both."""
    results = {(run["made_of"]["variant"], run["made_of"]["config"]["seed"]): _per_query(run) for run in runs}
    return {
        str(seed): paired_difference(result, results["contrastive", seed])
        for (variant, seed), result in results.items()
        if variant == "joint" and ("contrastive", seed) in results
    }


def _per_query(run: dict[str, Any]) -> RetrievalResult:
    kept = run["per_query"]
    return RetrievalResult(
        name=VARIANTS[run["made_of"]["variant"]],
        group="all",
        pool=kept["pool"],
        queries=len(kept["query_ids"]),
        figures={},
        per_query={name: np.array(values) for name, values in kept["figures"].items()},
        query_ids=tuple(kept["query_ids"]),
    )


def report(runs: list[dict[str, Any]], split: Split) -> Iterable[str]:
    methods = by_method(runs)
    first = runs[0]["evaluation"]["related"][0]
    parts = ", ".join(
        f"{getattr(split, name).notes.num_rows:,} {name}" for name in ("train", "valid", "test")
    )
    yield (
        f"MicroLens, split by note (seed {SPLIT_SEED}): {parts}. {first['queries']:,} queries in a pool of "
        f"{first['pool']:,} notes; figures in %. Training seconds are those of `fit`: making the model, "
        "training, measuring the validation notes, saving."
    )
    trained_by = sorted({run["trained_by"] for run in runs} - {code_fingerprint()})
    if trained_by:
        yield f"Models trained by the code {', '.join(trained_by)}, measured by the present one."
    shares = ", ".join(sorted({f"{run['lexical_share']:g}" for run in runs}))
    yield f"Lexical share of the hybrid: {shares}."
    yield "## Every run"
    yield per_run_table(methods)
    yield "## Mean ± standard deviation over the seeds"
    yield summary_table(methods)
    yield "## Ratio to TF-IDF, of the means"
    yield ratio_table(methods)
    if gains := differences(runs):
        yield "## Joint less contrastive"
        yield "In points on the same queries, with the paired 95 % bootstrap interval."
        rows = [[seed, *(points(value) for value in gain.values())] for seed, gain in gains.items()]
        yield table(["seed", *next(iter(gains.values()))], rows)
    for group, title in GROUPS.items():
        yield f"## Queries of {title}"
        count = first["by_exposure"][group]["queries"]
        yield f"{count:,} queries; mean ± standard deviation over the seeds."
        yield summary_table(by_method(runs, group))
    for run in runs:
        if topics := run["evaluation"]["topics"]:
            yield f"## Topics ({run['made_of']['variant']}, seed {run['made_of']['config']['seed']})"
            scored = Evaluation(
                topics={name: TopicResult(name=name, **values) for name, values in topics.items()}
            )
            yield scored.text(markdown=True)


def main() -> None:
    parser = arguments("NoteLLM and its baselines on unseen notes of MicroLens.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--max-steps", type=int, help="end every training earlier")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "benchmarks" / "microlens", help="working folder"
    )
    parser.add_argument(
        "--keep-models",
        action="store_true",
        help="only measure models again that the same options and data made, though the code has changed",
    )
    chosen = parser.parse_args()

    wanted = []
    for seed in chosen.seeds:
        joint = RecallOptions(seed=seed, max_steps=chosen.max_steps)
        options = {"joint": joint, "contrastive": dataclasses.replace(joint, alpha=0.0)}
        wanted += [
            (variant, options[variant], variant == "joint" and seed == chosen.seeds[0])
            for variant in chosen.variants
        ]
    split = split_microlens()
    runs = run_all(split, wanted, chosen.work, keep_models=chosen.keep_models)
    gains = differences(runs)
    values = {
        "runs": [{name: value for name, value in run.items() if name != "per_query"} for run in runs],
        "joint_less_contrastive": {seed: intervals_json(gain) for seed, gain in gains.items()},
    }
    write_results(
        chosen.results, "microlens", "Related notes that were never seen", report(runs, split), values
    )


if __name__ == "__main__":
    main()
