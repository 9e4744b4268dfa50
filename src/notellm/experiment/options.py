"""The options of an experiment."""

import re
from dataclasses import dataclass
from typing import Literal

from notellm.options import check, option
from notellm.recall.config import TINY, RecallOptions

_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass
class ExperimentOptions:
    """What an experiment compares, and how long it may take.

    Attributes:
        by: how a dataset folder is split: "note" (test notes are never seen in training) or "time" (test
            clicks are later). A split folder keeps its own split.
        recall: compute the table of related notes, and of the topics and categories that models write.
        ablations: compute the variants of NoteLLM that differ in one option.
        rank: compute the table of rankers; it needs impressions, or clicks with times.
        backbone: the language model of NoteLLM and BinLLM: "tiny" (initialised from the notes), or a causal
            language model: a name on the hub, a folder, or a GGUF file. A pretrained one is also measured
            without training: the mean of its states, and PromptEOL.
        layers: keep the first layers of a pretrained backbone, that many; None keeps all.
        train_layers: train only the last layers of a pretrained backbone, that many; None trains all.
        sentence_encoder: a sentence-transformers model, by name or folder, which is measured as it is and
            after tuning on the same pairs for as long as NoteLLM was trained; None leaves it out.
        seeds: number of training seeds of every method of the tables; ablations have one.
        max_steps: training steps of every training; where given, it replaces the default.
        tagged_notes: largest number of notes whose topics and categories are written and measured.
        min_users: related pairs of fewer users are neither trained on nor targets.
        rank_rows: largest number of impressions on which rankers are measured, and chosen by; users are
            drawn.
        resamples: number of bootstrap resamples.
        texts: show texts of notes in the report, as examples and beside the points of the map; without them
            it holds figures and ids alone, and can be shared where the notes cannot.
        budget: time that the experiment may take, such as 2h, 90m or 1h30m. Sizes are chosen to fit, and the
            report says what was left out. None computes everything.
        seed: seed of the split, and the first of the training seeds.
    """

    by: Literal["note", "time"] = option("note")
    recall: bool = option(True, flag="--recall/--no-recall")
    ablations: bool = option(True, flag="--ablations/--no-ablations")
    rank: bool = option(True, flag="--rank/--no-rank")
    backbone: str = option(TINY)
    layers: int | None = option(None, least=1)
    train_layers: int | None = option(None, least=1)
    sentence_encoder: str | None = option(None)
    seeds: int = option(3, least=1)
    max_steps: int | None = option(None, least=1)
    tagged_notes: int = option(1_000, least=0)
    min_users: int = option(2, least=1)
    rank_rows: int = option(20_000, least=100)
    resamples: int = option(10_000, least=2_000)
    texts: bool = option(True, flag="--texts/--no-texts")
    budget: str | None = option(None)
    seed: int = option(0, least=0)

    def checked(self) -> "ExperimentOptions":
        """Return the options after checking all of them.

        Raises:
            ConfigError: with every problem found.
        """
        more = []
        if not (self.recall or self.ablations or self.rank):
            more.append("recall, ablations and rank are all left out; compute at least one of them")
        if self.budget is not None and _seconds(self.budget) is None:
            more.append(f"budget is {self.budget!r}; write hours, minutes and seconds as in 2h, 90m or 1h30m")
        check(self, *more)
        self.recall_options(self.seed).resolved()
        return self

    @property
    def budget_seconds(self) -> float | None:
        """Seconds that the experiment may take; None without a budget."""
        return None if self.budget is None else _seconds(self.budget)

    @property
    def training_seeds(self) -> list[int]:
        """The training seeds."""
        return list(range(self.seed, self.seed + self.seeds))

    def recall_options(self, seed: int) -> RecallOptions:
        """Return the options of NoteLLM in this experiment."""
        return RecallOptions(
            backbone=self.backbone,
            layers=self.layers,
            train_layers=self.train_layers,
            max_steps=self.max_steps,
            seed=seed,
        )


def _seconds(budget: str) -> float | None:
    """Return the seconds of a budget; None if it is not written as one, or is zero."""
    found = _BUDGET.fullmatch(budget.strip().lower())
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds or None
