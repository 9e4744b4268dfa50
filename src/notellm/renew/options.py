"""The options of a renewal: what is trained and compared on, and when the new models take over."""

from dataclasses import dataclass
from typing import Literal

from notellm.options import check, option
from notellm.pairs.score import PairOptions
from notellm.store.age import MOST_DAYS


@dataclass(frozen=True)
class RenewOptions:
    """How a renewal trains, compares and decides.

    Attributes:
        window_days: days up to now whose clicks count.
        test_days: newest days of the log. Nothing is trained on them; both models are compared on them.
        start: "warm" goes on from the serving model and keeps its tokenizer; "new" trains with the options of
            the first model from where that one started, so that the tiny backbone gets a tokenizer of the
            present notes; "auto" is "new" for the tiny backbone, and "warm" for a pretrained one.
        min_users: related pairs of fewer users are not trained on.
        max_steps: steps of the training of recall; None passes over the related pairs as often as the
            training of the serving model was told to ("epochs").
        rank_steps: steps of the tuning of the ranker; None takes those of the serving ranker.
        users: largest number of users that the models are compared on; more are drawn from.
        least_users: with fewer users to compare on, the serving model stays.
        margin: by which share of the serving model's figure the new one may be below it.
        list_margin: the same, where only clicks on lists of the serving models can be compared on, which
            favours these.
        least_notes: with fewer notes than this share of those that the serving model was trained on, that
            model stays.
        seed: seed of everything random.

    Raises:
        ConfigError: if a value is not allowed; the message names every problem.
    """

    window_days: float = option(90.0, above=0, most=MOST_DAYS)
    test_days: float = option(1.0, above=0)
    start: Literal["auto", "warm", "new"] = option("auto")
    min_users: int = option(PairOptions.min_users, least=1)
    max_steps: int | None = option(None, least=1)
    rank_steps: int | None = option(None, least=1)
    users: int = option(1_000, least=1)
    least_users: int = option(50, least=1)
    margin: float = option(0.1, least=0, most=1)
    list_margin: float = option(0.3, least=0, most=1)
    least_notes: float = option(0.8, least=0, most=1)
    seed: int = option(0, least=0)

    def __post_init__(self) -> None:
        problems = []
        if self.test_days >= self.window_days:
            problems.append(
                f"test_days is {self.test_days}; it must be below window_days ({self.window_days}), so that "
                "days are left to train on"
            )
        if self.least_users > self.users:
            problems.append(f"least_users is {self.least_users}; it must be at most users ({self.users})")
        check(self, *problems)
