"""What a result depends on beside options and data: command, machine, versions, code."""

import ast
import hashlib
import os
import platform
import shlex
import sys
from functools import cache
from pathlib import Path

from notellm.record import versions

#: Packages whose code no result of a cache depends on, and the modules of the last that compute them.
_OTHER_CODE = ("cli/", "serve/", "store/", "engine/", "experiment/")
_COMPUTING = (
    *("experiment/recall/methods.py", "experiment/recall/sentence.py"),
    *("experiment/rank/methods.py", "experiment/rank/runs.py"),
)


def made_by() -> str:
    """Return the machine and the versions that compute a result, in words."""
    return f"{machine()}; {', '.join(f'{package} {number}' for package, number in versions().items())}"


def circumstances() -> dict[str, str]:
    """Return command, machine, versions and code in words, by name."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv[0] else []
    return {
        "command": shlex.join(command),
        "machine": machine(),
        "versions": ", ".join(f"{package} {number}" for package, number in versions().items()),
        "code": code_fingerprint(),
    }


def model_state(name_or_path: str | None) -> str:
    """Return what tells one state of a model from another: of a folder or file its files with their times.

    Of a model on the hub the name is all that is known here.
    """
    path = Path(name_or_path or "")
    if name_or_path is None or not path.exists():
        return str(name_or_path)
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    state = [f"{each.name} {each.stat().st_size} {each.stat().st_mtime_ns}" for each in files]
    return hashlib.sha256("\n".join(state).encode()).hexdigest()[:16]


def machine() -> str:
    """Describe cores, processor, memory and system."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    parts = [f"{cores} cores", processor()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        parts.append(f"{memory:.0f} GiB memory")
    return ", ".join([*parts, platform.system()])


def processor() -> str:
    """Return the name of the processor."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        names = [line for line in facts.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache
def code_fingerprint(without: tuple[str, ...] = _OTHER_CODE, but_with: tuple[str, ...] = _COMPUTING) -> str:
    """Return the SHA-256 of the library's code without comments and docstrings, 12 hexadecimal digits.

    Two results with the same fingerprint were made by the same code.

    Args:
        without: packages and modules that do not count, as the beginnings of their paths in the package.
        but_with: those of them that count nevertheless.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.json")]):
        name = path.relative_to(package).as_posix()
        if name.startswith(without) and not name.startswith(but_with):
            continue
        text = path.read_text(encoding="utf-8")
        digest.update(name.encode())
        digest.update((text if path.suffix == ".json" else ast.dump(_without_docstrings(text))).encode())
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
