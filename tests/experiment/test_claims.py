"""A claim holds, does not hold, or cannot be told."""

import pytest

from notellm.evaluate.bootstrap import Interval
from notellm.experiment.claims import Finding, judged


def finding(mean, p):
    return Finding("A is ahead of B", "84 against 83", "R@100", Interval(mean, mean - 0.01, mean + 0.01), p)


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
    (claim,) = judged([finding(mean, p)])
    assert claim.verdict == verdict
    assert (claim.claim, claim.paper) == ("A is ahead of B", "84 against 83")


def test_many_claims_are_corrected_together():
    alone = judged([finding(0.02, 0.03)])
    together = judged([finding(0.02, 0.03), *(finding(0.01, 0.5) for _ in range(4))])
    assert (alone[0].verdict, together[0].verdict) == ("holds", "cannot tell")


def test_without_findings_there_are_no_claims():
    assert judged([]) == []
