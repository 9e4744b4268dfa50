"""notellm: from a table of notes and a click log to an LLM recommender."""

__version__ = "0.1.0"
