"""The constraints of `make lowest`: the lowest version of every requirement; each one must have one."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "lowest.py"


@pytest.fixture(scope="module")
def lowest():
    spec = importlib.util.spec_from_file_location("lowest", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pyproject(*requirements, extra=()):
    lines = ["[project]", f"dependencies = {list(requirements)}", "[project.optional-dependencies]"]
    return "\n".join([*lines, f"extra = {list(extra)}"])


def test_lower_bounds_become_versions(lowest):
    content = pyproject(
        "b>=2.0,<3", "a-b>=1.2.3", extra=["notellm[x,y-z]", "c>=0.1; sys_platform != 'win32'", "b>=2.0"]
    )
    assert lowest.constraints(content) == ["a-b==1.2.3", "b==2.0", "c==0.1; sys_platform != 'win32'"]


@pytest.mark.parametrize("requirement", ["a", "a<2", "a==1", "a>1", "other[x]", "a~=1.0"])
def test_a_requirement_without_a_lower_bound_is_refused(lowest, requirement):
    with pytest.raises(ValueError, match="has no lower bound; write it as package>=X"):
        lowest.constraints(pyproject(requirement))


def test_the_projects_own_requirements_have_lower_bounds():
    printed = subprocess.run([sys.executable, TOOL], capture_output=True, text=True, check=True).stdout
    lines = printed.splitlines()
    assert len(lines) > 30
    assert len({line.partition("==")[0] for line in lines}) == len(lines), "two lower bounds of one package"
    assert any(line.startswith("torch==") for line in lines)
