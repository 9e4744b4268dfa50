"""The claims of the papers, and what an experiment says about each.

A claim compares two methods. It holds where the difference has the claimed sign and is significant after the
correction for all claims (5 %), it does not hold where the opposite is, and else these data cannot tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from notellm.evaluate.bootstrap import Interval
from notellm.experiment.results import Claim
from notellm.experiment.statistics import holm

_ALPHA = 0.05


@dataclass(frozen=True)
class Compared:
    """A claim with the difference that decides it.

    Attributes:
        claim: the claim in words.
        paper: the paper's figures.
        figure: what is compared, as "R@100".
        difference: the difference that the claim says is positive, in shares, with its interval.
        p: its two-sided p-value; None where there were too few queries to test.
    """

    claim: str
    paper: str
    figure: str
    difference: Interval
    p: float | None


@dataclass(frozen=True)
class Comparison:
    """A claim of a paper that one method is ahead of another.

    Attributes:
        claim: the claim in words.
        better: name of the method that is ahead.
        worse: name of the other one.
        paper: the paper's figures.
    """

    claim: str
    better: str
    worse: str
    paper: str


#: NoteLLM, arXiv 2403.01744, Tables 2 and 4: R@100 of a pool of 257,937 notes.
OF_RECALL = (
    Comparison(
        "Writing topics and categories (CSFT) helps recall",
        "NoteLLM",
        "PromptEOL+CSE (contrastive only)",
        "84.0 against 83.3",
    ),
    Comparison(
        "The compression prompt helps: NoteLLM is ahead of the embedding at the end token",
        "NoteLLM",
        "RepLLaMA",
        "84.0 against 83.6",
    ),
    Comparison(
        "NoteLLM is ahead of a tuned sentence encoder", "NoteLLM", "SentenceBERT, tuned", "84.0 against 70.7"
    ),
    Comparison(
        "Training on related pairs helps", "NoteLLM", "language model, PromptEOL", "84.0 against 55.3"
    ),
    Comparison(
        "One word (PromptEOL) compresses better than the mean of states",
        "language model, PromptEOL",
        "language model, mean of states",
        "55.3 against 11.9",
    ),
)


def judged(compared: Sequence[Compared]) -> list[Claim]:
    """Return what these data say about claims, with p-values corrected for their number."""
    adjusted = iter(holm([each.p for each in compared if each.p is not None]).tolist())
    claims = []
    for each in compared:
        p = None if each.p is None else next(adjusted)
        tested = "not tested, too few queries" if p is None else f"p = {p:.2g} corrected"
        here = f"{each.figure} {each.difference.percent():+.1f} points, {tested}"
        claims.append(Claim(each.claim, each.paper, here, _verdict(each.difference.mean, p)))
    return claims


def _verdict(difference: float, p: float | None) -> str:
    if p is None or p >= _ALPHA or difference == 0:
        return "cannot tell"
    return "holds" if difference > 0 else "does not hold"
