"""Mine the related pairs of a dataset folder in an engine that reads the log where it lies."""

from pathlib import Path

from notellm.artifacts.replace import check_file_replaceable
from notellm.errors import ConfigError, DataError
from notellm.jobs.folders import CLICKS_FILE, PAIRS_FILE, PARTS, is_split, save_pairs
from notellm.pairs.counts import PairCounts
from notellm.pairs.score import PairOptions
from notellm.pairs.warehouse import connect, mine_there, open_log, without_secrets


def mine_folder_there(
    folder: str | Path, engine: str, options: PairOptions, *, log: str | None = None, force: bool = False
) -> dict[str, PairCounts]:
    """Mine in an engine, and write ``pairs.parquet`` into a dataset folder, or into each part of a split.

    Args:
        folder: the folder. With ``log`` it is one dataset folder, which may be new.
        engine: one of ``notellm.pairs.warehouse.ENGINES``.
        options: how pairs are counted and scored.
        log: the log, as in ``pairs.warehouse.open_log``; None for the ``clicks.parquet`` of the folder.
        force: replace a ``pairs.parquet`` even if notellm did not write it.

    Returns:
        What became of the rows and pairs of each part ("" for a dataset folder).

    Raises:
        DataError: if the log is not there, lacks a column or has no rows.
        ConfigError: if there is no such engine, or ``log`` is given for a split.
        MissingDependencyError: if a package that the engine needs is not installed.
    """
    path = Path(folder)
    names = PARTS if is_split(path) else ("",)
    if log is not None and len(names) > 1:
        raise ConfigError(
            f"{path} is a split, and a log of its own has no parts; give another folder, or no --log"
        )
    for name in names:
        check_file_replaceable(path / name / PAIRS_FILE, "pairs", force=force)
    connection = connect(engine)
    result = {}
    for name in names:
        where = log or str(path / name / CLICKS_FILE)
        pairs, counts = mine_there(open_log(connection, where), options)
        if not counts.rows and len(names) == 1:
            raise DataError(f"{where} has no rows, so there are no related pairs")
        (path / name).mkdir(parents=True, exist_ok=True)
        described = {"engine": without_secrets(engine), "log": where, "rows": counts.rows}
        save_pairs(path / name, pairs, counts, options, log=described, force=force)
        result[name] = counts
    return result
