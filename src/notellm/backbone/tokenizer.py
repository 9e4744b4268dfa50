"""Tokenizers that read special tokens in a text as plain characters.

``</s>`` or ``<|im_start|>`` in a user's text must never act as markup. Therefore every tokenizer of notellm
has ``split_special_tokens`` set. The setting is saved with the tokenizer, so that transformers and
sentence-transformers read texts in the same way.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models
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
#: Entry of a tokenizer's settings that says that :func:`end_texts` has made it end its texts.
_ENDED = "notellm_ends_texts"
_PLAIN_TEMPLATE = {  # a post-processor that adds nothing
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
}


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


def ends_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer puts its end token behind every text that it reads with special tokens."""
    whole, plain = (
        list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (True, False)
    )
    return len(whole) > len(plain) and whole[-1] == tokenizer.eos_token_id


def end_texts(tokenizer: PreTrainedTokenizerBase, *, wanted: bool) -> None:
    """Let a tokenizer put its end token behind every text that it reads with special tokens, or no longer.

    A text cannot hold the end token itself. Whoever is sent a text alone, such as an embedding server, reads
    one only if the saved tokenizer adds it. A tokenizer that adds it without our doing is left as it is.

    Args:
        tokenizer: a hardened tokenizer; changed in place.
        wanted: whether texts are to end so.

    Raises:
        ModelError: if the tokenizer cannot be changed in this way.
    """
    is_ours = bool(tokenizer.init_kwargs.get(_ENDED))
    if wanted == ends_texts(tokenizer) or not (wanted or is_ours):
        return
    backend, end = tokenizer.backend_tokenizer, str(tokenizer.eos_token)
    whole = Tokenizer(models.BPE())  # the public way from a post-processor to its JSON and back
    whole.post_processor = backend.post_processor
    state = json.loads(whole.to_str())
    processor = state["post_processor"] or {"type": "Sequence", "processors": []}
    steps = processor["processors"] if processor["type"] == "Sequence" else [processor]
    if not any(step["type"] == "TemplateProcessing" for step in steps):
        steps.append({"type": "TemplateProcessing", "special_tokens": {}} | _PLAIN_TEMPLATE)
    template = next(step for step in reversed(steps) if step["type"] == "TemplateProcessing")
    if wanted:
        template["single"].append({"SpecialToken": {"id": end, "type_id": 0}})
        ids = {"id": end, "ids": [tokenizer.eos_token_id], "tokens": [end]}
        template["special_tokens"] |= {end: ids}
    else:
        template["single"].pop()
    state["post_processor"] = {"type": "Sequence", "processors": steps}
    backend.post_processor = Tokenizer.from_str(json.dumps(state)).post_processor
    tokenizer.init_kwargs[_ENDED] = wanted  # save_pretrained writes it
    if ends_texts(tokenizer) != wanted:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} cannot be made to end texts in its end token; choose "
            "a template without {end}, or another backbone"
        )


def keep_ends(folder: Path) -> None:
    """Let every library read a saved tokenizer as its ``tokenizer.json`` says.

    Some classes of transformers (GPT-NeoX) build anew what they add to a text; the general class does not.

    Args:
        folder: where the tokenizer is saved.
    """
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
