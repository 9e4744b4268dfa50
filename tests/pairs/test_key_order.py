import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm.pairs.key_order import stable_order


@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)), max_size=60))
def test_it_is_the_stable_order_of_any_keys(keys):
    array = np.array(keys, np.uint64)
    assert stable_order(array).tolist() == np.argsort(array, kind="stable").tolist()


@pytest.mark.parametrize("bits", [10, 44, 45, 63])
def test_many_keys_of_few_and_of_many_bits(bits):
    """A million rows take 20 bits, so that keys of 45 are sorted in two passes."""
    keys = np.random.default_rng(bits).integers(0, 2**bits, 1_000_000, np.uint64) // np.uint64(3)
    assert (stable_order(keys) == np.argsort(keys, kind="stable")).all()
