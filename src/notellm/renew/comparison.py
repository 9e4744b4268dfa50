"""Compare two models, with their rankers, on what users clicked in days that neither has seen.

Both recommend to the same users, from the same notes, with the same history: what the user opened before
these days. Relevant is what the user opened in them for the first time. "recall" is the candidates in their
order, "recommend" is after the ranker. The metrics are those of ``evaluate/next_click.py``; differences are
paired by user. What users opened in a list that the serving models recommended says little about others: they
could only open what was shown. Such clicks count only if there are too few others (``Queries.from_lists``).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from notellm.data.impressions import click_histories
from notellm.data.split import Split
from notellm.errors import DataError
from notellm.evaluate.bootstrap import Interval, intervals
from notellm.evaluate.next_click import NextClickResult, evaluate_recommendations
from notellm.evaluate.tables import intervals_json
from notellm.progress import progress_bar
from notellm.rank.scorer import Ranker
from notellm.recall.model import NoteLLM
from notellm.recommend.candidates import Vectors, offers
from notellm.recommend.options import RecommendOptions
from notellm.recommend.recommender import Recommender
from notellm.renew.models import Models

#: From so many notes on, all hundred candidates of recall count; of fewer they are too large a share.
_MANY_NOTES = 1_000
_DEPTHS = {"recall": (20, 100), "recommend": (20,)}
_RESAMPLES = 1_000
_MOST_OPENED = 200  # latest notes of a history that count, as in the service


@dataclass(frozen=True)
class Queries:
    """The users that models are compared on.

    Attributes:
        histories: notes that each opened before the test days, oldest first.
        relevant: notes that each opened in the test days for the first time.
        found: number of such users in the log, from which these were drawn.
        from_lists: whether clicks on lists of the serving models count, which favours these models.
    """

    histories: Mapping[str, Sequence[str]]
    relevant: Mapping[str, Sequence[str]]
    found: int
    from_lists: bool


@dataclass(frozen=True)
class Figures:
    """What two models reach with one kind of list, on the same users.

    Attributes:
        serving: figures of the serving model, by name, as shares.
        renewed: figures of the new one.
        difference: new less serving, paired by user.
        deciding: name of the figure that decides.
    """

    serving: Mapping[str, Interval]
    renewed: Mapping[str, Interval]
    difference: Mapping[str, Interval]
    deciding: str = "NDCG@20"

    def to_json(self) -> dict[str, Any]:
        """Return all figures as numbers."""
        return {name: intervals_json(getattr(self, name)) for name in ("serving", "renewed", "difference")}


def queries_of(
    snapshot: Split, in_lists: Collection[tuple[str, str]], *, users: int, least: int, seed: int
) -> Queries:
    """Draw the users to compare models on from those who opened something before the test days and in them.

    Args:
        snapshot: the snapshot.
        in_lists: users and the notes that they opened in recommended lists; see ``opened_in_lists``.
        users: largest number of users.
        least: with fewer users who opened something outside of lists, what was opened in lists counts, too.
        seed: seed of the draw.
    """
    shown = set(snapshot.test.notes["note_id"].to_pylist())
    opened = click_histories(snapshot.train.clicks)
    before = {
        user: there[-_MOST_OPENED:]
        for user, notes in opened.items()
        if (there := [note_id for note_id in notes if note_id in shown])
    }
    relevant: dict[str, list[str]] = {}
    for user, notes in click_histories(snapshot.test.clicks).items():
        if user in before:
            known = set(opened[user])
            if later := [note_id for note_id in notes if note_id not in known]:
                relevant[user] = later
    elsewhere = {
        user: others
        for user, notes in relevant.items()
        if (others := [note_id for note_id in notes if (user, note_id) not in in_lists])
    }
    from_lists = len(elsewhere) < min(least, len(relevant))
    if not from_lists:
        relevant = elsewhere
    drawn = np.random.default_rng(seed).permutation(sorted(relevant))[:users].tolist()
    return Queries(
        {user: before[user] for user in drawn},
        {user: relevant[user] for user in drawn},
        len(relevant),
        from_lists,
    )


def compare(
    serving: Models,
    renewed: Models,
    snapshot: Split,
    queries: Queries,
    *,
    seed: int = 0,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> dict[str, Figures]:
    """Return the figures of both models by kind of list: "recall", and "recommend" where both have a ranker.

    Args:
        serving: the models that serve.
        renewed: the models that may take over.
        snapshot: the snapshot, whose test notes can be recommended.
        queries: the users.
        seed: seed of the bootstrap.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show progress bars.

    Raises:
        NotellmError: if a model cannot be opened.
    """
    results = [
        _results(models, snapshot, queries, seed=seed, trust_remote_code=trust_remote_code, progress=progress)
        for models in (serving, renewed)
    ]
    before, after = results
    depths = {"recall": 100 if snapshot.test.notes.num_rows >= _MANY_NOTES else 20, "recommend": 20}
    return {
        kind: Figures(
            before[kind].figures,
            after[kind].figures,
            intervals(
                {
                    name: after[kind].per_user[name] - before[kind].per_user[name]
                    for name in after[kind].per_user
                },
                _RESAMPLES,
                seed,
            ),
            f"NDCG@{depths[kind]}",
        )
        for kind in after
        if kind in before
    }


def _results(
    models: Models,
    snapshot: Split,
    queries: Queries,
    *,
    seed: int,
    trust_remote_code: bool,
    progress: bool,
) -> dict[str, NextClickResult]:
    """Return what one model and its ranker reach."""
    model = NoteLLM.from_saved(models.model, trust_remote_code=trust_remote_code)
    pool = snapshot.test.notes
    vectors = pool["note_id"].to_pylist(), model.encode(pool, progress=progress)
    lists = {"recall": dict(_candidates(vectors, queries))}
    if models.ranker is not None:
        ranker = Ranker.from_pretrained(models.ranker, trust_remote_code=trust_remote_code).with_notes(pool)
        recommender = Recommender.from_vectors(*vectors, ranker, made_by=model.fingerprint())
        lists["recommend"] = dict(_recommended(recommender, queries, progress=progress))
    return {
        kind: evaluate_recommendations(
            found, queries.relevant, ks=_DEPTHS[kind], name=kind, resamples=_RESAMPLES, seed=seed
        )
        for kind, found in lists.items()
    }


def _candidates(vectors: Vectors, queries: Queries) -> Iterator[tuple[str, list[str]]]:
    """Yield the candidates of each user, most similar first."""
    histories = pa.chunked_array([pa.array(list(queries.histories.values()), pa.list_(pa.string()))])
    found = offers(histories, vectors, recall_k=RecommendOptions.recall_k, last=RecommendOptions.last)
    for user, (_, near) in zip(queries.histories, found, strict=True):
        yield user, [vectors[0][row] for row in near.rows]


def _recommended(
    recommender: Recommender, queries: Queries, *, progress: bool
) -> Iterator[tuple[str, list[str]]]:
    """Yield the recommended notes of each user, best first."""
    histories = queries.histories.items()
    for user, history in progress_bar(histories, unit="user", desc="recommend", disable=not progress):
        try:
            found = recommender.recommend(user, history=history, k=max(_DEPTHS["recommend"])).note_ids
        except DataError:  # nothing is left that the user has not opened
            found = []
        yield user, found
