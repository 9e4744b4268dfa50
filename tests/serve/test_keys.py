"""API keys: which ones are accepted, and where a request carries its key."""

import pytest

from notellm.errors import ConfigError
from notellm.serve.keys import Keys

READ, WRITE = "read-key-0123456789", "write-key-0123456789"


def test_keys_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="has 5 characters; use at least 16"):
        Keys(["short"])
    with pytest.raises(ConfigError, match="give it once"):
        Keys([READ], [READ])
    for odd in (
        "key with spaces 0123",
        "ключ-ключ-ключ-ключ",
        "tab\tbed-0123456789",
        "surrogate-\udcff-0123456",
    ):
        with pytest.raises(ConfigError, match="header cannot carry"):
            Keys(write=[odd])
    assert not Keys()
    assert Keys([READ])
    assert Keys([READ], [WRITE]).check(b"") == (False, False)
    assert Keys([READ], [WRITE]).check(b"\xff\xfe") == (False, False)
