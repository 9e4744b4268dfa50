"""The score that makes two notes a related pair, and its options.

For a log of views and clicks and its U users,

    s(A -> B) = sum over users u who viewed A and afterwards clicked B of 1 / N_u

- A is viewed by u in any row of u with A, "view" or "click"; B is clicked in a "click" row only.
- "Afterwards": u's first time of A is before u's last click of B, strictly: equal times make no
  pair. A is not B. So s is directed: A -> B and B -> A differ.
- N_u is the number of distinct notes that u clicked in the window; it damps users who click all.
- The window is the last ``window_days`` days of the log, from its newest row back, or all of it.

Scores above ``upper`` or below ``lower`` are dropped, then the ``top`` best targets of each source
are kept: by score, then by users (descending), then by target id (ascending, by code point).

Source: NoteLLM, arXiv 2403.01744: one week of behaviour, upper 30, lower 0.01, top 10.
"""

import math
from dataclasses import dataclass

from notellm.errors import ConfigError


@dataclass(frozen=True)
class PairOptions:
    """Which pairs are kept.

    Args:
        upper: a pair with a higher score is dropped (near-duplicates, bots, fixed sequences).
        lower: a pair with a lower score is dropped.
        top: how many targets a source keeps.
        window_days: days at the end of the log that count, None for the whole log.
        min_users: a pair made by fewer users is dropped; one user alone is chance more often than not
            (not in the paper; measured in benchmarks/README.md).

    Raises:
        ConfigError: values that are not allowed; the message names all of them.
    """

    upper: float = 30.0
    lower: float = 0.01
    top: int = 10
    window_days: float | None = None
    min_users: int = 2

    def __post_init__(self) -> None:
        problems = []
        if not self.lower >= 0:
            problems.append(f"lower is {self.lower}: give 0 or more")
        if not self.upper >= self.lower:
            problems.append(f"upper is {self.upper}: give at least lower, {self.lower}")
        if self.top < 1:
            problems.append(f"top is {self.top}: give 1 or more")
        if self.window_days is not None and not 0 < self.window_days < math.inf:
            problems.append(f"window_days is {self.window_days}: give days above 0, or None")
        if self.min_users < 1:
            problems.append(f"min_users is {self.min_users}: give 1 or more")
        if problems:
            raise ConfigError("; ".join(problems))
