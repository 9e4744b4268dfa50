"""Tokenizer and backbone of a NoteLLM that is initialised from its notes, without any download."""

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from notellm.backbone.tiny import train_tokenizer
from notellm.data.matrices import click_matrix
from notellm.data.note import Notes, as_notes
from notellm.errors import ConfigError, DataError
from notellm.recall.config import NoteLLMConfig
from notellm.recall.learnt import outputs_of
from notellm.recall.prompt import EMB_TOKEN, PromptBuilder, Template
from notellm.recall.tiny import TinyOptions, build_tiny


def backbone_of_corpus(
    notes: Notes,
    wording: Template,
    config: NoteLLMConfig,
    size: TinyOptions,
    *,
    clicks: pa.Table | None = None,
    taught: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train a tokenizer on notes and their prompts, and build a tiny backbone from both.

    Args:
        notes: the notes, as in ``NoteLLM.from_corpus``.
        wording: the wording of the prompts.
        config: budgets of the prompts.
        size: size of the backbone.
        clicks: a clicks table on the notes; None without clicks.
        taught: (notes, k) float32, a teacher's vectors of the notes; None without a teacher.
        seed: seed of everything random.

    Raises:
        DataError: if the notes hold no text.
        ConfigError: if there are clicks, and the notes are no table with ids.
    """
    rows = as_notes(notes)
    texts = [" ".join((note.title, *note.topics, note.content)) for note in rows]
    if not any(text.strip() for text in texts):
        raise DataError("the notes hold no text to build a backbone from; give notes with titles")
    # The tokenizer also learns the wording and the categories, twice, so that their words become tokens.
    categories = sorted({note.category for note in rows if note.category})
    phrases = [
        text
        for task in (wording.category, wording.topics)
        for text in (task.prompt, task.guidance, *categories)
    ]
    tokenizer = train_tokenizer(
        [*texts, *phrases, *phrases], vocabulary=size.vocabulary, new_tokens=[EMB_TOKEN]
    )
    builder = PromptBuilder(tokenizer, wording, config)
    cut = builder.cut(rows)
    rendered = [builder.render(note) for note in cut]
    clicked = None if clicks is None else _clicked(notes, clicks)
    outputs = outputs_of(builder, cut)
    backbone = build_tiny(tokenizer, rendered, outputs, size, clicked=clicked, taught=taught, seed=seed)
    return backbone, tokenizer


def _clicked(notes: Notes, clicks: pa.Table) -> sp.csr_matrix:
    """Return who clicked which note as a (users, notes) matrix of ones."""
    if not isinstance(notes, pa.Table):
        raise ConfigError("clicks name notes by their ids: give the notes as a table with note_id")
    return sp.csr_matrix(click_matrix(notes.column("note_id"), clicks).T)
