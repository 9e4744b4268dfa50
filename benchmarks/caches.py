"""What each saving of a pretrained backbone gains on a CPU, and the largest difference that it makes.

Layers, the instruction of the prompts computed once, frozen layers whose states are stored, narrower types,
and the start of the projection that is kept. All in one run on one backbone: what `--backbone` gives, else a
Llama of the sizes of SmolLM2-135M (30 layers of 576) with random weights, which take the same time. Ways that
are compared run in turn, and each figure is the median over the rounds.
"""

import copy
import importlib
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import arguments, table, write_results
from benchmarks.stepwise import StepwiseTraining
from notellm.backbone.layers import cut_layers
from notellm.backbone.tiny import train_tokenizer
from notellm.data.sample_world import SampleWorld, sample_world
from notellm.evaluate.tables import Table
from notellm.recall import start as start_module
from notellm.recall.config import NoteLLMConfig
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import EMB_TOKEN, load_template
from notellm.recall.start import START, load_start, start_projection

#: Processor features that decide whether a narrower type is faster.
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_Result = TypeVar("_Result")


class KilledError(Exception):
    """Ends the computation of a start half-way."""


def random_model(notes: pa.Table) -> NoteLLM:
    """Return a Llama of the sizes of SmolLM2-135M with random weights, and a tokenizer of the notes."""
    wording = load_template("english")
    texts = [*notes["title"].to_pylist(), *notes["content"].to_pylist()]
    # Often enough for its words to become tokens, as they are in large vocabularies.
    texts += [wording.category.prompt] * 50
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
    return NoteLLM(LlamaForCausalLM(config), tokenizer, NoteLLMConfig())


def first_layers(model: NoteLLM, layers: int) -> NoteLLM:
    """Return a copy of a model that has its first layers alone."""
    cut = copy.deepcopy(model)
    cut_layers(cut.backbone, layers)
    return cut


def in_turn(
    ways: Mapping[str, Callable[[], _Result]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, _Result]]:
    """Return the seconds of each way in each round, and its last result; every other round runs backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for turn in range(rounds):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            results[name] = ways[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds, results


def run_of(saving: str, seconds: Mapping[str, list[float]], difference: str, **more: Any) -> dict[str, Any]:
    """Return a row: the first way is the one without the saving."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = next(iter(medians.values()))
    return {
        "saving": saving,
        "seconds": dict(seconds),
        "medians": medians,
        "speed_up": {name: base / value for name, value in medians.items()},
        "difference": difference,
        **more,
    }


def whole_prompts(model: NoteLLM) -> NoteLLM:
    """Return a model of the same weights that computes every prompt whole."""
    other = copy.copy(model)
    prompt = copy.copy(model.prompt)
    prompt.shared_length = lambda *_: 0  # type: ignore[method-assign]
    other.prompt = prompt
    other._reader = None  # noqa: SLF001 - it holds the prompt
    return other


# ---------------------------------------------------------------- the savings


def measure_layers(model: NoteLLM, few: NoteLLM, notes: pa.Table, rounds: int) -> dict[str, Any]:
    """Embedding with all layers and with the first ones."""
    every, some = (each.config.num_hidden_layers for each in (model, few))
    ways = {f"{every} layers": model, f"{some} layers": few}
    seconds, _ = in_turn({name: partial(each.encode, notes) for name, each in ways.items()}, rounds)
    return run_of("layers, embedding", seconds, "another model", notes=notes.num_rows)


def measure_instruction(model: NoteLLM, notes: pa.Table, rounds: int) -> list[dict[str, Any]]:
    """Embedding and choosing categories with the instruction of the prompts read once."""
    ways = {"whole prompts": whole_prompts(model), "instruction once": model}
    seconds, vectors = in_turn({name: partial(each.encode, notes) for name, each in ways.items()}, rounds)
    lengths = [len(ids) for ids in model.prompt.prompt_ids(model.prompts(notes))]
    sizes = {
        "instruction_tokens": len(model.prompt.instruction_ids()),
        "prompt_tokens": float(np.mean(lengths)),
        "notes": notes.num_rows,
    }
    difference = float(np.abs(np.subtract(*vectors.values())).max())
    rows = [run_of("instruction, embedding", seconds, f"{difference:.0e} (vectors)", **sizes)]
    categories = sorted(set(notes["category"].to_pylist()) - {""})

    def tag(each: NoteLLM) -> dict[tuple[int, str], float]:
        tags = each.tag(notes, tasks=["category"], least=0.0, categories=categories)
        return {
            (row, name.name): float(name.probability or 0.0)
            for row, tag in enumerate(tags)
            for name in tag.categories
        }

    seconds, found = in_turn({name: partial(tag, each) for name, each in ways.items()}, rounds)
    one, two = found.values()
    difference = max(abs(one.get(key, 0.0) - two.get(key, 0.0)) for key in one | two)
    tagged = {"categories": len(categories)} | sizes
    rows.append(run_of("instruction, tagging", seconds, f"{difference:.0e} (probabilities)", **tagged))
    return rows


def measure_training(
    model: NoteLLM, world: SampleWorld, *, lora: bool, upper: int, pairs: int, steps: int
) -> dict[str, Any]:
    """Seconds of a step: all layers, the last ones, and the last ones on stored states."""
    layers = model.config.num_hidden_layers
    with tempfile.TemporaryDirectory() as folder:
        given: Any = {"lora": lora, "pairs": pairs, "steps": steps + 1}
        ways = {
            f"all {layers} layers": StepwiseTraining(
                model, world, Path(folder), upper=None, stored=False, **given
            ),
            f"the last {upper}": StepwiseTraining(
                model, world, Path(folder), upper=upper, stored=False, **given
            ),
            f"the last {upper}, states stored": StepwiseTraining(
                model, world, Path(folder), upper=upper, stored=True, **given
            ),
        }
        for way in ways.values():
            way.step()  # warms up
        seconds, _ = in_turn({name: way.step for name, way in ways.items()}, steps)
        computed, stored = list(ways.values())[1:]
        difference = float(np.abs(np.subtract(computed.losses, stored.losses)).max())
        kind = "adapters" if lora else "every weight"
        return run_of(
            f"frozen layers, {kind}",
            seconds,
            f"{difference:.0e} (losses, of the last two)",
            losses={name: way.losses for name, way in ways.items()},
            storing_seconds=stored.storing_seconds,
            sequences=stored.sequences,
            pairs=pairs,
        )


def measure_types(model: NoteLLM, notes: pa.Table, rounds: int) -> dict[str, Any]:
    """Hidden states in float32, bfloat16, and with dynamic int8 linear layers."""
    texts = model.prompts(notes)
    half: Any = copy.deepcopy(model)
    half.backbone.to(torch.bfloat16)
    models: dict[str, NoteLLM] = {"float32": model, "bfloat16": half, **quantized(model)}
    engines = {name: name.removeprefix("int8 ").split(",")[0] for name in models if name.startswith("int8")}

    def states(name: str) -> torch.Tensor:
        if name in engines:
            torch.backends.quantized.engine = engines[name]
        return models[name].prompt_states(texts)

    for name in {"float32", *engines}:  # warms up
        states(name)
    seconds, found = in_turn({name: partial(states, name) for name in models}, rounds)
    mean = found["float32"].mean(dim=0)
    cosines = {}
    for name, each in found.items():
        plain = torch.cosine_similarity(each, found["float32"])
        centred = torch.cosine_similarity(each - mean, found["float32"] - mean)
        cosines[name] = {"plain": float(plain.mean()), "centred": float(centred.mean())}
    return run_of(
        f"types, {model.config.num_hidden_layers} layers",
        seconds,
        "see below",
        cosines=cosines,
        notes=notes.num_rows,
    )


def quantized(model: NoteLLM) -> dict[str, NoteLLM]:
    """Return copies of a model with dynamic int8 linear layers, by engine; none where torch has none.

    Torch 2.13 still has this quantization, and says that it will be removed.
    """
    result = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            quantization = importlib.import_module("torch.ao.quantization")
        except ImportError:
            return {}
        for engine in ("fbgemm", "onednn"):
            if engine not in torch.backends.quantized.supported_engines:
                continue
            torch.backends.quantized.engine = engine
            for suffix, kept in (("", ()), (", down_proj in float32", ("down_proj",))):
                if suffix and engine != "onednn":
                    continue
                other = copy.deepcopy(model)
                base: Any = other.backbone.base_model
                names = {
                    name: quantization.per_channel_dynamic_qconfig
                    for name, part in base.named_modules()
                    if isinstance(part, torch.nn.Linear) and name.rpartition(".")[2] not in kept
                }
                quantization.quantize_dynamic(base, names, dtype=torch.qint8, inplace=True)
                result[f"int8 {engine}{suffix}"] = other
    return result


def measure_start(model: NoteLLM, world: SampleWorld, shard: int) -> dict[str, Any]:
    """The start of the projection: computed, continued half-way, read by a resumed run and by `evaluate`."""
    start_module.SHARD = shard
    weights, seconds = {}, {}

    def clocked(name: str, call: Callable[[NoteLLM], Any]) -> None:
        torch.manual_seed(0)
        other = copy.deepcopy(model)
        other.projection.reset_parameters()
        begin = time.perf_counter()
        call(other)
        seconds[name] = [time.perf_counter() - begin]
        weights[name] = other.projection.weight.detach().clone()

    def compute(other: NoteLLM, file: Path) -> None:
        start_projection(other, world.notes, "ridge", clicks=world.clicks, file=file)

    def cut_off(other: NoteLLM, file: Path) -> None:
        states, calls = other.prompt_states, 0

        def some(*args: Any, **more: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if 2 * calls * shard > world.notes.num_rows:
                raise KilledError
            return states(*args, **more)

        other.prompt_states = some  # type: ignore[method-assign]
        with suppress(KilledError):
            compute(other, file)

    with tempfile.TemporaryDirectory() as folder:
        file, cut = Path(folder) / "whole" / START, Path(folder) / "cut" / START
        clocked("computed", lambda other: compute(other, file))
        clocked("cut off", lambda other: cut_off(other, cut))
        clocked("continued after half", lambda other: compute(other, cut))
        clocked("read by a resumed run", lambda other: compute(other, file))
        clocked("read by `evaluate`", lambda other: load_start(other.projection, file))
    del seconds["cut off"], weights["cut off"]
    difference = max(float((each - weights["computed"]).abs().max()) for each in weights.values())
    return run_of(
        "start of the projection", seconds, f"{difference:.0e} (weights)", notes=world.notes.num_rows
    )


# ---------------------------------------------------------------- the report


def times(value: float) -> str:
    """Return a speed-up; of large ones the decimals mean nothing."""
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def report(runs: list[dict[str, Any]], facts: Mapping[str, Any]) -> Iterable[str]:
    """Return the tables."""
    yield (
        f"Backbone: {facts['backbone']}. Threads: {facts['threads']}. Of the processor's features "
        f"{', '.join(FLAGS)} it has {', '.join(facts['flags']) or 'none'}. Medians; speed-up and largest "
        "difference are from the first way of each saving, unless something else is said."
    )
    rows = []
    for run in runs:
        for place, (way, median) in enumerate(run["medians"].items()):
            first = place == 0
            unit = f"{run['notes'] / median:,.1f} notes/s" if "notes" in run else f"{median:,.2f} s a step"
            if run["saving"].startswith("start"):
                unit = f"{median:,.2f} s"
            rows.append(
                [
                    run["saving"] if first else "",
                    way,
                    unit,
                    "" if first else times(run["speed_up"][way]),
                    run["difference"] if way == list(run["medians"])[-1] else "",
                ]
            )
    yield table(["saving", "way", "median", "speed-up", "largest difference"], rows, left=2)
    embedding = next(run for run in runs if "instruction_tokens" in run)
    stored = [run for run in runs if "storing_seconds" in run]
    storing = " and ".join(f"{run['storing_seconds']:.0f}" for run in stored)
    yield (
        f"Prompts have {embedding['prompt_tokens']:.0f} tokens on average; the instruction has "
        f"{embedding['instruction_tokens']} of them. Batches of {stored[0]['pairs']} pairs; storing the "
        f"states of {stored[0]['sequences']:,} sequences took {storing} s."
    )
    kinds = [run for run in runs if "cosines" in run]
    cosines = [
        [
            run["saving"],
            name,
            f"{run['speed_up'][name]:.2f}",
            f"{each['plain']:.4f}",
            f"{each['centred']:.4f}",
        ]
        for run in kinds
        for name, each in run["cosines"].items()
    ]
    yield (
        "Hidden states in narrower types: mean cosine to those in float32, as they are, and less the mean "
        "of the notes, which the projection subtracts."
    )
    yield Table(["", "type", "speed-up", "cosine", "less the mean"], cosines, text_columns=2).markdown()


def processor_flags() -> list[str]:
    """Return the features of the processor that matter here; empty where they are unknown."""
    file = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not file.exists():
        return []
    lines = [line for line in file.read_text().splitlines() if line.startswith("flags")]
    return [flag for flag in FLAGS if lines and flag in lines[0].split()]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--backbone", help="a causal language model; default: random weights of SmolLM2's sizes"
    )
    parser.add_argument("--layers", type=int, default=8, help="first layers that are kept")
    parser.add_argument("--upper", type=int, default=2, help="last layers that are trained")
    parser.add_argument("--notes", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=6, help="pairs in a training batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="caches", help="name of the files of results")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    world = sample_world(notes=200, users=100, clicks=2_500, bots=0)
    notes = world.notes.slice(0, chosen.notes)
    model = random_model(world.notes) if chosen.backbone is None else NoteLLM.from_pretrained(chosen.backbone)
    few = first_layers(model, chosen.layers)
    for each in (model, few):
        each.encode(notes.slice(0, 4))  # warms up, and tries whether the model can share
    runs = [measure_layers(model, few, notes, chosen.rounds)]
    runs += measure_instruction(few, notes, chosen.rounds)
    training: Any = {"upper": chosen.upper, "pairs": chosen.pairs, "steps": chosen.rounds}
    runs += [measure_training(few, world, lora=lora, **training) for lora in (True, False)]
    runs.append(measure_types(few, notes.slice(0, chosen.notes // 3), chosen.rounds))
    runs.append(measure_types(model, notes.slice(0, chosen.notes // 3), 1))
    runs.append(measure_start(few, world, shard=16))
    facts = {
        "backbone": "random weights" if chosen.backbone is None else Path(chosen.backbone).name,
        "threads": chosen.threads,
        "flags": processor_flags(),
    }
    title = "What each saving of a pretrained backbone gains"
    write_results(
        chosen.results, "caches", title, report(runs, facts), {**facts, "runs": runs}, name=chosen.name
    )


if __name__ == "__main__":
    main()
