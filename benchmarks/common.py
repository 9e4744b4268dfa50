"""What all benchmarks share: describing the machine, the fingerprint of the code, writing results.

Run a benchmark from the root of the repository, as ``python -m benchmarks.NAME``. This module imports no
model, because `benchmarks.pairs` measures the memory of processes that import it.
"""

import argparse
import ast
import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import notellm
from notellm.artifacts.write import write_file
from notellm.evaluate.tables import Table
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


def machine() -> str:
    """Describe cores, processor and memory."""
    model = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        names = [line for line in facts.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{CORES} cores, {model}, {memory:.0f} GiB memory, {platform.system()}"


@cache
def code_fingerprint() -> str:
    """Return the SHA-256 of the library without command line, comments and docstrings, 12 digits.

    Two results with the same fingerprint were made by the same code.
    """
    package = Path(notellm.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.json")]):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            digest.update(text.encode())
        elif path.relative_to(package).parts[0] != "cli":
            digest.update(ast.dump(_without_docstrings(text)).encode())
    return digest.hexdigest()[:12]


def _without_docstrings(source: str) -> ast.Module:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            del node.body[0]
    return tree


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


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a Markdown table with its first ``left`` columns aligned left and the others right."""
    return Table(head, list(rows), text_columns=left).markdown()
