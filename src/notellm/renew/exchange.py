"""Put new models in the place of those that serve, and back: by renaming directories, whole or not at all.

    MODEL -> MODEL.former,   WORK/model -> MODEL,   and the same for the ranker

A journal is written first, so that an exchange that was killed is completed by :func:`complete`. Between two
renames a directory is missing for a moment; a running service has its models in memory.
"""

from notellm.artifacts.replace import remove_folder
from notellm.artifacts.workspace import sync_folder
from notellm.errors import NotFoundError
from notellm.files import read_json, write_json
from notellm.renew.models import Models
from notellm.renew.work import WorkFolder

FORMER = ".former"


def take_over(serving: Models, work: WorkFolder) -> None:
    """Let the new models of a working folder take the place of the serving ones, which become the former.

    Raises:
        StorageError: if a directory cannot be moved, or a former one is not notellm's to remove.
    """
    write_json({"back": False, "wanted": work.models(serving).identities()}, work.journal, replace=True)
    complete(serving, work)


def go_back(serving: Models, work: WorkFolder) -> None:
    """Exchange the serving models with the former ones.

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


def complete(serving: Models, work: WorkFolder) -> bool:
    """Complete an exchange that was begun, if there is one; return whether it was one back.

    Raises:
        StorageError: as :func:`take_over`.
    """
    if not work.journal.is_file():
        return False
    journal = read_json(work.journal)
    wanted: dict[str, str] = journal["wanted"]
    former, renewed = serving.beside(FORMER).all(), work.models(serving).all()
    for kind, live in serving.all().items():
        if live.is_dir() and serving.identity(kind) == wanted[kind]:
            continue
        if not renewed[kind].is_dir():  # on the way back
            former[kind].rename(renewed[kind])
        if live.is_dir():
            remove_folder(former[kind], kind)
            live.rename(former[kind])
        renewed[kind].rename(live)
        sync_folder(live.parent)
    work.journal.unlink()
    return bool(journal["back"])
