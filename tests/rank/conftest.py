import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data():
    """A function from a dataset's name to its folder, which skips where there is none."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    root = Path(os.environ.get("NOTELLM_DATA") or beside)

    def folder(name):
        if not (root / name).is_dir():
            pytest.skip(f"no real data at {root / name}; set NOTELLM_DATA")
        return root / name

    return folder
