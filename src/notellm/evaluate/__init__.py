"""Leak-safe splits, metrics with intervals, baselines, and tables of results."""

from notellm.evaluate.baselines import (
    click_matrix,
    copy_topics,
    popularity,
    predict_categories,
    tfidf_matrix,
)
from notellm.evaluate.report import as_json, markdown_table, text_table
from notellm.evaluate.retrieval import (
    Interval,
    RetrievalResult,
    Scorer,
    constant_scorer,
    evaluate_related,
    paired_difference,
    sparse_cosine_scorer,
    targets_from_pairs,
    vector_scorer,
)
from notellm.evaluate.split import Part, Split, split_by_note, split_by_time
from notellm.evaluate.tagging import (
    CategoryResult,
    TopicResult,
    evaluate_categories,
    evaluate_topics,
)

__all__ = [
    "CategoryResult",
    "Interval",
    "Part",
    "RetrievalResult",
    "Scorer",
    "Split",
    "TopicResult",
    "as_json",
    "click_matrix",
    "constant_scorer",
    "copy_topics",
    "evaluate_categories",
    "evaluate_related",
    "evaluate_topics",
    "markdown_table",
    "paired_difference",
    "popularity",
    "predict_categories",
    "sparse_cosine_scorer",
    "split_by_note",
    "split_by_time",
    "targets_from_pairs",
    "text_table",
    "tfidf_matrix",
    "vector_scorer",
]
