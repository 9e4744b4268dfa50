"""BinLLM (arXiv 2406.03210): an LLM scores a note for a user, with collaborative codes in its prompt.

collaborative model -> codes -> prompt -> model -> trainer -> scorer.
"""
