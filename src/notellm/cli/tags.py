"""What the command ``tag`` prints: the tags of one note, and how many of many notes have tags."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from notellm.cli.common import show

_TASKS = ("category", "topics")
_RUNNERS_UP = 4  # categories that are printed after the likeliest one


def show_tags(
    model: Any,
    title: str,
    content: str,
    titles: Mapping[str, str],
    *,
    topics: int | None,
    least: float,
    free: bool,
) -> None:
    """Print category and topics of a note, and below each the known notes that carry it.

    Args:
        model: a NoteLLM.
        title: title of the note.
        content: content of the note.
        titles: titles of known notes by id; a known note that is not among them is named by its id.
        topics: as in ``NoteLLM.tag``.
        least: as in ``NoteLLM.tag``.
        free: as in ``NoteLLM.tag``.
    """
    from notellm.data.note import Note

    (tags,) = model.tag([Note(title, content)], topics=topics, least=least, free=free)
    if (reason := model.unlearnt("category")) is not None:
        show(f"category: none ({reason})")
    elif tags.category is not None:
        show(f"category: {_text(tags.category)}")
        _show_neighbours(tags.category, titles)
        _show_others(tags.categories[1:])
    elif tags.categories:
        show(f"category: none of them has a probability of {least:g} or more")
        _show_others(tags.categories)
    else:
        show("category: none (the model knows no categories)")
    if (reason := model.unlearnt("topics")) is not None:
        show(f"topics: none ({reason})")
    elif not tags.topics:
        show(f"topics: none has a probability of {least:g} or more" if tags.more_topics else "topics: none")
    else:
        show("topics:")
        for topic in tags.topics:
            show(f"  {_text(topic)}")
            _show_neighbours(topic, titles)
    if tags.more_topics:
        show(f"less likely topics: {', '.join(map(_text, tags.more_topics))}")


def tag_many(model: Any, notes: Any, output: Path, *, progress: bool, **options: Any) -> None:
    """Write the tags of a notes table, and print how many notes have none, and why.

    Args:
        model: a NoteLLM.
        notes: notes table.
        output: the Parquet file.
        progress: show a progress bar.
        options: as in ``tag_to_parquet``.
    """
    from notellm.jobs.tag import tag_to_parquet

    tagged = tag_to_parquet(model, notes, output, progress=progress, **options)
    without = {"category": tagged.without_category, "topics": tagged.without_topics}
    for task in _TASKS:
        if (reason := model.unlearnt(task)) is not None:
            show(f"{task}: none for all {tagged.notes:,} notes ({reason})")
        elif without[task]:
            show(f"{task}: none for {without[task]:,} of {tagged.notes:,} notes (nothing is likely enough)")
    show(f"tags of {tagged.notes:,} notes -> {output}")


def _text(tag: Any) -> str:
    """Return a name with its probability, if it has one."""
    return str(tag.name) if tag.probability is None else f"{tag.name} ({tag.probability:.2f})"


def _show_others(categories: Sequence[Any]) -> None:
    if categories:
        show(f"  then: {', '.join(map(_text, categories[:_RUNNERS_UP]))}")


def _show_neighbours(tag: Any, titles: Mapping[str, str]) -> None:
    for note_id in tag.neighbours:
        show(f"    as on {note_id}  {titles.get(note_id, '')}".rstrip())
