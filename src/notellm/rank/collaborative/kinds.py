"""The kinds of collaborative models; imports none of them until one is asked for.

A new kind is one file with a subclass of `CollaborativeModel`, its name in `Collaborative`, and one line in
`KINDS`. The line also holds the settings with which its codes are trained, chosen on validation rows
(``benchmarks/README.md``, "Choices and their measurements"). A line in `REAL_VALUED` holds the settings with
which it is trained to rank by its vectors themselves (``benchmarks/collaborative.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

from notellm.rank.collaborative.options import TrainingOptions

#: Names of the kinds, as options and saved models hold them.
Collaborative = Literal["mf", "lightgcn", "sasrec"]
#: Names of the models that rank by their real-valued vectors, without codes.
RealValued = Literal["mf", "mf_biases", "lightgcn", "sasrec"]


@dataclass(frozen=True)
class Kind:
    """A kind of collaborative model and the settings of its codes, or of ranking by its vectors.

    Attributes:
        label: name of ranking by the codes alone, or by the vectors, in reports.
        location: the class, as "module:name"; the module is one of ``notellm.rank.collaborative``.
        dimensions: dimensions of the vectors.
        penalties: penalties that are tried, see ``CodeOptions.penalties``.
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

_PLAIN = TrainingOptions(weight_decay=0.0)

#: The middle penalty of each is the weight decay of ``benchmarks/collaborative.py`` times the 33,891 training
#: rows of ML-1M there, for SASRec the largest; which one is best differs from log to log.
REAL_VALUED: dict[RealValued, Kind] = {
    "mf": Kind("MF", "mf:MatrixFactorization", 256, (10.0, 3.4, 1.0), _PLAIN, {"biases": False}),
    "mf_biases": Kind("MF with biases", "mf:MatrixFactorization", 32, (10.0, 3.4, 1.0), _PLAIN),
    "lightgcn": Kind("LightGCN", "lightgcn:LightGCN", 64, (1.0, 0.34, 0.1), _PLAIN),
    "sasrec": Kind(
        "SASRec",
        "sasrec:SASRec",
        32,
        (34.0, 10.0, 3.0),
        replace(_PLAIN, batch=512, epochs=30, patience=5),
        {"layers": 1},
    ),
}
