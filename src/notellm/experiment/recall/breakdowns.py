"""Groups of queries, in which an experiment reports its figures as well.

exposure  low, middle, high    by the clicks on the query, against all notes of the pool (NoteLLM,
                               arXiv 2403.01744; the quantiles of ``evaluate.retrieval``)
known     cold, few, many      by the query's clicks in train, of a split by time
category  its name             the most frequent ones; "other"; "none" for notes without one
length    short, middle, long  thirds of the queries by the characters of title and content
language  Latin, Han, ...      by the script of most letters, where several scripts are common
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from notellm.data.ids import Ids, as_array
from notellm.data.note import notes_from_table
from notellm.data.split import Split
from notellm.errors import DataError
from notellm.evaluate.baselines import popularity
from notellm.evaluate.retrieval import HIGH_QUANTILE, LOW_QUANTILE

Mask = npt.NDArray[np.bool_]
#: Groups by name, each with its mask over the queries, (queries,) bool.
Groups = dict[str, Mask]

#: Queries that a group must have to be reported: fewer tell nothing.
LEAST_QUERIES = 20
#: Categories that are groups of their own; the rest is "other".
MOST_CATEGORIES = 8
#: Share of the queries from which a script is common.
COMMON_SCRIPT = 0.05
OTHER, NONE = "other", "none"

_READ = 1_000  # characters of a note by which its script is told
_SCRIPTS = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana"}


def query_groups(
    query_ids: Ids, split: Split, *, least: int = LEAST_QUERIES, language: bool = True
) -> tuple[dict[str, Groups], list[str]]:
    """Return the groups of queries by breakdown, and what was left out of them.

    A breakdown that puts all queries into one group is no breakdown, and is left out as well. The groups of a
    breakdown do not overlap.

    Args:
        query_ids: ids of the queries, each a note of the test part, in the order of the masks.
        split: the split; its test notes are the pool.
        least: groups with fewer queries are left out.
        language: whether to group by script.

    Returns:
        Masks over the queries, (queries,) bool, by breakdown and group, and sentences about groups that were
        left out.

    Raises:
        DataError: if a query is not a note of the test part.
    """
    ids, pool = as_array(query_ids), split.test.notes["note_id"]
    rows = pc.index_in(ids, value_set=as_array(pool))
    if rows.null_count:
        missing = ids.filter(pc.is_null(rows))[0].as_py()
        raise DataError(
            f"{rows.null_count} of {len(ids)} queries are no notes of the test part, such as {missing!r}; "
            "give the split that the queries are from"
        )
    row = rows.to_numpy()
    notes = split.test.notes.take(rows)
    found = {"exposure": _by_exposure(popularity(pool, split.test.clicks), row)}
    if _shares_notes(split):
        found["known"] = _by_clicks(popularity(pool, split.train.clicks)[row])
    found["category"] = _by_category(notes["category"].to_pylist())
    texts = [f"{note.title}{note.content}" for note in notes_from_table(notes)]
    found["length"] = _by_length(np.array([len(text) for text in texts], np.int64))
    if language:
        found["language"] = _by_script([script_of(text) for text in texts])
    return _large_enough(found, len(ids), least)


def script_of(text: str) -> str:
    """Return the script of most letters of a text, as "Latin" or "Han"; "none" without a letter.

    Args:
        text: the text; its first thousand characters tell. Of scripts with equally many letters the first
            one counts.
    """
    counts: Counter[str] = Counter()
    for character, count in Counter(unicodedata.normalize("NFKC", text[:_READ])).items():
        if script := _script(character):
            counts[script] += count
    return max(counts, key=lambda name: counts[name], default=NONE)


@cache
def _script(character: str) -> str:
    """Return the script of a letter; "" for what is no letter."""
    if unicodedata.category(character) not in ("Lu", "Ll", "Lt", "Lo"):
        return ""
    first = unicodedata.name(character, "").partition(" ")[0]
    return _SCRIPTS.get(first, first.capitalize())


def _by_exposure(exposure: npt.NDArray[np.float32], row: npt.NDArray[np.int64]) -> Groups:
    """Return the groups by exposure, as ``evaluate_related`` does, and what lies between them.

    Args:
        exposure: (pool,) clicks on each note of the pool.
        row: (queries,) place of each query in the pool.
    """
    low, high = np.quantile(exposure, [LOW_QUANTILE, HIGH_QUANTILE]) if len(row) else (0.0, 0.0)
    mine = exposure[row]
    is_low, is_high = mine <= low, mine > high
    return {"low": is_low, "middle": ~is_low & ~is_high, "high": is_high}


def _by_clicks(clicks: npt.NDArray[np.float32]) -> Groups:
    """Return the groups by clicks in train; "few" are up to the median of the queries that have any."""
    warm = clicks > 0
    median = np.median(clicks[warm]) if warm.any() else 0.0
    return {"cold": ~warm, "few": warm & (clicks <= median), "many": warm & (clicks > median)}


def _by_category(categories: Sequence[str]) -> Groups:
    """Return the groups by category, the most frequent one first; equally frequent ones by name."""
    counts = Counter(filter(None, categories))
    names = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CATEGORIES]
    names = [name for name in names if name not in (OTHER, NONE)]
    labels = [name if name in names else OTHER if name else NONE for name in categories]
    return _masks(labels, [*names, OTHER, NONE])


def _by_length(lengths: npt.NDArray[np.int64]) -> Groups:
    """Return the groups by the number of characters."""
    short, long = np.quantile(lengths, [1 / 3, 2 / 3]) if len(lengths) else (0.0, 0.0)
    is_short, is_long = lengths <= short, lengths > long
    return {"short": is_short, "middle": ~is_short & ~is_long, "long": is_long}


def _by_script(scripts: Sequence[str]) -> Groups:
    """Return the groups by script, the most frequent one first; none if fewer than two are common."""
    counts = Counter(name for name in scripts if name != NONE)
    names = sorted(
        (name for name, count in counts.items() if count >= COMMON_SCRIPT * len(scripts)),
        key=lambda name: (-counts[name], name),
    )
    if len(names) < 2:
        return {}
    return _masks([name if name in (*names, NONE) else OTHER for name in scripts], [*names, OTHER, NONE])


def _masks(labels: Sequence[Any], names: Sequence[str]) -> Groups:
    """Return where each name is the label."""
    given = np.array(labels, dtype=object)
    return {name: np.asarray(given == name, np.bool_) for name in names}


def _large_enough(found: dict[str, Groups], count: int, least: int) -> tuple[dict[str, Groups], list[str]]:
    """Return the groups that have enough queries, and a sentence about those that have some, but too few."""
    result: dict[str, Groups] = {}
    remarks = []
    for breakdown, groups in found.items():
        sizes = {name: int(mask.sum()) for name, mask in groups.items()}
        if not groups or max(sizes.values()) == count:
            continue
        kept = {name: groups[name] for name, size in sizes.items() if size >= max(least, 1)}
        if few := [f"{name!r} ({size})" for name, size in sizes.items() if 0 < size < least]:
            remarks.append(
                f"Groups by {breakdown}: {', '.join(few)} left out; a group needs {least} of the {count:,} "
                "queries."
            )
        if len(kept) > 1:
            result[breakdown] = kept
    return result, remarks


def _shares_notes(split: Split) -> bool:
    """Return whether the parts share notes, as in a split by time."""
    ids = split.train.notes["note_id"]
    shared = pc.is_in(ids, value_set=pc.unique(split.test.notes["note_id"]))
    return bool(pc.any(shared, min_count=0).as_py())
