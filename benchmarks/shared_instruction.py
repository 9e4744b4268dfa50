"""Notes per second of embedding: the instruction of the prompts computed once, or every prompt whole.

A Llama of the sizes of SmolLM2-135M (30 layers of 576) with random weights, cut to its first layers, since
weights do not change the time; notes of the built-in sample world, the English prompt, a tokenizer that is
trained on both. Both ways embed the same notes in turn, and each figure is the median over the rounds.
"""

import statistics
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import arguments, table, write_results
from notellm.backbone.layers import cut_layers
from notellm.backbone.tiny import train_tokenizer
from notellm.data.sample_world import sample_world
from notellm.recall.config import NoteLLMConfig
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import EMB_TOKEN, load_template


def make_model(notes: pa.Table, layers: int) -> NoteLLM:
    wording = load_template("english")
    texts = [*notes["title"].to_pylist(), *notes["content"].to_pylist()]
    texts += [
        wording.category.prompt
    ] * 50  # so that its words become tokens, as they are in large vocabularies
    tokenizer = train_tokenizer(texts, vocabulary=8_000, new_tokens=[EMB_TOKEN])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1_536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    backbone = LlamaForCausalLM(config)
    cut_layers(backbone, layers)
    return NoteLLM(backbone, tokenizer, NoteLLMConfig())


def measure(model: NoteLLM, notes: pa.Table, rounds: int) -> dict[str, Any]:
    """Seconds of both ways, and how far their vectors differ."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    vectors: dict[bool, np.ndarray] = {}
    model.encode(notes.slice(0, 64))  # warms up, and tries whether the model can share
    for turn in range(rounds):
        for shared in (True, False) if turn % 2 else (False, True):
            start = time.perf_counter()
            vectors[shared] = model.encode(notes, shared=shared)
            seconds[shared].append(time.perf_counter() - start)
    once, whole = (statistics.median(seconds[way]) for way in (True, False))
    lengths = [len(ids) for ids in model.prompt.prompt_ids(model.prompts(notes))]
    return {
        "notes": notes.num_rows,
        "rounds": rounds,
        "layers": model.config.num_hidden_layers,
        "instruction_tokens": len(model.prompt.instruction_ids()),
        "prompt_tokens": float(np.mean(lengths)),
        "shared_seconds": seconds[True],
        "whole_seconds": seconds[False],
        "shared_per_second": notes.num_rows / once,
        "whole_per_second": notes.num_rows / whole,
        "ratio": whole / once,
        "largest_difference": float(np.abs(vectors[True] - vectors[False]).max()),
    }


def report(run: dict[str, Any]) -> Iterable[str]:
    yield (
        f"{run['notes']:,} notes with prompts of {run['prompt_tokens']:.0f} tokens on average, of which "
        f"{run['instruction_tokens']} are the instruction; {run['layers']} layers; medians of "
        f"{run['rounds']} rounds."
    )
    yield table(
        ["instruction computed once", "whole prompts", "ratio", "largest difference of vectors"],
        [
            [
                f"{run['shared_per_second']:,.1f} notes/s",
                f"{run['whole_per_second']:,.1f} notes/s",
                f"{run['ratio']:.2f}",
                f"{run['largest_difference']:.0e}",
            ]
        ],
        left=0,
    )


def main() -> None:
    parser = arguments("Embedding with the instruction computed once, and every prompt whole.")
    parser.add_argument("--notes", type=int, default=64)
    parser.add_argument("--layers", type=int, default=8, help="layers of the model, of 30")
    parser.add_argument("--rounds", type=int, default=15, help="how often each way embeds all notes")
    chosen = parser.parse_args()
    notes = sample_world(notes=chosen.notes, users=20, clicks=200, bots=0).notes
    run = measure(make_model(notes, chosen.layers), notes, chosen.rounds)
    title = "Embedding with the instruction computed once"
    write_results(chosen.results, "shared_instruction", title, report(run), {"runs": [run]})


if __name__ == "__main__":
    main()
