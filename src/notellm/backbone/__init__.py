"""Causal language models, independent of any task: loading, safe tokenizers, LoRA, batching and training."""
