"""Related pairs from a click log: the score and a local engine."""

from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions, is_order_only

__all__ = ["PairOptions", "is_order_only", "mine_pairs"]
