"""BinLLM (arXiv 2406.03210): an LLM scores a note for a user, with collaborative codes in its prompt.

collaborative model -> codes -> prompt -> model -> trainer -> scorer.
"""

from notellm.rank.batch import NoteTexts, RankRows, RowCodes, impression_codes, liked_notes, questions
from notellm.rank.codes import CodeOptions, Codes, OutOfFold, fit_codes, fit_out_of_fold, load_codes
from notellm.rank.config import BinLLMConfig
from notellm.rank.model import BinLLM, Question
from notellm.rank.prompt import RankPrompt, RankTemplate, builtin_templates, load_template
from notellm.rank.scorer import Ranker, Ranking
from notellm.rank.trainer import BinLLMTrainer, BinLLMTrainingArguments, fit_answers

__all__ = [
    "BinLLM",
    "BinLLMConfig",
    "BinLLMTrainer",
    "BinLLMTrainingArguments",
    "CodeOptions",
    "Codes",
    "NoteTexts",
    "OutOfFold",
    "Question",
    "RankPrompt",
    "RankRows",
    "RankTemplate",
    "Ranker",
    "Ranking",
    "RowCodes",
    "builtin_templates",
    "fit_answers",
    "fit_codes",
    "fit_out_of_fold",
    "impression_codes",
    "liked_notes",
    "load_codes",
    "load_template",
    "questions",
]
