"""Options of a recommendation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RecommendOptions:
    """How recommendations are made.

    Attributes:
        k: how many notes to recommend; fewer come back if fewer are left.
        recall_k: how many candidates are ranked. A blend is fitted for the default, and for that of ``last``.
        per_note: the most candidates that one opened note may bring, so that one topic does not fill the
            list; None is ``recall_k``.
        last: how many of the last opened notes bring candidates, each counted once.
        rerank: order the candidates by the ranker; False is recall alone, in the order of similarity.
    """

    k: int = 20
    recall_k: int = 100
    per_note: int | None = None
    last: int = 10
    rerank: bool = True
