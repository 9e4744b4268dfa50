"""The table of related notes: simple methods, methods whose vectors were computed, and combinations of both.

Every method is measured on the same queries and pool. Combinations are fitted on the validation part: the
hybrid of vectors and words as a model does it (``recall/lexical_share.py``), and that of vectors and item
co-occurrence by the weight of the second. A note without training clicks has no co-occurrence with any other,
so there the latter ranks by vectors alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.matrices import click_matrix
from notellm.evaluate.baselines import BM25, CO_OCCURRENCE, simple_scorers
from notellm.evaluate.retrieval import (
    RetrievalResult,
    Scorer,
    evaluate_related,
    hybrid_scorer,
    sparse_cosine_scorer,
    targets_from_pairs,
    vector_scorer,
)
from notellm.experiment.recall.compare import Measured
from notellm.experiment.recall.methods import NOTELLM, UNTRAINED, RecallMethod
from notellm.experiment.recall.source import RecallData
from notellm.lexical.hybrid import DEFAULT_SHARE
from notellm.recall.lexical_share import fit_lexical_share
from notellm.recall.trainer import Validation

_KS = (10, 100, 1000)
HYBRID, WARM = "NoteLLM and words (hybrid)", "NoteLLM and co-occurrence"
#: Weights of the cosine of co-occurrence beside the cosine of the vectors that are tried.
_LEAST_QUERIES = 50  # of the validation part, to fit on; as of the share of the words
_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)

Vectors = Mapping[str, npt.NDArray[np.float32]]


@dataclass
class RecallTable:
    """The measured methods of the recall table and of the ablations.

    Attributes:
        methods: the methods of the table, simple ones first.
        variants: the variants of NoteLLM.
        queries: ids of the queries.
        notes: what was fitted on the validation part, in sentences.
        scorer: NoteLLM of the first seed, for examples; None if it was not computed.
    """

    methods: list[Measured] = field(default_factory=list)
    variants: list[Measured] = field(default_factory=list)
    queries: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    scorer: Scorer | None = None

    def named(self, name: str) -> Measured | None:
        """Return a method of the table by its name; None if it was not measured."""
        return next((each for each in self.methods if each.name == name), None)


class Bench:
    """The queries and the pool of a table, on which methods are measured.

    Args:
        data: the data.
        min_users: pairs of fewer users are no targets.
    """

    def __init__(self, data: RecallData, min_users: int) -> None:
        self.data = data
        self.ids = data.split.test.notes["note_id"]
        self.queries, self.targets = targets_from_pairs(data.pairs["test"], min_users=min_users)
        self.simple = simple_scorers(data.split.test, data.known_train)
        # Among as many candidates every method finds the target.
        self.ks = [k for k in _KS if k < len(self.ids) - 1] or [1]

    def measure(self, name: str, scorer: Scorer) -> RetrievalResult:
        """Measure a scorer; intervals are made later, over all seeds (``compare.py``)."""
        return evaluate_related(
            scorer, self.ids, self.queries, self.targets, ks=self.ks, name=name, resamples=1, progress=False
        )

    def table(self, computed: Sequence[tuple[RecallMethod, Sequence[Vectors]]]) -> RecallTable:
        """Measure the simple methods, and all methods whose vectors are there, with their combinations.

        Args:
            computed: methods, each with its vectors of each seed (``methods.read_vectors``).
        """
        table = RecallTable(
            [Measured(name, [self.measure(name, each)]) for name, each in self.simple.items()]
        )
        table.queries = table.methods[0].runs[0].query_ids
        for method, seeds in computed:
            scorers = [vector_scorer(each["test"]) for each in seeds]
            runs = [self.measure(method.name, scorer) for scorer in scorers]
            measured = Measured(method.name, runs, method.part, method.setting)
            if method.part:
                table.variants.append(measured)
                continue
            if method.key == NOTELLM:
                before = [vector_scorer(each[f"{UNTRAINED} test"]) for each in seeds]
                name = f"{method.name} before training"
                table.methods.append(Measured(name, [self.measure(name, each) for each in before]))
                table.scorer = scorers[0]
            table.methods.append(measured)
            if method.key == NOTELLM:
                self._add_combinations(table, scorers, seeds)
        return table

    def _add_combinations(
        self, table: RecallTable, scorers: Sequence[Scorer], seeds: Sequence[Vectors]
    ) -> None:
        """Add NoteLLM with words, and with co-occurrence where training has clicks on the notes."""
        valid = self.data.split.valid.notes
        fitted = [self._fitted_share(each) for each in seeds]
        enough = self._valid_queries >= _LEAST_QUERIES
        how = "fitted on the validation notes" if enough else f"the default, {self._why_default}"
        table.notes.append(f"{HYBRID}: share of the words {_listed(fitted)}, {how}.")
        words = self.simple[BM25]
        runs = [
            self.measure(HYBRID, hybrid_scorer(scorer, words, share))
            for scorer, share in zip(scorers, fitted, strict=True)
        ]
        table.methods.append(Measured(HYBRID, runs))
        if CO_OCCURRENCE not in self.simple:
            return
        together = sparse_cosine_scorer(click_matrix(valid["note_id"], self.data.known_train.clicks))
        weights = [self._fitted_weight(vector_scorer(each["valid"]), together) for each in seeds]
        table.notes.append(f"{WARM}: weight of the cosine of the co-occurrence {_listed(weights)}, {how}.")
        runs = [
            self.measure(WARM, _sum_scorer(scorer, self.simple[CO_OCCURRENCE], weight))
            for scorer, weight in zip(scorers, weights, strict=True)
        ]
        table.methods.append(Measured(WARM, runs))

    @property
    def _valid_queries(self) -> int:
        """Number of queries of the validation part."""
        return int(pc.count_distinct(self.data.pairs["valid"]["source"]).as_py())

    @property
    def _why_default(self) -> str:
        return f"since the validation part has {self._valid_queries} queries, fewer than {_LEAST_QUERIES}"

    def _fitted_share(self, vectors: Vectors) -> float:
        """Return the share of the words, fitted on the validation notes; the default without them."""
        pairs = self.data.pairs["valid"]
        validation = Validation(self.data.split.valid.notes, pairs)
        if not pairs.num_rows:
            return DEFAULT_SHARE
        share: float = fit_lexical_share(validation, self.data.split.train.notes, vectors["valid"])["share"]
        return share

    def _fitted_weight(self, vectors: Scorer, together: Scorer) -> float:
        """Return the weight of the co-occurrence with the best mean of figures on the validation notes."""
        pairs: pa.Table = self.data.pairs["valid"]
        if self._valid_queries < _LEAST_QUERIES:
            return 1.0
        queries, targets = targets_from_pairs(pairs, min_users=1)
        ids = self.data.split.valid.notes["note_id"]

        def mean(weight: float) -> float:
            found = evaluate_related(
                _sum_scorer(vectors, together, weight),
                ids,
                queries,
                targets,
                ks=(10, 100),
                resamples=1,
                progress=False,
            )
            return float(np.mean([each.mean for each in found.figures.values()]))

        return max(_WEIGHTS, key=mean)


def written_rows(
    method: RecallMethod, name: str, figures: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the figures of written categories and topics as rows of ``results.FIGURES``.

    Args:
        method: the method whose models wrote them.
        name: the row that is taken from each evaluation, as "NoteLLM" or "linear classifier".
        figures: of each seed, what ``methods.compute_vectors`` returned.
    """
    rows = []
    for what, chosen in (("categories", _OF_CATEGORIES), ("topics", _OF_TOPICS)):
        found = [each[what][name] for each in figures if name in each.get(what, {})]
        for key, label in chosen.items() if found else ():
            values = [float(each[key]) for each in found]
            rows.append(
                {
                    "table": "ablation" if method.part else "writing",
                    "part": method.part,
                    "setting": method.setting,
                    "method": name,
                    "breakdown": "",
                    "group": "all",
                    "figure": label,
                    "mean": float(np.mean(values)),
                    "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                    "seeds": len(values),
                    "count": int(found[0]["notes"]),
                }
            )
    return rows


#: The figures of an evaluation that tables show, by their names in it.
_OF_CATEGORIES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "top5": "top-5",
    "calibration_error": "ECE",
    "ill_formed": "ill-formed",
}
_OF_TOPICS = {"f1": "F1", "precision_at_1": "P@1", "bleu4": "BLEU-4", "rouge_l": "RG-L"}


def _sum_scorer(first: Scorer, second: Scorer, weight: float) -> Scorer:
    """Return a scorer by the first scores and the second ones with a weight."""
    return lambda queries: np.asarray(first(queries) + weight * second(queries), np.float32)


def _listed(values: Sequence[float]) -> str:
    """Return the distinct values of the seeds."""
    return ", ".join(f"{value:g}" for value in sorted(set(values)))
