"""The score of a pair of related notes, and the options that decide which pairs are kept.

For a log of views and clicks and its U users,

    s(A -> B) = sum over users u who viewed A and afterwards clicked B of 1 / N_u

- Any row of u with A, "view" or "click", counts as a view; only a "click" row counts as a click.
- "Afterwards" means that u's first view of A is strictly before u's last click of B, and A is not B. So s is
  directed: A -> B and B -> A differ.
- N_u is the number of distinct notes that u clicked in the window, the last ``window_days`` days of the log.

Pairs with scores above ``upper`` or below ``lower`` are dropped, then each source keeps its ``top`` best
targets: by score, then users (descending), then target id (ascending, by code point). Source: NoteLLM, arXiv
2403.01744.
"""

import math
from dataclasses import dataclass

from notellm.errors import ConfigError


@dataclass(frozen=True)
class PairOptions:
    """Options that decide which pairs are kept.

    Args:
        upper: pairs with a higher score are dropped (near-duplicates, bots, fixed sequences).
        lower: pairs with a lower score are dropped.
        top: number of targets that a source keeps.
        window_days: number of days at the end of the log that count; None for the whole log.
        min_users: pairs of fewer users are dropped, since one user alone is mostly chance (not in the paper;
            measured in benchmarks/README.md).

    Raises:
        ConfigError: if values are not allowed; the message names all of them.
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
