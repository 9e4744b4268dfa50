"""Variants of NoteLLM that differ from the experiment's in one option (NoteLLM, arXiv 2403.01744, section 5).

A part is the option that varies, a setting is its value. The setting of the experiment itself is no variant:
its row is that of NoteLLM in the recall table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from notellm.experiment.options import ExperimentOptions
from notellm.experiment.recall.methods import CONTRASTIVE, NOTELLM, RecallMethod
from notellm.options import values_of
from notellm.pairs.score import PairOptions
from notellm.recall.config import TINY
from notellm.recall.tiny import TinyOptions


@dataclass(frozen=True)
class Sweep:
    """An option and the values that it is given.

    Attributes:
        option: the option's name in ``RecallOptions`` or ``PairOptions``.
        values: its values.
        names: what the report calls values that do not speak for themselves.
        of_pairs: whether it is an option of the related pairs.
    """

    option: str
    values: Sequence[Any]
    names: Mapping[Any, str] = field(default_factory=dict)
    of_pairs: bool = False

    def setting(self, value: Any) -> str:
        """Return the name of a value."""
        return self.names.get(value, f"{value:g}" if isinstance(value, int | float) else str(value))


#: The weight of the generation loss and the share of notes with topics, as in the paper's figures; then what
#: a user may turn; then what differs from the paper.
SWEEPS = (
    Sweep("alpha", (0.0, 0.001, 0.01, 0.1, 1.0, 10.0)),
    Sweep("topic_share", (0.0, 0.2, 0.4, 0.7, 1.0)),
    Sweep("batch_pairs", (16, 32, 64, 128, 256)),
    Sweep("dim", (32, 64, 128, 256)),
    Sweep("top", (3, 10, 30), of_pairs=True),
    Sweep("upper", (1.0, 5.0, 30.0), of_pairs=True),
    Sweep("lower", (0.0, 0.01, 0.1), of_pairs=True),
    Sweep("template", ("english", "chinese", "compact")),
    Sweep("learn_tau", (True, False), {True: "learnt", False: "fixed"}),
    Sweep(
        "mask_false_negatives",
        (True, False),
        {True: "masked", False: "as negatives (paper)"},
    ),
    Sweep(
        "sampling_correction",
        (True, False),
        {True: "corrected", False: "not corrected (paper)"},
    ),
)
_OF_TINY = (
    Sweep("tiny_layers", (1, 2, 4)),
    Sweep("tiny_hidden", (128, 256, 512)),
)
WITHOUT_CSFT, WITHOUT_GCL = "without CSFT", "without GCL"


def ablations(options: ExperimentOptions) -> list[RecallMethod]:
    """Return the variants of NoteLLM: without one of its losses, then those of ``SWEEPS``."""
    found = [
        RecallMethod(
            "without-csft", "NoteLLM", "notellm", dict(CONTRASTIVE), part="losses", setting=WITHOUT_CSFT
        ),
        RecallMethod("without-gcl", "NoteLLM", "notellm", pairs=False, part="losses", setting=WITHOUT_GCL),
    ]
    defaults = _defaults(options)
    for sweep in sweeps(options):
        for value in sweep.values:
            if value == defaults[sweep.option]:
                continue
            given = {sweep.option: value}
            found.append(
                RecallMethod(
                    f"{sweep.option}-{value}",
                    "NoteLLM",
                    "notellm",
                    {} if sweep.of_pairs else given,
                    given if sweep.of_pairs else {},
                    part=sweep.option,
                    setting=sweep.setting(value),
                )
            )
    return found


def default_settings(options: ExperimentOptions) -> dict[str, str]:
    """Return the settings of the experiment itself by part: where the row of NoteLLM belongs."""
    defaults = _defaults(options)
    return {"losses": "both"} | {
        sweep.option: sweep.setting(defaults[sweep.option]) for sweep in sweeps(options)
    }


def sweeps(options: ExperimentOptions) -> tuple[Sweep, ...]:
    """Return the options that vary: the size of the backbone only where it is made from the notes."""
    return SWEEPS + (_OF_TINY if options.backbone == TINY else ())


def _defaults(options: ExperimentOptions) -> dict[str, Any]:
    """Return the values of all options that vary in the experiment itself."""
    chosen = RecallMethod(NOTELLM, "NoteLLM", "notellm").recall_options(options, options.seed).resolved()
    mining = PairOptions(min_users=options.min_users)
    size = TinyOptions()
    tiny = {"tiny_layers": size.layers, "tiny_hidden": size.hidden}
    of_model = {name: value for name, value in vars(chosen).items() if value is not None}
    return tiny | of_model | values_of(mining, PairOptions)
