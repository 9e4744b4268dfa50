"""Options of binary codes; imports nothing heavy, so that a command line can read them."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from notellm.errors import ConfigError
from notellm.rank.collaborative.options import TrainingOptions

#: Which code a user or a note without training rows gets, see ``rank/codes/unknown.py``.
Unknown = Literal["average", "folded", "none"]


@dataclass(frozen=True)
class CodeOptions:
    """How codes are made.

    Attributes:
        bits: length of a code, a multiple of 8 (paper: 32).
        dimensions: dimensions of the collaborative model's vectors.
        anneal_epochs: epochs in which the share of bits that are signs instead of tanh values rises from 0 to
            1, as in the paper's public code; no earlier epoch is kept. 0 uses signs from the start.
        unknown: code of a user or note without training rows, see ``rank/codes/unknown.py``.
        penalties: values of ``TrainingOptions.penalty`` that are tried in turn; the one with the best
            validation AUC is kept. Too large a penalty makes all codes equal, too small a one lets them
            differ by chance, and the best value differs from log to log.
        training: how the codes are trained; its seed also draws the first weights.
    """

    bits: int = 32
    dimensions: int = 32
    anneal_epochs: int = 0
    unknown: Unknown = "average"
    penalties: tuple[float, ...] = (17.0, 5.0, 2.0)
    training: TrainingOptions = field(
        default_factory=lambda: TrainingOptions(learning_rate=3e-3, weight_decay=0.0, averaging=0.995)
    )

    def __post_init__(self) -> None:
        """Check all options together.

        Raises:
            ConfigError: if an option is out of range; the message lists every problem.
        """
        problems = []
        if self.bits < 8 or self.bits % 8:
            problems.append(f"bits is {self.bits}; it must be a multiple of 8")
        if self.dimensions < 1:
            problems.append(f"dimensions is {self.dimensions}; it must be 1 or more")
        if not 0 <= self.anneal_epochs < self.training.epochs:
            problems.append(
                f"anneal_epochs is {self.anneal_epochs}; it must be 0 or more, and below the "
                f"{self.training.epochs} epochs of the training"
            )
        if not self.penalties or not all(penalty >= 0 for penalty in self.penalties):
            problems.append(f"penalties is {self.penalties}; give one or more numbers of 0 or more")
        if self.unknown not in get_args(Unknown):
            problems.append(f"unknown is {self.unknown!r}; it must be one of {', '.join(get_args(Unknown))}")
        if problems:
            raise ConfigError("; ".join(problems))
