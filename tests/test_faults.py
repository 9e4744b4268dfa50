"""Every fault in docs/faults.md names tests, and these tests are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_the_tests_of_every_fault_are_there():
    rows = [
        line
        for line in (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| fault |"))
    ]
    assert len(rows) > 30
    missing = []
    for row in rows:
        named = NAMED.findall(row)
        assert named, f"no test is named: {row}"
        for file, name in named:
            if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8"):
                missing.append(f"{file}::{name}")
    assert not missing
