"""Generate the category and the topics of notes.

The model continues the prompt of the task up to [EMB] and its guidance, with greedy decoding. A category can
be restricted to a list of names: at every step only tokens that continue one of the names are allowed. These
tokens form a trie, whose nodes are dicts from token ids to nodes and whose leaves are the names.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from notellm.backbone.batch import pad_left
from notellm.backbone.load import evaluation_mode, own_decoding
from notellm.data.note import Notes, as_notes
from notellm.errors import ConfigError
from notellm.recall.prompt import PromptBuilder, Task

#: Prompts in a batch; they are sorted by length, so that a batch needs little padding.
BATCH = 64
_LONGEST_CATEGORY = 32  # tokens of a category that is not restricted
_TOKENS_PER_TOPIC = 12
_LEAST_TOPICS = 3  # room for as many topics as this, where the model decides on their number


def generate_categories(
    backbone: PreTrainedModel,
    prompt: PromptBuilder,
    notes: Notes,
    *,
    categories: Sequence[str] | None,
    progress: bool,
) -> list[str]:
    """Generate a category for each note.

    Args:
        backbone: the trained causal language model.
        prompt: its prompt.
        notes: a notes table or a list of notes; their categories are not read.
        categories: the allowed names; None generates without restriction.
        progress: show a progress bar.

    Raises:
        ConfigError: if the list holds no name.
        DataError: if there are no notes.
    """
    if categories is None:
        outputs = _generate(
            backbone, prompt, notes, "category", 1, limit=_LONGEST_CATEGORY, progress=progress
        )
        return [text.strip() for text in _texts(prompt, outputs)]
    names = [name for name in dict.fromkeys(categories) if name.strip()]
    if not names:
        raise ConfigError(
            "no category is known: the model's settings name none; give categories=[...] or constrained=False"
        )
    spellings = prompt.output_ids([prompt.output("category", category=name) for name in names])
    trie: dict[int, Any] = {}
    for name, ids in zip(names, spellings, strict=True):
        node = trie
        for token in ids:
            node = node.setdefault(token, {})
        node.setdefault(prompt.eos_id, name)  # if two names have the same tokens, the first one is taken
    limit = max(len(ids) for ids in spellings) + 1
    outputs = _generate(backbone, prompt, notes, "category", 1, limit=limit, progress=progress, trie=trie)
    return [_name_of(trie, ids) for ids in outputs]


def generate_topics(
    backbone: PreTrainedModel, prompt: PromptBuilder, notes: Notes, *, n: int | None, progress: bool
) -> list[list[str]]:
    """Generate topics (hashtags) for each note.

    Args:
        backbone: the trained causal language model.
        prompt: its prompt.
        notes: a notes table or a list of notes; their topics are not read.
        n: the largest number of topics; None asks for ``prompt.config.typical_topics`` topics and returns all
            that the model generates.
        progress: show a progress bar.

    Raises:
        ConfigError: if n is not positive.
        DataError: if there are no notes.
    """
    if n is not None and n < 1:
        raise ConfigError(f"n is {n}; ask for at least 1 topic, or None to let the model end")
    count = prompt.config.typical_topics if n is None else n
    limit = _TOKENS_PER_TOPIC * max(count, _LEAST_TOPICS if n is None else count)
    outputs = _generate(backbone, prompt, notes, "topics", count, limit=limit, progress=progress)
    return [prompt.parse_topics(text)[:n] for text in _texts(prompt, outputs)]


def _texts(prompt: PromptBuilder, outputs: list[list[int]]) -> list[str]:
    texts: list[str] = prompt.tokenizer.batch_decode(outputs, skip_special_tokens=True)
    return texts


def _name_of(trie: dict[int, Any], ids: list[int]) -> str:
    """Return the name whose tokens a restricted output begins with."""
    node: Any = trie
    for token in ids:
        node = node[token]
        if isinstance(node, str):
            break
    return str(node)


@torch.inference_mode()
def _generate(
    backbone: PreTrainedModel,
    prompt: PromptBuilder,
    notes: Notes,
    task: Task,
    count: int,
    *,
    limit: int,
    progress: bool,
    trie: dict[int, Any] | None = None,
) -> list[list[int]]:
    """Return the generated token ids of each note, in the order of the notes.

    Args:
        backbone: the causal language model.
        prompt: its prompt.
        notes: the notes.
        task: the task.
        count: number of topics that the prompt asks for.
        limit: largest number of generated tokens.
        progress: show a progress bar.
        trie: the allowed outputs; their ids then end with [EOS]. Without it [EOS] is cut off.
    """
    tokenizer = prompt.tokenizer
    rows = prompt.cut(as_notes(notes))
    starts = [
        [*ids, prompt.emb_id, *prompt.guidance_ids(task, count)]
        for ids in prompt.prompt_ids([prompt.render(note, task, count) for note in rows])
    ]
    order = sorted(range(len(starts)), key=lambda row: -len(starts[row]))
    results: list[list[int]] = [[] for _ in starts]
    config = own_decoding(tokenizer, max_new_tokens=limit)
    with (
        evaluation_mode(backbone),
        tqdm(total=len(starts), unit="note", desc=task, disable=not progress) as bar,
    ):
        # transformers fills options that a call leaves open from the model's generation_config (sampling,
        # penalties, forbidden tokens), and a model may override `generate`. A shallow copy with the same
        # weights and a plain generation_config avoids both, and the model does not change while other threads
        # use it.
        writer = copy.copy(backbone)
        writer.generation_config = own_decoding(tokenizer)
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            batch = pad_left([starts[row] for row in chosen], tokenizer, backbone.device)
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
    return results


def _allowed(trie: dict[int, Any], width: int, eos: int) -> Callable[[int, Tensor], list[int]]:
    """Return transformers' hook that restricts the next token.

    Args:
        trie: the allowed outputs.
        width: number of tokens of the prompt, after which the output begins.
        eos: id of [EOS].
    """

    def follow(_: int, sequence: Tensor) -> list[int]:
        node: Any = trie
        for token in sequence[width:].tolist():
            node = node.get(token) if isinstance(node, dict) else None
            if node is None:
                return [eos]
        return list(node) if isinstance(node, dict) else [eos]

    return follow
