"""Models change places whole, whatever happens in between."""

import os
import shutil
from pathlib import Path

import pytest

from notellm.artifacts.write import write_folder
from notellm.errors import NotFoundError, StorageError
from notellm.files import write_json
from notellm.renew import exchange as module
from notellm.renew.exchange import check_exchange, complete, go_back, settle, take_over
from notellm.renew.models import Models
from notellm.renew.work import WorkFolder


def make(path, kind, name):
    """Write a directory with a record that says which one it is."""
    with write_folder(path, kind) as aside:
        write_json({"name": name, "fingerprint": name}, aside / "record.json")


def there(folder):
    """What lies in each directory, by its name."""
    return {
        path.parent.relative_to(folder).as_posix(): path.read_text().split('"name": "')[1].split('"')[0]
        for path in sorted(folder.glob("**/record.json"))
    }


@pytest.fixture
def places(tmp_path):
    serving = Models(tmp_path / "model", tmp_path / "ranker")
    work = WorkFolder(tmp_path / "work")
    for kind, path in serving.all().items():
        make(path, kind, f"first {kind}")
        make(work.models(serving).all()[kind], kind, f"second {kind}")
    return serving, work


TAKEN_OVER = {
    "model": "second model",
    "model.former": "first model",
    "ranker": "second ranker",
    "ranker.former": "first ranker",
}
BACK = {
    "model": "first model",
    "model.former": "second model",
    "ranker": "first ranker",
    "ranker.former": "second ranker",
}


def test_new_models_take_over_and_the_former_ones_come_back(places, tmp_path):
    serving, work = places
    take_over(serving, work)
    assert there(tmp_path) == TAKEN_OVER
    go_back(serving, work)
    assert there(tmp_path) == BACK
    go_back(serving, work)
    assert there(tmp_path) == TAKEN_OVER
    assert complete(serving, work) is True  # nobody has said that the former models serve
    assert there(tmp_path) == TAKEN_OVER
    settle(work)
    assert complete(serving, work) is False


def test_only_one_former_model_is_kept(places, tmp_path):
    serving, work = places
    take_over(serving, work)
    for kind, path in work.models(serving).all().items():
        make(path, kind, f"third {kind}")
    take_over(serving, work)
    assert there(tmp_path) == {
        name: each.replace("second", "third") if "former" not in name else each.replace("first", "second")
        for name, each in TAKEN_OVER.items()
    }


class KilledError(BaseException):
    """Stands for a kill, which nothing catches."""


@pytest.mark.parametrize("back", [False, True])
def test_an_exchange_that_is_killed_at_any_rename_is_completed(places, tmp_path, monkeypatch, back):
    serving, work = places
    if back:
        take_over(serving, work)
    wanted = BACK if back else TAKEN_OVER
    rename, kills = Path.rename, 0
    for last in range(30):
        left = last

        def killed(self, target):
            nonlocal left
            if self.parent in (tmp_path, work.path):  # not the whole writes of files
                if left == 0:
                    raise KilledError
                left -= 1
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            try:
                (go_back if back else take_over)(serving, work)
            except KilledError:
                kills += 1
            else:
                break
        monkeypatch.setattr(Path, "rename", rename)
        assert complete(serving, work) is back
        assert there(tmp_path) == wanted
        # The other way round, for the next kill.
        if back:
            go_back(serving, work)
        else:
            go_back(serving, work)
            for kind, path in work.models(serving).all().items():
                serving.beside(".former").all()[kind].rename(path)
    assert kills == (6 if back else 4)  # each directory is moved two or three times


def test_without_a_former_model_there_is_no_way_back(places, tmp_path):
    serving, work = places
    before = there(tmp_path)
    with pytest.raises(NotFoundError, match=r"no former model in .*model\.former"):
        go_back(serving, work)
    assert there(tmp_path) == before


def test_what_notellm_did_not_write_is_not_removed(places, tmp_path):
    serving, work = places
    (tmp_path / "model.former").mkdir()
    (tmp_path / "model.former" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"mine\.txt"):
        take_over(serving, work)
    assert (tmp_path / "model.former" / "mine.txt").read_text() == "mine"
    assert there(tmp_path)["model"] == "first model"


def test_without_a_ranker_the_model_alone_changes_places(places, tmp_path):
    serving, work = places
    take_over(Models(serving.model, None), work)
    assert there(tmp_path)["model"] == "second model"
    assert there(tmp_path)["ranker"] == "first ranker"


def test_a_model_that_stays_the_same_is_exchanged_with_its_ranker(places, tmp_path):
    serving, work = places
    shutil.rmtree(work.path / "model")
    make(work.path / "model", "model", "first model")
    take_over(serving, work)
    assert there(tmp_path) == TAKEN_OVER | {"model": "first model"}
    go_back(serving, work)
    assert there(tmp_path) == BACK | {"model.former": "first model"}


def test_what_could_not_change_places_is_told_before_the_work(places, tmp_path, monkeypatch):
    serving, work = places
    check_exchange(serving, work)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_device", lambda path: int(path == work.path))
        with pytest.raises(StorageError, match=r"on another file system than the working folder .* --work"):
            check_exchange(serving, work)
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "ismount", lambda path: path == serving.ranker)
        with pytest.raises(StorageError, match=r"the ranker .* is a mount point"):
            check_exchange(serving, work)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
        with pytest.raises(StorageError, match="may not be written to"):
            check_exchange(serving, work)
    (tmp_path / "ranker.former").symlink_to(work.path / "ranker")
    with pytest.raises(StorageError, match="it is a symbolic link"):
        check_exchange(serving, work)
    (tmp_path / "ranker.former").unlink()
    (tmp_path / "ranker.former").mkdir()
    (tmp_path / "ranker.former" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"mine\.txt"):
        check_exchange(serving, work)


def test_a_directory_that_cannot_be_moved_is_told_and_the_exchange_is_completed_later(
    places, tmp_path, monkeypatch
):
    serving, work = places
    write_json({"back": False, "wanted": work.models(serving).identities()}, work.journal)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(18, "another disk")))
        with pytest.raises(StorageError, match="another disk; once that is mended, give the same command"):
            complete(serving, work)
    assert there(tmp_path)["model"] == "first model"
    complete(serving, work)
    assert there(tmp_path) == TAKEN_OVER
