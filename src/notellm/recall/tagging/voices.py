"""What four voices say for each known name of a task.

model       ln P(name | prompt) of the language model, over the names that it makes likely (``likelihood``),
            for a category given that it is one of them
neighbours  ln of the share of the nearest known notes that carry the name, weighted by their cosine: the
            distribution that nearest-neighbour language models add (Khandelwal et al., arXiv 1911.00172)
words       complement naive Bayes of the note's words (``words.py``)
mention     share of the name's own words that occur in the note (``words.py``)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from transformers import PreTrainedModel

from notellm.backbone.batch import longest_first
from notellm.backbone.branches import Branches
from notellm.backbone.load import evaluation_mode
from notellm.data.note import Note
from notellm.lexical.terms import term_counts
from notellm.progress import progress_bar
from notellm.recall.prompt import PromptBuilder, Task
from notellm.recall.tagging.known import KnownNotes, text_counts
from notellm.recall.tagging.likelihood import NameTrie, name_likelihoods
from notellm.recall.tagging.names import Names
from notellm.recall.tagging.words import Words
from notellm.vectors import search

NEIGHBOURS = 50
_READ_TOGETHER = 128  # notes whose prompts are read together
#: Logs stop at these shares: what is rarer is not told apart.
_LEAST_LIKELIHOOD, _LEAST_SHARE, _LEAST_EVIDENCE = 1e-5, 1e-3, 1e-2
#: Prefixes of names that the model continues: as a share of the best one, and at most.
_FLOOR: dict[Task, float] = {"topics": 1e-2, "category": 1e-3}
_WIDTH: dict[Task, int] = {"topics": 24, "category": 64}


@dataclass(frozen=True)
class Reader:
    """How a model reads a prompt.

    Attributes:
        backbone: the causal language model.
        prompt: its prompt.
        to_vectors: turns hidden states, (n, hidden), into vectors, (n, dim) of unit norm.
        whole: read continuations as whole sequences, see ``backbone.branches.can_branch``.
    """

    backbone: PreTrainedModel
    prompt: PromptBuilder
    to_vectors: Callable[[Tensor], Tensor]
    whole: bool = False

    def prompts(self, notes: Sequence[Note], task: Task) -> list[list[int]]:
        """Return the token ids of the prompts of notes; for the topics task their topics are not read."""
        count = self.prompt.config.typical_topics
        return self.prompt.prompt_ids(
            [self.prompt.render(note, task, count) for note in self.prompt.cut(notes)]
        )

    def branches(self, prompts: Sequence[Sequence[int]], task: Task) -> tuple[Branches, np.ndarray]:
        """Read prompts of a task.

        Args:
            prompts: token ids from :meth:`prompts`.
            task: the task.

        Returns:
            The prompts with their guidance, to be continued with outputs, and the vectors of the notes,
            (n, dim) float32.
        """
        count = self.prompt.config.typical_topics
        guidance = [self.prompt.emb_id, *self.prompt.guidance_ids(task, count)]
        whole = [[*ids, *guidance] for ids in prompts]
        ends = [len(ids) - 1 for ids in prompts]
        shared = self.prompt.shared_length(prompts, self.prompt.instruction_ids(task, count))
        branches = Branches(
            self.backbone, whole, self.prompt.tokenizer, read_at=ends, whole=self.whole, shared=shared
        )
        vectors = self.to_vectors(branches.states_read)
        return branches, vectors.float().cpu().numpy()

    @torch.inference_mode()
    def vectors(self, notes: Sequence[Note], task: Task, *, progress: bool = False) -> np.ndarray:
        """Return the vectors of notes after the prompt of a task, (n, dim) float32.

        Args:
            notes: at least one note.
            task: the task.
            progress: show a progress bar.
        """
        prompts = self.prompts(notes, task)
        order = longest_first(prompts)
        pieces = []
        with (
            evaluation_mode(self.backbone),
            progress_bar(total=len(notes), unit="note", desc=f"known {task}", disable=not progress) as bar,
        ):
            for start in range(0, len(order), _READ_TOGETHER):
                rows = order[start : start + _READ_TOGETHER]
                pieces.append(self.branches([prompts[row] for row in rows], task)[1])
                bar.update(len(rows))
        vectors = np.concatenate(pieces)
        return vectors[np.argsort(order)]

    def known_notes(
        self, note_ids: Sequence[str], notes: Sequence[Note], tasks: Sequence[Task], *, progress: bool = False
    ) -> KnownNotes:
        """Return what a tagger remembers of notes.

        Args:
            note_ids: ids of the notes.
            notes: at least one note.
            tasks: the tasks whose vectors are remembered.
            progress: show progress bars.
        """
        return KnownNotes(
            list(note_ids),
            [note.topics for note in notes],
            [note.category for note in notes],
            text_counts(notes),
            {task: self.vectors(notes, task, progress=progress) for task in tasks},
        )


@dataclass(frozen=True)
class Spoken:
    """What the voices say of n notes.

    Attributes:
        features: (n, names, voices) float32, in the order of ``weights.VOICES``.
        neighbours: (n, k) int64, rows of the nearest known notes, nearest first; -1 where there are fewer.
    """

    features: np.ndarray
    neighbours: np.ndarray


class TaskVoices:
    """The known names of a task, and what speaks for them.

    Args:
        task: the task.
        reader: reads prompts.
        known: the known notes; those without an answer to the task are left out.
        allowed: the only names to choose from; None allows those that known notes carry.
    """

    def __init__(
        self, task: Task, reader: Reader, known: KnownNotes, allowed: Sequence[str] | None = None
    ) -> None:
        self.task = task
        self.reader = reader
        answers = known.answers(task)
        self.names = Names(allowed if allowed is not None else (name for row in answers for name in row))
        carried = self.names.matrix(answers)
        rows = np.flatnonzero(np.diff(carried.indptr))
        self.known = known.take(rows)
        self.answers: sp.csr_matrix = carried[rows]
        self.note_ids = list(self.known.note_ids)
        self._vectors = self.known.vectors[task] if len(self.known) else None  # with room for more at the end
        self._row = {note_id: row for row, note_id in enumerate(self.note_ids)}
        self._speaks = np.ones(len(self.note_ids), dtype=bool)
        self.words = Words(self.known.task_counts(task), self.answers, self.names.names)
        self.trie = _trie(task, reader.prompt, self.names.names)

    # ---------------------------------------------------------------- notes that come and go

    def learn(self, notes: KnownNotes) -> None:
        """Let notes speak as neighbours from now on, with new names if they carry any."""
        rows = [row for row, names in enumerate(notes.answers(self.task)) if names]
        if not rows or self.task not in notes.vectors:
            return
        new = notes.take(np.array(rows))
        answers = new.answers(self.task)
        before = len(self.names)
        added = self.names.add(name for row in answers for name in row)
        carried = self.names.matrix(answers)
        if added:
            self.words.add_names(added, new.task_counts(self.task), carried[:, before:])
        self.answers.resize(len(self.note_ids), len(self.names))
        self.answers = sp.csr_matrix(sp.vstack([self.answers, carried]))
        first, vectors = len(self.note_ids), new.vectors[self.task]
        last = first + len(new)
        if self._vectors is None or len(self._vectors) < last:
            grown = np.zeros((last + last // 2, vectors.shape[1]), dtype=np.float32)
            if self._vectors is not None:
                grown[:first] = self._vectors[:first]
            self._vectors = grown
        self._vectors[first:last] = vectors
        self.note_ids += new.note_ids
        self._row |= {note_id: first + place for place, note_id in enumerate(new.note_ids)}
        self._speaks = np.append(self._speaks, np.ones(len(new), dtype=bool))

    def silence(self, note_ids: Iterable[str]) -> None:
        """Let notes no longer speak as neighbours."""
        for note_id in note_ids:
            row = self._row.pop(note_id, None)
            if row is not None:
                self._speaks[row] = False

    # ---------------------------------------------------------------- speaking

    @torch.inference_mode()
    def speak(
        self,
        notes: Sequence[Note],
        prompts: Sequence[Sequence[int]],
        *,
        model: bool = True,
        note_ids: Sequence[str] = (),
    ) -> Spoken:
        """Return what the voices say of notes.

        Args:
            notes: notes; for the topics task their topics are not read.
            prompts: their prompts, from :meth:`Reader.prompts`.
            model: whether the language model speaks; without it, its feature is the least for every name.
            note_ids: ids of the notes; a known note with the same id is no neighbour of its own.
        """
        branches, vectors = self.reader.branches(prompts, self.task)
        count = len(notes)
        features = np.empty((count, len(self.names), 4), dtype=np.float32)
        features[:, :, 0] = np.log(_LEAST_LIKELIHOOD)
        if model:
            found = name_likelihoods(branches, self.trie, floor=_FLOOR[self.task], width=_WIDTH[self.task])
            for row, (numbers, logs) in enumerate(zip(found.numbers, found.logs, strict=True)):
                if self.task == "category" and len(logs):  # one of them it is, however unlikely each was
                    logs = logs - np.logaddexp.reduce(logs)  # noqa: PLW2901
                features[row, numbers, 0] = np.maximum(logs, np.log(_LEAST_LIKELIHOOD))
        nearest, shares = self._vote(vectors, note_ids)
        features[:, :, 1] = np.log(_LEAST_SHARE + shares)
        counts = text_counts(notes)
        if self.task == "category":
            counts = counts + term_counts([" ".join(note.topics) for note in notes])
        evidence = self.words.evidence(counts)
        if self.task == "topics":  # topics are scored one by one: only what speaks for a topic counts
            evidence = np.log(_LEAST_EVIDENCE + np.maximum(evidence, 0))
        features[:, :, 2] = evidence
        features[:, :, 3] = self.words.mentions(counts)
        return Spoken(features, nearest)

    def _vote(self, vectors: np.ndarray, note_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest known notes and each name's share of their cosines, (n, names)."""
        count = len(vectors)
        if self._vectors is None:
            return np.full((count, 0), -1), np.zeros((count, len(self.names)), dtype=np.float32)
        own = np.array([self._row.get(note_id, -1) for note_id in note_ids]) if note_ids else None
        known = self._vectors[: len(self.note_ids)]
        allowed = None if self._speaks.all() else self._speaks
        nearest, cosines = search(known, vectors, NEIGHBOURS, exclude=own, allowed=allowed)
        votes = np.where(nearest >= 0, np.maximum(cosines, 0), 0)
        total = np.maximum(votes.sum(axis=1, keepdims=True), 1e-9)
        rows = np.repeat(np.arange(count), nearest.shape[1])
        matrix = sp.csr_matrix(
            ((votes / total).ravel(), (rows, np.maximum(nearest, 0).ravel())),
            shape=(count, len(known)),
        )
        shares: np.ndarray = (matrix @ self.answers).toarray()
        return nearest, shares


def _trie(task: Task, prompt: PromptBuilder, names: Sequence[str]) -> NameTrie:
    """Return the trie of names; a topic ends where the output ends or a separator follows."""
    if task == "category":
        spellings = prompt.output_ids([prompt.output(task, category=name) for name in names])
        return NameTrie.build(spellings, [prompt.eos_id])
    spellings = prompt.output_ids([prompt.output(task, topics=[name]) for name in names])
    ends = {prompt.eos_id}
    alone, two = prompt.output_ids([prompt.output(task, topics=["a", "b"][:n]) for n in (1, 2)])
    if two[: len(alone)] == alone and len(two) > len(alone):
        ends.add(two[len(alone)])
    return NameTrie.build(spellings, sorted(ends))
