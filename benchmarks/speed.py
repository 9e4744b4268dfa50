"""Stages beside the plain way to do the same, in turn on one thread: the same weights, inputs and results.

    python -m benchmarks.speed
    python -m benchmarks.speed --stages training --rounds 3

- training: a step of 128 pairs of MicroLens. The plain step pads to the longest note, runs transformers'
  model as it is, and computes logits of the whole vocabulary at every token.
- embedding: prompts of real notes, beside `SentenceTransformer.encode` on the same saved model.
- tagging: topics and a category of unseen notes of MIND, chosen among the known names, beside writing both
  freely with `generate` of transformers in sorted batches of 64. What they answer differs by design.
- ranking: candidates of a user of ML-1M with ten liked notes, beside every prompt whole, sorted and batched.
- search: the nearest of many notes among random vectors, beside a flat index of FAISS.
- start: processes of the command line, beside `python -c "import torch"`.

A ratio is that of the medians of the processor time, which other work on the machine disturbs less than it
does the time on the clock. The peak memory of a training step is that of a process that does one, less what
the process had before.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.catalogue import make_notes
from benchmarks.collaborative import read
from benchmarks.common import arguments, table, write_results
from benchmarks.scoring import SIZES, make_ranker
from benchmarks.stepwise import StepwiseTraining
from benchmarks.training import load
from notellm.backbone.tiny import train_tokenizer
from notellm.data.split import Part
from notellm.experiment.memory import peak_mib, reset_peak
from notellm.jobs.train_recall import train_recall
from notellm.options import filled
from notellm.rank.scorer import Ranker
from notellm.recall.config import NoteLLMConfig, RecallOptions
from notellm.recall.model import NoteLLM, NoteLLMOutput
from notellm.recall.prompt import EMB_TOKEN
from notellm.vectors import search, vector_table

PAIRS, DIM, NEAREST = 128, 128, 100
MODELS = ("tiny", "llama-30m")


class Stage(NamedTuple):
    """What was measured of a stage: seconds of processor time of both ways, and how far results differ."""

    name: str
    alternative: str
    ours: list[float]
    theirs: list[float]
    work: float
    unit: str
    difference: str
    memory: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return statistics.median(self.theirs) / statistics.median(self.ours)


class PlainNoteLLM(NoteLLM):
    """The straightforward step: one padded batch, the model of transformers as it is, all logits."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position: Tensor,
        labels: Tensor | None = None,
        states: Tensor | None = None,
    ) -> NoteLLMOutput:
        """Compute what `NoteLLM.forward` does."""
        assert labels is not None
        assert states is None
        output = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, use_cache=False
        )
        ends = output.hidden_states[-1][torch.arange(len(position)), position]
        wanted = labels[:, 1:]
        total = cross_entropy(output.logits[:, :-1].flatten(0, 1), wanted.flatten(), reduction="sum")
        return NoteLLMOutput(self.to_vectors(ends), total, (wanted >= 0).sum().float(), self.tau.clone())


def make_model(name: str, data: Part, kind: type[NoteLLM] = NoteLLM) -> NoteLLM:
    """Return an untrained model."""
    if name == "tiny":
        return kind.from_corpus(data.notes, clicks=data.clicks)
    texts = [*data.notes["title"].to_pylist(), *data.notes["content"].to_pylist()]
    tokenizer = train_tokenizer(texts, vocabulary=16_000, new_tokens=[EMB_TOKEN])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=384,
        intermediate_size=1_024,
        num_hidden_layers=10,
        num_attention_heads=6,
        num_key_value_heads=6,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(LlamaForCausalLM(config), tokenizer, NoteLLMConfig())


def in_turn(
    ways: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the processor seconds of each way in each round after a first one, and its last result."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for turn in range(rounds + 1):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            start = time.process_time()
            results[name] = ways[name]()
            if turn:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    return seconds, results


def training(rounds: int, models: Sequence[str]) -> Iterator[Stage]:
    """A training step."""
    data = load("MicroLens")
    for name in models:
        with TemporaryDirectory() as folder:
            both = {
                kind.__name__: stepwise(name, data, kind, Path(folder), steps=rounds + 1)
                for kind in (NoteLLM, PlainNoteLLM)
            }
            seconds, _ = in_turn({kind: each.step for kind, each in both.items()}, rounds)
        ours, plain = (both[kind].losses for kind in ("NoteLLM", "PlainNoteLLM"))
        memory = (peak(name, "NoteLLM"), peak(name, "PlainNoteLLM"))
        yield Stage(
            f"training step, {name}",
            "padded, all logits",
            seconds["NoteLLM"],
            seconds["PlainNoteLLM"],
            2 * PAIRS,
            "notes",
            f"{np.abs(np.subtract(ours, plain)).max():.0e} (loss)",
            memory,
        )


def stepwise(name: str, data: Part, kind: type[NoteLLM], folder: Path, *, steps: int) -> StepwiseTraining:
    """Return a training with the default options, every weight."""
    model = make_model(name, data, kind)
    return StepwiseTraining(
        model, data, folder, lora=False, upper=None, stored=False, pairs=PAIRS, steps=steps
    )


def peak(name: str, kind: str) -> float:
    """Return the MiB that a step adds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed", "--peak", name, kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def print_peak(name: str, kind: str) -> None:
    """Do one step, and print the MiB that it adds."""
    data = load("MicroLens")
    with TemporaryDirectory() as folder:
        kinds = {"NoteLLM": NoteLLM, "PlainNoteLLM": PlainNoteLLM}
        each = stepwise(name, data, kinds[kind], Path(folder), steps=1)
        if not reset_peak():  # getrusage would count the peak of the parent
            sys.exit("the peak of memory is read from /proc, which this system does not have")
        before = filled(peak_mib())
        each.step()
        print(filled(peak_mib()) - before)


def embedding(rounds: int, models: Sequence[str], count: int) -> Iterator[Stage]:
    """Embedding real notes."""
    data, notes = load("MicroLens"), make_notes(count)
    for name in models:
        model = make_model(name, data)
        with TemporaryDirectory() as folder:
            model.save_pretrained(f"{folder}/model")
            reader = SentenceTransformer(f"{folder}/model", device="cpu", local_files_only=True)
        prompts = model.prompts(notes)

        def theirs(reader: Any = reader, prompts: Sequence[str] = prompts) -> np.ndarray:
            vectors: np.ndarray = reader.encode(prompts, show_progress_bar=False)
            return vectors

        def ours(model: NoteLLM = model, prompts: Sequence[str] = prompts) -> np.ndarray:
            return model.encode(prompts)

        seconds, results = in_turn({"ours": ours, "theirs": theirs}, rounds)
        difference = float(np.abs(results["ours"] - results["theirs"]).max())
        yield Stage(
            f"embedding {count:,} notes, {name}",
            "SentenceTransformer.encode",
            seconds["ours"],
            seconds["theirs"],
            count,
            "notes",
            f"{difference:.0e} (vectors)",
        )


def tagging(rounds: int, count: int) -> Iterator[Stage]:
    """Topics and category of notes, both at once."""
    data = load("MIND")
    train, test = data.notes.slice(count), data.notes.slice(0, count)
    with TemporaryDirectory() as folder:
        options = RecallOptions(max_steps=60)
        model = train_recall(train, None, f"{folder}/model", options=options, progress=False)
    ways = {"ours": lambda: model.tag(test), "theirs": lambda: model.tag(test, free=True)}
    seconds, _ = in_turn(ways, rounds)
    yield Stage(
        f"tagging {count:,} notes, both outputs",
        "generate, sorted batches",
        seconds["ours"],
        seconds["theirs"],
        count,
        "notes",
        "by design",
    )


def ranking(rounds: int) -> Iterator[Stage]:
    """Candidates of a user, their tokens kept by both ways."""
    ranker = make_ranker(read())
    user = max(ranker.histories, key=lambda each: (len(ranker.histories[each]), each))
    draw = np.random.default_rng(0)
    for size in SIZES:
        candidates = draw.choice(ranker.texts.ids, size, replace=False).tolist()
        repeats = max(1, 100 // size)  # processor time is counted in hundredths of a second
        ways = {
            name: partial(_scores, ranker, user, candidates, shared=shared, repeats=repeats)
            for name, shared in (("ours", True), ("theirs", False))
        }
        seconds, results = in_turn(ways, rounds)
        yield Stage(
            f"ranking {size:,} candidates",
            "whole prompts, sorted batches",
            seconds["ours"],
            seconds["theirs"],
            size * repeats,
            "candidates",
            f"{np.abs(results['ours'] - results['theirs']).max():.0e} (probabilities)",
        )


def _scores(ranker: Ranker, user: str, candidates: list[str], *, shared: bool, repeats: int) -> np.ndarray:
    """Return the scores of candidates, computed several times."""
    return [ranker.scores(user, candidates, shared=shared)[0] for _ in range(repeats)][-1]


def exact(rounds: int, count: int, queries: int) -> Iterator[Stage]:
    """Exact search, as for an item-to-item table."""
    faiss.omp_set_num_threads(1)
    draw = np.random.default_rng(0).standard_normal((count, DIM)).astype(np.float32)
    vectors = draw / np.linalg.norm(draw, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(DIM)
    index.add(vectors)
    asked = vectors[:queries]
    ways = {
        "ours": lambda: search(vectors, asked, NEAREST)[1],
        "theirs": lambda: index.search(asked, NEAREST)[0],
    }
    seconds, results = in_turn(ways, rounds)
    yield Stage(
        f"exact search, {queries:,} of {count:,} notes, k = {NEAREST}",
        "FAISS, flat",
        seconds["ours"],
        seconds["theirs"],
        queries,
        "queries",
        f"{np.abs(results['ours'] - results['theirs']).max():.0e} (cosines)",
    )


def start(rounds: int) -> Iterator[Stage]:
    """Processes of the command line."""
    with TemporaryDirectory() as folder:
        data = load("MicroLens")
        vectors = np.random.default_rng(0).standard_normal((data.notes.num_rows, DIM)).astype(np.float32)
        ids = data.notes["note_id"]
        pq.write_table(vector_table(ids.combine_chunks(), vectors), f"{folder}/vectors.parquet")
        related = ["related", f"{folder}/vectors.parquet", "--id", ids[0].as_py()]
        ways = {
            "torch": lambda: _run(["-c", "import torch"]),
            "transformers": lambda: _run(["-c", "from transformers import PreTrainedModel"]),
            "help": lambda: _run(["-m", "notellm.cli", "--help"]),
            "related": lambda: _run(["-m", "notellm.cli", *related]),
            "service": lambda: _run(["-c", "import notellm.serve.run"]),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name in list(ways)[:: -1 if turn % 2 else 1]:
                seconds[name] += [ways[name]()] if turn else []
    for name, what in (
        ("help", "start of notellm --help"),
        ("related", f"notellm related, {len(vectors):,} notes"),
        ("service", "imports of notellm serve"),
    ):
        yield Stage(what, "import torch", seconds[name], seconds["torch"], 1, "starts", "")
    yield Stage(
        "imports of notellm serve",
        "import transformers",
        seconds["service"],
        seconds["transformers"],
        1,
        "starts",
        "",
    )


def _run(command: Sequence[str]) -> float:
    """Run Python; return the seconds of its processor time."""
    before = os.times()
    subprocess.run([sys.executable, *command], capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def report(stages: Sequence[Stage]) -> Iterator[str]:
    """Return the table."""
    yield table(
        ["stage", "beside", "ours", "theirs", "ratio", "peak MiB of ours and theirs", "largest difference"],
        [
            [
                each.name,
                each.alternative,
                f"{each.work / statistics.median(each.ours):,.1f} {each.unit}/s",
                f"{each.work / statistics.median(each.theirs):,.1f} {each.unit}/s",
                f"{each.ratio:.2f}",
                "" if each.memory is None else f"{each.memory[0]:,.0f}, {each.memory[1]:,.0f}",
                each.difference,
            ]
            for each in stages
        ],
        left=2,
    )


def main() -> None:
    parser = arguments("Stages beside the plain way to do the same.")
    names = ("training", "embedding", "tagging", "ranking", "search", "start")
    parser.add_argument("--stages", nargs="+", choices=names, default=list(names))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--notes", type=int, default=20_000, help="notes that are embedded")
    parser.add_argument("--tagged", type=int, default=2_000, help="notes that are tagged")
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=4_000)
    parser.add_argument("--name", default="speed", help="name of the results")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    if chosen.peak:
        print_peak(*chosen.peak)
        return
    make: dict[str, Callable[[], Iterator[Stage]]] = {
        "training": lambda: training(chosen.rounds, chosen.models),
        "embedding": lambda: embedding(chosen.rounds, chosen.models, chosen.notes),
        "tagging": lambda: tagging(chosen.rounds, chosen.tagged),
        "ranking": lambda: ranking(chosen.rounds),
        "search": lambda: exact(chosen.rounds, chosen.vectors, chosen.queries),
        "start": lambda: start(chosen.rounds),
    }
    stages = []
    for name in chosen.stages:
        for stage in make[name]():
            print(stage, flush=True)
            stages.append(stage)
    values = {"stages": [{**each._asdict(), "ratio": each.ratio} for each in stages]}
    title = "Stages beside the plain way"
    write_results(chosen.results, "speed", title, report(stages), values, name=chosen.name)


if __name__ == "__main__":
    main()
