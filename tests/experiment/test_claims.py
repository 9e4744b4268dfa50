"""A claim holds, does not hold, or cannot be told."""

import pytest

from notellm.evaluate.bootstrap import Interval
from notellm.experiment.claims import Compared, judged


def compared(mean, p):
    return Compared("A is ahead of B", "84 against 83", "R@100", Interval(mean, mean - 0.01, mean + 0.01), p)


@pytest.mark.parametrize(
    ("mean", "p", "verdict"),
    [
        (0.02, 0.001, "holds"),
        (-0.02, 0.001, "does not hold"),
        (0.02, 0.2, "cannot tell"),
        (-0.02, 0.05, "cannot tell"),
        (0.0, 0.001, "cannot tell"),
    ],
)
def test_sign_and_significance_decide(mean, p, verdict):
    (claim,) = judged([compared(mean, p)])
    assert claim.verdict == verdict
    assert (claim.claim, claim.paper) == ("A is ahead of B", "84 against 83")


def test_many_claims_are_corrected_together():
    alone = judged([compared(0.02, 0.03)])
    together = judged([compared(0.02, 0.03), *(compared(0.01, 0.5) for _ in range(4))])
    assert (alone[0].verdict, together[0].verdict) == ("holds", "cannot tell")


def test_without_comparisons_there_are_no_claims():
    assert judged([]) == []


def test_what_was_not_tested_cannot_be_told_and_corrects_nothing():
    untested, tested = judged([compared(0.5, None), compared(0.02, 0.03)])
    assert (untested.verdict, tested.verdict) == ("cannot tell", "holds")
    assert "not tested, too few queries" in untested.here
