"""Running the command line in the process of the tests."""

import sys

from notellm import cli


def run(*arguments):
    """The exit status of a command, run in this process."""
    before = sys.argv
    sys.argv = ["notellm", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0
