"""Build the documentation site into build/docs/site, and check its links.

The pages are the Markdown files of the repository at their places, so that links between them work on a code
host and on the site alike. The reference has a page for each package; docstrings are read without importing
anything. The build fails if a page links to something that the site does not have, or loads anything from
another host.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SOURCE, SITE = ROOT / "build" / "docs" / "source", ROOT / "build" / "docs" / "site"
#: What the site copies: pages, and the files that they link to.
COPIED = (
    "*.md",
    "CITATION.cff",
    "benchmarks/*.md",
    "benchmarks/results/*",
    "deploy/**/*",
    "docs/**/*",
    "examples/**/*",
)
_LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src"}


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the attributes of a tag."""
        values = dict(attrs)
        self.anchors |= {name for name in (values.get("id"), values.get("name")) if name}
        if tag == "a" and (link := values.get("href")):
            self.links.append(link)
        if tag in _LOADS and (load := values.get(_LOADS[tag])) and values.get("rel") != "canonical":
            self.loads.append(load)


def write_source() -> None:
    """Copy the pages, and write those of the reference."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for pattern in COPIED:
        for path in filter(Path.is_file, ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            target = SOURCE / ("index.md" if name == "README.md" else name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    folder = SOURCE / "reference"
    folder.mkdir()
    package = ROOT / "src" / "notellm"
    rows = []
    for path in sorted(package.iterdir()):
        if path.name.startswith("_") or (path.is_file() and path.suffix != ".py"):
            continue
        modules = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        names = [module_name(module, package) for module in modules if "__main__" not in module.name]
        text = "\n\n".join(f"::: notellm.{name}" for name in names)
        (folder / f"{path.stem}.md").write_text(f"# notellm.{path.stem}\n\n{text}\n", encoding="utf-8")
        rows.append(f"- [notellm.{path.stem}]({path.stem}.md): {first_sentence(modules[0])}")
    (folder / "index.md").write_text(
        "# Reference\n\nThe packages and modules of notellm. The main names can be imported from `notellm` "
        "itself; [The Python API](../docs/python.md) shows them in use.\n\n" + "\n".join(rows) + "\n",
        encoding="utf-8",
    )


def module_name(module: Path, package: Path) -> str:
    """Return the name of a module below the package."""
    parts = module.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def first_sentence(module: Path) -> str:
    """Return the first line of a module's docstring."""
    return module.read_text(encoding="utf-8").split('"""')[1].splitlines()[0]


def broken(site: Path) -> Iterator[str]:
    """Return a line for each link to something that is not there, and each load from another host."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        if site / "docs" / "experiments" in path.parents and path.name == "report.html":
            continue  # written by `notellm experiment`, which checks it
        for link in page.loads + page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme != "data":
                    yield f"{path.relative_to(site)} loads {link}"
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path))
            if parts.path.startswith("/"):
                target = site / parts.path.lstrip("/")
            target = Path(os.path.normpath(target))
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                yield f"{path.relative_to(site)} links to {link}, which is not there"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(site)} links to {link}, a heading that is not there"


def main() -> None:
    """Build and check."""
    write_source()
    shutil.rmtree(SITE, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    if found := list(broken(SITE)):
        sys.exit("\n".join(found))
    print(f"{SITE.relative_to(ROOT)}/index.html")


if __name__ == "__main__":
    main()
