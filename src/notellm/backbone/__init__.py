"""Causal language models: loading one, the corpus-initialised tiny one, safe tokenizers, LoRA.

Only this package knows about transformers' internals.
"""

from notellm.backbone.load import (
    LoraOptions,
    add_lora,
    hidden_states,
    label_logits,
    load_backbone,
    save_backbone,
)
from notellm.backbone.tiny import TinyOptions, build_tiny, train_tokenizer
from notellm.backbone.tokenizer import harden, load_tokenizer

__all__ = [
    "LoraOptions",
    "TinyOptions",
    "add_lora",
    "build_tiny",
    "harden",
    "hidden_states",
    "label_logits",
    "load_backbone",
    "load_tokenizer",
    "save_backbone",
    "train_tokenizer",
]
