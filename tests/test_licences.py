from email.message import Message
from types import SimpleNamespace

import pytest

from tools.licences import ALLOWED, FORBIDDEN, closure, licence_of


def package(**fields):
    told = Message()
    for name, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            told[name.replace("_", "-")] = value
    return SimpleNamespace(metadata=told)


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License_Expression": "MIT", "License": "another"}, "MIT"),
        ({"Classifier": ["License :: OSI Approved :: BSD License", "Topic :: X"]}, "BSD License"),
        ({"Classifier": "License :: OSI Approved"}, "says nothing"),
        ({"License": "Apache-2.0\n  all of its text"}, "Apache-2.0"),
        ({}, "says nothing"),
    ],
)
def test_what_a_package_says_of_its_licence(fields, licence):
    assert licence_of(package(**fields)) == licence


def test_what_is_installed_is_followed_to_the_end():
    found = closure("notellm", ("serve",))
    assert {"torch", "numpy", "fastapi", "starlette", "tokenizers"} <= set(found)  # starlette by fastapi
    assert "notellm" not in found
    assert "pytest" not in found  # of another extra


def test_a_licence_that_is_not_allowed_is_told():
    assert FORBIDDEN.search("MIT AND GPL-3.0-only")
    assert FORBIDDEN.search("GNU Affero General Public License v3")
    assert not FORBIDDEN.search("Apache-2.0 WITH LLVM-exception AND MIT")
    assert not any(each in "Proprietary" for each in ALLOWED)
