"""NoteLLM (arXiv 2403.01744): a note becomes one vector, its topics and its category.

prompt -> model -> trainer (two losses, one forward pass) -> embed, related notes, generate.
"""
