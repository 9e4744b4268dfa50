"""README and guide are true: their Python runs as it stands, their commands and options exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from notellm.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
def test_the_python_example_runs(tmp_path):
    guide = blocks((ROOT / "docs" / "python.md").read_text(encoding="utf-8"), "python")
    assert blocks(README, "python") == guide[:1]
    code = "\n".join(block for block in guide if "Client(" not in block)  # that needs a service
    check = """
assert vectors.shape == (split.test.notes.num_rows, 128) and len(tags.categories) > 0
assert sorted(ranking.note_ids) == sorted(candidates) and len(found.note_ids) == 5
"""
    done = subprocess.run(
        [sys.executable, "-c", code + check], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "model" / "modules.json").is_file()


def commands(page):
    """Return the commands of notellm on a page."""
    text = "\n".join(blocks(page.read_text(encoding="utf-8"), "sh")).replace("\\\n", " ")
    return re.findall(r"^notellm .*$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page):
    known_commands = vars(typer.main.get_command(app))["commands"]
    for line in commands(page):
        name, *words = shlex.split(line, comments=True)[1:]
        command = known_commands[name]
        if hasattr(command, "commands"):  # a group: the next word is its command
            command = command.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line


def test_the_pages_have_the_commands_they_are_about():
    assert len(commands(ROOT / "README.md")) >= 12
    assert sum(len(commands(page)) for page in PAGES) >= 50


def test_the_readme_is_short():
    assert len(README.splitlines()) < 150
