"""The public datasets that notellm reads, in one table.

To add a dataset, write a module with its reader in this package, add one line to ``_READERS``, and test it in
``tests/data/datasets``. Readers are imported when they are called, so listing the names is quick.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notellm.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from notellm.data.datasets.collm import CollmData

#: What each dataset holds beside notes, and its reader as "module:function" of this package.
_READERS = {
    "microlens": ("clicks", "microlens:read_microlens"),
    "movielens": ("clicks", "movielens:read_movielens"),
    "mind": ("clicks", "mind:read_mind"),
    "kuairec": ("clicks", "kuairec:read_kuairec"),
    "collm": ("impressions", "collm:read_collm"),
}
CLICK_NAMES: tuple[str, ...] = tuple(name for name, (content, _) in _READERS.items() if content == "clicks")
IMPRESSION_NAMES: tuple[str, ...] = tuple(name for name in _READERS if name not in CLICK_NAMES)


def read_clicks_of(name: str, folder: str | Path) -> "tuple[pa.Table, pa.Table]":
    """Read raw notes and raw clicks of a public dataset, for ``data.validate.validate``.

    Args:
        name: one of ``CLICK_NAMES``.
        folder: the folder with the files as they are distributed; the module of the reader lists them.

    Raises:
        ConfigError: if there is no such dataset.
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    tables: tuple[pa.Table, pa.Table] = _reader(name, CLICK_NAMES)(folder)
    return tables


def read_impressions_of(name: str, folder: str | Path) -> "CollmData":
    """Read notes and split impressions of a public dataset.

    Args:
        name: one of ``IMPRESSION_NAMES``.
        folder: as for :func:`read_clicks_of`.

    Raises:
        ConfigError: as :func:`read_clicks_of`, like StorageError and DataError.
    """
    dataset: CollmData = _reader(name, IMPRESSION_NAMES)(folder)
    return dataset


def _reader(name: str, names: tuple[str, ...]) -> Callable[[str | Path], Any]:
    if name not in names:
        raise ConfigError(f"no dataset {name!r}: give one of {', '.join(names)}")
    module, function = _READERS[name][1].split(":")
    reader: Callable[[str | Path], Any] = getattr(import_module(f"notellm.data.datasets.{module}"), function)
    return reader
