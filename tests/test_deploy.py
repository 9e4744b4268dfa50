"""What `deploy/` has for systemd and containers names commands, options, files and routes that exist."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import cast

import pytest
import typer
from fastapi import FastAPI

from notellm.cli import app
from notellm.serve.routes.state import add_state_routes
from notellm.serve.service import Service

ROOT = Path(__file__).parent.parent
UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
CONTAINER = ROOT / "deploy" / "container" / "Containerfile"
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


def instructions():
    """The instructions of the container file: (name, rest of the line)."""
    text = re.sub(r"^#.*\n", "", CONTAINER.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_the_container_runs_a_command_that_exists_as_a_user_without_rights():
    given = dict(instructions())  # the last of each name counts
    assert json.loads(given["ENTRYPOINT"]) == [PROGRAM]
    known, options = options_of(json.loads(given["CMD"]))
    assert options
    assert set(options) <= known
    user, group = given["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_container_is_built_from_what_is_there_and_sent():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    sources = {source for sources in copied for source in sources}
    assert sources == sent
    assert all((ROOT / source).exists() for source in sources)
    (install,) = (rest for name, rest in instructions() if "pip install" in rest)
    (extras,) = re.findall(r"\.\[(.+?)\]", install)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


def test_the_container_asks_a_route_that_the_service_has():
    (check,) = (rest for name, rest in instructions() if name == "HEALTHCHECK")
    (path,) = re.findall(r"http://127\.0\.0\.1:8000(/[\w/]+)", check)
    api = FastAPI()
    add_state_routes(api, cast("Service", None))  # which only requests need
    assert path in api.openapi()["paths"]
