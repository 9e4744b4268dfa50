"""The methods of BinLLM's table: popularity, collaborative models, their codes alone, and BinLLM's forms.

    key              name                       what it is
    popularity       item popularity            number of likes of a note in train
    mf, ... sasrec   MF, ... SASRec             real-valued vectors, trained for themselves
    binmf, ...       BinMF, ...                 codes alone: h_u . h_i
    text_only, ...   text only, ..., BinLLM     a language model that reads text, codes or both

Source: BinLLM, arXiv 2406.03210; text alone is the form of TALLRec, arXiv 2305.00447.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from notellm.errors import ConfigError, did_you_mean
from notellm.jobs.evaluate_rank import NAME, POPULARITY
from notellm.options import check_known
from notellm.rank.collaborative.kinds import KINDS, REAL_VALUED, Collaborative, RealValued
from notellm.rank.config import TINY, RankOptions

#: What makes the scores of a method.
Kind = Literal["popularity", "real_valued", "codes", "language_model"]

#: The forms of BinLLM in which one option differs from the reference: key -> name and options.
_FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "text_only": ("text only (TALLRec)", {"form": "text_only"}),
    "codes_only": ("codes only", {"form": "codes_only"}),
    "decimal": (f"{NAME}, decimal codes", {"code_text": "decimal"}),
    "bits8": (f"{NAME}, 8 bits", {"bits": 8}),
    "bits16": (f"{NAME}, 16 bits", {"bits": 16}),
    "bits64": (f"{NAME}, 64 bits", {"bits": 64}),
}
#: Options that differ between methods, or come with each fit, and so cannot be given for all of them.
_OF_METHODS = ("form", "collaborative", "code_text", "bits", "two_step", "max_steps", "seed")


@dataclass(frozen=True)
class RankMethod:
    """A method that scores impressions.

    Attributes:
        key: its name in options.
        name: its name in reports.
        kind: what makes its scores.
        options: resolved options of the run, but for the seed and the number of steps. Codes alone read
            those of the codes, a real-valued model ``code_epochs``, popularity none.
        model: which real-valued model; None for other kinds.
    """

    key: str
    name: str
    kind: Kind
    options: RankOptions
    model: RealValued | None = None

    @property
    def seeded(self) -> bool:
        """Whether the scores depend on the seed; if not, one fit is enough."""
        return self.kind != "popularity"


def rank_methods(
    backbone: str = TINY, *, only: Sequence[str] | None = None, **options: Any
) -> dict[str, RankMethod]:
    """Return the methods of the table by key, with the reference "BinLLM" last.

    BinLLM itself is tuned in the steps that are the default of its backbone: one (intuitive tuning) of the
    tiny backbone, two of a pretrained one. The other way is the method "two_step" or "one_step".

    Args:
        backbone: "tiny", or a causal language model: a name on the hub, a folder, or a GGUF file.
        only: keys of the methods that are wanted; None for all.
        options: fields of ``RankOptions`` that all methods share, such as ``layers``.

    Raises:
        ConfigError: if a key or an option is not known, an option is one in which the methods differ, or its
            value is not allowed.
    """
    check_known(options, RankOptions, "rank_methods")
    if fixed := [name for name in _OF_METHODS if name in options]:
        raise ConfigError(
            f"{fixed[0]} is given for all rank methods, but methods differ in it, or it comes with each fit "
            f"({', '.join(_OF_METHODS)}); leave it out"
        )

    def resolved(**changes: Any) -> RankOptions:
        return RankOptions(backbone=backbone, **options, **changes).resolved()

    reference = resolved()
    methods = [RankMethod("popularity", POPULARITY, "popularity", reference)]
    methods += [
        RankMethod(model, REAL_VALUED[model].label, "real_valued", reference, model)
        for model in get_args(RealValued)
    ]
    for collaborative in get_args(Collaborative):
        # BinMF reads the codes of the reference, which need codes out of fold for its tuning; no language
        # model is tuned on the others.
        folds = reference.out_of_fold if collaborative == reference.collaborative else 0
        chosen = replace(reference, collaborative=collaborative, out_of_fold=folds)
        key = "binmf" if collaborative == "mf" else f"{collaborative}_codes"
        methods.append(RankMethod(key, KINDS[collaborative].label, "codes", chosen))
    steps = ("one_step", f"{NAME}, one step") if reference.two_step else ("two_step", f"{NAME}, two steps")
    forms = _FORMS | {steps[0]: (steps[1], {"two_step": not reference.two_step}), "binllm": (NAME, {})}
    for key, (name, changes) in forms.items():
        methods.append(RankMethod(key, name, "language_model", resolved(**changes)))
    found = {method.key: method for method in methods}
    if unknown := [key for key in only or () if key not in found]:
        raise ConfigError(
            f"there is no rank method {unknown[0]!r}: give some of {', '.join(found)}"
            f"{did_you_mean(unknown[0], found)}"
        )
    return {key: method for key, method in found.items() if only is None or key in only}
