"""The README is true: its Python runs as it stands, its commands exist with the options they use."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import typer

from notellm.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = "\n".join(
        block for block in blocks if "Client(" not in block
    )  # it needs a service: docs/service.md
    check = """
assert vectors.shape == (split.test.notes.num_rows, 128) and isinstance(published, list)
assert sorted(ranking.note_ids) == sorted(candidates) and len(found.note_ids) == 5
"""
    done = subprocess.run(
        [sys.executable, "-c", code + check], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "model" / "modules.json").is_file()


def test_every_command_and_option_exists():
    commands = vars(typer.main.get_command(app))["commands"]
    lines = [line for line in README.splitlines() if line.startswith("notellm ")]
    assert len(lines) >= 9
    for line in lines:
        name, *words = shlex.split(line, comments=True)[1:]
        command = commands[name]
        if hasattr(command, "commands"):  # a group: the next word is its command
            command = command.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line
