"""Causal language models without a task: loading, safe tokenizers, LoRA, batches, saving, training."""
