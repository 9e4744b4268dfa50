"""Tokenizers that read special tokens in a text as plain characters.

``[EMB]``, ``</s>`` or ``<|im_start|>`` in the text of a note must never act as markup. Every tokenizer of
notellm therefore sets ``split_special_tokens``. The setting is saved with the tokenizer, so transformers
and sentence-transformers open it with the same behaviour.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from notellm.backbone.source import (
    asks_for_code,
    check_tokenizer_files,
    code_message,
    first_line,
    local_folder,
)
from notellm.errors import ModelError, NotellmError

#: The largest number of characters that one token of prose has in common tokenizers. Long texts are cut to
#: this many characters per token before they are tokenized, which saves time.
CHARACTERS_PER_TOKEN = 30


def harden(tokenizer: PreTrainedTokenizerBase, *new_tokens: str) -> PreTrainedTokenizerBase:
    """Make a tokenizer read special tokens in texts as plain characters, and add special tokens.

    - Special tokens in a text become plain characters.
    - Added tokens that are markup but not declared special (``<think>``, ``<tool_call>``) are declared
      special and treated the same way. Added runs of white space do not change.
    - Padding is on the right. If there is no padding token, the end token pads.

    Args:
        tokenizer: a fast tokenizer; changed in place and returned.
        new_tokens: special tokens to add if the tokenizer lacks them.

    Raises:
        ModelError: if the tokenizer is not a fast one or has no end token.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} is not a fast one, and notellm needs a "
            "tokenizer.json; convert it with transformers' convert_slow_tokenizer"
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
    tokenizer.init_kwargs["split_special_tokens"] = True  # what save_pretrained writes to the folder
    return tokenizer


def load_tokenizer(
    name_or_path: str | Path, *new_tokens: str, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer and :func:`harden` it.

    Args:
        name_or_path: a folder, or a name on the hub (``owner/name``).
        new_tokens: special tokens to add if the tokenizer lacks them.
        trust_remote_code: allow a tokenizer that comes with its own Python code; the code then runs.

    Raises:
        ModelError: if there is no tokenizer, if it cannot be used, or if it needs code that may not run.
    """
    folder = local_folder(name_or_path, trust_remote_code=trust_remote_code)
    check_tokenizer_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder),
            split_special_tokens=True,
            trust_remote_code=trust_remote_code,
            local_files_only=not trust_remote_code,  # trusted code may be stored in another repository
        )
        hardened = harden(tokenizer, *new_tokens)
        hardened("text")  # settings of a wrong type fail only here
    except NotellmError:
        raise
    except Exception as error:  # tokenizers raises a plain Exception, damaged JSON errors of any type
        if not trust_remote_code and asks_for_code(folder, "tokenizer_config.json"):
            raise ModelError(code_message(folder, "tokenizer_config.json")) from error
        raise ModelError(f"no usable tokenizer at {name_or_path}: {first_line(error)}") from error
    return hardened


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return everything that determines the ids of a text, as text; equal tokenizers have equal states.

    Saving and opening a tokenizer does not change its state. Settings that every call overrides (padding,
    truncation) and the chat template are left out.
    """
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("version", "truncation", "padding"):
        state.pop(name, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    settings = [special, bool(tokenizer.split_special_tokens), tokenizer.clean_up_tokenization_spaces]
    return json.dumps([state, settings], sort_keys=True, default=str)


def cut_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], budget: int) -> list[str]:
    """Cut each text between two tokens so that at most ``budget`` tokens are left; return texts."""
    if not texts:
        return []
    prefixes = [text[: budget * CHARACTERS_PER_TOKEN] for text in texts]
    batch = tokenizer(prefixes, add_special_tokens=False, return_offsets_mapping=True)
    return [
        text[: offsets[budget][0]].rstrip() if len(offsets) > budget else text
        for text, offsets in zip(prefixes, batch["offset_mapping"], strict=True)
    ]
