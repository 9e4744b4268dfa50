"""Tests of differences between methods: p from bootstrap resamples, and Holm's correction for many."""

import numpy as np
import numpy.typing as npt

from notellm.errors import DataError

Floats = npt.NDArray[np.float64]

#: Fewest queries, or users, on which a difference is tested: of one or two a resample never changes the sign.
LEAST = 20


def bootstrap_p(resampled: npt.ArrayLike) -> float:
    """Return the two-sided p of "there is no difference", from differences of resamples.

        p = min(1, 2 (b + 1) / (n + 1))

    b of the n resamples have a difference on the rarer side of 0; those of exactly 0 count for both sides.
    One is added to both numbers so that p is never 0 (Davison and Hinkley 1997, section 4.2): with n
    resamples no p is below 2 / (n + 1).

    Args:
        resampled: (n,) differences; NaN, a resample that defines no difference, is left out.
    """
    values = np.asarray(resampled, np.float64)
    values = values[~np.isnan(values)]
    rarer = int(min((values <= 0).sum(), (values >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(values) + 1))


def holm(p_values: npt.ArrayLike) -> Floats:
    """Return p values corrected for their number, so that the chance of any false finding stays below alpha.

        adjusted(k) = max over j <= k of min(1, (m - j + 1) p(j))        p(1) <= ... <= p(m)

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2).

    Args:
        p_values: (m,) p values of one family of comparisons, in any order.

    Returns:
        float64 (m,), in the order of ``p_values``.

    Raises:
        DataError: if a value does not lie in 0 to 1.
    """
    values = np.asarray(p_values, np.float64)
    wrong = values[~((values >= 0) & (values <= 1))]
    if len(wrong):
        raise DataError(f"a p value is {wrong[0]}; it must lie in 0 to 1")
    order = np.argsort(values, kind="stable")
    scaled = np.minimum(1, values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(scaled)
    return adjusted
