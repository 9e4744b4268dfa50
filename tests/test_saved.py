"""Whatever happens to a file of a saved model: an error in one line, or the same model; never another one."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from notellm.artifacts.manifest import MANIFEST
from notellm.errors import NotellmError
from notellm.rank.blend import Blend
from notellm.rank.codes.codes import Codes
from notellm.rank.collaborative.base import CollaborativeModel
from notellm.rank.collaborative.lightgcn import LightGCN
from notellm.rank.collaborative.mf import MatrixFactorization
from notellm.rank.collaborative.sasrec import SASRec
from notellm.rank.model import BinLLM
from notellm.rank.scorer import Ranker
from notellm.recall.model import NoteLLM
from tests.conftest import agree
from tests.rank.small import agreeing, random_codes, ranking_model


def ranker_state(folder: Path) -> object:
    ranker = Ranker.from_pretrained(folder)
    return (
        ranker.model.fingerprint(),
        None if ranker.codes is None else ranker.codes.fingerprint(),
        ranker.histories,
        ranker.blend,
        ranker.blend_model,
        ranker.table.to_pylist(),
    )


def codes_state(folder: Path) -> object:
    codes = Codes.from_pretrained(folder)
    return codes.fingerprint(), codes.scale, codes.description


def collaborative_state(folder: Path) -> object:
    model = CollaborativeModel.from_pretrained(folder)
    users, notes = [["u0", "u1", "nobody"], ["n1", "n2", "n30"]]
    return np.round(model.scores(users, notes, [["n1"], [], ["n2", "n3"]]), 4).tolist()


#: How a folder is opened, and what may not change without an error.
OPENED: dict[str, Callable[[Path], object]] = {
    "notellm": lambda folder: NoteLLM.from_saved(folder).verified_fingerprint(),
    "binllm": lambda folder: BinLLM.from_saved(folder).verified_fingerprint(),
    "ranker": ranker_state,
    "codes": codes_state,
    "mf": collaborative_state,
    "lightgcn": collaborative_state,
    "sasrec": collaborative_state,
}


@pytest.fixture(scope="module")
def folders(checkpoints, notes: pa.Table, tiny: NoteLLM, tmp_path_factory) -> dict[str, Path]:
    """One saved folder of each kind."""
    root = tmp_path_factory.mktemp("saved")
    tiny.save_pretrained(root / "notellm")
    rank_model = ranking_model("tiny", checkpoints, notes, root)
    rank_model.save_pretrained(root / "binllm")
    ids = notes["note_id"].to_pylist()
    codes = random_codes(ids, unknown="folded")
    codes.save_pretrained(root / "codes")
    blend = Blend(best=1.0, latest=0.5, mean=0.25, log_odds=2.0)
    Ranker(rank_model, codes, notes, {"u0": ["n1", "n2"]}, blend, "0f" * 8).save_pretrained(root / "ranker")
    rows = agreeing(codes, 60)
    for kind in (MatrixFactorization, LightGCN, SASRec):
        users = rows["user_id"].unique().to_pylist()
        model = kind(["u0", "u1", *(u for u in users if u not in ("u0", "u1"))], ids, dimensions=4)
        model.prepare(rows)
        model.save_pretrained(root / kind.kind)
    return {name: root / name for name in OPENED}


def wrong_types(path: Path) -> Iterator[bytes]:
    """A JSON object, with one value after the other replaced by one of another type, two levels deep."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        return
    if not isinstance(value, dict):
        return
    places: list[tuple[str, ...]] = [(key,) for key in value]
    places += [
        (key, inner)
        for key, part in value.items()
        if isinstance(part, dict) and key not in ("description", "training", "model")
        for inner in part
    ]
    for place in places:
        changed = json.loads(json.dumps(value))
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        old = holder[place[-1]]
        holder[place[-1]] = 3 if isinstance(old, str | list) else {"a": 1} if old is None else "x"
        yield json.dumps(changed).encode()


def damages(path: Path) -> dict[str, list[bytes | None]]:
    """What may happen to a file, by name: its new content, None where it is gone."""
    content = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, 300, np.uint8).tobytes()
    return {
        "gone": [None],
        "empty": [b""],
        "cut": [content[: len(content) // 2], content[:-1]],
        "noise": [noise, content[: len(content) // 2] + noise],
        "other JSON": [b"[]", b"{}", b"3", b"null", b'{"a": ' * 3000],
        "types": list(wrong_types(path)),
    }


def outcome(name: str, folder: Path) -> tuple[object, Exception | None]:
    """What opening a folder gives, and the error where it gives none."""
    try:
        return OPENED[name](folder), None
    except Exception as error:  # noqa: BLE001 - which one it is will be seen
        return None, error


KINDS = ("gone", "empty", "cut", "noise", "other JSON", "types")


@pytest.mark.slow
@pytest.mark.parametrize("damage", KINDS)
@pytest.mark.parametrize("agreed", [False, True], ids=["", "agreed"])
@pytest.mark.parametrize("name", OPENED)
def test_a_damaged_file_is_an_error_or_changes_nothing(
    folders: dict[str, Path], tmp_path: Path, name: str, damage: str, agreed: bool
):
    """``agreed``: the manifest was written after the damage, so that a file is told by its content alone."""
    folder = tmp_path / name
    shutil.copytree(folders[name], folder)
    whole = OPENED[name](folder)
    tried = 0
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and not (agreed and f.name == MANIFEST)):
        content = file.read_bytes()
        for changed in damages(file)[damage]:
            if changed == content:
                continue
            tried += 1
            what = f"{file.relative_to(folder)}: {'gone' if changed is None else changed[:200]!r}"
            if changed is None:
                file.unlink()
            else:
                file.write_bytes(changed)
            if agreed:
                agree(folder)
            state, error = outcome(name, folder)
            if error is None:
                assert state == whole, f"{what} was not noticed"
            else:
                assert isinstance(error, NotellmError), f"{what}: {type(error).__name__}: {error}"
                assert "\n" not in str(error), what
                assert agreed or file.name in str(error), f"{what}: {error}"
            file.write_bytes(content)
    assert tried > 2
