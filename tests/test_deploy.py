"""The unit files of systemd are accepted by it, and their commands exist with the options they use."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from notellm.cli import app

UNITS = sorted((Path(__file__).parent.parent / "deploy" / "systemd").iterdir())
PROGRAM = "/opt/notellm/bin/notellm"


def options_of(words):
    """The command of a line, and the options that the line gives it."""
    commands = vars(typer.main.get_command(app))["commands"]
    command, *rest = words
    found = commands[command]
    if hasattr(found, "commands"):
        found, rest = found.commands[rest[0]], rest[1:]
    known = {name for each in found.params for name in each.opts + each.secondary_opts}
    return known, [word for word in rest if word.startswith("-")]


def test_the_units_are_the_service_the_renewal_and_its_timer():
    assert [path.name for path in UNITS] == [
        "notellm-renew.service",
        "notellm-renew.timer",
        "notellm.service",
    ]


def test_every_command_and_option_exists():
    lines = [line for path in UNITS for line in re.findall(r"^Exec\w+=(.*)$", path.read_text(), re.MULTILINE)]
    assert len(lines) == 3
    for line in lines:
        program, *words = shlex.split(line)
        assert program == PROGRAM
        known, given = options_of(words)
        assert given
        assert set(given) <= known, line


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit(path, tmp_path):
    for each in UNITS:  # verified together, since they name each other; the program has to exist
        (tmp_path / each.name).write_text(each.read_text().replace(PROGRAM, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / path.name], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_timer_runs_every_night():
    (timer,) = [path for path in UNITS if path.suffix == ".timer"]
    (when,) = re.findall(r"^OnCalendar=(.*)$", timer.read_text(), re.MULTILINE)
    done = subprocess.run(["systemd-analyze", "calendar", when], capture_output=True, text=True, check=True)
    assert "Normalized form: *-*-* 03:00:00" in done.stdout
