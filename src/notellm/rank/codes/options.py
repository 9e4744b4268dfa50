"""Options of binary codes; imports nothing heavy, so that a command line can read them."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from notellm.options import check, option
from notellm.rank.collaborative.kinds import KINDS, Collaborative, Kind
from notellm.rank.collaborative.options import TrainingOptions

#: Which code a user or a note without training rows gets, see ``rank/codes/unknown.py``.
Unknown = Literal["average", "folded", "none"]


@dataclass
class CodeChoice:
    """What a training run of BinLLM decides about the codes.

    Attributes:
        collaborative: the model whose vectors become codes: mf (matrix factorization), lightgcn, or sasrec,
            whose users' codes are computed from their histories.
        bits: length of a code, a multiple of 8 (paper: 32).
        unknown: code of users and notes without a training row: average (of the known ones), folded (from the
            user's history) or none.
    """

    collaborative: Collaborative = option("mf")
    bits: int = option(32, least=8)
    unknown: Unknown = option("average")

    def code_problems(self) -> list[str]:
        """What is wrong with these options besides their ranges."""
        return [f"bits is {self.bits}; it must be a multiple of 8"] if self.bits % 8 else []


@dataclass
class CodeOptions(CodeChoice):
    """How codes are made. None means the default of the collaborative model (``collaborative/kinds.py``).

    Attributes:
        dimensions: dimensions of the collaborative model's vectors.
        penalties: values of ``TrainingOptions.penalty`` that are tried in turn; the one with the best
            validation AUC is kept. Too large a penalty makes all codes equal, too small a one lets them
            differ by chance, and the best value differs from log to log.
        anneal_epochs: epochs in which the share of bits that are signs instead of tanh values rises from 0 to
            1, as in the paper's public code; no earlier epoch is kept. 0 uses signs from the start.
        training: how the codes are trained; its seed also draws the first weights.
    """

    dimensions: int | None = option(None, least=1)
    penalties: tuple[float, ...] | None = None
    anneal_epochs: int = 0
    training: TrainingOptions | None = None

    def __post_init__(self) -> None:
        """Check all options together.

        Raises:
            ConfigError: if an option is out of range; the message lists every problem.
        """
        problems = self.code_problems()
        epochs = self.training_options().epochs if self.collaborative in KINDS else self.anneal_epochs + 1
        if not 0 <= self.anneal_epochs < epochs:
            problems.append(
                f"anneal_epochs is {self.anneal_epochs}; it must be 0 or more, and below the "
                f"{epochs} epochs of the training"
            )
        penalties = self.penalties
        if penalties is not None and (not penalties or not all(penalty >= 0 for penalty in penalties)):
            problems.append(f"penalties is {penalties}; give one or more numbers of 0 or more")
        check(self, *problems)

    @property
    def kind(self) -> Kind:
        """The collaborative model and its defaults."""
        return KINDS[self.collaborative]

    def training_options(self) -> TrainingOptions:
        """Return the options of the training, or their default."""
        return self.training or self.kind.training

    def with_training(self, **changes: Any) -> "CodeOptions":
        """Return the same options with some options of the training changed, such as ``seed=1``."""
        return replace(self, training=replace(self.training_options(), **changes))

    def resolved(self) -> "CodeOptions":
        """Return the same options with every None replaced by the collaborative model's default."""
        return replace(
            self,
            dimensions=self.dimensions or self.kind.dimensions,
            penalties=self.penalties or self.kind.penalties,
            training=self.training_options(),
        )
