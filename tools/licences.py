"""Print the licence of everything that ``pip install 'notellm[all]'`` installs, as its metadata state it.

    python tools/licences.py            # a table
    python tools/licences.py --check    # fails on a licence that is not in ALLOWED, or is FORBIDDEN

The packages are those of the environment that runs this; what they need in turn counts as well.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

#: Licences that let a closed product use a package as a dependency. MPL: changes of its own files stay open.
ALLOWED = (
    *("Apache", "BSD", "CC0", "CNRI-Python", "HPND", "ISC", "MIT", "MPL", "Mozilla Public", "OFL", "PSF"),
    *("Python Software", "Unlicense", "Zlib", "zlib", "0BSD"),
)
#: Licences that ask more of a product than its notice, also where they stand beside an allowed one.
FORBIDDEN = re.compile(r"GPL|General Public|SSPL|Server Side Public|Commons Clause|Business Source")


def closure(name: str, extras: tuple[str, ...]) -> dict[str, Distribution]:
    """Return the installed packages that one needs, without itself, by their normal names."""
    found: dict[str, Distribution] = {}
    waiting = [(name, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        package, wanted = waiting.pop()
        if (package, wanted) in seen:
            continue
        seen.add((package, wanted))
        try:
            installed = distribution(package)
        except PackageNotFoundError:
            continue  # not on this system, as a marker says
        found[re.sub(r"[-_.]+", "-", package).lower()] = installed
        for line in installed.requires or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in wanted | {""}):
                waiting.append((need.name, frozenset(need.extras)))
    found.pop(name)
    return found


def licence_of(package: Distribution) -> str:
    """Return what a package says about its licence: its expression, else classifiers, else a first line."""
    told = package.metadata
    if expressions := told.get_all("License-Expression"):
        return str(expressions[0])
    classifiers = [
        line.rsplit(" :: ", 1)[1]
        for line in told.get_all("Classifier") or []
        if line.startswith("License ::") and line.count("::") > 1
    ]
    line = str((told.get_all("License") or [""])[0]).strip().partition("\n")[0]
    return "; ".join(classifiers) or line or "says nothing"


def rows() -> Iterator[tuple[str, str, str]]:
    """Return name, version and licence of each package."""
    for name, package in sorted(closure("notellm", ("all",)).items()):
        yield name, package.version, licence_of(package)


def main() -> None:
    """Print the table, and with --check the packages whose licence is not allowed."""
    doubtful = []
    for name, version, licence in rows():
        print(f"{name:32}  {version:12}  {licence}")
        if not any(each in licence for each in ALLOWED) or FORBIDDEN.search(licence):
            doubtful.append(f"{name}: {licence}")
    if "--check" in sys.argv[1:] and doubtful:
        sys.exit("not in the list of allowed licences (tools/licences.py): " + "; ".join(doubtful))


if __name__ == "__main__":
    main()
