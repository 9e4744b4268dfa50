"""NoteLLM (arXiv 2403.01744), the recall model: vectors, related notes, topics and categories of notes.

A note becomes a prompt (``prompt``), the model computes its vector (``model``), and training (``trainer``)
joins two losses. A trained model serves ``embed``, ``item_to_item`` and ``generate``.
"""
