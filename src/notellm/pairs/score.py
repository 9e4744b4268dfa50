"""The score of a pair of related notes (NoteLLM, arXiv 2403.01744), and the options that pairs must meet.

    s(A -> B) = sum over users u who viewed A and afterwards clicked B of 1 / N_u

Any row of u with A, "view" or "click", is a view; only a "click" row is a click. "Afterwards" means that
first_u(A) < last_u(B), the times of u's first view of A and last click of B, or first_u(A) <= last_u(B) if
``same_time`` is "both". A is never B, and s is directed. N_u is the number of distinct notes that u clicked
in the window. Scores are rounded to nine decimals, so that equal sums are equal in whatever order they are
added. Each source keeps its best targets: by score, then users (descending), then target id.
"""

import math
from dataclasses import dataclass
from typing import Literal

from notellm.options import check, option

#: Decimals of a score.
DECIMALS = 9


@dataclass(frozen=True)
class PairOptions:
    """Options that decide which pairs are kept; the defaults are those of the paper, except ``min_users``.

    Attributes:
        upper: pairs with a higher score (u) are dropped: near-duplicates, bots, fixed sequences.
        lower: pairs with a lower score (l) are dropped.
        top: number of targets (t) that a source keeps.
        window_days: number of days at the end of the log that count; None counts the whole log.
        min_users: pairs of fewer users are dropped, since one user alone is mostly chance (not in the paper;
            measured in benchmarks/README.md).
        same_time: what two notes of a user at one time make: "both", a pair in both directions, or "none".
            None takes "both" for a log without any order (notellm.data.order), else "none".

    Raises:
        ConfigError: if values are not allowed; the message names all of them.
    """

    upper: float = option(30.0)
    lower: float = option(0.01, least=0)
    top: int = option(10, least=1)
    window_days: float | None = option(None, above=0)
    min_users: int = option(2, least=1)
    same_time: Literal["both", "none"] | None = option(None)

    def __post_init__(self) -> None:
        problems = []
        if not self.upper >= self.lower:
            problems.append(f"upper is {self.upper}; it must be at least lower ({self.lower})")
        if self.window_days is not None and not self.window_days < math.inf:
            problems.append(f"window_days is {self.window_days}; give a number of days, or None")
        check(self, *problems)
