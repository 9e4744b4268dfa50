"""The parts of a small service, made once."""

import pytest

from tests.serve.small import make_places


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """A store, a model and a ranker, not to be written to."""
    return make_places(tmp_path_factory.mktemp("service"))
