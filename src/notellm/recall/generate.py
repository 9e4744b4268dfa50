"""Writing a note's category and topics with a trained NoteLLM.

The prompt of the task up to [EMB] and its guidance is the beginning, the model writes on, greedily. A
category can be **constrained** to the known list: at every step only tokens that continue one of the
names are allowed (a trie of their token ids), so an ill-formed category cannot come out.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from notellm.backbone.batch import pad_left
from notellm.backbone.load import greedy_decoding
from notellm.data.note import Notes, as_notes
from notellm.errors import ConfigError
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import Task

#: Prompts generated at a time; similar lengths stand together.
BATCH = 64
_LONGEST_CATEGORY = 32
_TOKENS_PER_TOPIC = 12


def generate_categories(
    model: NoteLLM,
    notes: Notes,
    *,
    categories: Sequence[str] | None = None,
    constrained: bool = True,
    progress: bool = False,
) -> list[str]:
    """A category for each note.

    Args:
        model: a trained model.
        notes: a notes table or a list of notes; their own categories are not read.
        categories: the allowed names; the training notes' categories when None.
        constrained: hold the output to ``categories``; otherwise the model writes freely.
        progress: show a progress bar.

    Raises:
        ConfigError: constrained, but no category is known.
    """
    if not constrained:
        written = _generate(model, notes, "category", 1, limit=_LONGEST_CATEGORY, progress=progress)
        return [text.strip() for text in _texts(model, written)]
    known = model.settings.categories if categories is None else categories
    names = [name for name in dict.fromkeys(known) if name.strip()]
    if not names:
        raise ConfigError(
            "no category is known: the model was trained on notes without categories; "
            "give categories=[...] or constrained=False"
        )
    prompt = model.prompt
    spellings = prompt.output_ids([prompt.output("category", category=name) for name in names])
    trie: dict[int, Any] = {}
    for name, ids in zip(names, spellings, strict=True):
        branch = trie
        for token in ids:
            branch = branch.setdefault(token, {})
        branch.setdefault(prompt.eos_id, name)  # of two names with one spelling the first counts
    longest = max(len(ids) for ids in spellings) + 1
    outputs = _generate(model, notes, "category", 1, limit=longest, progress=progress, trie=trie)
    found = []
    for ids in outputs:
        node: Any = trie
        for token in ids:
            node = node[token]
            if isinstance(node, str):
                break
        found.append(node)
    return found


def generate_topics(
    model: NoteLLM, notes: Notes, *, n: int | None = None, progress: bool = False
) -> list[list[str]]:
    """Topics (hashtags) for each note; the notes' own topics are not read.

    Args:
        model: a trained model.
        notes: a notes table or a list of notes.
        n: how many at most; None asks for the number typical of the training notes and takes what comes
            until the model ends.
        progress: show a progress bar.

    Raises:
        ConfigError: n is not positive.
    """
    if n is not None and n < 1:
        raise ConfigError(f"n is {n}; ask for at least 1 topic, or None to let the model end")
    count = model.settings.typical_topics if n is None else n
    limit = _TOKENS_PER_TOPIC * max(count, 3 if n is None else count)
    written = _generate(model, notes, "topics", count, limit=limit, progress=progress)
    return [model.prompt.parse_topics(text)[:n] for text in _texts(model, written)]


def _texts(model: NoteLLM, written: list[list[int]]) -> list[str]:
    texts: list[str] = model.tokenizer.batch_decode(written, skip_special_tokens=True)
    return texts


@torch.inference_mode()
def _generate(
    model: NoteLLM,
    notes: Notes,
    task: Task,
    count: int,
    *,
    limit: int,
    progress: bool,
    trie: dict[int, Any] | None = None,
) -> list[list[int]]:
    """Generated token ids of each note, in the order given, without [EOS] unless a trie holds them."""
    prompt = model.prompt
    rows = prompt.cut(as_notes(notes))
    starts = [
        [*ids, prompt.emb_id, *prompt.guidance_ids(task, count)]
        for ids in prompt.prompt_ids([prompt.render(note, task, count) for note in rows])
    ]
    order = sorted(range(len(starts)), key=lambda row: -len(starts[row]))
    results: list[list[int]] = [[] for _ in starts]
    training = model.training
    model.eval()
    # transformers fills what a call leaves open from the model's own generation_config (sampling, penalties,
    # forbidden tokens), and a model may bring its own `generate`. So a shallow copy decodes, with the same
    # weights and neither of the two; the model is left as it is, also for other threads.
    writer = copy.copy(model.backbone)
    writer.generation_config = greedy_decoding(model.tokenizer)
    config = greedy_decoding(model.tokenizer, max_new_tokens=limit)
    with tqdm(total=len(starts), unit="note", desc=task, disable=not progress) as bar:
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            batch = pad_left([starts[row] for row in chosen], model.tokenizer, model.device)
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
    """Transformers' hook: which tokens may follow what has been written after the prompt."""

    def follow(_: int, sequence: Tensor) -> list[int]:
        node: Any = trie
        for token in sequence[width:].tolist():
            node = node.get(token) if isinstance(node, dict) else None
            if node is None:
                return [eos]
        return list(node) if isinstance(node, dict) else [eos]

    return follow
