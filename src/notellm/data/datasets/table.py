"""The public datasets that notellm reads, in one table.

To add a dataset, write a module with its reader in this package, add one line to ``_READERS``, and test it in
``tests/data/datasets``. Readers are imported when they are called, so listing the names is quick.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from notellm.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from notellm.data.datasets.collm import CollmData

#: Raw notes and raw clicks, for ``data.validate.validate``; or notes and impressions, split and checked.
Dataset: TypeAlias = "tuple[pa.Table, pa.Table] | CollmData"

#: What each dataset holds beside notes, and its reader as "module:function" of this package.
_READERS = {
    "microlens": ("clicks", "microlens:read_microlens"),
    "movielens": ("clicks", "movielens:read_movielens"),
    "mind": ("clicks", "mind:read_mind"),
    "kuairec": ("clicks", "kuairec:read_kuairec"),
    "collm": ("impressions", "collm:read_collm"),
}
NAMES: tuple[str, ...] = tuple(_READERS)
CLICK_NAMES: tuple[str, ...] = tuple(name for name, (content, _) in _READERS.items() if content == "clicks")
IMPRESSION_NAMES: tuple[str, ...] = tuple(name for name in NAMES if name not in CLICK_NAMES)


def read_dataset(name: str, folder: str | Path) -> Dataset:
    """Read a public dataset from a folder with its files as they are distributed.

    Args:
        name: one of ``NAMES``.
        folder: the folder with the files; the module of the reader lists them.

    Returns:
        The tuple of raw notes and raw clicks for a name in ``CLICK_NAMES``; notes, impressions and their
        split (``CollmData``) for a name in ``IMPRESSION_NAMES``.

    Raises:
        ConfigError: if there is no dataset of that name.
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    if name not in _READERS:
        raise ConfigError(f"no dataset {name!r}: give one of {', '.join(NAMES)}")
    module, function = _READERS[name][1].split(":")
    reader = getattr(import_module(f"notellm.data.datasets.{module}"), function)
    dataset: Dataset = reader(folder)
    return dataset
