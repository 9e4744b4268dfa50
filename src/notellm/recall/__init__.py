"""NoteLLM (arXiv 2403.01744): a note becomes one vector, its topics and its category.

prompt -> model -> trainer (two losses, one forward pass) -> embed, related notes, generate.
"""

from notellm.recall.config import NoteLLMConfig
from notellm.recall.embed import embed_to_parquet, read_vectors
from notellm.recall.generate import generate_categories, generate_topics
from notellm.recall.item_to_item import write_item_to_item
from notellm.recall.model import NoteLLM, NoteLLMOutput
from notellm.recall.prompt import (
    Note,
    PromptBuilder,
    Template,
    builtin_templates,
    load_template,
    notes_from_table,
)
from notellm.recall.related import (
    related_by_id,
    related_by_vector,
    search,
)
from notellm.recall.trainer import (
    NoteLLMTrainer,
    NoteLLMTrainingArguments,
    Validation,
)

__all__ = [
    "Note",
    "NoteLLM",
    "NoteLLMConfig",
    "NoteLLMOutput",
    "NoteLLMTrainer",
    "NoteLLMTrainingArguments",
    "PromptBuilder",
    "Template",
    "Validation",
    "builtin_templates",
    "embed_to_parquet",
    "generate_categories",
    "generate_topics",
    "load_template",
    "notes_from_table",
    "read_vectors",
    "related_by_id",
    "related_by_vector",
    "search",
    "write_item_to_item",
]
