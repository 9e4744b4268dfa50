"""The wheel holds the whole package, and runs where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from notellm.version import __version__

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
SETUPTOOLS = pytest.importorskip("setuptools")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, so that nothing is written into the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    if tuple(map(int, SETUPTOOLS.__version__.split(".")[:1])) < (77,):
        pytest.skip(f"setuptools {SETUPTOOLS.__version__} does not know the licence of pyproject.toml")
    copy = folder / "source"
    shutil.copytree(SOURCE, copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, copy)
    (built,) = folder.glob("*.whl")
    return built


def pip(command, *arguments):
    run = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", *map(str, arguments)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_wheel_has_every_file_of_the_package(wheel):
    assert wheel.name == f"notellm-{__version__}-py3-none-any.whl"
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("notellm/")}
    there = {
        path.relative_to(SOURCE).as_posix()
        for path in (SOURCE / "notellm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == there


@pytest.mark.slow
def test_the_installed_wheel_runs_outside_of_the_checkout(wheel, tmp_path):
    site, outside = tmp_path / "site", tmp_path / "outside"
    outside.mkdir()
    pip("install", "--target", site, wheel)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=outside,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = run("-c", "import notellm; print(notellm.__file__)").strip()
    assert Path(where).is_relative_to(site)
    assert __version__ in run("-m", "notellm.cli", "--version")
    made = """
from notellm import mine_pairs, sample_world
from notellm.files import write_parquet
world = sample_world(notes=200, users=60, clicks=2_000, bots=0)
write_parquet(world.notes, "notes.parquet")
write_parquet(world.clicks, "clicks.parquet")
print(mine_pairs(world.clicks, progress=False).num_rows)
"""
    assert int(run("-c", made)) > 100
    run(
        "-m", "notellm.cli", "prepare", "--notes", "notes.parquet", "--clicks", "clicks.parquet", "-o", "data"
    )
    run("-m", "notellm.cli", "pairs", "data", "-q")
    assert (outside / "data" / "pairs.parquet").is_file()
