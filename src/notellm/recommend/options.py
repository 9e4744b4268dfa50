"""The options of a recommendation: how many notes, and how their candidates come about."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from notellm.options import check, check_known, option


@dataclass(frozen=True)
class RecommendOptions:
    """How many notes are recommended, and how their candidates are chosen.

    Attributes:
        k: number of notes to recommend; fewer come back where fewer are left.
        recall_k: number of candidates that are ranked; at least k. A blend is fitted for the default.
        per_note: most candidates that one opened note may bring, so that one topic does not take all places;
            None sets no limit.
        last: number of the last opened notes that bring candidates, each note counted once. A blend is fitted
            for the default.
        rerank: order the candidates by the ranker; without it they stay in the order of recall.

    Raises:
        ConfigError: if a value is not allowed; the message names every problem.
    """

    k: int = option(20, least=1, flag="-k")
    recall_k: int = option(100, least=1)
    per_note: int | None = option(None, least=1)
    last: int = option(10, least=1)
    rerank: bool = option(True, flag="--rerank/--no-rerank")

    def __post_init__(self) -> None:
        too_few = f"recall_k is {self.recall_k}; it must be at least k ({self.k}), which are returned"
        check(self, *([too_few] if self.recall_k < self.k else []))

    @classmethod
    def from_keywords(cls, values: Mapping[str, Any]) -> Self:
        """Make options from keyword arguments.

        Raises:
            ConfigError: if a keyword is unknown or a value is not allowed.
        """
        check_known(values, cls, "recommend")
        return cls(**values)
