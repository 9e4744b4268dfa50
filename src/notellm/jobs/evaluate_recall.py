"""The evaluation of a trained model on a split, beside its baselines, in one run.

Related notes: every note of the test part with a related note is a query, its best related note the
target, every other note of the part a candidate. Category and topics: the notes of the test part that
were not in training. All methods see the same queries, pool and notes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.matrices import click_matrix
from notellm.data.split import Split
from notellm.errors import DataError
from notellm.evaluate.baselines import copy_topics, popularity, predict_categories, tfidf_matrix
from notellm.evaluate.bootstrap import Interval
from notellm.evaluate.report import (
    aligned_lines,
    as_json,
    markdown_lines,
    markdown_table,
    save_report,
    text_table,
)
from notellm.evaluate.retrieval import (
    RetrievalResult,
    constant_scorer,
    evaluate_related,
    paired_difference,
    sparse_cosine_scorer,
    targets_from_pairs,
    vector_scorer,
)
from notellm.evaluate.tagging import CategoryResult, TopicResult, evaluate_categories, evaluate_topics
from notellm.jobs.folders import describe_split
from notellm.recall.model import NoteLLM
from notellm.record import describe, make_record

NAME = "NoteLLM"


@dataclass
class Evaluation:
    """Everything measured of a model on a split.

    Attributes:
        related: one result a method, NoteLLM last; empty where the split has no clicks.
        gain: NoteLLM's figures less TF-IDF's on the same queries.
        categories: by method; empty where the notes have none.
        topics: by method; empty where the notes have none.
        record: what was measured, on what and how; with NoteLLM's own figures.
    """

    related: list[RetrievalResult] = field(default_factory=list)
    gain: dict[str, Interval] = field(default_factory=dict)
    categories: dict[str, CategoryResult] = field(default_factory=dict)
    topics: dict[str, TopicResult] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def text(self, *, markdown: bool = False) -> str:
        """The tables, for a terminal or as Markdown."""
        pieces = []
        if self.related:
            table, gap = (markdown_table, "\n\n") if markdown else (text_table, "\n")
            pieces.append(f"Related notes{gap}{table(self.related)}")
            gains = ", ".join(
                f"{name} {100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
                for name, gain in self.gain.items()
            )
            pieces.append(f"{NAME} less TF-IDF, in points on the same queries: {gains}\n")
        if self.categories:
            pieces.append(_tagging_table("Category", self.categories, markdown=markdown))
        if self.topics:
            pieces.append(_tagging_table("Topics", self.topics, markdown=markdown))
        return "\n".join(pieces)

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values, shares from 0 to 1."""
        return {
            "related": [as_json(result) for result in self.related],
            "gain_over_tfidf": {name: dataclasses.asdict(gain) for name, gain in self.gain.items()},
            "categories": {name: dataclasses.asdict(r) for name, r in self.categories.items()},
            "topics": {name: dataclasses.asdict(result) for name, result in self.topics.items()},
        }

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write ``report.md``, ``results.json`` and ``record.json`` into a folder, whole or not at all.

        Raises:
            StorageError: it cannot be written.
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
        split: train and test part; nothing of the test part was seen in training.
        pairs: related pairs of the test part; None leaves related notes out.
        untrained: the same model before training, as a baseline; None leaves it out.
        ks: depths of Recall.
        min_users: pairs of fewer users are no truth.
        tagged_notes: at most so many notes are given categories and topics, drawn by the seed.
        seed: of the draw and the bootstrap.
        progress: show progress bars.

    Raises:
        DataError: the test part has nothing to measure.
    """
    result = Evaluation()
    if pairs is not None and pairs.num_rows:
        _related(result, model, split, pairs, untrained, ks, min_users, seed, progress)
    _tagging(result, model, split, tagged_notes, seed, progress)
    if not (result.related or result.categories or result.topics):
        raise DataError("the test part has no related pairs, categories or topics: nothing can be measured")
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
        metrics=_own_figures(result),
    )
    return result


def _own_figures(result: Evaluation) -> dict[str, Any]:
    """NoteLLM's figures alone, as shares; the baselines and intervals are in ``results.json``."""
    figures: dict[str, Any] = {}
    if result.related:
        figures["related"] = {name: value.mean for name, value in result.related[-1].figures.items()}
    if result.categories:
        figures["category"] = dataclasses.asdict(result.categories[f"{NAME}, constrained"])
    if result.topics:
        figures["topics"] = dataclasses.asdict(result.topics[NAME])
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
    test = split.test
    ids = test.notes.column("note_id")
    queries, targets = targets_from_pairs(pairs, min_users=min_users)
    exposure = popularity(ids, test.clicks)
    # Notes of the pool that training clicks touched: none when the split is by note. There neither
    # popularity nor co-occurrence can know anything, so popularity is given the test clicks instead.
    seen = popularity(ids, split.train.clicks)
    if seen.any():
        scorers = {
            "popularity (train clicks)": constant_scorer(seen),
            "item co-occurrence": sparse_cosine_scorer(click_matrix(ids, split.train.clicks)),
        }
    else:
        scorers = {"popularity (of the test clicks)": constant_scorer(exposure)}
    scorers["TF-IDF"] = sparse_cosine_scorer(tfidf_matrix(test.notes, split.train.notes))
    if untrained is not None:
        scorers[f"{NAME} untrained"] = vector_scorer(untrained.encode(test.notes, progress=progress))
    scorers[NAME] = vector_scorer(model.encode(test.notes, progress=progress))
    result.related = [
        evaluate_related(
            scorer, ids, queries, targets, ks=ks, name=name, exposure=exposure, seed=seed, progress=False
        )
        for name, scorer in scorers.items()
    ]
    by_name = {item.name: item for item in result.related}
    result.gain = dict(paired_difference(by_name[NAME], by_name["TF-IDF"], seed=seed))


def _tagging(result: Evaluation, model: NoteLLM, split: Split, limit: int, seed: int, progress: bool) -> None:
    train = split.train.notes
    fresh = _not_in(_not_in(split.test.notes, train), split.valid.notes)
    with_category = _draw(fresh.filter(pc.not_equal(fresh.column("category"), "")), limit, seed)
    categories = model.settings.categories
    if with_category.num_rows and categories:
        true = with_category.column("category").to_pylist()
        found = {
            "TF-IDF + logistic regression": predict_categories(train, with_category),
            f"{NAME}, free": model.categorize(with_category, constrained=False, progress=progress),
            f"{NAME}, constrained": model.categorize(with_category, progress=progress),
        }
        result.categories = {
            name: evaluate_categories(names, true, categories) for name, names in found.items()
        }
    has_topics = pc.greater(pc.list_value_length(fresh.column("topics")), 0)
    with_topics = _draw(fresh.filter(has_topics), limit, seed)
    trained_on_topics = any(train.column("topics").to_pylist())
    if with_topics.num_rows and trained_on_topics:
        own = with_topics.column("topics").to_pylist()
        written = {
            "topics of the most similar train note": copy_topics(train, with_topics),
            NAME: model.write_topics(with_topics, progress=progress),
        }
        result.topics = {name: evaluate_topics(topics, own) for name, topics in written.items()}


def _not_in(notes: pa.Table, others: pa.Table) -> pa.Table:
    known = pc.is_in(notes.column("note_id"), value_set=others.column("note_id").combine_chunks())
    return notes.filter(pc.invert(known))


def _draw(notes: pa.Table, limit: int, seed: int) -> pa.Table:
    if notes.num_rows <= limit:
        return notes
    rows = np.random.default_rng(seed).choice(notes.num_rows, limit, replace=False)
    return notes.take(np.sort(rows))


_COLUMNS = {
    "notes": "notes",
    "accuracy": "accuracy",
    "ill_formed": "ill-formed",
    "bleu4": "BLEU-4",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "f1": "exact F1",
}


def _tagging_table(title: str, results: Mapping[str, CategoryResult | TopicResult], *, markdown: bool) -> str:
    """One row a method; figures in %."""
    first = next(iter(results.values()))
    fields = [f.name for f in dataclasses.fields(first) if f.name in _COLUMNS]
    rows = [["method", *(_COLUMNS[name] for name in fields)]]
    for method, result in results.items():
        values = dataclasses.asdict(result)
        rows.append(
            [method, *(f"{values[f]:,}" if f == "notes" else f"{100 * values[f]:.1f}" for f in fields)]
        )
    lines = markdown_lines(rows, texts=1) if markdown else aligned_lines(rows, texts=1)
    return "\n".join([f"{title}, %", *([""] if markdown else []), *lines]) + "\n"
