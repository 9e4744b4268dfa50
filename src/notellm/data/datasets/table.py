"""The public datasets that notellm reads, in one table.

To add a dataset, write a module with its reader in this package, add one line to ``_READERS`` and a row to
``docs/datasets.md``, and test it in ``tests/data/datasets``. Readers are imported when they are called, so
listing the names is quick.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notellm.errors import ConfigError

if TYPE_CHECKING:
    from notellm.data.datasets.collm import CollmData
    from notellm.data.datasets.files import RawData

#: What each dataset holds beside notes, and its reader as "module:function" of this package. The reader of
#: ratings takes ``min_rating``.
_READERS = {
    "microlens": ("clicks", "microlens:read_microlens"),
    "movielens": ("ratings", "movielens:read_movielens"),
    "mind": ("clicks", "mind:read_mind"),
    "kuairec": ("clicks", "kuairec:read_kuairec"),
    "amazon": ("ratings", "amazon:read_amazon"),
    "goodbooks": ("ratings", "goodbooks:read_goodbooks"),
    "bookcrossing": ("ratings", "bookcrossing:read_bookcrossing"),
    "lastfm": ("clicks", "lastfm:read_lastfm"),
    "steam": ("clicks", "steam:read_steam"),
    "yelp": ("ratings", "yelp:read_yelp"),
    "citeulike": ("clicks", "citeulike:read_citeulike"),
    "collm": ("impressions", "collm:read_collm"),
}
CLICK_NAMES: tuple[str, ...] = tuple(name for name, (kind, _) in _READERS.items() if kind != "impressions")
RATING_NAMES: tuple[str, ...] = tuple(name for name, (kind, _) in _READERS.items() if kind == "ratings")
IMPRESSION_NAMES: tuple[str, ...] = tuple(name for name in _READERS if name not in CLICK_NAMES)


def read_clicks_of(name: str, folder: str | Path, *, min_rating: float | None = None) -> "RawData":
    """Read raw notes and raw clicks of a public dataset, for ``data.validate.validate``.

    Args:
        name: one of ``CLICK_NAMES``.
        folder: the folder with the files as they are distributed; the module of the reader lists them.
        min_rating: the smallest rating that counts as a click, for a dataset of ``RATING_NAMES``; None for
            the reader's default.

    Raises:
        ConfigError: if there is no such dataset, or it has no ratings and ``min_rating`` is given.
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    read = _reader(name, CLICK_NAMES)
    if min_rating is not None and name not in RATING_NAMES:
        raise ConfigError(
            f"min_rating is {min_rating}, but the dataset {name} has no ratings; leave it out, or read "
            f"one of {', '.join(RATING_NAMES)}"
        )
    options = {} if min_rating is None else {"min_rating": min_rating}
    data: RawData = read(folder, **options)
    return data


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


def _reader(name: str, names: tuple[str, ...]) -> Callable[..., Any]:
    if name not in names:
        raise ConfigError(f"no dataset {name!r}: give one of {', '.join(names)}")
    module, function = _READERS[name][1].split(":")
    reader: Callable[..., Any] = getattr(import_module(f"notellm.data.datasets.{module}"), function)
    return reader
