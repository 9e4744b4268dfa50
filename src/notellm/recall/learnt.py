"""What notes teach a model to write, and what is said of a model that has not learnt it.

A model that never saw a topic writes noise when it is asked for topics. So a model is saved with the tasks
that its training notes had answers to. Of a language model that was not trained here nothing is known: it is
asked all the same, since an instructed one may well name topics without having seen any here.
"""

from collections.abc import Collection, Sequence
from typing import Any

from notellm.data.note import Note
from notellm.errors import ModelError
from notellm.recall.prompt import PromptBuilder, Task

TASKS: tuple[Task, ...] = ("category", "topics")


def tasks_of(notes: Sequence[Note]) -> frozenset[Task]:
    """Return the tasks for which some notes have an answer to learn from."""
    return frozenset(task for task in TASKS if any(getattr(note, task) for note in notes))


def taught_tasks(notes: Sequence[Note], *, pairs: bool, alpha: float, topic_share: float) -> frozenset[Task]:
    """Return the tasks that a training teaches.

    Args:
        notes: the training notes.
        pairs: whether there are related pairs; without them the generation is trained alone.
        alpha: weight of the generation loss beside pairs.
        topic_share: share of the notes that do the topics task.
    """
    if pairs and alpha == 0:
        return frozenset()
    taught = set(tasks_of(notes))
    # Without pairs a note that has topics and no category always does the topics task (PairCollator).
    if topic_share == 0 and (pairs or all(note.category for note in notes if note.topics)):
        taught.discard("topics")
    if topic_share == 1 and all(note.topics for note in notes if note.category):
        taught.discard("category")
    return frozenset(taught)


def not_learnt(task: Task, learnt: Collection[Task] | None) -> str | None:
    """Return a sentence that says that a model has not learnt a task; None if it has, or if unknown."""
    if learnt is None or task in learnt:
        return None
    what = "categories" if task == "category" else "topics"
    return (
        f"this model has not learnt to write {what}: its training notes had none, or its training left them "
        f"out; train one on notes with {what} to get them"
    )


def read_learnt(value: Any) -> frozenset[Task] | None:
    """Return the tasks that a saved model has learnt, from its settings file; None if it does not say.

    Raises:
        ModelError: if the value is something else.
    """
    if value is None:
        return None
    if not (isinstance(value, list) and all(task in TASKS for task in value)):
        raise ModelError(f"learnt is {value!r}; it must list {' and '.join(TASKS)}: save the model again")
    return frozenset(value)


def outputs_of(builder: PromptBuilder, notes: Sequence[Note]) -> list[tuple[list[int], int]]:
    """Return every category and every list of topics as a whole sequence, with the position of its [EMB]."""
    tasks: list[tuple[Note, Task]] = [(note, "category") for note in notes if note.category]
    tasks += [(note, "topics") for note in notes if note.topics]
    tokenized = builder.tokenize(
        [builder.render(note, task) for note, task in tasks],
        [task for _, task in tasks],
        [builder.output(task, category=note.category, topics=note.topics) for note, task in tasks],
        [len(note.topics) for note, _ in tasks],
    )
    return [(item.ids, item.position + 1) for item in tokenized]
