"""The part of an experiment about related notes: its tasks, and what its results say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from notellm.errors import DataError
from notellm.evaluate.baselines import OF_TEST_CLICKS
from notellm.experiment.cache import Cache, Finished, Task
from notellm.experiment.claims import OF_RECALL, Compared, judged
from notellm.experiment.options import ExperimentOptions
from notellm.experiment.recall.ablations import ablations, default_settings
from notellm.experiment.recall.breakdowns import query_groups
from notellm.experiment.recall.compare import Measured, difference_rows, figure_rows, paired
from notellm.experiment.recall.examples import examples_of, map_of
from notellm.experiment.recall.methods import (
    NOTELLM,
    RecallMethod,
    compute_vectors,
    mined_for,
    read_vectors,
    recall_methods,
)
from notellm.experiment.recall.source import RecallData
from notellm.experiment.recall.table import Bench, RecallTable, Vectors, written_rows
from notellm.experiment.results import Results
from notellm.experiment.statistics import LEAST
from notellm.record import fingerprint

#: Ablations that come before further seeds of the table: those of the paper's own tables.
_FIRST_PARTS = ("losses", "alpha", "topic_share")


@dataclass
class RecallPart:
    """The recall table and the ablations of an experiment.

    Attributes:
        data: the data.
        options: options of the experiment.
        cache: where results are kept.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show progress bars.
    """

    data: RecallData
    options: ExperimentOptions
    cache: Cache
    trust_remote_code: bool = False
    progress: bool = True
    _methods: dict[str, tuple[RecallMethod, int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._fingerprints = self.data.fingerprints()

    def tasks(self) -> tuple[list[Task], list[Task], list[Task], list[Task]]:
        """Return what is to be computed by priority.

        Returns:
            The table with the first seed; the ablations of the paper; the further seeds; other ablations.
        """
        methods = sorted(recall_methods(self.options).values(), key=lambda each: each.key != NOTELLM)
        variants = ablations(self.options) if self.options.ablations else []
        if not self.options.recall:  # ablations are compared with NoteLLM
            methods = [each for each in methods if each.key == NOTELLM]
        first, *further = self.options.training_seeds if self.options.recall else [self.options.seed]
        return (
            [self.task(method, first) for method in methods],
            [self.task(each, first) for each in variants if each.part in _FIRST_PARTS],
            [self.task(each, seed) for seed in further for each in methods if each.is_seeded],
            [self.task(each, first) for each in variants if each.part not in _FIRST_PARTS],
        )

    def task(self, method: RecallMethod, seed: int) -> Task:
        """Return the task of a method with a seed."""
        title = f"{method.name}, {method.part}: {method.setting}" if method.part else method.name
        name = f"{title}, seed {seed}" if method.is_seeded else title
        self._methods[name] = method, seed

        def compute(folder: Path) -> dict[str, Any]:
            return compute_vectors(
                method,
                self.data,
                self.options,
                seed,
                folder,
                seconds=self._training_seconds(seed) if method.kind == "tuned sentence" else None,
                trust_remote_code=self.trust_remote_code,
                progress=self.progress,
            )

        def why_not() -> str | None:
            timed = method.kind == "tuned sentence" and self.options.max_steps is None
            if timed and self._training_seconds(seed) is None:
                return "it is tuned for as long as NoteLLM is trained, and how long that took is not known"
            return None

        made_of = method.made_of(self.options, seed) | {"data": self._read_by(method)}
        if method.kind == "tuned sentence" and self.options.max_steps is None:
            made_of["as_long_as"] = self.task(recall_methods(self.options)[NOTELLM], seed).digest()
        return Task(name, method.kind, made_of, compute, why_not)

    def _read_by(self, method: RecallMethod) -> dict[str, str]:
        """Return the fingerprints of the tables that a method reads, by name."""
        if method.kind in ("states", "sentence"):
            return {name: self._fingerprints[name] for name in ("valid notes", "test notes")}
        found = dict(self._fingerprints)
        if method.mining:
            try:
                found["train pairs"] = fingerprint(mined_for(method, self.data).pairs["train"])
            except DataError:  # said again when its turn comes
                found["train pairs"] = "none"
        return found

    def _training_seconds(self, seed: int) -> float | None:
        """Return how long NoteLLM was trained with a seed, or else with another one; None if not known."""
        method = recall_methods(self.options)[NOTELLM]
        for each in (seed, *self.options.training_seeds):
            found = self.cache.result(self.task(method, each))
            if found is not None and found.figures["seconds"]["train"] is not None:
                return float(found.figures["seconds"]["train"])
        return None

    def collect(self, results: Results, done: Mapping[str, Finished]) -> None:
        """Measure what was computed, and add it to the results.

        Args:
            results: the results of the experiment.
            done: every finished task by its name.
        """
        figures: dict[str, list[Mapping[str, Any]]] = {}
        vectors: dict[str, list[Vectors]] = {}
        costs, curves = [], []
        for name, finished in done.items():
            if name not in self._methods:
                continue
            method, seed = self._methods[name]
            found = finished.figures
            figures.setdefault(method.key, []).append(found)
            vectors.setdefault(method.key, []).append(read_vectors(finished.folder))
            place = self._place(method) | {"seed": seed if method.is_seeded else None}
            costs.append(place | self._cost(found) | {"peak_memory_mib": finished.peak_memory_mib})
            curves += [
                place | {"step": entry["step"], "figure": figure, "value": entry[key]}
                for entry in found.get("history", [])
                for key, figure in _OF_HISTORY.items()
                if key in entry
            ]
        every = [*recall_methods(self.options).values(), *ablations(self.options)]
        methods = [method for method in every if method.key in vectors]
        table = Bench(self.data, self.options.min_users).table(
            [(method, vectors[method.key]) for method in methods]
        )
        self._add_figures(results, table)
        self._add_written(results, [(method, figures[method.key]) for method in methods])
        results.add("costs", costs)
        results.add("curves", curves)
        self._add_claims(results, table)
        notellm = table.named("NoteLLM")
        if notellm is not None and table.scorer is not None:
            test, pairs = self.data.split.test.notes, self.data.pairs["test"]
            seed = self.options.seed
            results.frames["map"] = map_of(vectors[NOTELLM][0]["test"], test, seed=seed)
            if self.options.texts:
                results.examples = examples_of(notellm.runs[0], table.scorer, test, pairs, seed=seed)
            else:
                results.frames["map"] = results.frames["map"].with_columns(title=pl.lit(""))
        results.notes += table.notes

    def _place(self, method: RecallMethod) -> dict[str, Any]:
        """Return what names a method in the frames."""
        return {
            "table": "ablation" if method.part else "recall",
            "part": method.part,
            "setting": method.setting,
            "method": method.name,
        }

    def _cost(self, found: Mapping[str, Any]) -> dict[str, Any]:
        spent = found["seconds"]
        embedded = self.data.split.valid.notes.num_rows + self.data.split.test.notes.num_rows
        return {
            "steps": found.get("steps"),
            "seconds": spent.get("train") or None,  # a method without training took none
            "notes_per_second": embedded / spent["embed"] if spent.get("embed") else None,
        }

    def _add_figures(self, results: Results, table: RecallTable) -> None:
        """Add the figures of the table, its breakdowns, and those of the ablations."""
        draws = {"resamples": self.options.resamples, "seed": self.options.seed}
        groups, remarks = query_groups(table.queries, replace(self.data.split, train=self.data.known_train))
        results.notes += remarks
        if len(table.queries) < LEAST:
            results.notes.append(f"With fewer than {LEAST} queries differences are not tested.")
        notellm = table.named("NoteLLM")
        if self.options.recall:
            results.add("figures", figure_rows("recall", table.methods, groups, **draws))
            real = [each for each in table.methods if each.name != OF_TEST_CLICKS]
            best = max(real, key=lambda each: each.mean(_claimed(each)))
            for against in {each.name: each for each in (notellm, best) if each is not None}.values():
                results.add("differences", difference_rows("recall", table.methods, against, **draws))
        if notellm is None or not table.variants:
            return
        first = notellm.runs[:1]  # ablations have one seed
        settings = default_settings(self.options).items()
        defaults = [Measured("NoteLLM", first, part, setting) for part, setting in settings]
        varied = {each.part for each in table.variants}
        shown = [each for each in defaults if each.part in varied] + table.variants
        results.add("figures", figure_rows("ablation", shown, {}, **draws))
        results.add(
            "differences", difference_rows("ablation", table.variants, Measured("NoteLLM", first), **draws)
        )

    def _add_written(
        self, results: Results, figures: Sequence[tuple[RecallMethod, Sequence[Mapping[str, Any]]]]
    ) -> None:
        """Add the figures of written categories and topics, and the reliability of the former."""
        rows: list[dict[str, Any]] = []
        reliable: list[dict[str, Any]] = []
        for method, found in figures:
            if method.kind != "notellm":
                continue
            written = [each for each in found if "categories" in each]
            names = dict.fromkeys(name for each in written for what in _WRITTEN for name in each[what])
            for name in names:
                if not method.part or name == "NoteLLM":
                    rows += written_rows(method, name, written)
            if method.key != NOTELLM:
                continue
            varied = {each.part for each, _ in figures if each.part}
            for part, setting in default_settings(self.options).items():
                if part in varied:
                    row = {"table": "ablation", "part": part, "setting": setting}
                    rows += [each | row for each in written_rows(method, "NoteLLM", written[:1])]
            for each in written[:1]:
                reliable += [
                    {"table": "category", "method": name, **bin_}
                    for name, bins in each["reliability"].items()
                    for bin_ in bins
                ]
                results.notes += each["remarks"]
        results.add("figures", rows)
        results.add("reliability", reliable)

    def _add_claims(self, results: Results, table: RecallTable) -> None:
        """Judge the claims of NoteLLM whose methods were measured."""
        draws = {"resamples": self.options.resamples, "seed": self.options.seed}
        compared = []
        for claim in OF_RECALL:
            better, worse = table.named(claim.better), table.named(claim.worse)
            if better is not None and worse is not None:
                figure = _claimed(better)
                difference, p = paired(better, worse, figure, **draws)
                compared.append(Compared(claim.claim, claim.paper, figure, difference, p))
        results.claims += judged(compared)


_OF_HISTORY = {"eval_recall@10": "R@10", "eval_recall@100": "R@100", "eval_mrr": "MRR"}
_WRITTEN = ("categories", "topics")


def _claimed(method: Measured) -> str:
    """Return the figure of the papers' claims: R@100, or the deepest one in a pool of fewer notes."""
    return "R@100" if "R@100" in method.figures else method.figures[-2]
