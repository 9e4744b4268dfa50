import math

import pytest

from notellm.errors import ConfigError
from notellm.pairs.score import PairOptions


def test_defaults_are_the_papers():
    options = PairOptions()
    assert (options.upper, options.lower, options.top) == (30.0, 0.01, 10)
    assert options.window_days is None
    assert options.same_time is None


def test_all_problems_are_in_one_message():
    with pytest.raises(ConfigError) as error:
        PairOptions(upper=-2, lower=-1, top=0, window_days=0, min_users=0)
    for word in ("lower is -1", "upper is -2", "top is 0", "window_days is 0", "min_users is 0"):
        assert word in str(error.value)


def test_what_same_time_may_be():
    with pytest.raises(ConfigError, match="same_time is 'first'; it must be one of both, none"):
        PairOptions(same_time="first")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"lower": math.nan}, {"upper": math.nan}, {"window_days": math.inf}, {"window_days": -1.0}],
)
def test_values_that_are_no_number_are_refused(options):
    with pytest.raises(ConfigError):
        PairOptions(**options)
