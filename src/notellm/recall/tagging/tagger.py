"""The tagger of a trained NoteLLM: topics and categories chosen among known names, with probabilities.

    tagger = Tagger(reader, known, DEFAULTS)
    tagger.fit(held_out)                  # the weights of the voices
    tagger.tag(notes)                     # NoteTags of each note

The number of topics maximises the expected F1: with probabilities p_1 >= p_2 >= ... and m true topics on
average,

    k = argmax_k  2 (p_1 + ... + p_k) / (k + m)
"""

import copy
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from notellm.backbone.batch import longest_first
from notellm.backbone.load import evaluation_mode
from notellm.data.note import Note
from notellm.errors import ConfigError, ModelError, StorageError
from notellm.files import json_text, read_json
from notellm.progress import progress_bar
from notellm.recall.prompt import Task
from notellm.recall.tagging.known import KnownNotes
from notellm.recall.tagging.tags import NoteTags, Tag
from notellm.recall.tagging.voices import Reader, Spoken, TaskVoices
from notellm.recall.tagging.weights import (
    DEFAULTS,
    MODEL_ALONE,
    VOICES,
    Weights,
    fit_category,
    fit_topics,
)

WEIGHTS = "tagger.json"
#: The least probability of a topic or a category that is published.
LEAST = 0.02
#: Ranked names that are returned beside the published ones.
TOP = 10
_BATCH = 64  # notes whose prompts are read together
_CELLS = 2**23  # numbers that the features of a batch hold at most
_CANDIDATES = 200  # likeliest topics of a note that weights are fitted on
_LEAST_HELD_OUT = 50  # fewer notes with an answer are too few to fit weights on
_GROWN_AT_LEAST = 200  # new notes before what is known is joined
_SPEAKERS = 3  # neighbours that are named for a tag


class Tagger:
    """Chooses topics and categories of notes.

    Args:
        reader: reads prompts with the language model.
        known: the known notes.
        weights: the weights of the voices for each task; tasks without known names are left out.
        alone: the weights of the language model when it alone speaks.
        allowed: the only names to choose from, for some tasks; else those that known notes carry.
    """

    def __init__(
        self,
        reader: Reader,
        known: KnownNotes,
        weights: Mapping[Task, Weights],
        *,
        alone: Mapping[Task, Weights] = MODEL_ALONE,
        allowed: Mapping[Task, Sequence[str]] | None = None,
    ) -> None:
        self.reader = reader
        self.known = known
        self.weights = dict(weights)
        self.alone = {task: alone[task] for task in weights}
        self.voices: dict[Task, TaskVoices] = {}
        for task in weights:
            voices = TaskVoices(task, reader, known, (allowed or {}).get(task))
            if len(voices.names):
                self.voices[task] = voices
        counts = [len(topics) for topics in known.topics if topics]
        self._recent: list[KnownNotes] = []
        self._silent: set[str] = set()
        self._mean_topics = float(np.mean(counts)) if counts else 1.0
        self._most_topics = int(np.quantile(counts, 0.95)) if counts else 1

    def restricted(self, task: Task, names: Sequence[str]) -> "Tagger":
        """Return a tagger that chooses among some names for a task, and does nothing else."""
        weights = {task: self.weights.get(task, MODEL_ALONE[task])}
        return Tagger(self.reader, self._speaking(), weights, allowed={task: names})

    def model_alone(self) -> "Tagger":
        """Return a tagger for which only the language model speaks, with the same names."""
        other = copy.copy(self)
        other.weights = self.alone
        return other

    # ---------------------------------------------------------------- notes that come and go

    @property
    def known_ids(self) -> set[str]:
        """The ids of the notes that speak as neighbours."""
        ids = {note_id for piece in (self.known, *self._recent) for note_id in piece.note_ids}
        return ids - self._silent

    def learn(self, note_ids: Sequence[str], notes: Sequence[Note]) -> None:
        """Add known notes, or replace them; those without topics and category are left out.

        They speak as neighbours at once, and their words for the names that they bring. Their words count for
        other names, and the language model proposes their new names, after the known notes have grown by a
        tenth.

        Args:
            note_ids: ids of the notes.
            notes: the notes.
        """
        self.forget(note_ids)
        labelled = [place for place, note in enumerate(notes) if note.topics or note.category]
        if not labelled or not self.known.vectors:
            return
        ids = [note_ids[place] for place in labelled]
        tasks = list(self.known.vectors)
        new = self.reader.known_notes(ids, [notes[place] for place in labelled], tasks)
        self._recent.append(new)
        self._silent -= set(ids)
        for voices in self.voices.values():
            voices.learn(new)
        if sum(map(len, self._recent)) > max(_GROWN_AT_LEAST, len(self.known) // 10):
            self._join()

    def forget(self, note_ids: Iterable[str]) -> None:
        """Let notes no longer speak as neighbours."""
        ids = set(note_ids)
        self._silent |= ids
        self._recent = [
            piece if ids.isdisjoint(piece.note_ids) else _without(piece, ids) for piece in self._recent
        ]
        for voices in self.voices.values():
            voices.silence(ids)

    def keep_only(self, note_ids: Collection[str]) -> None:
        """Let only some of the known notes speak as neighbours."""
        self.forget([note_id for note_id in self.known_ids if note_id not in note_ids])

    def _speaking(self) -> KnownNotes:
        """Return the known notes with those that came, without those that went."""
        replaced = {note_id for piece in self._recent for note_id in piece.note_ids}
        gone = replaced | self._silent
        return _without(self.known, gone).joined(self._recent) if gone else self.known

    def _join(self) -> None:
        """Let everything that is known count as if it had been known from the start."""
        replaced = {note_id for piece in self._recent for note_id in piece.note_ids}
        self.known = _without(self.known, replaced).joined(self._recent)
        self._recent = []
        for task, before in self.voices.items():
            self.voices[task] = TaskVoices(task, before.reader, self.known)
            self.voices[task].silence(self._silent)

    # ---------------------------------------------------------------- fitting

    def fit(self, held_out: Sequence[Note], *, progress: bool = False) -> None:
        """Fit the weights on notes with answers; a task with fewer than fifty such notes keeps its weights.

        Args:
            held_out: notes that neither the language model nor the known notes have learnt from.
            progress: show a progress bar.
        """
        for task, voices in self.voices.items():
            notes = [note for note in held_out if getattr(note, task)]
            if task == "category":
                notes = [note for note in notes if voices.names.number(note.category) is not None]
                notes = notes[: max(_LEAST_HELD_OUT, _CELLS // (len(VOICES) * len(voices.names)))]
            if len(notes) >= _LEAST_HELD_OUT:
                self._fit_task(task, notes, progress=progress)

    def _fit_task(self, task: Task, notes: Sequence[Note], *, progress: bool) -> None:
        names, weights, alone = self.voices[task].names, self.weights[task], self.alone[task]
        features: list[np.ndarray] = []
        true: list[Any] = []
        label = f"weights of {task}"
        for rows, spoken in self._spoken(task, notes, model=True, label=label, progress=progress):
            for row, values in zip(rows, spoken.features, strict=True):
                if task == "category":
                    features.append(values)
                    true.append(names.number(notes[row].category))
                else:
                    likely = {
                        number
                        for each in (weights, alone)
                        for number in np.argsort(-each.topic_probabilities(values))[:_CANDIDATES].tolist()
                    }
                    candidates = np.array(sorted(likely))
                    features.append(values[candidates])
                    true.append(np.isin(candidates, names.numbers(notes[row].topics)))
        fit = fit_category if task == "category" else fit_topics
        self.weights[task] = fit(features, true)
        self.alone[task] = fit(features, true, voices=("model",))

    # ---------------------------------------------------------------- tagging

    def tag(
        self,
        notes: Sequence[Note],
        *,
        tasks: Sequence[Task] = ("category", "topics"),
        topics: int | None = None,
        least: float = LEAST,
        note_ids: Sequence[str] = (),
        progress: bool = False,
    ) -> list[NoteTags]:
        """Choose the category and topics of notes.

        Args:
            notes: the notes; their category is not read, and their topics are read for the category only.
            tasks: what to choose; a task that is not known is left out.
            topics: number of topics of each note; None lets the probabilities decide.
            least: least probability of what is published; with ``topics`` it holds for the category only.
            note_ids: ids of the notes; a known note is then no neighbour of itself.
            progress: show a progress bar.

        Raises:
            ConfigError: if topics is not positive, least is not a probability, or there are too few note_ids.
        """
        check_request(topics, least)
        if len(note_ids) not in (0, len(notes)):
            raise ConfigError(
                f"{len(note_ids)} note_ids for {len(notes)} notes: give one for each note, or none"
            )
        tags = [NoteTags() for _ in notes]
        for task in tasks:
            if task not in self.voices:
                continue
            for rows, spoken in self._spoken(task, notes, note_ids=note_ids, label=task, progress=progress):
                rankings = self._ranked(task, spoken, max(TOP, topics or 0))
                for row, ranked in zip(rows, rankings, strict=True):
                    if task == "category":
                        best = ranked[0] if (ranked[0].probability or 0) >= least else None
                        tags[row] = replace(tags[row], category=best, categories=tuple(ranked))
                    else:
                        count = self._count(ranked, least) if topics is None else topics
                        chosen, more = tuple(ranked[:count]), tuple(ranked[count:])
                        tags[row] = replace(tags[row], topics=chosen, more_topics=more)
        return tags

    def _spoken(
        self,
        task: Task,
        notes: Sequence[Note],
        *,
        label: str,
        progress: bool,
        model: bool | None = None,
        note_ids: Sequence[str] = (),
    ) -> Iterator[tuple[list[int], Spoken]]:
        """Yield what the voices of a task say, for batches of rows of similar length."""
        voices, weights = self.voices[task], self.weights[task]
        speaks = weights.voices[VOICES.index("model")] > 0 if model is None else model
        size = max(1, min(_BATCH, _CELLS // (len(VOICES) * len(voices.names))))
        prompts = self.reader.prompts(notes, task)
        order = longest_first(prompts).tolist()
        with (
            evaluation_mode(self.reader.backbone),
            progress_bar(total=len(notes), unit="note", desc=label, disable=not progress) as bar,
        ):
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                ids = [note_ids[row] for row in rows] if note_ids else ()
                some, read = [notes[row] for row in rows], [prompts[row] for row in rows]
                yield rows, voices.speak(some, read, model=speaks, note_ids=ids)
                bar.update(len(rows))

    def _ranked(self, task: Task, spoken: Spoken, count: int) -> list[list[Tag]]:
        """Return the likeliest names of each note of a batch, with the neighbours that carry them."""
        voices, weights = self.voices[task], self.weights[task]
        if task == "category":
            probabilities = weights.category_probabilities(spoken.features)
        else:
            probabilities = weights.topic_probabilities(spoken.features)
        count = min(count, probabilities.shape[1])
        some = np.argpartition(-probabilities, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(probabilities, some, axis=1)
        order = np.lexsort((some, -values), axis=1)
        best, values = np.take_along_axis(some, order, axis=1), np.take_along_axis(values, order, axis=1)
        first, carried = voices.answers.indptr, voices.answers.indices
        rankings = []
        for nearest, numbers, likely in zip(spoken.neighbours, best.tolist(), values.tolist(), strict=True):
            speakers: dict[int, list[str]] = {number: [] for number in numbers}
            for row in nearest[nearest >= 0].tolist():
                for number in carried[first[row] : first[row + 1]].tolist():
                    if number in speakers and len(speakers[number]) < _SPEAKERS:
                        speakers[number].append(voices.note_ids[row])
            rankings.append(
                [
                    Tag(voices.names.names[number], probability, tuple(speakers[number]))
                    for number, probability in zip(numbers, likely, strict=True)
                ]
            )
        return rankings

    def _count(self, ranked: Sequence[Tag], least: float) -> int:
        """Return how many topics to publish: as many as the expected F1 is largest for."""
        probabilities = np.array([tag.probability or 0.0 for tag in ranked[: self._most_topics]])
        probabilities = probabilities[probabilities >= least]
        if not len(probabilities):
            return 0
        counts = np.arange(1, len(probabilities) + 1)
        return int(np.argmax(np.cumsum(probabilities) / (counts + self._mean_topics))) + 1

    # ---------------------------------------------------------------- files

    def write(self, folder: Path) -> None:
        """Write the known notes and the weights into a folder."""
        self.known.write(folder)
        (folder / WEIGHTS).write_text(json_text(self.to_json()), encoding="utf-8")

    def digest(self) -> str:
        """Return a hash of what decides the tags beside the model, 16 hexadecimal digits."""
        known = self.known
        digest = hashlib.sha256(repr(self.to_json()).encode())
        for note in zip(known.note_ids, known.topics, known.categories, strict=True):
            digest.update(repr(note).encode())
        for values in (known.counts.indptr, known.counts.indices, known.counts.data):
            digest.update(values.tobytes())
        return digest.hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the weights of the voices of each task, as JSON."""
        return {
            task: {"weights": _to_json(weights), "alone": _to_json(self.alone[task])}
            for task, weights in self.weights.items()
        }

    @classmethod
    def read(cls, folder: Path, reader: Reader) -> "Tagger":
        """Read what :meth:`write` wrote.

        Raises:
            ModelError: if a file is missing or damaged.
        """
        try:
            values = dict(read_json(folder / WEIGHTS))
            tasks = [task for task in DEFAULTS if task in values]
            weights = {task: _from_json(values[task]["weights"]) for task in tasks}
            alone = {task: _from_json(values[task]["alone"]) for task in tasks}
        except (KeyError, StorageError, TypeError, ValueError) as error:
            raise ModelError(
                f"{folder / WEIGHTS} is not a tagger's: {error}; copy the folder again"
            ) from error
        return cls(reader, KnownNotes.read(folder), weights, alone=alone)


def _to_json(weights: Weights) -> dict[str, Any]:
    voices = dict(zip(VOICES, weights.voices, strict=True))
    return {"voices": voices, "bias": weights.bias, "fitted_on": weights.fitted_on}


def _from_json(value: dict[str, Any]) -> Weights:
    voices = tuple(float(value["voices"][voice]) for voice in VOICES)
    if not np.isfinite([*voices, value["bias"]]).all():
        raise ValueError("a weight is not finite")
    return Weights(voices, float(value["bias"]), int(value["fitted_on"]))


def _without(known: KnownNotes, note_ids: Collection[str]) -> KnownNotes:
    """Return known notes without some of them."""
    rows = [row for row, note_id in enumerate(known.note_ids) if note_id not in note_ids]
    return known.take(np.array(rows, dtype=np.int64))


def check_request(topics: int | None, least: float) -> None:
    """Refuse a number of topics or a least probability that is not allowed.

    Raises:
        ConfigError: if topics is not positive, or least is not a probability.
    """
    if topics is not None and topics < 1:
        raise ConfigError(f"n is {topics}; ask for at least 1 topic, or None to let the probabilities decide")
    if not 0 <= least <= 1:
        raise ConfigError(f"least is {least}; it must be a probability, 0 to 1")
