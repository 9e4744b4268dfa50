"""Checks that nothing of the test part was known in training, on the tables that an experiment reads.

Each function returns one :class:`Check` for each thing that must not be; :func:`require` stops at the first
that is. A check names what was counted, an example, and how to repair it. Texts that are nearly equal are a
warning: they are counted and never fail, since a split keeps them together on demand only.

What tables cannot tell is not checked: from which clicks pairs were mined, and when the text of a note was
written.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.backbone.tiny import train_tokenizer
from notellm.data.note import Note
from notellm.data.same_text import equal_texts, near_texts
from notellm.data.split import Part, Split
from notellm.errors import ConfigError, DataError
from notellm.experiment.impression_rows import ImpressionRows
from notellm.experiment.results import Check
from notellm.recall.config import NoteLLMConfig
from notellm.recall.prompt import EMB_TOKEN, PromptBuilder, Template, load_template

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_WORDS = {"train": "training", "valid": "validation", "test": "test"}
#: Each part with those that must know nothing of it.
_LATER = (("test", "train"), ("test", "valid"), ("valid", "train"))
_SPLIT_AGAIN = "split the data again with notellm split"
_MINE_AGAIN = "mine the pairs of each part from its own clicks with notellm pairs"
_SHOWN = 60  # characters of an id in an example


def require(checks: Sequence[Check]) -> None:
    """Stop if a check has failed.

    Args:
        checks: the checks.

    Raises:
        DataError: if one has failed; the message names the first, its count, an example and the fix.
    """
    failed = [check for check in checks if not check.passed]
    if failed:
        more = f" (and {len(failed) - 1} more of {len(checks)} checks failed)" if len(failed) > 1 else ""
        raise DataError(f"the parts are not kept apart, there is {failed[0].name}: {failed[0].detail}{more}")


# ---------------------------------------------------------------- related notes


def check_split(
    split: Split, pairs: Mapping[str, pa.Table], *, by: str, near_duplicates: float | None = 0.8
) -> list[Check]:
    """Check a split and the related pairs of its parts.

    Args:
        split: the split.
        pairs: related pairs (schema PAIRS) by part, "train", "valid" and "test"; parts may be absent.
        by: "note" if the parts share no note, "time" if their clicks follow each other in time.
        near_duplicates: Jaccard index, from 0.5 to 1, from which texts count as nearly equal. To find them
            takes most of the time; None leaves them out.

    Raises:
        ConfigError: if ``by`` or ``near_duplicates`` is not allowed.
    """
    if by not in ("note", "time"):
        raise ConfigError(f"by is {by!r}; a split is by note or by time")
    parts = {name: part for name in _WORDS if _has_rows(part := getattr(split, name))}
    checks = _notes_apart(parts) if by == "note" else _clicks_in_order(parts)
    checks.append(_clicks_on_own_notes(parts))
    checks += _pairs_of_own_notes({name: pairs[name] for name in parts if name in pairs}, parts, by)
    return [*checks, *_texts_apart(parts, near_duplicates, by)]


def _notes_apart(parts: Mapping[str, Part]) -> list[Check]:
    """Check that no note is in two parts."""
    checks = []
    for later, earlier in _LATER:
        if later in parts and earlier in parts:
            ids = parts[later].notes["note_id"]
            wrong = _among(ids, parts[earlier].notes["note_id"])
            name = f"a {_WORDS[later]} note among the {_WORDS[earlier]} notes"
            checks.append(_check(name, wrong, f"{_WORDS[later]} notes", _id_of(ids), _SPLIT_AGAIN))
    return checks


def _clicks_in_order(parts: Mapping[str, Part]) -> list[Check]:
    """Check that every click of a part is older than all of the later parts, and that its notes are, too."""
    checks = []
    for name, later in (("train", ("valid", "test")), ("valid", ("test",))):
        if name not in parts:
            continue
        clicks, notes = parts[name].clicks, parts[name].notes
        times = [_times(parts[other].clicks["timestamp"]) for other in later if other in parts]
        cut = min((int(time.min()) for time in times if len(time)), default=None)
        if cut is None:
            continue
        fix = "split the data again with notellm split --by time"
        wrong = _times(clicks["timestamp"]) >= cut
        then = f"the first {' or '.join(_WORDS[other] for other in later if other in parts)} click"
        title = f"a {_WORDS[name]} click that is not older than {then}"
        checks.append(_check(title, wrong, f"{_WORDS[name]} clicks", _click_of(clicks), fix))
        published = notes["published_at"].cast(pa.int64())
        known = pc.fill_null(pc.less(published, cut), False).to_numpy(zero_copy_only=False)
        earlier = [parts[each].clicks["note_id"] for each in ("train", "valid") if each in parts]
        clicked = [_among(notes["note_id"], ids) for ids in (earlier if name == "valid" else earlier[:1])]
        unknown = ~np.any([known, *clicked], axis=0)
        title = f"a {_WORDS[name]} note that nobody had published or clicked before {then}"
        checks.append(_check(title, unknown, f"{_WORDS[name]} notes", _id_of(notes["note_id"]), fix))
    return checks


def _clicks_on_own_notes(parts: Mapping[str, Part]) -> Check:
    """Check that every click is on a note of its part."""
    wrong = [~_among(part.clicks["note_id"], part.notes["note_id"]) for part in parts.values()]
    clicks = pa.concat_tables([part.clicks.select(["user_id", "note_id"]) for part in parts.values()])
    name = "a click of a part on a note that is not in the part"
    return _check(name, np.concatenate(wrong), "clicks", _click_of(clicks), _SPLIT_AGAIN)


def _pairs_of_own_notes(pairs: Mapping[str, pa.Table], parts: Mapping[str, Part], by: str) -> list[Check]:
    """Check that the pairs of each part are of its own notes, and that no test query taught anything."""
    checks = []
    for name, table in pairs.items():
        own = parts[name].notes["note_id"]
        wrong = ~(_among(table["source"], own) & _among(table["target"], own))
        title = f"a note that is no {_WORDS[name]} note in the {_WORDS[name]} pairs"
        checks.append(_check(title, wrong, f"{_WORDS[name]} pairs", _pair_of(table), _MINE_AGAIN))
        if by == "note" and name != "test" and "test" in parts:
            theirs = parts["test"].notes["note_id"]
            wrong = _among(table["source"], theirs) | _among(table["target"], theirs)
            title = f"a test note in the {_WORDS[name]} pairs"
            checks.append(_check(title, wrong, f"{_WORDS[name]} pairs", _pair_of(table), _MINE_AGAIN))
    if by == "note" and "valid" in pairs and "test" in pairs:
        queries = pairs["test"]["source"].unique()
        ends = [*pairs["valid"]["source"].chunks, *pairs["valid"]["target"].chunks]
        chosen = pa.chunked_array(ends, pa.string())
        wrong = _among(queries, chosen)
        title = "a note of the validation pairs among the test queries"
        checks.append(_check(title, wrong, "test queries", _id_of(queries), _MINE_AGAIN))
    return checks


def _texts_apart(parts: Mapping[str, Part], threshold: float | None, by: str) -> list[Check]:
    """Check that no test note has the text of a note that was known before.

    In a split by time these are notes that are published again, which happens in reality, too. Then equal
    texts are a warning as well.
    """
    if "test" not in parts:
        return []
    test = parts["test"].notes
    before = [parts[name].notes for name in ("train", "valid") if name in parts]
    known_ids = pa.chunked_array([chunk for each in before for chunk in each["note_id"].chunks], pa.string())
    if by == "time":  # the notes of all parts are in test, too
        notes, known = test, _among(test["note_id"], known_ids)
    else:
        notes = pa.concat_tables([*before, test])
        known = np.arange(notes.num_rows) < notes.num_rows - test.num_rows
    groups = equal_texts(notes)
    equal = ~known & np.isin(groups, groups[known])
    new, names = int((~known).sum()), notes["note_id"]
    fix = "keep equal texts in one part with notellm split --by note"
    title = "a test note with the text of a note of an earlier part"
    checks = [_text_check(title, equal, known, groups, names, new, None if by == "time" else fix)]
    if threshold is not None:
        groups = near_texts(notes, threshold)
        near = ~known & ~equal & np.isin(groups, groups[known])
        title = f"a test note with nearly the text of an earlier one (Jaccard index {threshold:g} or more)"
        checks.append(_text_check(title, near, known, groups, names, new, None))
    return checks


def _text_check(
    name: str, wrong: Mask, known: Mask, groups: Ints, ids: pa.ChunkedArray, total: int, fix: str | None
) -> Check:
    """Return a check of texts; without a fix it is a warning, which never fails."""

    def twins(row: int) -> str:
        other = int(np.flatnonzero(known & (groups == groups[row]))[0])
        return f"{_shown(ids[row])} like {_shown(ids[other])}"

    check = _check(name, wrong, "test notes", twins, fix or "", total=total)
    if fix is not None or check.passed:
        return check
    return Check(name, True, f"warning, not a failure: {check.detail}")


# ---------------------------------------------------------------- impressions


def check_impressions(train: pa.Table, valid: pa.Table, test: pa.Table) -> list[Check]:
    """Check the impressions (schema IMPRESSIONS) of three parts.

    Times are compared across users, or within each user where they keep only the order of a user's clicks. Of
    a history, what no part has a positive row of cannot be dated, and is taken as it is.

    Args:
        train: what a model learns from.
        valid: what chooses among models; it may be empty.
        test: what a model is measured on.
    """
    tables = {name: table for name, table in zip(_WORDS, (train, valid, test), strict=True) if table.num_rows}
    if not tables:
        return []
    rows = ImpressionRows(tables)
    checks = []
    for later, earlier in _LATER:
        if later in tables and earlier in tables:
            wrong = np.isin(rows.keys[later], rows.keys[earlier])
            name = f"a {_WORDS[later]} row (user, note, time) among the {_WORDS[earlier]} rows"
            unit, fix = f"{_WORDS[later]} rows", "split the impressions again, each row into one part"
            checks.append(_check(name, wrong, unit, _click_of(tables[later]), fix))
    if "train" in tables and "test" in tables:
        wrong = rows.times["test"] < rows.newest("train")[rows.users["test"]]
        fix = "split the impressions by time, as notellm rank train does"
        name = "a test row that is older than a training row" + (" of its user" if rows.order_only else "")
        checks.append(_check(name, wrong, "test rows", _click_of(tables["test"]), fix))
    whole = pa.concat_tables([table.select(["user_id", "note_id"]) for table in tables.values()])
    own, future = (
        np.concatenate(masks) for masks in zip(*(rows.wrong_histories(name) for name in tables), strict=True)
    )
    fix = "let a history hold only what the user liked before the row"
    checks.append(_check("a history that holds the note of its own row", own, "rows", _click_of(whole), fix))
    name = "a history that holds a note that the user liked only after the row"
    checks.append(_check(name, future, "rows", _click_of(whole), fix))
    return checks


# ---------------------------------------------------------------- topics


def check_topics_hidden(template: Template | str | Path = "english") -> Check:
    """Check that the prompt of the topics task tells nothing of a note's topics but their number.

    The prompts of notes with topics that no other text has are compared with those of the same notes with
    other topics, as token ids, and searched for the ids of the topics. No model is needed.

    Args:
        template: the wording, or its name or path.

    Raises:
        ConfigError: if there is no such template.
    """
    wording = template if isinstance(template, Template) else load_template(template)
    topics = [(f"zyx{row}", f"qvw{row} jkz{row}") for row in range(20)]
    notes = [Note(f"soup {row}", f"bread and garlic {row}", each, "") for row, each in enumerate(topics)]
    others = [Note(note.title, note.content, ("another", "one more")) for note in notes]
    texts = [text for note in notes for text in (note.title, note.content, *note.topics, *note.topics)]
    tokenizer = train_tokenizer(texts, vocabulary=1_000, new_tokens=[EMB_TOKEN])
    prompt = PromptBuilder(tokenizer, wording, NoteLLMConfig(max_length=2_048))
    ids, without = (
        prompt.prompt_ids([prompt.render(note, "topics", 2) for note in prompt.cut(rows)])
        for rows in (notes, others)
    )
    spelt = [prompt.output_ids(note.topics) for note in notes]
    wrong = np.array(
        [
            mine != other or any(_contains(mine, topic) for topic in names)
            for mine, other, names in zip(ids, without, spelt, strict=True)
        ]
    )
    fix = f"take the topics out of the topics prompt of the template {wording.name!r}"
    return _check(
        f"a topic in the prompt of the template {wording.name} that asks for it",
        wrong,
        "prompts",
        lambda row: str(topics[row]),
        fix,
    )


def _contains(ids: Sequence[int], part: Sequence[int]) -> bool:
    """Return whether token ids hold some others in a row."""
    return any(list(ids[start : start + len(part)]) == list(part) for start in range(len(ids)))


# ---------------------------------------------------------------- counting


def _check(
    name: str, wrong: Mask, unit: str, example: Callable[[int], str], fix: str, *, total: int | None = None
) -> Check:
    """Return the check that no row is wrong.

    Args:
        name: what must not be.
        wrong: (rows,) which rows are.
        unit: what the rows are.
        example: names a row.
        fix: what to do about it; "" for nothing.
        total: number of rows that were looked at; None for all.
    """
    rows = np.flatnonzero(wrong)
    counted = f"{len(rows):,} of {len(wrong) if total is None else total:,} {unit}"
    if not len(rows):
        return Check(name, True, counted)
    return Check(name, False, f"{counted}, such as {example(int(rows[0]))}" + (f"; {fix}" if fix else ""))


def _has_rows(part: Part) -> bool:
    return bool(part.notes.num_rows or part.clicks.num_rows)


def _among(ids: pa.ChunkedArray | pa.Array, others: pa.ChunkedArray | pa.Array) -> Mask:
    """Return which ids are among others, (n,) bool."""
    return np.asarray(pc.is_in(ids, value_set=pc.unique(others)).to_numpy(zero_copy_only=False), np.bool_)


def _times(column: pa.ChunkedArray) -> Ints:
    return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64)


def _id_of(ids: pa.ChunkedArray | pa.Array) -> Callable[[int], str]:
    return lambda row: _shown(ids[row])


def _click_of(table: pa.Table) -> Callable[[int], str]:
    return lambda row: f"user {_shown(table['user_id'][row])} and note {_shown(table['note_id'][row])}"


def _pair_of(table: pa.Table) -> Callable[[int], str]:
    return lambda row: f"{_shown(table['source'][row])} and {_shown(table['target'][row])}"


def _shown(value: pa.Scalar) -> str:
    text = str(value.as_py())
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
