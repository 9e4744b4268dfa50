"""Choosing topics and a category: the known names, and what the model and the known notes say for each."""
