"""Put new models in the place of those that serve, and back: by renaming directories, whole or not at all.

    MODEL -> MODEL.former,   WORK/model -> MODEL,   and the same for the ranker

A journal is written first, so that an exchange that was killed is completed by :func:`complete`. Between two
renames a directory is missing for a moment; a running service has its models in memory. The journal of the
way back stays until the caller knows that the former models serve, and calls :func:`settle`.
"""

import os
from pathlib import Path

from notellm.artifacts.replace import check_removable, remove_folder
from notellm.artifacts.workspace import sync_folder
from notellm.errors import NotFoundError, StorageError
from notellm.files import read_json, write_json
from notellm.renew.models import Models
from notellm.renew.work import WorkFolder

FORMER = ".former"


def check_exchange(serving: Models, work: WorkFolder) -> None:
    """Refuse, before the long work, directories that could not change places at its end.

    Args:
        serving: the serving models.
        work: the working folder, which exists.

    Raises:
        StorageError: if a directory is a mount point, lies on another file system than the working folder, or
            its parent may not be written to; or if a former directory is not notellm's to remove.
    """
    former = serving.beside(FORMER).all()
    for kind, live in serving.all().items():
        if os.path.ismount(live):
            raise StorageError(
                f"the {kind} {live} is a mount point, which cannot be renamed; mount the folder above it"
            )
        if _device(live) != _device(work.path):
            raise StorageError(
                f"the {kind} {live} is on another file system than the working folder {work.path}, so they "
                "cannot change places; give --work a folder on that file system"
            )
        check_removable(former[kind], kind)


def _device(path: Path) -> int:
    return path.stat().st_dev


def take_over(serving: Models, work: WorkFolder) -> None:
    """Let the new models of a working folder take the place of the serving ones, which become the former.

    Raises:
        StorageError: if a directory cannot be moved, or a former one is not notellm's to remove.
    """
    write_json({"back": False, "wanted": work.models(serving).identities()}, work.journal, replace=True)
    complete(serving, work)


def go_back(serving: Models, work: WorkFolder) -> None:
    """Exchange the serving models with the former ones; :func:`settle` ends it.

    Raises:
        NotFoundError: if there are no former models.
        StorageError: if a directory cannot be moved.
    """
    former = serving.beside(FORMER)
    for path in former.all().values():
        if not path.is_dir():
            raise NotFoundError(f"there is no former model in {path}; only a renewal leaves one there")
    work.clear_models()
    write_json({"back": True, "wanted": former.identities()}, work.journal, replace=True)
    complete(serving, work)


def settle(work: WorkFolder) -> None:
    """End a way back: the former models serve."""
    work.journal.unlink()


def complete(serving: Models, work: WorkFolder) -> bool:
    """Complete an exchange that was begun, if there is one; return whether it is one back.

    Raises:
        StorageError: as :func:`take_over`.
    """
    if not work.journal.is_file():
        return False
    journal = read_json(work.journal)
    wanted: dict[str, str] = journal["wanted"]
    former, renewed = serving.beside(FORMER).all(), work.models(serving).all()
    for kind, live in serving.all().items():
        # Both may be the same model, if only the ranker is another one.
        if live.is_dir() and not renewed[kind].is_dir() and serving.identity(kind) == wanted[kind]:
            continue
        if not renewed[kind].is_dir():  # on the way back
            _move(former[kind], renewed[kind])
        if live.is_dir():
            remove_folder(former[kind], kind)
            _move(live, former[kind])
        _move(renewed[kind], live)
        sync_folder(live.parent)
    if not journal["back"]:
        work.journal.unlink()
    return bool(journal["back"])


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError as error:
        raise StorageError(
            f"cannot move {path} to {target}: {error.strerror or error}; once that is mended, give the same "
            "command again, which completes the exchange"
        ) from error
