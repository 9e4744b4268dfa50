"""Write a small Llama as llama.cpp's converter does: one GGUF file with its tokenizer."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

CONTROL, NORMAL = 3, 1
#: What llama.cpp calls the parts of a layer.
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def tensor_name(name: str) -> str:
    """The name of a weight of Llama in a GGUF file."""
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key matrix in the order in which llama.cpp rotates them."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    checkpoint: Path,
    file: Path,
    *,
    quantize: gguf.GGMLQuantizationType | None = None,
    architecture: str = "llama",
    metadata: dict[str, int] | None = None,
    without: str = "",
) -> dict[str, torch.Tensor]:
    """Write a saved Llama with a byte-level tokenizer as a GGUF file.

    Args:
        checkpoint: the folder of the Llama.
        file: the GGUF file.
        quantize: type of the attention's matrices; None writes all tensors as float32.
        architecture: name of the architecture in the file.
        metadata: further 16-bit numbers.
        without: a tensor to leave out.

    Returns:
        The weights by their names in transformers, as the file holds them.
    """
    model: Any = LlamaForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    config = model.config
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("Small")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    for name, value in (metadata or {}).items():
        writer.add_uint16(name, value)

    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_add_bos_token(True)

    held = {}
    for name, weight in model.state_dict().items():
        values = weight.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        number = next((heads[part] for part in heads if part in name), None)
        stored = values if number is None else interleaved(values, number)
        if quantize is not None and "self_attn" in name:
            blocks = gguf.quants.quantize(stored, quantize)
            stored = blocks
            read = gguf.quants.dequantize(blocks, quantize)
            if number is not None:  # back into the order of transformers
                half = read.shape[0] // number // 2
                read = read.reshape(number, half, 2, -1).swapaxes(1, 2).reshape(read.shape)
            values = read
        held[name] = torch.from_numpy(np.ascontiguousarray(values))
        if tensor_name(name) != without:
            is_quantized = quantize is not None and "self_attn" in name
            writer.add_tensor(
                tensor_name(name), np.ascontiguousarray(stored), raw_dtype=quantize if is_quantized else None
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held
