"""Training batches: B related pairs become 2B prompts, each with its task, its labels and its partner.

A run reads one **stream** of pairs. The random choices for the two notes of its item k (task, number and
choice of topics) depend on (seed, k) only. So a resumed run, and a run on several processes, sees exactly the
same batches as an uninterrupted run on one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from notellm.backbone.batch import pad
from notellm.data.note import Note
from notellm.errors import DataError
from notellm.recall.frozen_states import FrozenStates
from notellm.recall.prompt import IGNORED, PromptBuilder, Task, TokenizedPrompt


@dataclass(frozen=True)
class PairIndex:
    """Related pairs as row numbers of the notes table.

    Attributes:
        source: (pairs,) int64, row of the first note.
        target: (pairs,) int64, row of the second note.
        weight: (pairs,) float64, score of the pair.
        count: number of notes.
        known: int64, the sorted keys ``a * count + b`` of all pairs (a, b) and (b, a).
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    count: int
    known: np.ndarray

    @classmethod
    def build(cls, note_ids: Sequence[str], pairs: pa.Table) -> "PairIndex":
        """Replace the note ids of pairs by row numbers.

        Args:
            note_ids: the ids of the notes table, in its order.
            pairs: related pairs (schema ``data.schema.PAIRS``).

        Raises:
            DataError: if there is no pair, or a pair names a note that is not in the table.
        """
        if pairs.num_rows == 0:
            raise DataError(
                "there are no related pairs to train on; notellm pairs, or pairs.counts.why_none, tells why "
                "the log has none; without pairs (None), only category and topics are trained"
            )
        row = {note_id: i for i, note_id in enumerate(note_ids)}
        ends = []
        for name in ("source", "target"):
            ids = pairs.column(name).to_pylist()
            unknown = next((note_id for note_id in ids if note_id not in row), None)
            if unknown is not None:
                raise DataError(
                    f"the related pairs name the note {unknown!r}, which is not in the notes table; "
                    "mine the pairs from clicks on these notes"
                )
            ends.append(np.array([row[note_id] for note_id in ids], dtype=np.int64))
        source, target = ends
        count = len(row)
        known = np.unique(np.concatenate([source * count + target, target * count + source]))
        weight = pairs.column("score").to_numpy().astype(np.float64)
        return cls(source, target, weight, count, known)

    def log_frequency(self) -> np.ndarray:
        """Return the log of how many pairs hold each note, (count,) float32; 0 for notes without a pair."""
        uses = np.bincount(self.source, minlength=self.count) + np.bincount(self.target, minlength=self.count)
        frequency: np.ndarray = np.log(np.maximum(uses, 1)).astype(np.float32)
        return frequency


class PairStream(Dataset[tuple[int, int, int]]):
    """The pairs of a whole run in order; item k is (k, source row, target row).

    Every pass over the data has a new random order. Without pairs the items are single notes, (k, row, -1),
    which train the generation alone.

    Args:
        pairs: the related pairs; None for single notes.
        rows: rows of the single notes; not used with pairs.
        length: number of items of the run.
        seed: seed of the order.
    """

    def __init__(self, pairs: PairIndex | None, rows: np.ndarray, length: int, seed: int) -> None:
        self.source = rows if pairs is None else pairs.source
        self.target = np.full(len(rows), -1, dtype=np.int64) if pairs is None else pairs.target
        passes = -(-length // len(self.source))
        rng = np.random.default_rng((seed, 0))
        order = [rng.permutation(len(self.source)) for _ in range(passes)]
        self.order = np.concatenate(order)[:length]

    def __len__(self) -> int:
        return len(self.order)

    def rows(self) -> np.ndarray:
        """Return the rows of all notes in the stream, (notes,) int64, each once."""
        items = np.unique(self.order)
        rows = np.unique(np.concatenate([self.source[items], self.target[items]]))
        return rows[rows >= 0]

    def __getitem__(self, k: int) -> tuple[int, int, int]:
        item = self.order[k]
        return k, int(self.source[item]), int(self.target[item])


class PairCollator:
    """Turns items of a :class:`PairStream` into one padded batch.

    Args:
        prompt: renders and tokenizes the prompts.
        notes: all notes, cut by ``prompt.cut``, in the rows of the stream.
        topic_share: share r of the notes that do the topics task (paper: 0.4).
        seed: seed of the choice of tasks and topics.
        fixed: give each note one sequence for each task, whose topics are drawn once, so that what frozen
            layers compute for it can be kept.
    """

    def __init__(
        self,
        prompt: PromptBuilder,
        notes: Sequence[Note],
        *,
        topic_share: float,
        seed: int,
        fixed: bool = False,
    ) -> None:
        self.prompt = prompt
        self.notes = notes
        self.topic_share = topic_share
        self.seed = seed
        self.fixed = fixed
        self._states: FrozenStates | None = None
        self._numbers: dict[tuple[int, Task], int] = {}
        texts: dict[tuple[str, str, tuple[str, ...]], int] = {}
        self.text_keys = [
            texts.setdefault((note.title, note.content, note.topics), len(texts)) for note in notes
        ]

    def __call__(self, items: Sequence[tuple[int, int, int]]) -> dict[str, Tensor]:
        """Return the batch of some items: first their sources, then their targets in the same order.

        Returns:
            ``input_ids``, ``attention_mask`` and ``labels``, (notes, length) int64, and for each note,
            (notes,) int64, ``position``, ``note`` (its row), ``text`` (equal for equal texts) and ``partner``
            (the row of its partner in the batch, -1 for single notes). After :meth:`store` also ``states``,
            (notes, length, hidden) float16.
        """
        single = items[0][2] < 0
        rows = [source for _, source, _ in items] + ([] if single else [target for _, _, target in items])
        draws = [np.random.default_rng((self.seed, 1, k)) for k, _, _ in items]
        draws *= 1 if single else 2
        tasks: list[Task] = []
        for row, rng in zip(rows, draws, strict=True):
            note = self.notes[row]
            topics = bool(note.topics) and (rng.random() < self.topic_share or (single and not note.category))
            tasks.append("topics" if topics else "category")
        tokenized = self._tokenized(rows, tasks, draws)
        batch = pad([item.ids for item in tokenized], self.prompt.tokenizer)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for i, item in enumerate(tokenized):
            labels[i, : len(item.labels)] = torch.tensor(item.labels, dtype=torch.int64)
        half = len(items)
        partner = (
            torch.full((len(rows),), -1)
            if single
            else torch.cat([torch.arange(half, 2 * half), torch.arange(half)])
        )
        if self._states is not None:
            numbers = [self._numbers[key] for key in zip(rows, tasks, strict=True)]
            batch["states"] = self._states.read(numbers)
        return {
            **batch,
            "position": torch.tensor([item.position for item in tokenized], dtype=torch.int64),
            "labels": labels,
            "note": torch.tensor(rows, dtype=torch.int64),
            "text": torch.tensor([self.text_keys[row] for row in rows], dtype=torch.int64),
            "partner": partner,
        }

    def _tokenized(
        self, rows: Sequence[int], tasks: Sequence[Task], draws: Sequence[np.random.Generator]
    ) -> list[TokenizedPrompt]:
        """Return the sequences of some notes.

        Args:
            rows: the notes.
            tasks: the task of each one.
            draws: what draws the topics of each one, unless they are fixed.
        """
        prompts, outputs, counts = [], [], []
        for row, task, rng in zip(rows, tasks, draws, strict=True):
            note = self.notes[row]
            chosen: list[str] = []
            if task == "topics":
                draw = np.random.default_rng((self.seed, 2, row)) if self.fixed else rng
                count = int(draw.integers(1, len(note.topics) + 1))
                picks = draw.choice(len(note.topics), count, replace=False)
                chosen = [note.topics[pick] for pick in picks]
            counts.append(len(chosen))
            prompts.append(self.prompt.render(note, task, len(chosen) or None))
            outputs.append(self.prompt.output(task, category=note.category, topics=chosen))
        return self.prompt.tokenize(prompts, tasks, outputs, counts)

    # ---------------------------------------------------------------- frozen layers

    def sequences(self, rows: np.ndarray, *, single: bool) -> list[list[int]]:
        """Return the token ids of all sequences that batches of some notes may hold, if they are fixed.

        Args:
            rows: the notes.
            single: whether the batches are of single notes.
        """
        keys: list[tuple[int, Task]] = []
        for row in rows.tolist():
            note = self.notes[row]
            must = single and not note.category
            if not note.topics or (self.topic_share < 1 and not must):
                keys.append((row, "category"))
            if note.topics and (self.topic_share > 0 or must):
                keys.append((row, "topics"))
        self._numbers = {key: number for number, key in enumerate(keys)}
        unused = [np.random.default_rng(0)] * len(keys)
        tokenized = self._tokenized([row for row, _ in keys], [task for _, task in keys], unused)
        return [item.ids for item in tokenized]

    def store(self, states: FrozenStates) -> None:
        """Add the stored states of the frozen layers to every batch, in the order of :meth:`sequences`."""
        self._states = states
