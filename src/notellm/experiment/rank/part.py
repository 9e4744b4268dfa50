"""The part of an experiment about rankers: its tasks, and what its results say."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from notellm.evaluate.bootstrap import Interval
from notellm.experiment.cache import Cache, Finished, Task
from notellm.experiment.circumstances import code_fingerprint, model_state
from notellm.experiment.claims import Compared, Comparison, judged
from notellm.experiment.options import ExperimentOptions
from notellm.experiment.rank.data import RankData
from notellm.experiment.rank.figures import (
    cost_rows,
    curve_rows,
    rank_figures,
    reliability_rows,
)
from notellm.experiment.rank.methods import RankMethod, rank_methods
from notellm.experiment.rank.runs import RankRun, fit_rank_method
from notellm.experiment.results import Results
from notellm.jobs.evaluate_rank import NAME

#: BinLLM, arXiv 2406.03210, Tables 2 to 4: AUC on ML-1M.
_CLAIMS = (
    Comparison("Codes help the text", "BinLLM", "text only (TALLRec)", "AUC .7425 against .7097"),
    Comparison("Text helps the codes", "BinLLM", "codes only", "AUC .7425 against .7307"),
    Comparison("BinLLM is ahead of its codes alone", "BinLLM", "BinMF", "AUC .7425 against .7189"),
    Comparison(
        "Two steps of tuning are ahead of one", "BinLLM, two steps", "BinLLM", "AUC .7425 against .7286"
    ),
    Comparison(
        "Two steps of tuning are ahead of one", "BinLLM", "BinLLM, one step", "AUC .7425 against .7286"
    ),
)


@dataclass
class RankPart:
    """The rank table of an experiment.

    Attributes:
        data: the impressions.
        options: options of the experiment.
        cache: where results are kept.
        trust_remote_code: as in ``BinLLM.from_pretrained``.
        progress: show progress bars.
    """

    data: RankData
    options: ExperimentOptions
    cache: Cache
    trust_remote_code: bool = False
    progress: bool = True
    _methods: dict[str, tuple[RankMethod, int]] = field(default_factory=dict, init=False)

    def tasks(self) -> tuple[list[Task], list[Task]]:
        """Return what is to be computed: the table with the first seed, and the further seeds."""
        first, *further = self.options.training_seeds
        # First what the others are compared with.
        methods = sorted(self._all(), key=lambda each: each.name != NAME)
        return (
            [self._task(method, first) for method in methods],
            [self._task(method, seed) for seed in further for method in methods if method.seeded],
        )

    def collect(self, results: Results, done: Mapping[str, Finished]) -> None:
        """Measure what was computed, and add it to the results.

        Args:
            results: the results of the experiment.
            done: every finished task by its name.
        """
        # In the order of the paper's table, whatever was computed first.
        runs: dict[str, list[RankRun]] = {method.name: [] for method in self._all()}
        peaks: dict[str, list[float | None]] = {}
        for name, finished in done.items():
            if name in self._methods:
                method, seed = self._methods[name]
                runs[method.name].append(self._fit(method, seed))
                peaks.setdefault(method.name, []).append(finished.peak_memory_mib)
        runs = {name: of_seeds for name, of_seeds in runs.items() if of_seeds}
        if not runs:
            return
        scores = {name: [run.scores for run in of_seeds] for name, of_seeds in runs.items()}
        figures, differences = rank_figures(
            self.data, scores, resamples=self.options.resamples, seed=self.options.seed
        )
        results.add("figures", figures)
        results.add("differences", differences)
        results.add("costs", cost_rows(runs, peaks))
        results.add("curves", curve_rows(runs))
        if NAME in scores:
            results.add("reliability", reliability_rows(self.data, scores[NAME]))
        results.claims += judged(_compared(differences))

    @property
    def _folder(self) -> Path:
        """Folder of the runs, which share their codes; another one for other code, or another backbone."""
        made_by = f"{code_fingerprint()} {model_state(self.options.backbone)}"
        return self.cache.folder / f"rank-{hashlib.sha256(made_by.encode()).hexdigest()[:12]}"

    def _all(self) -> list[RankMethod]:
        return list(rank_methods(self.options.backbone, layers=self.options.layers).values())

    def _task(self, method: RankMethod, seed: int) -> Task:
        """Return the task of a method with a seed."""
        name = f"rank: {method.name}, seed {seed}" if method.seeded else f"rank: {method.name}"
        self._methods[name] = method, seed

        def compute(folder: Path) -> dict[str, Any]:  # noqa: ARG001 - runs share their codes in one folder
            run = self._fit(method, seed)
            return {"seconds": {"train": run.seconds}, "steps": run.steps}

        made_of = {
            "method": asdict(method),
            "seed": seed,
            "max_steps": self.options.max_steps,
            "backbone": model_state(self.options.backbone),
            "data": dict(self.data.described),
        }
        return Task(name, f"rank {method.kind}", made_of, compute)

    def _fit(self, method: RankMethod, seed: int) -> RankRun:
        """Fit a method, or read its finished run."""
        return fit_rank_method(
            method,
            self.data,
            seed,
            self._folder,
            max_steps=self.options.max_steps,
            trust_remote_code=self.trust_remote_code,
            progress=self.progress,
        )


def _compared(differences: Sequence[Mapping[str, Any]]) -> list[Compared]:
    """Return the claims of BinLLM whose methods were compared, with the differences that decide them."""
    rows = {(row["method"], row["against"]): row for row in differences if row["figure"] == "AUC"}
    found = []
    for claim in _CLAIMS:
        if (row := rows.get((claim.better, claim.worse))) is not None:
            difference = Interval(row["difference"], row["low"], row["high"])
        elif (row := rows.get((claim.worse, claim.better))) is not None:
            difference = Interval(-row["difference"], -row["high"], -row["low"])
        else:
            continue
        found.append(Compared(claim.claim, claim.paper, "AUC", difference, row["p"]))
    return found
