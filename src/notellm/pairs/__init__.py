"""Related pairs from a click log: the score and a local engine."""
