"""How well a ranker tells what users enjoy, beside item popularity and its codes alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
    ranking_json,
    ranking_markdown,
    ranking_text,
)
from notellm.evaluate.report import save_report
from notellm.rank.batch import impression_codes, questions
from notellm.rank.codes.codes import Codes
from notellm.rank.scorer import Ranker
from notellm.record import describe, make_record

NAME = "BinLLM"


@dataclass
class RankEvaluation:
    """How well methods tell what users enjoy, on the same impressions.

    Attributes:
        results: one a method, BinLLM last.
        ahead: by how much the last method has more AUC and UAUC than each of the others, on the same users.
        record: what was measured, on what; with the figures of the last method.
    """

    results: list[RankingResult] = field(default_factory=list)
    ahead: dict[str, dict[str, Interval]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def text(self, *, markdown: bool = False) -> str:
        """The table, for a terminal or as Markdown."""
        text = ranking_markdown(self.results) if markdown else ranking_text(self.results)
        for name, found in self.ahead.items():
            figures = ", ".join(f"{n} {v.mean:+.4f} [{v.low:+.4f}, {v.high:+.4f}]" for n, v in found.items())
            text += f"\n{self.results[-1].name} less {name}, over users: {figures}\n"
        return text

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values, shares from 0 to 1."""
        return {
            "ranking": [ranking_json(result) for result in self.results],
            "ahead": {
                name: {figure: asdict(value) for figure, value in found.items()}
                for name, found in self.ahead.items()
            },
        }

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write ``report.md``, ``results.json`` and ``record.json`` into a folder, whole or not at all.

        Raises:
            StorageError: it cannot be written.
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
    """AUC, UAUC and NDCG@k of item popularity, the codes alone (BinMF) and the model; warm and cold rows.

    Args:
        ranker: the ranker; or scores (rows,) of methods by name, which are measured as they are.
        impressions: test rows (schema ``data.schema.IMPRESSIONS``) on notes that the ranker has; with a
            ranker, rows on others are left out and counted in the record.
        train: the training impressions, for item popularity (how many times a note was liked) and for
            warm and cold. Without them popularity is by the users' histories that the ranker remembers,
            and warm is what its codes know; scores alone have neither.
        ks: depths of NDCG@k.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: show a progress bar.

    Raises:
        ConfigError: no k, or one below 1, or less than 1 resample.
        DataError: the rows hold one label only, or scores do not fit them.
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
        liked = pa.chunked_array([[note for own in ranker.histories.values() for note in own]], pa.string())
        methods["item popularity"] = _counts(liked if train is None else _liked(train), table["note_id"])
        if codes is not None:
            methods["BinMF"] = codes.scores(table["user_id"], table["note_id"], table["history"])
        groups = _known_groups(codes, table)
        rows = questions(
            ranker.model, ranker.texts, table, None if codes is None else impression_codes(table, codes)
        )
        methods[NAME] = ranker.model.predict(ranker.model.tokenize(rows), progress=progress)
        model = {
            "fingerprint": ranker.model.fingerprint(),
            "codes": None if codes is None else codes.fingerprint(),
        }
    else:
        groups = {}
        if train is not None:
            methods["item popularity"] = _counts(_liked(train), table["note_id"])
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


def _liked(train: pa.Table) -> pa.ChunkedArray:
    """The notes of the rows that were enjoyed."""
    return train["note_id"].filter(train["label"])


def _counts(liked: pa.ChunkedArray, note_ids: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """How often each of some notes was liked, float32 (n,)."""
    found = pc.value_counts(liked)
    place = pc.index_in(note_ids, value_set=found.field("values"))
    counts = found.field("counts").take(place).fill_null(0)
    result: npt.NDArray[np.float32] = counts.to_numpy().astype(np.float32)
    return result


def _known_groups(codes: Codes | None, table: pa.Table) -> dict[str, npt.NDArray[np.bool_]]:
    """As `cold_groups`, by the users and notes that have codes of their own; none without codes."""
    if codes is None:
        return {}
    rows = codes.users.rows(table["user_id"]), codes.items.rows(table["note_id"])
    user, note = (
        (row >= 0) & known[row]
        for row, known in zip(rows, (codes.known_users, codes.known_items), strict=True)
    )
    return {"warm": user & note, "cold user": ~user, "cold item": ~note}
