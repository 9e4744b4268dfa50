"""Public datasets, read as they are distributed."""
