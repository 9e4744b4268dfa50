"""The errors that notellm raises when something that a user gave it is wrong.

Every error also inherits the builtin that a caller would expect, so ``except ValueError`` works. A message
names the value met, what is allowed, and the fix. The command line prints it as one line and exits with
status 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class NotellmError(Exception):
    """Base class of all errors that notellm raises on purpose."""


class DataError(NotellmError, ValueError):
    """A table, file or row is missing something or has a wrong value."""


class NotFoundError(DataError):
    """A note or user that was asked for does not exist."""


class ConfigError(NotellmError, ValueError):
    """An option has a value that is not allowed."""


class ModelError(NotellmError, ValueError):
    """A model directory or a backbone cannot be used."""


class MissingDependencyError(NotellmError, ImportError):
    """An optional package is not installed; the message gives the install command."""


class StorageError(NotellmError, OSError):
    """A file cannot be written or read: disk full, no permission, or absent."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the nearest known name, as "; did you mean timestamp?"; or "".

    A name that holds the given one, or is held by it, is nearest: "time" is "timestamp", not "title".
    """
    names = list(known)
    low = name.lower()
    inside = [each for each in names if len(low) > 2 and (low in each.lower() or each.lower() in low)]
    near = inside or get_close_matches(name, names, 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""
