"""Print the lowest versions that pyproject.toml allows, as constraints for pip; for `make lowest`.

    python tools/lowest.py > lowest.txt && pip install -c lowest.txt -e '.[all,milvus-lite,test]'

Every requirement ``package>=X`` of the project and of its extras becomes ``package==X``. What these packages
need in turn is not pinned: pip takes the newest versions that fit.
"""

import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(\[[\w,-]+\])?\s*>=\s*(?P<lowest>[\w.]+)\s*(,[^;]*)?(?P<marker>;.*)?"
)
_OWN = re.compile(r"notellm\[[\w,-]+\]")  # an extra that includes other extras


def constraints(pyproject: str) -> list[str]:
    """Return one line ``package==version`` for each requirement, sorted.

    Args:
        pyproject: the content of pyproject.toml.

    Raises:
        ValueError: if a requirement has no lower bound.
    """
    project = tomllib.loads(pyproject)["project"]
    lines = set()
    for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
        if _OWN.fullmatch(requirement):
            continue
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise ValueError(f"the requirement {requirement!r} has no lower bound; write it as package>=X")
        lines.add(f"{match['name']}=={match['lowest']}{match['marker'] or ''}")
    return sorted(lines)


if __name__ == "__main__":
    content = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    sys.stdout.write("\n".join(constraints(content)) + "\n")
