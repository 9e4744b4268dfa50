"""Options of training a collaborative model; imports nothing heavy, so that a command line can read them."""

from dataclasses import dataclass, replace

from notellm.errors import ConfigError


@dataclass(frozen=True)
class TrainingOptions:
    """How a collaborative model, or a model of codes, is trained.

    Attributes:
        learning_rate: learning rate of Adam.
        weight_decay: L2 penalty in Adam's gradient, relative to the mean loss of a row.
        penalty: L2 penalty relative to the summed loss of all rows. Its strength does not depend on the
            number of rows: a user with ten rows is regularized equally in a small and in a large log. It adds
            penalty / rows to ``weight_decay``.
        batch: rows in a step.
        epochs: largest number of passes over the rows.
        patience: epochs without a better validation AUC after which training ends.
        patience_steps: the same limit in steps; training ends at whichever limit comes first, because one
            epoch of many rows has many steps.
        averaging: decay of a moving average of the weights over the steps. The averaged weights are measured
            and kept; 0 keeps the weights themselves.
        seed: seed of the order of the rows and of dropout.
        progress: show a progress bar that counts epochs.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    penalty: float = 0.0
    batch: int = 2048
    epochs: int = 500
    patience: int = 30
    patience_steps: int = 2000
    averaging: float = 0.0
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        """Check all options together.

        Raises:
            ConfigError: if an option is out of range; the message lists every problem.
        """
        problems = [
            f"{name} is {getattr(self, name)}; it must be 1 or more"
            for name in ("batch", "epochs", "patience", "patience_steps")
            if getattr(self, name) < 1
        ]
        if not self.learning_rate > 0:
            problems.append(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 <= self.averaging < 1:
            problems.append(f"averaging is {self.averaging}; it must be 0 or more, and below 1")
        problems += [
            f"{name} is {getattr(self, name)}; it must be 0 or more"
            for name in ("weight_decay", "penalty")
            if not getattr(self, name) >= 0
        ]
        if problems:
            raise ConfigError("; ".join(problems))

    def for_rows(self, count: int) -> "TrainingOptions":
        """Return the same options with the penalty for ``count`` rows expressed as plain weight decay."""
        return replace(self, weight_decay=self.weight_decay + self.penalty / count, penalty=0.0)
