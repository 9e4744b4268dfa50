"""Write the category and the topics of notes freely, with greedy decoding.

The model continues the prompt of the task up to [EMB] and its guidance. No run of three tokens is written
twice, so an output cannot loop. Topics that no person would have given are dropped: see :func:`is_plausible`.
"""

import copy
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, NoRepeatNGramLogitsProcessor, PreTrainedModel

from notellm.backbone.batch import pad_left
from notellm.backbone.load import evaluation_mode, own_decoding
from notellm.data.note import Notes, as_notes
from notellm.progress import progress_bar
from notellm.recall.prompt import PromptBuilder, Task
from notellm.recall.tagging.names import name_key

#: Prompts in a batch; they are sorted by length, so that a batch needs little padding.
BATCH = 64
_LONGEST_CATEGORY = 32  # tokens of a category that is not restricted
_TOKENS_PER_TOPIC = 12
_LONGEST_NAME = 60  # characters
_NO_REPEAT = 3  # tokens in a row that are not written twice
_LOOP = re.compile(r"(.{1,8}?)\1{3,}")  # the same characters four times in a row
_LEAST_TOPICS = 3  # room for as many topics as this, where the model decides on their number


def generate_categories(
    backbone: PreTrainedModel, prompt: PromptBuilder, notes: Notes, *, progress: bool
) -> list[str]:
    """Write a category for each note; "" where the model writes nothing plausible.

    Args:
        backbone: the trained causal language model.
        prompt: its prompt.
        notes: a notes table or a list of notes; their categories are not read.
        progress: show a progress bar.

    Raises:
        DataError: if there are no notes.
    """
    outputs = _generate(backbone, prompt, notes, "category", 1, limit=_LONGEST_CATEGORY, progress=progress)
    names = [text.strip() for text in _texts(prompt, outputs)]
    return [name if is_plausible(name) else "" for name in names]


def generate_topics(
    backbone: PreTrainedModel,
    prompt: PromptBuilder,
    notes: Notes,
    *,
    n: int | None,
    longest: int | None = None,
    progress: bool,
) -> list[list[str]]:
    """Write topics (hashtags) for each note.

    Args:
        backbone: the trained causal language model.
        prompt: its prompt.
        notes: a notes table or a list of notes; their topics are not read.
        n: the largest number of topics; None asks for ``prompt.config.typical_topics`` topics and returns all
            that the model writes.
        longest: longer topics, in characters, are dropped; None drops those of more than 60.
        progress: show a progress bar.

    Raises:
        DataError: if there are no notes.
    """
    count = prompt.config.typical_topics if n is None else n
    limit = _TOKENS_PER_TOPIC * max(count, _LEAST_TOPICS if n is None else count)
    outputs = _generate(backbone, prompt, notes, "topics", count, limit=limit, progress=progress)
    written = [prompt.parse_topics(text) for text in _texts(prompt, outputs)]
    return [_different(topic for topic in topics if is_plausible(topic, longest))[:n] for topics in written]


def is_plausible(name: str, longest: int | None = None) -> bool:
    """Return whether a person might have given a name: it has letters or digits, and no loop.

    Args:
        name: the name.
        longest: most characters of a name; None allows 60.
    """
    return (
        len(name) <= (longest or _LONGEST_NAME)
        and "\ufffd" not in name
        and name.isprintable()
        and any(character.isalnum() for character in name)
        and _LOOP.search(name) is None
    )


def _different(topics: Iterable[str]) -> list[str]:
    """Return topics without further spellings of those before them."""
    different: dict[str, str] = {}
    for topic in topics:
        different.setdefault(name_key(topic), topic)
    return list(different.values())


def _texts(prompt: PromptBuilder, outputs: list[list[int]]) -> list[str]:
    texts: list[str] = prompt.tokenizer.batch_decode(outputs, skip_special_tokens=True)
    return texts


class _NoRepeats(LogitsProcessor):
    """Forbids runs of tokens that the output has already; the prompt, up to a column, may be repeated."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self._forbid: Any = NoRepeatNGramLogitsProcessor(_NO_REPEAT)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores of the next token, with minus infinity for what is forbidden."""
        allowed: Tensor = self._forbid(input_ids[:, self.begin :], scores)
        return allowed


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
) -> list[list[int]]:
    """Return the generated token ids of each note without [EOS], in the order of the notes.

    Args:
        backbone: the causal language model.
        prompt: its prompt.
        notes: the notes.
        task: the task.
        count: number of topics that the prompt asks for.
        limit: largest number of generated tokens.
        progress: show a progress bar.
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
        progress_bar(total=len(starts), unit="note", desc=task, disable=not progress) as bar,
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
                logits_processor=[_NoRepeats(width)],
            )
            for row, sequence in zip(chosen, output[:, width:].tolist(), strict=True):
                end = sequence.index(prompt.eos_id) if prompt.eos_id in sequence else len(sequence)
                results[row] = sequence[:end]
            bar.update(len(chosen))
    return results
