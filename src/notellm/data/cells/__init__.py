"""Cells of any type as ids, texts, topics and times; whatever is guessed on the way is reported."""
