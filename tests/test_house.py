"""The layout is what CONTRIBUTING says, and files stay small enough to be read at once."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "notellm"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MODULES = sorted(SRC.rglob("*.py"))
LONGEST, LONGEST_DOCSTRING = 400, 10


def relative(path):
    return str(path.relative_to(SRC))


def test_there_are_modules_to_look_at():
    assert len(MODULES) > 100


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_is_short_and_says_briefly_what_it_is_for(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    lines = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    assert 0 < len(lines) <= LONGEST_DOCSTRING


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=relative)
def test_only_the_top_level_and_the_command_line_have_a_face(path):
    if relative(path) not in ("__init__.py", "cli/__init__.py"):
        (only,) = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(only, ast.Expr)


def packages():
    """What each package or top module imports of the others."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        name = path.relative_to(SRC).parts[0].removesuffix(".py")
        found.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("notellm"):
                inner = (node.module or "").removeprefix("notellm").lstrip(".")
                found[name] |= {(inner or each.name).split(".")[0] for each in node.names}
    found.pop("__init__")
    return {name: imported - {name} for name, imported in found.items()}


def test_contributing_lists_what_each_package_imports():
    rows = re.findall(r"^\| `([\w/]+?)(?:\.py|/)` \|[^|]*\| ([^|]*) \|$", CONTRIBUTING, re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", imported)) for name, imported in rows}
    found = packages()
    assert {name: imported for name, imported in told.items() if name in found} == found


def test_every_file_that_contributing_names_is_there():
    named = set(re.findall(r"`((?:src/notellm|tests|benchmarks|docs)/[\w/.-]+?)`", CONTRIBUTING))
    assert len(named) > 30
    missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing
