"""One line of a file as the value that it writes: JSON, or else a Python literal.

Some public datasets (Amazon 2014, Steam) hold ``repr`` of a dict in each line: single quotes, ``u'text'``,
``True``, ``None``. Nothing in a line is run: ``ast.literal_eval`` reads literals alone.
"""

import ast
import json
import warnings
from typing import Any

#: Characters of the longest line that is read. Parsing a Python literal takes some hundred bytes of memory
#: per character, so its limit is lower.
LONGEST = 1 << 24
LONGEST_LITERAL = 1 << 20


def parse_object(line: str) -> Any:
    """Read one line as JSON, else as a Python literal.

    Args:
        line: the text of one value; white space around it does not count.

    Returns:
        The value: usually a dict, but any value that JSON or a Python literal can write.

    Raises:
        ValueError: if the line is neither, or too long or too deeply nested to be read.
    """
    if len(line) > LONGEST:
        raise ValueError(f"a line of {len(line):,} characters; at most {LONGEST:,} are read")
    try:
        return json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        not_json = str(error)
    if len(line) > LONGEST_LITERAL:
        raise ValueError(
            f"no JSON ({not_json}), and {len(line):,} characters are too many for a Python literal, "
            f"of which at most {LONGEST_LITERAL:,} are read"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "\d" and the like in a string
            return ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"neither JSON ({not_json}) nor a Python literal") from error
