"""Related pairs from a click log: the score and a local engine."""

from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions

__all__ = ["PairOptions", "mine_pairs"]
