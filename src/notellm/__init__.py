"""notellm: from a table of notes and a click log to an LLM recommender.

The main names can be imported from here. Each is loaded when it is first asked for, so that
``import notellm`` stays quick and the data tools work without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notellm.backbone.load import LoraOptions
    from notellm.client import Client
    from notellm.data import (
        click_histories,
        impressions_from_clicks,
        read_clicks,
        read_notes,
        sample_world,
        split_impressions,
        validate,
    )
    from notellm.evaluate.split import split_by_note, split_by_time
    from notellm.pairs import PairOptions, mine_pairs
    from notellm.pipeline.build import build_store
    from notellm.pipeline.candidates import impressions_from_candidates
    from notellm.pipeline.engine import Engine
    from notellm.pipeline.evaluate_rank import evaluate_ranker
    from notellm.pipeline.rank import RankFitOptions, fit_ranker
    from notellm.pipeline.recommend import Recommender
    from notellm.rank.model import BinLLM
    from notellm.rank.scorer import Ranker
    from notellm.recall.model import NoteLLM
    from notellm.recall.prompt import Note
    from notellm.recall.trainer import NoteLLMTrainer, NoteLLMTrainingArguments, Validation
    from notellm.store.filters import Filter
    from notellm.store.notes import NoteStore

__version__ = "0.1.0"

__all__ = [
    "BinLLM",
    "Client",
    "Engine",
    "Filter",
    "LoraOptions",
    "Note",
    "NoteLLM",
    "NoteLLMTrainer",
    "NoteLLMTrainingArguments",
    "NoteStore",
    "PairOptions",
    "RankFitOptions",
    "Ranker",
    "Recommender",
    "Validation",
    "__version__",
    "build_store",
    "click_histories",
    "evaluate_ranker",
    "fit_ranker",
    "impressions_from_candidates",
    "impressions_from_clicks",
    "mine_pairs",
    "read_clicks",
    "read_notes",
    "sample_world",
    "split_by_note",
    "split_by_time",
    "split_impressions",
    "validate",
]

_WHERE = {
    "BinLLM": "notellm.rank.model",
    "Client": "notellm.client",
    "Engine": "notellm.pipeline.engine",
    "Filter": "notellm.store.filters",
    "LoraOptions": "notellm.backbone.load",
    "Note": "notellm.recall.prompt",
    "NoteLLM": "notellm.recall.model",
    "NoteLLMTrainer": "notellm.recall.trainer",
    "NoteLLMTrainingArguments": "notellm.recall.trainer",
    "NoteStore": "notellm.store.notes",
    "PairOptions": "notellm.pairs",
    "RankFitOptions": "notellm.pipeline.rank",
    "Ranker": "notellm.rank.scorer",
    "Recommender": "notellm.pipeline.recommend",
    "Validation": "notellm.recall.trainer",
    "build_store": "notellm.pipeline.build",
    "evaluate_ranker": "notellm.pipeline.evaluate_rank",
    "fit_ranker": "notellm.pipeline.rank",
    "click_histories": "notellm.data.impressions",
    "impressions_from_candidates": "notellm.pipeline.candidates",
    "impressions_from_clicks": "notellm.data.impressions",
    "mine_pairs": "notellm.pairs",
    "read_clicks": "notellm.data.read",
    "read_notes": "notellm.data.read",
    "sample_world": "notellm.data.sample_world",
    "split_by_note": "notellm.evaluate.split",
    "split_by_time": "notellm.evaluate.split",
    "split_impressions": "notellm.data.impressions",
    "validate": "notellm.data.validate",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'notellm' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
