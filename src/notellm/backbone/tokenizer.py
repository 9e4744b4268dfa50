"""Tokenizers that read special tokens in a text as plain characters.

``</s>`` or ``<|im_start|>`` in a user's text must never act as markup. Therefore every tokenizer of notellm
has ``split_special_tokens`` set. The setting is saved with the tokenizer, so that transformers and
sentence-transformers read texts in the same way.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from notellm.backbone.gguf import gguf_file, gguf_message, gguf_tokenizer
from notellm.backbone.source import (
    asks_for_code,
    check_tokenizer_files,
    code_message,
    first_line,
    local_folder,
)
from notellm.errors import ModelError, NotellmError

#: Common tokenizers need fewer characters for one token of prose. So a text of a million characters can be
#: cut before it is tokenized.
CHARACTERS_PER_TOKEN = 30


def harden(tokenizer: PreTrainedTokenizerBase, *new_tokens: str) -> PreTrainedTokenizerBase:
    """Make a tokenizer safe for texts that are data, and add special tokens.

    - Special tokens in a text are read as plain characters.
    - Added tokens that are markup, but not declared special (``<think>``, ``<tool_call>``), are declared
      special, so that they are treated in the same way. Added runs of white space do not change.
    - Padding is on the right. A tokenizer without padding token pads with its end token.

    Args:
        tokenizer: a fast tokenizer; changed in place and returned.
        new_tokens: special tokens, added where they are missing.

    Raises:
        ModelError: if the tokenizer is not a fast one, or has no end token.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} is not a fast one; notellm needs a tokenizer.json "
            "(convert the tokenizer with transformers' convert_slow_tokenizer)"
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
    tokenizer.init_kwargs["split_special_tokens"] = True  # save_pretrained writes these
    return tokenizer


def load_tokenizer(
    name_or_path: str | Path, *new_tokens: str, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer and :func:`harden` it.

    Args:
        name_or_path: a folder, a GGUF file or a folder with one and no safetensors, or a name on the hub
            (``owner/name``).
        new_tokens: special tokens, added where they are missing.
        trust_remote_code: allow the tokenizer to be Python code that comes with the model; that code then
            runs.

    Raises:
        ModelError: if there is no tokenizer, it cannot be used, or it is code that is not allowed to run.
    """
    file = gguf_file(name_or_path)
    folder = local_folder(name_or_path, trust_remote_code=trust_remote_code) if file is None else file
    if file is None:
        check_tokenizer_files(folder)
    try:
        if file is not None:
            tokenizer = gguf_tokenizer(file)
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder),
                split_special_tokens=True,
                trust_remote_code=trust_remote_code,
                local_files_only=not trust_remote_code,  # trusted code may come from another repository
            )
        hardened = harden(tokenizer, *new_tokens)
        hardened("text")  # settings of a wrong type only fail here
    except NotellmError:
        raise
    except Exception as error:  # tokenizers raises a plain Exception, damaged JSON any kind of error
        if file is not None:
            raise ModelError(gguf_message(file, error)) from error
        if not trust_remote_code and asks_for_code(folder, "tokenizer_config.json"):
            raise ModelError(code_message(folder, "tokenizer_config.json")) from error
        raise ModelError(f"no usable tokenizer at {name_or_path}: {first_line(error)}") from error
    return hardened


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return everything that decides the ids of a text, as text; equal texts mean equal tokenizers.

    Saving and opening a tokenizer does not change it. It leaves out padding and truncation, which each call
    sets, and what only chats use.
    """
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("version", "truncation", "padding"):
        state.pop(name, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    settings = [special, bool(tokenizer.split_special_tokens), tokenizer.clean_up_tokenization_spaces]
    return json.dumps([state, settings], sort_keys=True, default=str)


def cut_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], budget: int) -> list[str]:
    """Cut each text after ``budget`` tokens; the result is a beginning of the text."""
    if not texts:
        return []
    short = [text[: budget * CHARACTERS_PER_TOKEN] for text in texts]
    batch = tokenizer(short, add_special_tokens=False, return_offsets_mapping=True)
    return [
        text[: offsets[budget][0]].rstrip() if len(offsets) > budget else text
        for text, offsets in zip(short, batch["offset_mapping"], strict=True)
    ]
