"""The filters of pyproject.toml: a deprecated call fails a test if our code makes it."""

import warnings

import pytest

KINDS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def call_something_deprecated(module, kind):
    """As if the code of a module called a function whose warning names its caller."""
    exec("warn('deprecated', kind)", {"__name__": module, "warn": warnings.warn, "kind": kind})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", ["notellm", "notellm.data.read", "tests.data.test_read"])
def test_a_deprecated_call_of_our_code_is_an_error(module, kind):
    with pytest.raises(kind, match="deprecated"):
        call_something_deprecated(module, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", ["transformers.trainer", "a_package.tests.notellm"])
def test_a_deprecated_call_inside_another_package_is_only_listed(module, kind):
    with warnings.catch_warnings(record=True) as listed:
        call_something_deprecated(module, kind)
    assert [(type(w.message), str(w.message)) for w in listed] == [(kind, "deprecated")]
