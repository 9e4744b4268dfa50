"""What notellm raises when something a user gave it is wrong.

Every error also inherits the builtin a caller would expect, so ``except ValueError`` works. A message
names the value met, what is allowed, and the fix; the command line prints it as one line and exits
with status 2.
"""


class NotellmError(Exception):
    """Base of every error that notellm raises on purpose."""


class DataError(NotellmError, ValueError):
    """A table, a file or a row is not what it must be."""


class NotFoundError(DataError):
    """A note or a user that is asked for is not there."""


class ConfigError(NotellmError, ValueError):
    """An option has a value that is not allowed."""


class ModelError(NotellmError, ValueError):
    """A model directory or a backbone cannot be used."""


class MissingDependencyError(NotellmError, ImportError):
    """An optional package is not installed; the message gives the install command."""


class StorageError(NotellmError, OSError):
    """A file could not be written or read: disk full, no permission, not there."""
