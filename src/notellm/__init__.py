"""notellm: from a table of notes and a click log to an LLM recommender.

The main names can be imported from here. Each is loaded when it is first asked for, so that
``import notellm`` stays quick and the data tools work without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from notellm.version import __version__

if TYPE_CHECKING:
    from notellm.backbone.load import LoraOptions
    from notellm.client import Client
    from notellm.data.impressions import click_histories, impressions_from_clicks
    from notellm.data.note import Note
    from notellm.data.read import read_clicks, read_notes
    from notellm.data.sample_world import sample_world
    from notellm.data.split import split_by_note, split_by_time, split_impressions
    from notellm.data.validate import validate
    from notellm.engine.engine import Engine
    from notellm.jobs.build_store import build_store
    from notellm.jobs.evaluate_rank import evaluate_rank
    from notellm.jobs.evaluate_recall import evaluate_recall
    from notellm.jobs.train_rank import train_rank
    from notellm.jobs.train_recall import train_recall
    from notellm.pairs.local import mine_pairs
    from notellm.pairs.score import PairOptions
    from notellm.rank.config import RankOptions
    from notellm.rank.model import BinLLM
    from notellm.rank.scorer import Ranker
    from notellm.recall.config import RecallOptions
    from notellm.recall.model import NoteLLM
    from notellm.recall.trainer import NoteLLMTrainer, NoteLLMTrainingArguments, Validation
    from notellm.recommend.candidates import impressions_from_candidates
    from notellm.recommend.recommender import Recommender
    from notellm.store.index.filters import Filter
    from notellm.store.notes import NoteStore

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
    "RankOptions",
    "Ranker",
    "RecallOptions",
    "Recommender",
    "Validation",
    "__version__",
    "build_store",
    "click_histories",
    "evaluate_rank",
    "evaluate_recall",
    "impressions_from_candidates",
    "impressions_from_clicks",
    "mine_pairs",
    "read_clicks",
    "read_notes",
    "sample_world",
    "split_by_note",
    "split_by_time",
    "split_impressions",
    "train_rank",
    "train_recall",
    "validate",
]

_WHERE = {
    "BinLLM": "notellm.rank.model",
    "build_store": "notellm.jobs.build_store",
    "click_histories": "notellm.data.impressions",
    "Client": "notellm.client",
    "Engine": "notellm.engine.engine",
    "evaluate_rank": "notellm.jobs.evaluate_rank",
    "evaluate_recall": "notellm.jobs.evaluate_recall",
    "Filter": "notellm.store.index.filters",
    "impressions_from_candidates": "notellm.recommend.candidates",
    "impressions_from_clicks": "notellm.data.impressions",
    "LoraOptions": "notellm.backbone.load",
    "mine_pairs": "notellm.pairs.local",
    "Note": "notellm.data.note",
    "NoteLLM": "notellm.recall.model",
    "NoteLLMTrainer": "notellm.recall.trainer",
    "NoteLLMTrainingArguments": "notellm.recall.trainer",
    "NoteStore": "notellm.store.notes",
    "PairOptions": "notellm.pairs.score",
    "Ranker": "notellm.rank.scorer",
    "RecallOptions": "notellm.recall.config",
    "RankOptions": "notellm.rank.config",
    "read_clicks": "notellm.data.read",
    "read_notes": "notellm.data.read",
    "Recommender": "notellm.recommend.recommender",
    "sample_world": "notellm.data.sample_world",
    "split_by_note": "notellm.data.split",
    "split_by_time": "notellm.data.split",
    "split_impressions": "notellm.data.split",
    "train_rank": "notellm.jobs.train_rank",
    "train_recall": "notellm.jobs.train_recall",
    "validate": "notellm.data.validate",
    "Validation": "notellm.recall.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'notellm' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
