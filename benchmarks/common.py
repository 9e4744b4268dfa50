"""What all benchmarks share: describing the machine, the fingerprint of the code, writing results.

Run a benchmark from the root of the repository, as ``python -m benchmarks.NAME``. This module imports no
model, because `benchmarks.pairs` measures the memory of processes that import it.
"""

import argparse
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from notellm.artifacts.write import write_file
from notellm.evaluate.tables import Table
from notellm.experiment.circumstances import code_fingerprint as code_fingerprint_of
from notellm.experiment.circumstances import machine
from notellm.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
PACKAGES = ("numba", "numpy", "polars", "pyarrow", "scikit-learn", "scipy", "torch", "transformers")


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    code_fingerprint()  # computed now, so that later edits of the code do not change it
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    return parser


def code_fingerprint() -> str:
    """Return the SHA-256 of the library without command line, comments and docstrings, 12 digits.

    Two results with the same fingerprint were made by the same code.
    """
    return code_fingerprint_of(without=("cli/",), but_with=())


def circumstances(benchmark: str) -> dict[str, Any]:
    """Return what a result depends on beside the data: command, machine, versions, code."""
    return {
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        "machine": machine(),
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "code": code_fingerprint(),
    }


def write_results(
    folder: Path,
    benchmark: str,
    title: str,
    body: Iterable[str],
    values: dict[str, Any],
    *,
    name: str | None = None,
) -> None:
    """Write ``NAME.md`` and ``NAME.json`` with the circumstances, and print the Markdown.

    ``name`` is the benchmark's own when None.
    """
    name = name or benchmark
    facts = circumstances(benchmark)
    versions = ", ".join(f"{package} {number}" for package, number in facts["versions"].items())
    head = [
        f"# {title}",
        f"`{facts['command']}`",
        f"{facts['machine']}. {versions}. Code {facts['code']}.",
    ]
    text = "\n\n".join(piece.strip("\n") for piece in [*head, *body]) + "\n"
    write_json({**facts, **values}, folder / f"{name}.json", replace=True)
    with write_file(folder / f"{name}.md", force=True) as new:
        new.write_text(text, encoding="utf-8")
    print(text)


def exponent(seconds: float, size: float, former_seconds: float, former_size: float) -> str:
    """Return the power of the size that explains the time, given that of a smaller size."""
    return f"{math.log(seconds / former_seconds) / math.log(size / former_size):.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a Markdown table with its first ``left`` columns aligned left and the others right."""
    return Table(head, list(rows), text_columns=left).markdown()
