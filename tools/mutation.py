"""Mutation testing: change one operator or constant at a time, and see whether the tests notice.

    pip install cosmic-ray
    python tools/mutation.py                      # all of MODULES; hours on one core
    python tools/mutation.py losses --most 50     # a draw of the mutants of one module
    python tools/mutation.py losses --only 12     # the tests' output for one mutant

Mutants are those of cosmic-ray. Each is tested in a forked process, which has the heavy packages imported
already and reads the mutated source in place of the file, so that no file is changed. A mutant that no test
fails for is printed as survived; docs/mutation.md explains those that are left.
"""

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: By name: the module, and the tests that must notice its mutants.
MODULES: dict[str, tuple[str, Sequence[str]]] = {
    "losses": ("notellm.recall.losses", ("tests/recall/test_losses.py",)),
    "pairs": ("notellm.pairs.local", ("tests/pairs/test_local.py",)),
    "score": ("notellm.pairs.score", ("tests/pairs/test_score.py", "tests/pairs/test_local.py")),
    "code-text": ("notellm.rank.codes.text", ("tests/rank/codes/test_codes.py",)),
    "retrieval": ("notellm.evaluate.retrieval", ("tests/evaluate/test_retrieval.py",)),
    "ranking-figures": ("notellm.evaluate.ranking_figures", ("tests/evaluate/test_ranking.py",)),
    "bootstrap": (
        "notellm.evaluate.bootstrap",
        ("tests/evaluate/test_bootstrap.py", "tests/evaluate/test_retrieval.py"),
    ),
}
_LIMIT = 180.0  # seconds of the tests of a mutant; one that loops for ever is noticed by it


@dataclass(frozen=True)
class Mutant:
    """A changed source.

    Attributes:
        number: place among the mutants of its module.
        operator: cosmic-ray's name of the change.
        line: number of the changed line.
        before: that line.
        after: what it became.
        source: the whole changed source.
    """

    number: int
    operator: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.number:4d} line {self.line}: {self.before.strip()}  ->  {self.after.strip()}"


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed source."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(self, fullname: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, path_of(fullname), loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, str(path_of(self._name)), "exec"), module.__dict__)  # noqa: S102


def path_of(module: str) -> Path:
    """Return the file of a module."""
    return ROOT / "src" / Path(*module.split(".")).with_suffix(".py")


def mutants(module: str) -> list[Mutant]:
    """Return the mutants of a module, without those of annotations and options' declarations."""
    from cosmic_ray.mutating import mutate_code  # noqa: PLC0415 - not a package of the project
    from cosmic_ray.plugins import get_operator, operator_names  # noqa: PLC0415

    source = path_of(module).read_text()
    passed_over = _without_behaviour(source)
    found: list[Mutant] = []
    seen = {source}
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments():  # those that replace variables have to be told which
            continue
        for occurrence in count():
            changed = mutate_code(source, operator(), occurrence)
            if changed is None:
                break
            line = _first_difference(source, changed)
            if changed in seen or line in passed_over:
                continue
            seen.add(changed)
            before, after = source.splitlines()[line - 1], changed.splitlines()[line - 1]
            found.append(Mutant(len(found), name, line, before, after, changed))
    return found


def _first_difference(before: str, after: str) -> int:
    lines = zip(before.splitlines(), after.splitlines(), strict=False)
    return next(number for number, (old, new) in enumerate(lines, 1) if old != new)


def _without_behaviour(source: str) -> set[int]:
    """Return the lines that only declare: of signatures, annotated names, imports and error messages."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            lines |= set(range(node.lineno, node.body[0].lineno))
        elif isinstance(node, ast.AnnAssign | ast.Import | ast.ImportFrom | ast.Raise):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def one_per_place(found: Sequence[Mutant], each: int, rng: random.Random) -> Iterator[Mutant]:
    """Yield a draw of the mutants of each line and kind: cosmic-ray has ten for every plus sign."""
    groups: dict[tuple[int, str], list[Mutant]] = {}
    for mutant in found:
        groups.setdefault((mutant.line, mutant.operator.rsplit("_", 1)[0]), []).append(mutant)
    for group in groups.values():
        yield from rng.sample(group, min(each, len(group)))


def survives(module: str, mutant: Mutant, tests: Sequence[str], *, shows: bool = False) -> bool:
    """Run the tests on a mutant in a forked process, and return whether they all pass."""
    child = os.fork()
    if not child:
        sys.meta_path.insert(0, _Mutated(module, mutant.source))
        os.setpgid(0, 0)
        if not shows:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
        os._exit(_run_tests(tests))
    start = time.monotonic()
    while time.monotonic() - start < _LIMIT:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(tests: Sequence[str]) -> int:
    import pytest  # noqa: PLC0415 - in the forked process

    options = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-m",
        "not slow and not real and not spark",
    ]
    return int(pytest.main([*options, *tests]))


def main() -> None:
    """Test the mutants, and print those that survive."""
    parser = argparse.ArgumentParser(description="Change one operator at a time, and run the tests.")
    parser.add_argument("names", nargs="*", default=list(MODULES), help=f"of {', '.join(MODULES)}")
    parser.add_argument("--each", type=int, default=1, help="mutants of each line and kind of change")
    parser.add_argument("--most", type=int, default=10_000, help="mutants of each module")
    parser.add_argument("--only", type=int, help="run this mutant alone, and show the tests' output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="JSON file of the results")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for heavy in ("numba", "polars", "pyarrow.compute", "sklearn", "scipy.stats", "torch", "transformers"):
        importlib.import_module(heavy)
    results: dict[str, Any] = {}
    for name in chosen.names:
        module, tests = MODULES[name]
        rng = random.Random(chosen.seed)
        every = mutants(module)
        if chosen.only is not None:
            print(
                every[chosen.only],
                "survives" if survives(module, every[chosen.only], tests, shows=True) else "",
            )
            continue
        drawn = list(one_per_place(every, chosen.each, rng))
        if len(drawn) > chosen.most:
            drawn = rng.sample(drawn, chosen.most)
        whole = Mutant(-1, "", 0, "", "", path_of(module).read_text())
        if not survives(module, whole, tests):
            sys.exit(f"the tests of {name} fail without any change")
        left = []
        for mutant in sorted(drawn, key=lambda each: each.line):
            if survives(module, mutant, tests):
                left.append(mutant)
                print(name, mutant, flush=True)
        print(f"{name}: {len(drawn)} mutants of {len(every)}, {len(left)} survived", flush=True)
        results[name] = {
            "module": module,
            "mutants": len(every),
            "tested": len(drawn),
            "survived": [[each.number, each.line, each.before.strip(), each.after.strip()] for each in left],
        }
        if chosen.output:
            chosen.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
