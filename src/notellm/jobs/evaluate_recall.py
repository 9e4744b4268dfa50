"""Evaluate a trained recall model on a split, beside its baselines.

Related notes: every note of the test part that has a related note is a query, its best related note is the
target, and every other note of the part is a candidate. Category and topics are in ``evaluate_tagging``.
All methods see the same queries, pool and notes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from notellm.data.split import Split
from notellm.errors import DataError
from notellm.evaluate.baselines import BM25, TFIDF, popularity, simple_scorers
from notellm.evaluate.bootstrap import Interval
from notellm.evaluate.report import save_report
from notellm.evaluate.retrieval import (
    RetrievalResult,
    evaluate_related,
    hybrid_scorer,
    paired_difference,
    retrieval_table,
    targets_from_pairs,
    vector_scorer,
)
from notellm.evaluate.tables import intervals_json
from notellm.evaluate.tagging_categories import CategoryResult
from notellm.evaluate.tagging_topics import TopicResult
from notellm.jobs.evaluate_tagging import NAME, evaluate_tagging, tagging_tables
from notellm.jobs.folders import describe_split
from notellm.recall.model import NoteLLM
from notellm.record import describe, make_record

#: NoteLLM's vectors and the words of notes together, as the service searches.
HYBRID = f"{NAME}, hybrid"


@dataclass
class Evaluation:
    """The results of a model and its baselines on a split.

    Attributes:
        related: results on related notes, NoteLLM and its hybrid last; empty if the split has no clicks.
        gains: figures of both minus those of TF-IDF on the same queries, by method.
        categories: results on categories by method; empty if the notes have none.
        topics: results on topics by method; empty if the notes have none.
        remarks: what was not measured although the notes have it, and why, in sentences.
        record: what was measured, on what data and with which options; with the figures of NoteLLM.
    """

    related: list[RetrievalResult] = field(default_factory=list)
    gains: dict[str, dict[str, Interval]] = field(default_factory=dict)
    categories: dict[str, CategoryResult] = field(default_factory=dict)
    topics: dict[str, TopicResult] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    def text(self, *, markdown: bool = False) -> str:
        """Return the tables as plain text, or in Markdown."""
        pieces = []
        if self.related:
            related = retrieval_table(self.related)
            body = f"\n{related.markdown()}" if markdown else related.text()
            pieces.append(f"Related notes\n{body}")
            for method, gain in self.gains.items():
                points = ", ".join(f"{name} {value.percent():+.1f}" for name, value in gain.items())
                pieces.append(f"{method} less TF-IDF, in points on the same queries: {points}\n")
        tables = tagging_tables(self.categories, self.topics)
        pieces += [table.markdown() if markdown else table.text() for table in tables]
        pieces += [f"{remark}\n" for remark in self.remarks]
        return "\n".join(pieces)

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON values, shares from 0 to 1."""
        return {
            "related": [result.to_json() for result in self.related],
            "gain_over_tfidf": {method: intervals_json(gain) for method, gain in self.gains.items()},
            "categories": {name: result.to_json() for name, result in self.categories.items()},
            "topics": {name: result.to_json() for name, result in self.topics.items()},
            "remarks": self.remarks,
        }

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write ``report.md``, ``results.json`` and ``record.json`` into a folder, all of them or none.

        Raises:
            StorageError: if the folder may not be replaced or cannot be written.
        """
        save_report(folder, "Evaluation", self.text(markdown=True), self.to_json(), self.record, force=force)


def evaluate_recall(
    model: NoteLLM,
    split: Split,
    pairs: pa.Table | None,
    *,
    untrained: NoteLLM | None = None,
    ks: Sequence[int] = (10, 100, 1000),
    min_users: int = 2,
    tagged_notes: int = 1_000,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Measure related notes, categories and topics on the test part of a split.

    Args:
        model: the trained model.
        split: the split that the model was trained on; its test part was not seen in training.
        pairs: pairs of related notes in the test part; None to leave related notes out.
        untrained: the same model before training, as a baseline; None to leave it out.
        ks: depths of Recall@k.
        min_users: pairs of fewer users are not used as targets.
        tagged_notes: largest number of notes for which categories and topics are generated; they are drawn.
        seed: seed of the draw and the bootstrap.
        progress: show progress bars.

    Raises:
        DataError: if the test part has no related pairs, categories or topics.
    """
    result = Evaluation()
    if pairs is not None and pairs.num_rows:
        _related(result, model, split, pairs, untrained, ks, min_users, seed, progress)
    tagging = evaluate_tagging(model, split, tagged_notes=tagged_notes, seed=seed, progress=progress)
    result.categories, result.topics, result.remarks = tagging.categories, tagging.topics, tagging.remarks
    if not (result.related or result.categories or result.topics):
        raise DataError(
            "the test part has no related pairs, categories or topics: nothing can be measured"
            + "".join(f"; {remark}" for remark in result.remarks)
        )
    result.record = make_record(
        kind="report",
        config={"ks": list(ks), "min_users": min_users, "tagged_notes": tagged_notes},
        data={
            "model": {"fingerprint": model.fingerprint()},
            "untrained": None if untrained is None else {"fingerprint": untrained.fingerprint()},
            **describe_split(split),
            "pairs": None if pairs is None else describe(pairs),
        },
        seed=seed,
        metrics=_model_figures(result),
    )
    return result


def _model_figures(result: Evaluation) -> dict[str, Any]:
    """Return the figures of NoteLLM alone, as shares; baselines and intervals are in ``results.json``."""
    figures: dict[str, Any] = {}
    for name, method in (("related", NAME), ("hybrid", HYBRID)):
        for each in result.related:
            if each.name == method:
                figures[name] = {figure: value.mean for figure, value in each.figures.items()}
    if NAME in result.categories:
        figures["category"] = result.categories[NAME].to_json()
    if NAME in result.topics:
        figures["topics"] = result.topics[NAME].to_json()
    return figures


def _related(
    result: Evaluation,
    model: NoteLLM,
    split: Split,
    pairs: pa.Table,
    untrained: NoteLLM | None,
    ks: Sequence[int],
    min_users: int,
    seed: int,
    progress: bool,
) -> None:
    """Fill in the results on related notes."""
    test = split.test
    ids = test.notes.column("note_id")
    queries, targets = targets_from_pairs(pairs, min_users=min_users)
    exposure = popularity(ids, test.clicks)
    scorers = simple_scorers(test, split.train)
    if untrained is not None:
        scorers[f"{NAME} untrained"] = vector_scorer(untrained.encode(test.notes, progress=progress))
    scorers[NAME] = vector_scorer(model.encode(test.notes, progress=progress))
    scorers[HYBRID] = hybrid_scorer(scorers[NAME], scorers[BM25], model.lexical_share)
    result.related = [
        evaluate_related(
            scorer, ids, queries, targets, ks=ks, name=name, exposure=exposure, seed=seed, progress=False
        )
        for name, scorer in scorers.items()
    ]
    by_name = {item.name: item for item in result.related}
    result.gains = {
        method: paired_difference(by_name[method], by_name[TFIDF], seed=seed) for method in (NAME, HYBRID)
    }
