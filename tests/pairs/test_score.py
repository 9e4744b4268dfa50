import math
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from notellm.data.schema import CLICKS
from notellm.errors import ConfigError
from notellm.pairs import PairOptions, is_order_only


def test_defaults_are_the_papers():
    options = PairOptions()
    assert (options.upper, options.lower, options.top) == (30.0, 0.01, 10)
    assert options.window_days is None


def test_all_problems_are_in_one_message():
    with pytest.raises(ConfigError) as error:
        PairOptions(upper=-2, lower=-1, top=0, window_days=0, min_users=0)
    for word in ("lower is -1", "upper is -2", "top is 0", "window_days is 0", "min_users is 0"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    "options",
    [{"lower": math.nan}, {"upper": math.nan}, {"window_days": math.inf}, {"window_days": -1.0}],
)
def test_values_that_are_no_number_are_refused(options):
    with pytest.raises(ConfigError):
        PairOptions(**options)


def test_order_only():
    def log(*seconds):
        times = [datetime.fromtimestamp(second, UTC) for second in seconds]
        columns = ["u"] * len(times), ["a"] * len(times), times, ["click"] * len(times)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, CLICKS, strict=True)], CLICKS)

    assert is_order_only(log(1, 2, 365 * 86_400 - 1))
    assert not is_order_only(log(1, 2, 365 * 86_400))
    assert not is_order_only(log())
