"""Writing the category and the topics of notes with a trained NoteLLM.

The model continues the prompt of the task, up to [EMB] and the guidance after it, with greedy decoding. A
category can be **constrained** to known names: at every step only tokens that continue one of the names are
allowed (a trie of their token ids), so the model cannot write a category that does not exist.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from notellm.backbone.batch import pad_left
from notellm.backbone.load import greedy_decoding
from notellm.data.note import Notes, as_notes
from notellm.errors import ConfigError
from notellm.recall.config import NoteLLMConfig
from notellm.recall.prompt import PromptBuilder, Task

#: Prompts that are continued together; prompts of similar length share a batch.
BATCH = 64
_LONGEST_CATEGORY = 32
_TOKENS_PER_TOPIC = 12


class Writer(Protocol):
    """The parts of a NoteLLM that writing needs."""

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptBuilder
    settings: NoteLLMConfig
    training: bool

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on or off."""


def generate_categories(
    model: Writer,
    notes: Notes,
    *,
    categories: Sequence[str] | None = None,
    constrained: bool = True,
    progress: bool = False,
) -> list[str]:
    """Write a category for each note.

    Args:
        model: a trained NoteLLM.
        notes: a notes table or a list of notes; their categories are not read.
        categories: allowed names; None allows the categories of the training notes.
        constrained: allow only these names; False lets the model write freely.
        progress: show a progress bar.

    Raises:
        ConfigError: if generation is constrained but no category is known.
    """
    if not constrained:
        written = _continue(model, notes, "category", 1, limit=_LONGEST_CATEGORY, progress=progress)
        return [text.strip() for text in _decode(model, written)]
    known = model.settings.categories if categories is None else categories
    names = [name for name in dict.fromkeys(known) if name.strip()]
    if not names:
        raise ConfigError(
            "no category is known, because the model was trained on notes without categories; "
            "give categories=[...] or constrained=False"
        )
    prompt = model.prompt
    spellings = prompt.output_ids([prompt.output("category", category=name) for name in names])
    trie: dict[int, Any] = {}
    for name, ids in zip(names, spellings, strict=True):
        branch = trie
        for token in ids:
            branch = branch.setdefault(token, {})
        branch.setdefault(prompt.eos_id, name)  # if two names have the same tokens, the first counts
    longest = max(len(ids) for ids in spellings) + 1
    written = _continue(model, notes, "category", 1, limit=longest, progress=progress, trie=trie)
    return [_name_at_the_end(trie, ids) for ids in written]


def generate_topics(
    model: Writer, notes: Notes, *, n: int | None = None, progress: bool = False
) -> list[list[str]]:
    """Write topics (hashtags) for each note; the topics of the notes are not read.

    Args:
        model: a trained NoteLLM.
        notes: a notes table or a list of notes.
        n: largest number of topics; None asks for the number that is typical of the training notes and keeps
            all topics that the model writes before it ends.
        progress: show a progress bar.

    Raises:
        ConfigError: if n is not positive.
    """
    if n is not None and n < 1:
        raise ConfigError(f"n is {n}; ask for at least 1 topic, or give None to let the model end")
    count = model.settings.typical_topics if n is None else n
    limit = _TOKENS_PER_TOPIC * max(count, 3 if n is None else count)
    written = _continue(model, notes, "topics", count, limit=limit, progress=progress)
    return [model.prompt.parse_topics(text)[:n] for text in _decode(model, written)]


def _decode(model: Writer, written: list[list[int]]) -> list[str]:
    texts: list[str] = model.tokenizer.batch_decode(written, skip_special_tokens=True)
    return texts


def _name_at_the_end(trie: dict[int, Any], ids: Sequence[int]) -> Any:
    """The name to which a sequence of allowed tokens leads."""
    node: Any = trie
    for token in ids:
        node = node[token]
        if isinstance(node, str):
            break
    return node


@torch.inference_mode()
def _continue(
    model: Writer,
    notes: Notes,
    task: Task,
    count: int,
    *,
    limit: int,
    progress: bool,
    trie: dict[int, Any] | None = None,
) -> list[list[int]]:
    """Return the token ids written for each note, in the order of the notes.

    Args:
        model: the model.
        notes: the notes.
        task: which prompt.
        count: number of topics that the prompt asks for.
        limit: largest number of tokens.
        progress: show a progress bar.
        trie: allowed sequences, which end in [EOS]; without it the ids end before [EOS].
    """
    prompt = model.prompt
    rows = prompt.cut(as_notes(notes))
    prompts = [
        [*ids, prompt.emb_id, *prompt.guidance_ids(task, count)]
        for ids in prompt.prompt_ids([prompt.render(note, task, count) for note in rows])
    ]
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    results: list[list[int]] = [[] for _ in prompts]
    training = model.training
    model.train(False)
    # transformers takes what a call does not set from the model's generation_config (sampling, penalties,
    # forbidden tokens), and a model may bring a `generate` method of its own. A shallow copy without either
    # decodes with the same weights, and the model itself stays unchanged for other threads.
    writer = copy.copy(model.backbone)
    writer.generation_config = greedy_decoding(model.tokenizer)
    config = greedy_decoding(model.tokenizer, max_new_tokens=limit)
    with tqdm(total=len(prompts), unit="note", desc=task, disable=not progress) as bar:
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            batch = pad_left([prompts[row] for row in chosen], model.tokenizer, model.device)
            width = batch["input_ids"].shape[1]
            output = type(writer).generate(  # type: ignore[attr-defined]
                writer,
                **batch,
                generation_config=config,
                prefix_allowed_tokens_fn=None if trie is None else _allowed(trie, width, prompt.eos_id),
            )
            for row, sequence in zip(chosen, output[:, width:].tolist(), strict=True):
                end = sequence.index(prompt.eos_id) if prompt.eos_id in sequence else len(sequence)
                results[row] = sequence[: end + 1] if trie is not None else sequence[:end]
            bar.update(len(chosen))
    model.train(training)
    return results


def _allowed(trie: dict[int, Any], width: int, eos: int) -> Callable[[int, Tensor], list[int]]:
    """The hook of transformers that says which tokens may follow those after the first ``width``."""

    def follow(_: int, sequence: Tensor) -> list[int]:
        node: Any = trie
        for token in sequence[width:].tolist():
            node = node.get(token) if isinstance(node, dict) else None
            if node is None:
                return [eos]
        return list(node) if isinstance(node, dict) else [eos]

    return follow
