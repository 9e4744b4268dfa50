"""Leak-safe splits, metrics with intervals, baselines, and tables of results."""

from notellm.evaluate.baselines import (
    click_matrix,
    copy_topics,
    popularity,
    predict_categories,
    tfidf_matrix,
)
from notellm.evaluate.bootstrap import Interval
from notellm.evaluate.next_click import (
    NextClickResult,
    evaluate_recommendations,
    next_click_json,
    next_click_markdown,
    next_click_text,
)
from notellm.evaluate.ranking import (
    RankingResult,
    cold_groups,
    evaluate_ranking,
    ranking_difference,
    ranking_json,
    ranking_markdown,
    ranking_text,
)
from notellm.evaluate.report import as_json, markdown_table, text_table
from notellm.evaluate.retrieval import (
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
    "NextClickResult",
    "Part",
    "RankingResult",
    "RetrievalResult",
    "Scorer",
    "Split",
    "TopicResult",
    "as_json",
    "click_matrix",
    "cold_groups",
    "constant_scorer",
    "copy_topics",
    "evaluate_categories",
    "evaluate_ranking",
    "evaluate_recommendations",
    "evaluate_related",
    "evaluate_topics",
    "markdown_table",
    "next_click_json",
    "next_click_markdown",
    "next_click_text",
    "paired_difference",
    "popularity",
    "predict_categories",
    "ranking_difference",
    "ranking_json",
    "ranking_markdown",
    "ranking_text",
    "sparse_cosine_scorer",
    "split_by_note",
    "split_by_time",
    "targets_from_pairs",
    "text_table",
    "tfidf_matrix",
    "vector_scorer",
]
