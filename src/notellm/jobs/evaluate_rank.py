"""Evaluate a ranker on test impressions, beside item popularity and its codes alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.validate_impressions import validate_impressions
from notellm.evaluate.bootstrap import Interval
from notellm.evaluate.ranking import (
    RankingResult,
    cold_groups,
    evaluate_ranking,
    ranking_difference,
    ranking_table,
)
from notellm.evaluate.report import save_report
from notellm.evaluate.tables import intervals_json
from notellm.rank.batch import NoteTexts, impression_codes, questions
from notellm.rank.codes.codes import Codes
from notellm.rank.model import BinLLM
from notellm.rank.scorer import Ranker
from notellm.record import describe, make_record

NAME, POPULARITY = "BinLLM", "item popularity"


@dataclass
class RankEvaluation:
    """The results of a ranker and its baselines on the same impressions.

    Attributes:
        results: one result per method, BinLLM last.
        ahead: for each other method, AUC and UAUC of the last method minus those of the other, on the same
            users.
        record: what was measured and on what data, with the figures of the last method.
    """

    results: list[RankingResult] = field(default_factory=list)
    ahead: dict[str, dict[str, Interval]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def text(self, *, markdown: bool = False) -> str:
        """Return the table and the differences as plain text, or in Markdown."""
        table = ranking_table(self.results)
        pieces = [table.markdown() if markdown else table.text()]
        for name, differences in self.ahead.items():
            figures = ", ".join(f"{figure} {value:+.4f}" for figure, value in differences.items())
            pieces.append(f"{self.results[-1].name} less {name}, over users: {figures}\n")
        return "\n".join(pieces)

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON values, shares from 0 to 1."""
        return {
            "ranking": [result.to_json() for result in self.results],
            "ahead": {name: intervals_json(differences) for name, differences in self.ahead.items()},
        }

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write ``report.md``, ``results.json`` and ``record.json`` into a folder, all of them or none.

        Raises:
            StorageError: if the folder may not be replaced or cannot be written.
        """
        save_report(folder, "Ranking", self.text(markdown=True), self.to_json(), self.record, force=force)


def evaluate_rank(
    ranker: Ranker | Mapping[str, npt.ArrayLike],
    impressions: pa.Table,
    *,
    train: pa.Table | None = None,
    ks: Sequence[int] = (10,),
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> RankEvaluation:
    """Compute AUC, UAUC and NDCG@k of item popularity, the codes alone and the ranker.

    Args:
        ranker: the ranker; or the scores (rows,) of methods by name, which are measured unchanged.
        impressions: test rows (schema ``data.schema.IMPRESSIONS``). With a ranker, rows on notes that it does
            not know are left out and counted in the record.
        train: the training impressions, which define item popularity (number of likes) and which rows are
            warm or cold. Without them, a ranker's user histories define popularity and its codes define warm
            rows; scores alone get neither.
        ks: depths of NDCG@k.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
        progress: show a progress bar.

    Raises:
        ConfigError: if ``ks`` is empty or has a depth below 1, or ``resamples`` is below 1.
        DataError: if all labels are alike, or the scores do not fit the rows.
    """
    table, dropped = impressions, {}
    methods: dict[str, npt.ArrayLike] = {}
    model = None
    if isinstance(ranker, Ranker):
        table, report = validate_impressions(impressions, ranker.table)
        dropped = {problem.problem: problem.count for problem in report.problems}
        if train is not None:
            train, _ = validate_impressions(train, ranker.table)
        codes = ranker.codes
        histories = ranker.histories.values()
        liked = pa.chunked_array([[note for history in histories for note in history]], pa.string())
        methods[POPULARITY] = popularity(liked if train is None else _liked(train), table["note_id"])
        if codes is not None:
            methods[codes.label] = codes.scores(table["user_id"], table["note_id"], table["history"])
        groups = _known_groups(codes, table)
        methods[NAME] = answer_logits(ranker.model, ranker.texts, codes, table, progress=progress)
        model = {
            "fingerprint": ranker.model.fingerprint(),
            "codes": None if codes is None else codes.fingerprint(),
        }
    else:
        groups = {}
        if train is not None:
            methods[POPULARITY] = popularity(_liked(train), table["note_id"])
        methods |= ranker
    if train is not None:
        groups = cold_groups(train, table)
    results = [
        evaluate_ranking(table, scores, ks=ks, name=name, groups=groups, resamples=resamples, seed=seed)
        for name, scores in methods.items()
    ]
    ahead = {
        name: ranking_difference(table, methods[last], methods[name], resamples=resamples, seed=seed)
        for *names, last in [list(methods)]
        for name in names
    }
    figures = {name: value.mean for name, value in results[-1].figures.items()} if results else {}
    record = make_record(
        kind="report",
        config={"ks": list(ks), "resamples": resamples, "methods": list(methods)},
        data={
            "ranker": model,
            "impressions": describe(table),
            "train": None if train is None else describe(train),
        },
        seed=seed,
        metrics={"ranking": figures, "dropped": dropped},
    )
    return RankEvaluation(results, ahead, record)


def answer_logits(
    model: BinLLM, texts: NoteTexts, codes: Codes | None, impressions: pa.Table, *, progress: bool
) -> npt.NDArray[np.float32]:
    """Return the logit of P(enjoy) of each impression, float32 (rows,).

    Args:
        model: the tuned model.
        texts: the notes.
        codes: the codes that the model was tuned with; None for a model of text alone.
        impressions: rows on known notes (schema ``data.schema.IMPRESSIONS``).
        progress: show a progress bar.

    Raises:
        NotFoundError: if an impression names an unknown note.
    """
    row_codes = None if codes is None else impression_codes(impressions, codes)
    asked = questions(model, texts, impressions, row_codes)
    return model.predict(model.tokenize(asked), progress=progress)


def _liked(train: pa.Table) -> pa.ChunkedArray:
    """Return the notes of the rows with a positive label."""
    return train["note_id"].filter(train["label"])


def popularity(liked: pa.ChunkedArray, note_ids: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Return how often each note was liked, float32 (n,).

    Args:
        liked: the note of every like.
        note_ids: n notes.
    """
    counted = pc.value_counts(liked)
    place = pc.index_in(note_ids, value_set=counted.field("values"))
    counts = counted.field("counts").take(place).fill_null(0)
    result: npt.NDArray[np.float32] = counts.to_numpy().astype(np.float32)
    return result


def _known_groups(codes: Codes | None, table: pa.Table) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the groups of ``cold_groups`` by which users and notes the codes know; none without codes."""
    if codes is None:
        return {}
    rows = codes.users.rows(table["user_id"]), codes.items.rows(table["note_id"])
    user, note = (
        (row >= 0) & known[row]
        for row, known in zip(rows, (codes.known_users, codes.known_items), strict=True)
    )
    return {"warm": user & note, "cold user": ~user, "cold item": ~note}
