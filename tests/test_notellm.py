"""The top of the package: quick to import, and the main names are there."""

import subprocess
import sys

import pytest

import notellm


def test_importing_notellm_loads_none_of_the_heavy_packages():
    heavy = ("torch", "transformers", "polars", "numba", "sklearn")
    code = f"import sys, notellm, notellm.record; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_main_name_can_be_imported():
    assert len(notellm.__all__) > 10
    for name in notellm.__all__:
        assert getattr(notellm, name) is not None
        assert name in dir(notellm)
    assert notellm.NoteLLM.__module__ == "notellm.recall.model"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        AttributeError, match="has no attribute 'NoteLLN'; it has BinLLM, Client, Engine, Filter"
    ):
        _ = notellm.NoteLLN
