"""Small fixtures that the tests of backbone and recall share: notes with themes, tiny checkpoints."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gc
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from notellm.artifacts.manifest import MANIFEST, write_manifest
from notellm.data.schema import NOTES, PAIRS
from notellm.recall.model import NoteLLM
from notellm.recall.tiny import TinyOptions

# A busy machine is no failure: tests assert no timings, and neither does Hypothesis.
settings.register_profile("notellm", deadline=None)
settings.load_profile("notellm")


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over the modules; trainers collect the whole heap again and again."""
    gc.collect()
    gc.freeze()


THEMES = {
    "Cooking": [
        "soup",
        "bread",
        "garlic",
        "oven",
        "butter",
        "pasta",
        "salad",
        "onion",
        "recipe",
        "kitchen",
        "pepper",
        "flour",
        "noodle",
    ],
    "Astronomy": [
        "star",
        "planet",
        "orbit",
        "comet",
        "galaxy",
        "moon",
        "telescope",
        "nebula",
        "rocket",
        "eclipse",
        "meteor",
        "saturn",
    ],
    "旅行": ["海滩", "机票", "酒店", "攻略", "古镇", "雪山", "民宿", "自驾", "背包", "日出", "火车", "签证"],
}
FILLER = ["today", "my", "best", "very", "good", "how", "to", "make", "the", "one", "thing", "about"]
NOTE_COUNT = 60


@dataclass(frozen=True)
class Checkpoint:
    """A saved causal language model of some architecture."""

    name: str
    path: Path


@pytest.fixture
def real_data():
    """A function from a dataset's name to its folder, which skips where there is none.

    The datasets lie in NOTELLM_DATA, else in ../shared/data beside the project.
    """
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("NOTELLM_DATA") or beside)

    def folder(name):
        if not (root / name).is_dir():
            pytest.skip(f"no real data at {root / name}; set NOTELLM_DATA")
        return root / name

    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def notes() -> pa.Table:
    """60 notes in three themes, one of them Chinese; lengths differ, two notes have the same text."""
    rng = random.Random(7)
    rows = []
    for i in range(NOTE_COUNT):
        category = list(THEMES)[i % 3]
        words = THEMES[category]
        glue = "" if category == "旅行" else " "
        title = glue.join(rng.sample(words, 2 + i % 3))
        content = [rng.choice(words) if rng.random() < 0.6 else rng.choice(FILLER) for _ in range(3 + i % 17)]
        rows.append(
            {
                "note_id": f"n{i}",
                "title": title,
                "content": glue.join(content),
                "topics": rng.sample(words, i % 4),
                "category": category if i % 10 else "",
                "published_at": None,
            }
        )
    rows[57] |= {key: rows[0][key] for key in ("title", "content", "topics")}
    return pa.Table.from_pylist(rows, schema=NOTES)


@pytest.fixture(scope="session")
def pairs() -> pa.Table:
    """75 related pairs: each note with the next one of its theme, some both ways."""
    rows = []
    for i in range(NOTE_COUNT):
        rows.append({"source": f"n{i}", "target": f"n{(i + 3) % NOTE_COUNT}", "score": 1.0, "users": 3})
        if i % 4 == 1:
            rows.append({"source": f"n{(i + 3) % NOTE_COUNT}", "target": f"n{i}", "score": 0.5, "users": 2})
    return pa.Table.from_pylist(rows, schema=PAIRS)


def byte_level_tokenizer(texts: list[str], special: list[str], **names: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE as pretrained models have one; with a bos_token it is put in front."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if "bos_token" in names:
        bos = names["bos_token"]
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, bpe.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


@pytest.fixture(scope="session")
def checkpoints(notes: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """A random Llama, Qwen2 (tied embeddings, markup token) and GPT-NeoX (no padding token), on disk."""
    texts = [*notes.column("title").to_pylist(), *notes.column("content").to_pylist()]
    texts += ["Extract the note information in json format, compress it into one word 'title' 'topic'"] * 3
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    found = {}
    for name in ("llama", "qwen2", "neox"):
        torch.manual_seed(len(name))
        model: PreTrainedModel
        if name == "llama":
            tokenizer = byte_level_tokenizer(
                texts, ["<unk>", "<s>", "</s>"], bos_token="<s>", eos_token="</s>", unk_token="<unk>"
            )
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=len(tokenizer),
                    **shape,
                    num_key_value_heads=2,
                    bos_token_id=1,
                    eos_token_id=2,
                    pad_token_id=None,
                )
            )
        elif name == "qwen2":
            tokenizer = byte_level_tokenizer(
                texts,
                ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                eos_token="<|im_end|>",
                pad_token="<|endoftext|>",
            )
            tokenizer.add_tokens(["<think>", "</think>"])  # markup, but not declared special, as in Qwen3
            model = Qwen2ForCausalLM(
                Qwen2Config(
                    vocab_size=len(tokenizer) + 13,  # padded, as the published checkpoints are
                    **shape,
                    num_key_value_heads=2,
                    tie_word_embeddings=True,
                    bos_token_id=None,
                    eos_token_id=2,
                    pad_token_id=0,
                )
            )
        else:
            tokenizer = byte_level_tokenizer(
                texts, ["<|endoftext|>"], eos_token="<|endoftext|>", unk_token="<|endoftext|>"
            )
            model = GPTNeoXForCausalLM(
                GPTNeoXConfig(
                    vocab_size=len(tokenizer),
                    **shape,
                    max_position_embeddings=512,
                    bos_token_id=0,
                    eos_token_id=0,
                )
            )
        # Random weights of the usual 0.02 make all vectors nearly alike; larger ones tell notes apart.
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.mul_(5)
        path = tmp_path_factory.mktemp("checkpoint") / name
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        found[name] = Checkpoint(name, path)
    return found


def agree(folder: Path) -> None:
    """Let the manifests of a folder, the inner ones first, say that all files are as they were written."""
    for manifest in sorted(folder.rglob(MANIFEST), reverse=True):
        kind = json.loads(manifest.read_text())["kind"]
        manifest.unlink()
        write_manifest(manifest.parent, kind)


SMALL = TinyOptions(vocabulary=700, hidden=32, layers=2, heads=4, intermediate=48)


def fresh(name: str, checkpoints: dict[str, Checkpoint], notes: pa.Table, **options) -> NoteLLM:
    """A new NoteLLM: "tiny" from the notes, the others from their checkpoints; the same at every call."""
    torch.manual_seed(11)
    if name == "tiny":
        return NoteLLM.from_corpus(notes, tiny=SMALL, **{"dim": 16, **options})
    return NoteLLM.from_pretrained(checkpoints[name].path, **{"dim": 16, **options})


PRETRAINED = ("llama", "qwen2", "neox")
ARCHITECTURES = (*PRETRAINED, "tiny")


@pytest.fixture(scope="session", params=ARCHITECTURES)
def model(
    request: pytest.FixtureRequest, checkpoints: dict[str, Checkpoint], notes: pa.Table
) -> Iterator[NoteLLM]:
    """One model of each architecture, not to be changed by a test."""
    built = fresh(request.param, checkpoints, notes)
    before = {name: weight.clone() for name, weight in built.state_dict().items()}
    yield built
    after = built.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture(scope="session")
def tiny(checkpoints: dict[str, Checkpoint], notes: pa.Table) -> NoteLLM:
    """The corpus-initialised model, not to be changed by a test."""
    return fresh("tiny", checkpoints, notes)
