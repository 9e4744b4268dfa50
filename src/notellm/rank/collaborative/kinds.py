"""The kinds of collaborative models; imports none of them until one is asked for.

A new kind is one file with a subclass of `CollaborativeModel`, its name in `Collaborative`, and one line in
`KINDS`. The line also holds the settings with which its codes are trained, chosen on validation rows
(``benchmarks/README.md``, "Choices and their measurements").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

from notellm.rank.collaborative.options import TrainingOptions

#: Names of the kinds, as options and saved models hold them.
Collaborative = Literal["mf", "lightgcn", "sasrec"]


@dataclass(frozen=True)
class Kind:
    """A kind of collaborative model and the settings of codes that are made from it.

    Attributes:
        label: name of ranking by the codes alone, in reports.
        location: the class, as "module:name"; the module is one of ``notellm.rank.collaborative``.
        dimensions: dimensions of the vectors.
        penalties: penalties that are tried, see ``CodeOptions``.
        training: options of the training.
        arguments: further arguments of the class.
    """

    label: str
    location: str
    dimensions: int
    penalties: tuple[float, ...]
    training: TrainingOptions
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> type[Any]:
        """Import the class, a subclass of `CollaborativeModel`."""
        module, name = self.location.split(":")
        model: type[Any] = getattr(import_module(f"notellm.rank.collaborative.{module}"), name)
        return model


_AVERAGED = TrainingOptions(learning_rate=3e-3, weight_decay=0.0, averaging=0.995)

KINDS: dict[Collaborative, Kind] = {
    "mf": Kind("BinMF", "mf:MatrixFactorization", 32, (17.0, 5.0, 2.0), _AVERAGED, {"biases": False}),
    "lightgcn": Kind("LightGCN codes", "lightgcn:LightGCN", 32, (17.0, 5.0, 2.0), _AVERAGED),
    "sasrec": Kind(
        "SASRec codes",
        "sasrec:SASRec",
        32,
        (5.0, 2.0, 0.5),
        replace(_AVERAGED, batch=512, patience=5),
        {"layers": 1},
    ),
}
