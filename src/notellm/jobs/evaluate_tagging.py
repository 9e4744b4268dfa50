"""Evaluate the categories and topics that a recall model writes, beside simple methods.

Only notes of the test part that were in neither train nor valid count. All methods see the same notes and
learn from the same train notes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.note import notes_from_table
from notellm.data.split import Split
from notellm.evaluate.tables import Table
from notellm.evaluate.tagging import Ranked, tagging_table
from notellm.evaluate.tagging_baselines import (
    NEIGHBOURS,
    copy_topics,
    majority_category,
    vote_categories,
    vote_topics,
)
from notellm.evaluate.tagging_categories import (
    CategoryResult,
    category_reliability,
    evaluate_categories,
)
from notellm.evaluate.tagging_classifier import linear_categories
from notellm.evaluate.tagging_topics import TopicResult, evaluate_topics
from notellm.recall.model import NoteLLM
from notellm.recall.tagging.tagger import Tagger
from notellm.recall.tagging.tags import Tag

#: The model in tables and reports.
NAME = "NoteLLM"
#: The language model without known notes and words.
ALONE = f"{NAME}, model alone"
_VOTE = f"vote of {NEIGHBOURS} train notes"


@dataclass
class TaggingEvaluation:
    """Results on categories and topics.

    Attributes:
        categories: results on categories by method; empty if the notes have none.
        topics: results on topics by method; empty if the notes have none.
        remarks: what was not measured although the notes have it, and why, in sentences.
        reliability: of each method whose categories have probabilities, how often those of a probability are
            correct (``tagging_categories.reliability``).
    """

    categories: dict[str, CategoryResult] = field(default_factory=dict)
    topics: dict[str, TopicResult] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    reliability: dict[str, list[dict[str, float]]] = field(default_factory=dict)


def evaluate_tagging(
    model: NoteLLM,
    split: Split,
    *,
    tagged_notes: int = 1_000,
    baselines: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> TaggingEvaluation:
    """Measure categories and topics of unseen notes of the test part of a split.

    Args:
        model: the trained model.
        split: the split that the model was trained on.
        tagged_notes: largest number of notes for which categories, and topics, are predicted; they are drawn.
        baselines: also measure the simple methods.
        seed: seed of the draw and of the baselines.
        progress: show progress bars.
    """
    train = split.train.notes
    unseen = _not_in(_not_in(split.test.notes, train), split.valid.notes)
    result = TaggingEvaluation()
    with_category = _draw(unseen.filter(pc.not_equal(unseen.column("category"), "")), tagged_notes, seed)
    if with_category.num_rows and (reason := model.unlearnt("category")) is not None:
        result.remarks.append(f"Category: {NAME} is not measured; {reason}.")
    elif with_category.num_rows and model.settings.categories:
        rankings = _categories(model, train, with_category, seed, progress, baselines=baselines)
        true = with_category.column("category").to_pylist()
        for name, predicted in rankings.items():
            result.categories[name] = evaluate_categories(
                predicted, true, model.settings.categories, name=name
            )
            result.reliability[name] = category_reliability(predicted, true)
    has_topics = pc.greater(pc.list_value_length(unseen.column("topics")), 0)
    with_topics = _draw(unseen.filter(has_topics), tagged_notes, seed)
    trained_on_topics = any(train.column("topics").to_pylist())
    if with_topics.num_rows and (reason := model.unlearnt("topics")) is not None:
        result.remarks.append(f"Topics: {NAME} is not measured; {reason}.")
    elif with_topics.num_rows and trained_on_topics:
        result.topics = _topics(model, train, with_topics, seed, progress, baselines=baselines)
    if model.tagger is None and (result.categories or result.topics):
        result.remarks.append(
            f"Category, topics: {NAME} is not measured; it was not trained and has no tagger."
        )
    return result


def tagging_tables(categories: dict[str, CategoryResult], topics: dict[str, TopicResult]) -> list[Table]:
    """Return a table of the results on categories and one on topics, without those that hold no result."""
    return [
        *([tagging_table("Category", list(categories.values()))] if categories else []),
        *([tagging_table("Topics", list(topics.values()))] if topics else []),
    ]


def _categories(
    model: NoteLLM, train: pa.Table, notes: pa.Table, seed: int, progress: bool, *, baselines: bool
) -> dict[str, Sequence[Ranked]]:
    """Return the predicted categories by method."""
    predicted: dict[str, Sequence[Ranked]] = {}
    if baselines:
        predicted = {
            "most frequent category": majority_category(train, notes),
            _VOTE: vote_categories(train, notes, progress=progress),
            "linear classifier": linear_categories(train, notes, seed=seed, progress=progress),
        }
    for name, tagger in taggers(model).items():
        tags = tagger.tag(notes_from_table(notes), tasks=["category"], progress=progress)
        predicted[name] = [_ranking(each.categories) for each in tags]
    return predicted


def _topics(
    model: NoteLLM, train: pa.Table, notes: pa.Table, seed: int, progress: bool, *, baselines: bool
) -> dict[str, TopicResult]:
    """Return the results on topics by method."""
    predicted: dict[str, tuple[Sequence[Ranked], Sequence[int]]] = {}
    if baselines:
        predicted = {
            "most similar train note": copy_topics(train, notes, progress=progress),
            _VOTE: vote_topics(train, notes, seed=seed, progress=progress),
        }
    for name, tagger in taggers(model).items():
        tags = tagger.tag(notes_from_table(notes), tasks=["topics"], progress=progress)
        rankings = [_ranking((*each.topics, *each.more_topics)) for each in tags]
        predicted[name] = rankings, [len(each.topics) for each in tags]
    true = notes.column("topics").to_pylist()
    known = {topic for topics in train.column("topics").to_pylist() for topic in topics}
    return {
        name: evaluate_topics(rankings, counts, true, known=known, name=name)
        for name, (rankings, counts) in predicted.items()
    }


def taggers(model: NoteLLM) -> dict[str, Tagger]:
    """Return the ways in which a model tags, by their names in tables; none if it has no tagger."""
    tagger = model.tagger
    return {} if tagger is None else {ALONE: tagger.model_alone(), NAME: tagger}


def _ranking(tags: Sequence[Tag]) -> Ranked:
    return [(tag.name, tag.probability or 0.0) for tag in tags]


def _not_in(notes: pa.Table, others: pa.Table) -> pa.Table:
    """Return the notes whose ids are not among the others."""
    known = pc.is_in(notes.column("note_id"), value_set=others.column("note_id").combine_chunks())
    return notes.filter(pc.invert(known))


def _draw(notes: pa.Table, limit: int, seed: int) -> pa.Table:
    """Return at most ``limit`` notes, drawn by the seed, in their order."""
    if notes.num_rows <= limit:
        return notes
    rows = np.random.default_rng(seed).choice(notes.num_rows, limit, replace=False)
    return notes.take(np.sort(rows))
