"""A small random sentence encoder, as sentence-transformers saves one."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from tests.conftest import byte_level_tokenizer

_STEPS = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))


def write_sentence_encoder(folder: Path, texts: Sequence[str]) -> None:
    """Write an encoder that reads 20 tokens of 32 dimensions, and pools their mean.

    Args:
        folder: an existing folder.
        texts: texts from which its tokenizer is made.
    """
    tokenizer = byte_level_tokenizer(
        list(texts), ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    model = BertModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(_STEPS)
    ]
    pooling = {
        "word_embedding_dimension": 32,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls_token": False,
    }
    (folder / "1_Pooling").mkdir()
    for file, value in (
        ("modules.json", listed),
        ("sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False}),
        ("1_Pooling/config.json", pooling),
    ):
        (folder / file).write_text(json.dumps(value))
