"""Who may import whom: the contracts of pyproject.toml can fail, third-party packages have their places."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src" / "notellm"
PYPROJECT: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))

#: The packages of notellm that may import a third-party package, and do.
PLACES = {
    "charset_normalizer": {"data"},
    "faiss": {"store.index"},
    "fastapi": {"serve"},
    "filelock": {"artifacts", "recall", "renew", "store"},
    "gguf": {"backbone"},
    "grpc": {"store.index"},
    "httptools": {"serve"},
    "ibis": {"pairs"},
    "httpx2": {"client"},
    "huggingface_hub": {"backbone"},
    "lancedb": {"store"},
    "matplotlib": {"experiment"},
    "numba": {"pairs"},
    "peft": {"backbone"},
    "polars": {"data", "evaluate", "experiment"},
    "prometheus_client": {"serve"},
    "pydantic": {"serve"},
    "pymilvus": {"store.index"},
    "pyspark": {"pairs"},
    "rouge_score": {"evaluate"},
    "sacrebleu": {"evaluate"},
    "safetensors": {"artifacts", "backbone", "experiment", "rank", "recall"},
    "sentence_transformers": {"experiment"},
    "starlette": {"serve"},
    "tokenizers": {"backbone", "rank"},
    "torch": {"backbone", "experiment", "jobs", "rank", "recall"},
    "transformers": {"backbone", "cli", "jobs", "rank", "recall"},
    "tqdm": {"progress"},
    "typer": {"cli"},
    "uvicorn": {"serve"},
}
#: Arrays and tables may be used everywhere.
EVERYWHERE = {"numpy", "pyarrow", "scipy", "sklearn"}
#: Imports whose distribution has another name, or comes with another one.
DISTRIBUTIONS = {
    "charset_normalizer": "charset-normalizer",
    "faiss": "faiss-cpu",
    "grpc": "pymilvus",
    "huggingface_hub": "huggingface-hub",
    "ibis": "ibis-framework",
    "prometheus_client": "prometheus-client",
    "pydantic": "fastapi",
    "pyspark": "ibis-framework",
    "rouge_score": "rouge-score",
    "sentence_transformers": "sentence-transformers",
    "sklearn": "scikit-learn",
    "starlette": "fastapi",
}
#: Extras for those who work on notellm.
TOOLS = {"dev", "test"}
#: Dependencies that no module imports: another package loads them, or a user does.
NOT_IMPORTED = {"accelerate", "milvus-lite", "tensorboard", "uvloop"}


def imports() -> Iterator[tuple[str, str]]:
    """Every import of notellm's modules: (importing module, without "notellm."; imported module)."""
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import"
                yield module, str(node.module)


IMPORTS = list(imports())
THIRD_PARTY = [
    (module, imported.partition(".")[0])
    for module, imported in IMPORTS
    if imported.partition(".")[0] not in {*sys.stdlib_module_names, "notellm"}
]


def lies_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("package", PLACES)
def test_a_third_party_package_is_imported_only_in_its_places(package):
    importers = {module for module, imported in THIRD_PARTY if imported == package}
    astray = {m for m in importers if not any(lies_in(m, place) for place in PLACES[package])}
    assert not astray, f"{package} is imported outside {PLACES[package]}"
    unused = {place for place in PLACES[package] if not any(lies_in(m, place) for m in importers)}
    assert not unused, f"{package} is not imported there any more: take the place out of PLACES"


def test_every_third_party_package_is_a_declared_dependency_and_has_its_places():
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(line for name in extras if name not in TOOLS for line in extras[name]),
    ]
    declared = {re.split(r"[^\w-]", line)[0] for line in lines} - {"notellm"}
    imported = {package for _, package in THIRD_PARTY}
    assert imported == {*PLACES, *EVERYWHERE}
    assert {DISTRIBUTIONS.get(package, package) for package in imported} | NOT_IMPORTED == declared


def test_inside_the_package_names_come_from_the_module_that_defines_them():
    assert [module for module, imported in IMPORTS if imported == "notellm"] == []


def test_imports_by_name_at_run_time_are_those_of_the_tables():
    """import-linter does not see such an import; these stay within their package."""
    dynamic = re.compile(r"\b(import_module|__import__)\(")
    found = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if dynamic.search(path.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == ["__init__.py", "data/datasets/table.py", "rank/collaborative/kinds.py"]
    assert dynamic.search((SOURCE / "__init__.py").read_text(encoding="utf-8"))


def check(folder: Path, **modules: str) -> subprocess.CompletedProcess[str]:
    """Run the contracts of pyproject.toml on a package with the same layers, empty except for `modules`."""
    layers = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    names = [name for layer in layers for name in re.findall(r"\w+", layer)]
    root = folder / "notellm"
    for name in ("", *names, "store/index"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").touch()
    for name, code in modules.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(code)
    command = "import importlinter.cli as c; raise SystemExit(c.lint_imports(no_cache=True, no_logo=True))"
    (folder / "pyproject.toml").write_bytes((PROJECT / "pyproject.toml").read_bytes())
    return subprocess.run(
        [sys.executable, "-c", command],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "modules",
    [
        {},
        {"cli__rank": "import notellm.data.note", "data__note": "import notellm.errors"},
        {"client__http": "import notellm.errors", "cli__transfer": "import notellm.client.http"},
        {"store__notes": "import notellm.store.index.base", "store__index__base": ""},
        {"data__note": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import notellm.rank.model"},
    ],
)
def test_imports_that_go_down_are_accepted(tmp_path, modules):
    result = check(tmp_path, rank__model="", **modules)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("contract", "modules"),
    [
        ("layers", {"data__note": "import notellm.recall.model"}),
        ("layers", {"data__note": "def f():\n    import notellm.recall.model"}),
        ("layers", {"evaluate__ranking": "from notellm.rank import model"}),
        ("layers", {"recall__batch": "import notellm.rank.model"}),
        ("layers", {"rank__batch": "import notellm.recall.model"}),
        ("layers", {"client__http": "import notellm.files"}),
        ("layers", {"new__package": ""}),  # has no place among the layers
        ("client", {"engine__users": "import notellm.client.http", "client__http": ""}),
        ("cycles", {"artifacts__x": "import notellm.files.x", "files__x": "import notellm.artifacts.x"}),
        (
            "cycles",
            {"store__index__x": "import notellm.store.notes", "store__notes": "import notellm.store.index.x"},
        ),
    ],
)
def test_a_contract_fails_where_it_is_broken(tmp_path, contract, modules):
    result = check(tmp_path, **{"recall__model": "", "rank__model": "", **modules})
    assert result.returncode == 1, result.stdout + result.stderr
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    outcome = {c["id"]: f"{c['name']} BROKEN" in result.stdout for c in contracts}
    assert outcome == {c["id"]: c["id"] == contract for c in contracts}
