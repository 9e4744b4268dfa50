"""The kinds of index. A new kind is a module with a subclass of ``Index`` and a line in :data:`KINDS`."""

from notellm.errors import ConfigError
from notellm.store.index.base import Index, Place
from notellm.store.index.exact import ExactIndex
from notellm.store.index.hnsw import HnswIndex
from notellm.store.index.milvus import MilvusIndex

KINDS: tuple[type[Index], ...] = (
    ExactIndex,
    HnswIndex,
    MilvusIndex,
)


def kind_for(option: str) -> type[Index]:
    """Return the class of the index that a user asks for.

    Args:
        option: "exact", "hnsw", or the URI of a Milvus server.

    Raises:
        ConfigError: if no kind of index accepts it.
    """
    for kind in KINDS:
        if kind.accepts(option):
            return kind
    *first, last = (kind.option for kind in KINDS)
    raise ConfigError(f"the index is {option!r}; allowed are {', '.join(first)}, or {last}")


def is_index_file(name: str) -> bool:
    """Return whether an index writes files of this name.

    Args:
        name: path within the folder of a store, with slashes.
    """
    return any(kind.files is not None and kind.files.fullmatch(name) for kind in KINDS)


def invalidate_saved(store: str, fingerprint: str) -> None:
    """Make the next start distrust saved indexes, because the store has gone back to an earlier version."""
    for kind in KINDS:
        kind.invalidate(Place(store, fingerprint))
