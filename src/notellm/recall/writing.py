"""How a NoteLLM writes topics and categories: chosen among known names by its tagger, or freely.

A trained model is saved with a tagger (``tagging/``), which knows the training notes. A model without one,
such as a language model that was not trained here, writes topics freely (``generate.py``), and chooses a
category among those that its settings or the caller name.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from notellm.backbone.branches import can_branch
from notellm.data.note import Note, Notes, as_notes, notes_from_table
from notellm.errors import ConfigError
from notellm.recall.config import NoteLLMConfig
from notellm.recall.generate import generate_categories, generate_topics
from notellm.recall.learnt import TASKS, not_learnt
from notellm.recall.prompt import PromptBuilder, Task
from notellm.recall.tagging.known import KnownNotes, text_counts
from notellm.recall.tagging.tagger import LEAST, WEIGHTS, Tagger, check_request
from notellm.recall.tagging.tags import NoteTags, Tag
from notellm.recall.tagging.voices import Reader
from notellm.recall.tagging.weights import DEFAULTS, MODEL_ALONE, Weights

#: Notes that a tagger remembers at most; of more, a draw.
MOST_KNOWN = 50_000


class WritesTags:
    """The part of a NoteLLM that writes topics and categories."""

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptBuilder
    settings: NoteLLMConfig
    learnt: frozenset[Task] | None

    def to_vectors(self, states: Tensor) -> Tensor:
        """Return the vectors, (n, dim) float32 of unit norm, of hidden states, (n, hidden)."""
        raise NotImplementedError

    # ---------------------------------------------------------------- the tagger

    def no_tagger(self) -> None:
        """Begin without a tagger."""
        self._tagger: Tagger | None = None
        self._tagger_at: Path | None = None
        self._reader: Reader | None = None

    def find_tagger(self, folder: Path) -> None:
        """Remember that a folder may hold the model's tagger; it is read when it is first used."""
        self._tagger_at = folder if (folder / WEIGHTS).is_file() else None

    @property
    def tagger(self) -> Tagger | None:
        """What chooses topics and categories; None if the model has none.

        Raises:
            ModelError: if the saved tagger is damaged.
        """
        if self._tagger is None and self._tagger_at is not None:
            self._tagger = Tagger.read(self._tagger_at, self.reader())
        return self._tagger

    def reader(self) -> Reader:
        """Return how the model reads prompts for its tagger; whether it can branch is tried once."""
        if self._reader is None:
            whole = not can_branch(self.backbone, self.tokenizer)
            self._reader = Reader(self.backbone, self.prompt, self.to_vectors, whole=whole)
        return self._reader

    def fit_tagger(
        self, notes: pa.Table, held_out: pa.Table | None = None, *, seed: int = 0, progress: bool = False
    ) -> None:
        """Make the tagger of a trained model.

        Args:
            notes: the notes that it shall know, of more than MOST_KNOWN a draw.
            held_out: notes with topics or categories from which the model has not learnt. The weights of what
                speaks for a name are fitted on them, and meanwhile those that are among ``notes`` are not
                known. None, or fewer than fifty, leaves the weights at their defaults.
            seed: seed of the draw.
            progress: show progress bars.
        """
        tasks = [task for task in TASKS if self.unlearnt(task) is None]
        known = self.known_notes(notes, tasks, seed=seed, progress=progress)
        reader = self.reader()
        weights = {task: DEFAULTS[task] for task in tasks}
        alone = {task: MODEL_ALONE[task] for task in tasks}
        if held_out is not None and held_out.num_rows:
            hidden = set(held_out.column("note_id").to_pylist())
            rest = np.array(
                [i for i, note_id in enumerate(known.note_ids) if note_id not in hidden], dtype=np.int64
            )
            fitted = Tagger(reader, known.take(rest), weights, alone=alone)
            fitted.fit(notes_from_table(held_out), progress=progress)
            weights, alone = fitted.weights, fitted.alone
        self._tagger = Tagger(reader, known, weights, alone=alone)

    def known_notes(
        self, notes: pa.Table, tasks: Sequence[Task] = TASKS, *, seed: int = 0, progress: bool = False
    ) -> KnownNotes:
        """Return what a tagger remembers of the notes that have topics or a category."""
        rows, ids = notes_from_table(notes), notes.column("note_id").to_pylist()
        labelled = np.flatnonzero([bool(note.topics or note.category) for note in rows])
        if len(labelled) > MOST_KNOWN:
            labelled = np.sort(np.random.default_rng(seed).choice(labelled, MOST_KNOWN, replace=False))
        rows, ids = [rows[i] for i in labelled], [ids[i] for i in labelled]
        answered = [task for task in tasks if any(getattr(note, task) for note in rows)]
        return self.reader().known_notes(ids, rows, answered, progress=progress)

    # ---------------------------------------------------------------- writing

    def tag(
        self,
        notes: Notes,
        *,
        tasks: Sequence[Task] = TASKS,
        topics: int | None = None,
        least: float = LEAST,
        categories: Sequence[str] | None = None,
        free: bool = False,
        note_ids: Sequence[str] = (),
        progress: bool = False,
    ) -> list[NoteTags]:
        """Return the category and topics of notes, and the known notes that speak for them.

        Names that are chosen have probabilities. A task that the model has not learnt, or for which it knows
        no name, is left empty; only topics of a model without a tagger are written freely then.

        Args:
            notes: a notes table or a list of notes. Their categories are not read, and their topics are read
                for the category only.
            tasks: what to write.
            topics: number of topics of each note; None lets the probabilities decide.
            least: least probability of a category, and of topics if ``topics`` is None.
            categories: the allowed categories; None allows those of the training notes, or of the settings.
            free: write freely instead of choosing known names; then there are no probabilities.
            note_ids: ids of the notes; a known note then does not speak for itself as a neighbour.
            progress: show a progress bar.

        Raises:
            ConfigError: if topics is not positive, least is not a probability, or ``categories`` has no name.
            DataError: if there are no notes.
        """
        check_request(topics, least)
        rows = as_notes(notes)
        wanted = [task for task in tasks if self.unlearnt(task) is None]
        tags = [NoteTags() for _ in rows]
        for task in wanted:
            tagger = None if free else self._tagger_for(task, categories)
            if free or (tagger is None and task == "topics"):
                tags = self._written_freely(rows, task, tags, topics, progress=progress)
            if tagger is None:
                continue
            chosen = tagger.tag(
                rows, tasks=[task], topics=topics, least=least, note_ids=note_ids, progress=progress
            )
            for row, new in enumerate(chosen):
                tags[row] = (
                    replace(tags[row], category=new.category, categories=new.categories)
                    if task == "category"
                    else replace(tags[row], topics=new.topics, more_topics=new.more_topics)
                )
        return tags

    def categorize(
        self,
        notes: Notes,
        *,
        categories: Sequence[str] | None = None,
        constrained: bool = True,
        progress: bool = False,
    ) -> list[str]:
        """Return the likeliest category of each note.

        Args:
            notes: a notes table or a list of notes; their categories are not read.
            categories: the allowed names; None allows the categories of the training notes.
            constrained: allow only these names; False writes freely.
            progress: show a progress bar.

        Raises:
            ConfigError: if the model has not learnt to write categories, or the category is constrained, but
                no name is known.
            DataError: if there are no notes.
        """
        self._check_learnt("category")
        if constrained and categories is None and not self.settings.categories:
            raise ConfigError(
                "no category is known: the model's settings name none; give categories=[...] or "
                "constrained=False"
            )
        tags = self.tag(
            notes,
            tasks=["category"],
            least=0.0,
            categories=categories,
            free=not constrained,
            progress=progress,
        )
        return [each.category.name if each.category else "" for each in tags]

    def write_topics(
        self, notes: Notes, *, n: int | None = None, free: bool = False, progress: bool = False
    ) -> list[list[str]]:
        """Return topics (hashtags) for each note.

        Args:
            notes: a notes table or a list of notes; their topics are not read.
            n: number of topics; None publishes as many as are likely enough.
            free: write freely instead of choosing known topics.
            progress: show a progress bar.

        Raises:
            ConfigError: if n is not positive, or the model has not learnt to write topics.
            DataError: if there are no notes.
        """
        self._check_learnt("topics")
        tags = self.tag(notes, tasks=["topics"], topics=n, free=free, progress=progress)
        return [[topic.name for topic in each.topics] for each in tags]

    def unlearnt(self, task: Task) -> str | None:
        """Return a sentence that says that the model has not learnt a task; None if it has, or if unknown."""
        return not_learnt(task, self.learnt)

    def _check_learnt(self, task: Task) -> None:
        if (reason := self.unlearnt(task)) is not None:
            raise ConfigError(reason)

    def _tagger_for(self, task: Task, categories: Sequence[str] | None) -> Tagger | None:
        """Return what chooses among the known names of a task; None if no name is known.

        Args:
            task: the task.
            categories: the allowed categories; None allows the known ones.
        """
        if task == "topics" or (categories is None and self.tagger is not None):
            return self.tagger
        allowed = self.settings.categories if categories is None else categories
        names = [name for name in dict.fromkeys(allowed) if name.strip()]
        if categories is not None and not names:
            raise ConfigError("no category is allowed: categories holds no name")
        if self.tagger is not None:
            return self.tagger.restricted("category", names)
        known = KnownNotes([], [], [], text_counts([]), {})
        weights: dict[Task, Weights] = {"category": MODEL_ALONE["category"]}
        return Tagger(self.reader(), known, weights, allowed={"category": names}) if names else None

    def _written_freely(
        self, rows: list[Note], task: Task, tags: list[NoteTags], n: int | None, *, progress: bool
    ) -> list[NoteTags]:
        """Return tags with what the model writes freely for a task."""
        if task == "category":
            names = generate_categories(self.backbone, self.prompt, rows, progress=progress)
            return [
                replace(each, category=Tag(name) if name else None)
                for each, name in zip(tags, names, strict=True)
            ]
        topics = generate_topics(
            self.backbone, self.prompt, rows, n=n, longest=self._longest_topic(), progress=progress
        )
        return [
            replace(each, topics=tuple(map(Tag, names))) for each, names in zip(tags, topics, strict=True)
        ]

    def _longest_topic(self) -> int | None:
        """Return how many characters a plausible topic has at most; None if no topic is known."""
        known = [] if self.tagger is None else self.tagger.known.topics
        longest = max((len(topic) for topics in known for topic in topics), default=0)
        return 2 * longest or None
