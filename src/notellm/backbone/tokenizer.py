"""Tokenizers that read special tokens in a text as plain characters.

``[EMB]``, ``</s>`` or ``<|im_start|>`` in somebody's note must never act as markup. Every tokenizer of
notellm therefore has ``split_special_tokens`` set, which is saved with it, so that transformers and
sentence-transformers open it with the same behaviour.
"""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from notellm.errors import ModelError

#: No common tokenizer needs more characters than this for one token of prose, so a text of a million
#: characters is cut before it is tokenized, not after.
CHARACTERS_PER_TOKEN = 30


def harden(tokenizer: PreTrainedTokenizerBase, *new_tokens: str) -> PreTrainedTokenizerBase:
    """Make a tokenizer safe for texts that are data, and add special tokens of our own.

    - Special tokens in a text become plain characters.
    - Added tokens that are markup although not declared special (``<think>``, ``<tool_call>``) are
      declared special, so that the same holds for them. Added runs of white space stay as they are.
    - Padding goes to the right, with the end token where there is no padding token.

    Args:
        tokenizer: a fast tokenizer; changed in place and returned.
        new_tokens: special tokens to add where they are missing.

    Raises:
        ModelError: the tokenizer is not a fast one or has no end token.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} is not a fast one; notellm needs a "
            "tokenizer.json (convert it with transformers' convert_slow_tokenizer)"
        )
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end token (eos_token); set one before saving the model")
    markup = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if not token.special and token.content.strip()
    ]
    declared = [AddedToken(text, special=True, normalized=False) for text in (*markup, *new_tokens)]
    if declared:
        tokenizer.add_tokens(declared, special_tokens=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "right"
    tokenizer.split_special_tokens = True
    tokenizer.init_kwargs["split_special_tokens"] = True  # what save_pretrained writes down
    return tokenizer


def load_tokenizer(name_or_path: str | Path, *new_tokens: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer and :func:`harden` it.

    Raises:
        ModelError: there is no tokenizer there, or it cannot be used.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name_or_path), split_special_tokens=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no usable tokenizer at {name_or_path}: {_first_line(error)}") from error
    return harden(tokenizer, *new_tokens)


def cut_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], budget: int) -> list[str]:
    """The beginning of each text that takes at most ``budget`` tokens, cut between two tokens as text."""
    if not texts:
        return []
    short = [text[: budget * CHARACTERS_PER_TOKEN] for text in texts]
    batch = tokenizer(short, add_special_tokens=False, return_offsets_mapping=True)
    return [
        text[: offsets[budget][0]].rstrip() if len(offsets) > budget else text
        for text, offsets in zip(short, batch["offset_mapping"], strict=True)
    ]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
