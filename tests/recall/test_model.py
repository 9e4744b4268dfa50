"""One forward pass, four architectures, and the same vectors wherever the model is opened."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

import notellm.backbone.base as base_module
import notellm.backbone.batch as batch_module
import notellm.recall.checkpoint as checkpoint_module
from notellm.backbone.batch import pad
from notellm.backbone.load import LoraOptions
from notellm.data.note import Note, notes_from_table
from notellm.errors import ConfigError, DataError, ModelError, StorageError
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import IGNORED
from tests.conftest import ARCHITECTURES, PRETRAINED, SMALL, Checkpoint, agree, fresh

TOLERANCE: Any = {"rtol": 1e-5, "atol": 1e-5}


def training_batch(model: NoteLLM, notes: pa.Table, count: int = 40) -> dict[str, torch.Tensor]:
    """Whole sequences with labels; every third note has nothing to learn."""
    rows = model.prompt.cut(notes_from_table(notes))[:count]
    outputs = [model.prompt.output("category", category="Cooking" if i % 3 else "") for i in range(count)]
    prompts = [model.prompt.render(note) for note in rows]
    encoded = model.prompt.tokenize(prompts, ["category"] * count, outputs, [0] * count)
    batch = pad([item.ids for item in encoded], model.tokenizer)
    batch["position"] = torch.tensor([item.position for item in encoded])
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for i, item in enumerate(encoded):
        labels[i, : len(item.labels)] = torch.tensor(item.labels)
    return batch | {"labels": labels}


# ---------------------------------------------------------------- vectors


def test_vectors_are_finite_unit_and_tell_notes_apart(model: NoteLLM, notes: pa.Table):
    vectors = model.encode(notes)
    assert vectors.shape == (60, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    scores = vectors @ vectors.T
    assert scores[0, 57] == pytest.approx(1, abs=1e-5)  # the same text
    assert np.partition(scores, -3, axis=1)[:, -3].max() < 1 - 1e-5  # no third note is as near


def test_padding_and_batching_do_not_change_a_vector(model: NoteLLM, notes: pa.Table, monkeypatch):
    together = model.encode(notes)
    one_by_one = np.concatenate([model.encode(notes.slice(i, 1)) for i in range(len(notes))])
    lengths = {len(ids) for ids in model.prompt.prompt_ids(model.prompts(notes))}
    assert len(lengths) > 10
    np.testing.assert_allclose(together, one_by_one, **TOLERANCE)
    monkeypatch.setattr(batch_module, "TOKENS_PER_BATCH", 200)
    np.testing.assert_allclose(model.encode(notes), together, **TOLERANCE)


def test_order_of_the_notes_does_not_matter(model: NoteLLM, notes: pa.Table):
    order = np.random.default_rng(0).permutation(len(notes))
    np.testing.assert_allclose(model.encode(notes.take(order)), model.encode(notes)[order], **TOLERANCE)


def test_tables_lists_and_prompts_are_the_same(model: NoteLLM, notes: pa.Table):
    from_table = model.encode(notes)
    np.testing.assert_array_equal(from_table, model.encode(notes_from_table(notes)))
    np.testing.assert_array_equal(from_table, model.encode(model.prompts(notes)))


def test_what_follows_emb_does_not_change_the_vector(model: NoteLLM, notes: pa.Table):
    model.eval()
    with torch.no_grad():
        trained = model(**training_batch(model, notes)).vectors.numpy()
    np.testing.assert_allclose(trained, model.encode(notes)[:40], **TOLERANCE)


def test_the_category_is_never_seen(model: NoteLLM):
    one, two = model.encode([Note("soup", "bread", (), "Cooking"), Note("soup", "bread", (), "Astronomy")])
    np.testing.assert_array_equal(one, two)


def test_the_mode_is_left_as_it_was(tiny: NoteLLM, notes: pa.Table):
    for training in (True, False):
        tiny.train(training)
        tiny.encode(notes.slice(0, 2))
        assert tiny.training is training
        assert tiny.backbone.training is training


def test_no_notes_are_refused(tiny: NoteLLM, notes: pa.Table):
    nothing: Any
    for nothing in ([], notes.slice(0, 0)):
        with pytest.raises(DataError, match="there are no notes"):
            tiny.encode(nothing)


def test_a_lower_precision_backbone_gives_float32_vectors(
    checkpoints: dict[str, Checkpoint], notes: pa.Table
):
    full = fresh("llama", checkpoints, notes)
    half = fresh("llama", checkpoints, notes, dtype=torch.bfloat16)
    assert half.backbone.dtype == torch.bfloat16
    assert half.projection.weight.dtype == torch.float32
    near = (full.encode(notes) * half.encode(notes)).sum(axis=1)
    assert half.encode(notes).dtype == np.float32
    assert near.min() > 0.99


# ---------------------------------------------------------------- the generation loss


def test_the_generation_loss_is_transformers_own(model: NoteLLM, notes: pa.Table):
    model.eval()
    batch = training_batch(model, notes)
    with torch.no_grad():
        output = model(**batch)
        theirs = model.backbone(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
        ).loss
    assert int(output.label_count) == int((batch["labels"] != IGNORED).sum()) > 5
    assert float(output.generation_sum / output.label_count) == pytest.approx(float(theirs), rel=1e-5)


def test_without_labels_there_is_no_generation_loss(tiny: NoteLLM, notes: pa.Table):
    batch = training_batch(tiny, notes)
    empty = batch | {"labels": torch.full_like(batch["labels"], IGNORED)}
    with torch.no_grad():
        for output in (tiny(**empty), tiny(batch["input_ids"], batch["attention_mask"], batch["position"])):
            assert float(output.generation_sum) == 0
            assert float(output.label_count) == 0


# ---------------------------------------------------------------- disk


@pytest.mark.parametrize(
    ("name", "lora"), [*((name, False) for name in ARCHITECTURES), *((name, True) for name in PRETRAINED)]
)
def test_every_way_of_opening_it_gives_the_same_vectors(
    name: str, lora: bool, checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path
):
    model = fresh(name, checkpoints, notes, **({"lora": LoraOptions(rank=4)} if lora else {}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.tau.fill_(2.5)
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    vectors = model.encode(notes)
    if lora:
        assert np.abs(vectors - fresh(name, checkpoints, notes).encode(notes)).max() > 1e-2
    state = {key: weight.clone() for key, weight in model.state_dict().items()}
    trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
    path = tmp_path / "model"
    model.save_pretrained(path, extra={"README.md": "# a model\n"})

    # in memory nothing has changed
    assert all(torch.equal(weight, state[key]) for key, weight in model.state_dict().items())
    assert {key for key, weight in model.named_parameters() if weight.requires_grad} == trained
    assert bool(lora) == all("lora_" in key or "backbone" not in key for key in trained)

    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert {"model.safetensors", "notellm.json", "tokenizer.json", "2_Dense/model.safetensors"} <= files
    assert all(file.endswith((".json", ".safetensors", ".md", ".jinja", ".txt")) for file in files)
    assert (path / "README.md").read_text() == "# a model\n"

    # notellm
    loaded = NoteLLM.from_pretrained(path)
    assert loaded.settings == model.settings
    assert loaded.prompt.template == model.prompt.template
    assert float(loaded.tau.detach()) == pytest.approx(2.5)
    np.testing.assert_allclose(loaded.encode(notes), vectors, **TOLERANCE)

    # transformers alone
    backbone = AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    dense = load_file(path / "2_Dense" / "model.safetensors")
    by_hand = []
    for prompt in model.prompts(notes):
        with torch.no_grad():
            states = backbone(
                **tokenizer(prompt, return_tensors="pt"), output_hidden_states=True
            ).hidden_states
        vector = dense["linear.weight"] @ states[-1][0, -1] + dense["linear.bias"]
        by_hand.append((vector / vector.norm()).numpy())
    np.testing.assert_allclose(np.stack(by_hand), vectors, **TOLERANCE)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sentence_transformers_gives_the_same_vectors(
    name: str, checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path
):
    from sentence_transformers import SentenceTransformer

    model = fresh(name, checkpoints, notes)
    hostile = Note("[EMB] </s> soup <s>", "<pad> <|im_start|> <think> bread <|endoftext|>")
    rows = [*notes_from_table(notes), hostile]
    model.save_pretrained(tmp_path / "model")
    opened = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    theirs = opened.encode(model.prompts(rows), batch_size=16)
    np.testing.assert_allclose(theirs, model.encode(rows), **TOLERANCE)


def test_a_saved_model_can_be_saved_over(tiny: NoteLLM, notes: pa.Table, tmp_path: Path):
    path = tmp_path / "model"
    tiny.save_pretrained(path, extra={"old.md": "old"})
    tiny.save_pretrained(path)
    assert not (path / "old.md").exists()
    np.testing.assert_allclose(NoteLLM.from_pretrained(path).encode(notes), tiny.encode(notes), **TOLERANCE)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_one(tiny: NoteLLM, tmp_path: Path, monkeypatch):
    path = tmp_path / "model"
    tiny.save_pretrained(path)
    before = sorted(file.name for file in path.iterdir())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(StorageError, match="No space left on device"):
        tiny.save_pretrained(path)
    assert sorted(file.name for file in path.iterdir()) == before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_the_lexical_share_is_saved_and_changes_no_fingerprint(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path
):
    model = fresh("llama", checkpoints, notes)
    before = model.fingerprint()
    model.lexical_share = 0.6
    model.save_pretrained(tmp_path / "model")
    opened = NoteLLM.from_saved(tmp_path / "model")
    assert opened.lexical_share == 0.6
    assert opened.verified_fingerprint() == before


def test_options_may_differ_from_the_saved_ones(tiny: NoteLLM, tmp_path: Path):
    tiny.save_pretrained(tmp_path / "model")
    other = NoteLLM.from_pretrained(tmp_path / "model", content_tokens=5, template="english")
    assert other.settings.content_tokens == 5
    assert other.settings.title_tokens == tiny.settings.title_tokens
    assert other.prompt.template.name == "english"


def test_ones_own_template_travels_with_the_model(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path
):
    task = {"prompt": "{title} / {content} in a word:", "guidance": " is", "output": " {category}"}
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"category": task, "topics": task | {"output": " {topics}"}}))
    model = fresh("llama", checkpoints, notes, template=str(mine))
    model.save_pretrained(tmp_path / "model")
    mine.unlink()
    opened = NoteLLM.from_pretrained(tmp_path / "model")
    assert opened.prompts([Note("a", "b")]) == ["a / b in a word:"]
    np.testing.assert_allclose(opened.encode(notes), model.encode(notes), **TOLERANCE)


# ---------------------------------------------------------------- errors


@pytest.fixture(scope="module")
def saved(tiny: NoteLLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    tiny.save_pretrained(path)
    return path


def edit(path: Path, name: str = "notellm.json", **changes) -> None:
    value = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(value | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "notellm.json").write_text("{"), r"notellm\.json is not valid JSON"),
        (lambda p: (p / "notellm.json").write_text("[1]"), r"notellm\.json is not a JSON object"),
        (lambda p: edit(p, config=3), "is not a NoteLLM configuration"),
        (lambda p: edit(p, tau="warm"), "is not a NoteLLM configuration"),
        (lambda p: edit(p, lexical_share=1.5), "lexical_share is 1.5; it must be a number from 0 to 1"),
        (lambda p: edit(p, lexical_share="half"), "lexical_share is 'half'; it must be a number from 0 to 1"),
        (lambda p: edit(p, lexical_share=float("nan")), "lexical_share is nan; it must be a number from 0"),
        (lambda p: edit(p, tau=float("nan")), "is not a NoteLLM configuration"),
        (lambda p: edit(p, config={"dim": 16, "future": 1}), "unknown field 'future'"),
        (lambda p: edit(p, config={"dim": 16, "max_length": "long"}), "max_length is 'long' and must be"),
        (lambda p: edit(p, config={"dim": 16, "categories": [1]}), "categories is .* a list of texts"),
        (lambda p: edit(p, config={"dim": 16, "title_tokens": 0}), r"notellm\.json: title_tokens is 0"),
        (lambda p: edit(p, template={}), r"notellm\.json: .*category must be an object"),
        (lambda p: edit(p, config={"dim": 8}), r"projection of .* is \(16, 32\)"),
        (lambda p: (p / "2_Dense" / "model.safetensors").unlink(), "lacks its projection"),
        (lambda p: (p / "2_Dense" / "model.safetensors").write_bytes(b"x"), "lacks its projection"),
        (
            lambda p: save_file({"other": torch.zeros(2)}, p / "2_Dense" / "model.safetensors"),
            "lacks its projection",
        ),
        (lambda p: (p / "model.safetensors").write_bytes(b"x" * 50), "no causal language model"),
        (lambda p: (p / "config.json").unlink(), "is not a model directory"),
        (lambda p: (p / "tokenizer.json").write_text("{"), "no usable tokenizer"),
        (lambda p: edit(p, "config.json", num_hidden_layers=1), r"no place for model\.layers\.1"),
        (lambda p: edit(p, "config.json", num_hidden_layers=3), r"its weights lack model\.layers\.2"),
    ],
)
def test_a_damaged_directory(saved: Path, tmp_path: Path, damage, message: str):
    path = tmp_path / "model"
    shutil.copytree(saved, path)
    damage(path)
    agree(path)  # so that it is told by its content, not by its digest
    with pytest.raises(ModelError, match=message) as caught:
        NoteLLM.from_pretrained(path)
    assert "\n" not in str(caught.value)


def test_only_what_was_saved_is_opened_as_saved(
    saved: Path, tiny: NoteLLM, checkpoints: dict[str, Checkpoint], tmp_path: Path
):
    assert NoteLLM.from_saved(saved).verified_fingerprint() == tiny.fingerprint()
    path = tmp_path / "model"
    shutil.copytree(saved, path)
    (path / "notellm.json").unlink()
    for other in (path, checkpoints["llama"].path, "owner/model"):
        with pytest.raises(ModelError, match=r"is not a saved NoteLLM: there is no notellm\.json"):
            NoteLLM.from_saved(other)
    # Nor does a copy without its settings pass for a backbone, with a projection of random numbers.
    with pytest.raises(ModelError, match=r"lacks notellm\.json, but its other files are those of a saved"):
        NoteLLM.from_pretrained(path)


# ---------------------------------------------------------------- the fingerprint


@pytest.mark.parametrize(
    ("name", "lora"), [*((name, False) for name in ARCHITECTURES), *((name, True) for name in PRETRAINED)]
)
def test_a_saved_model_has_its_fingerprint_again(
    name: str, lora: bool, checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path
):
    model = fresh(name, checkpoints, notes, **({"lora": LoraOptions(rank=4)} if lora else {}))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.normal_(std=0.3)
    model.encode(notes)  # a tokenizer keeps how it was called last
    before = model.fingerprint()
    model.save_pretrained(tmp_path / "one")
    opened = NoteLLM.from_saved(tmp_path / "one")
    assert opened.verified_fingerprint() == opened.saved_fingerprint == before == model.fingerprint()
    opened.save_pretrained(tmp_path / "two")
    assert NoteLLM.from_saved(tmp_path / "two").verified_fingerprint() == before


def lower_case(tokenizer) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", lambda m: setattr(m.backbone.config, "rms_norm_eps", 0.1)),
        ("llama", lambda m: m.backbone.config.rope_parameters.update(rope_theta=100.0)),
        ("neox", lambda m: setattr(m.backbone.config, "layer_norm_eps", 0.1)),
        ("neox", lambda m: setattr(m.backbone.config, "use_parallel_residual", False)),
        ("qwen2", lambda m: setattr(m.backbone.config, "hidden_act", "relu")),
        ("tiny", lambda m: setattr(m.backbone.config, "hidden_act", "relu")),
        ("tiny", lambda m: lower_case(m.tokenizer)),
        ("llama", lambda m: m.tokenizer.add_tokens(["soup"])),
        ("llama", lambda m: setattr(m.tokenizer.backend_tokenizer, "post_processor", None)),
        ("llama", lambda m: m.projection.bias.data.add_(1)),
        ("llama", lambda m: m.backbone.lm_head.weight.data[0].add_(1)),
    ],
)
def test_whatever_changes_a_vector_changes_the_fingerprint(
    name: str, change, checkpoints: dict[str, Checkpoint], notes: pa.Table
):
    model = fresh(name, checkpoints, notes)
    before = model.fingerprint()
    change(model)
    assert model.fingerprint() != before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.backbone.config, "transformers_version", "9.9.9"),
        lambda m: setattr(m.backbone.config, "_name_or_path", "elsewhere"),
        lambda m: setattr(m.backbone.config, "use_cache", False),
        lambda m: m.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2),
        lambda m: m.to(torch.float64),
    ],
)
def test_what_changes_no_vector_does_not(change, checkpoints: dict[str, Checkpoint], notes: pa.Table):
    model = fresh("llama", checkpoints, notes)
    before = model.fingerprint()
    change(model)
    assert model.fingerprint() == before


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "2_Dense/model.safetensors"])
def test_files_of_another_model_are_noticed(saved: Path, tiny: NoteLLM, tmp_path: Path, file: str):
    """By their digest; and where that agrees, by the fingerprint."""
    other = tmp_path / "other"
    shutil.copytree(saved, other)
    if file == "config.json":
        config = json.loads((other / file).read_text())
        (other / file).write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    elif file == "tokenizer.json":
        tokenizer = json.loads((other / file).read_text())
        (other / file).write_text(json.dumps(tokenizer | {"normalizer": {"type": "NFD"}}))
    else:
        weights = load_file(other / file)
        save_file(
            {"linear.weight": weights["linear.weight"].flip(0), "linear.bias": weights["linear.bias"]},
            other / file,
        )
    with pytest.raises(ModelError, match=rf"{file} is damaged, or is not the file that was saved"):
        NoteLLM.from_saved(other)
    agree(other)
    opened = NoteLLM.from_saved(other)
    assert opened.saved_fingerprint == tiny.fingerprint()
    with pytest.raises(ModelError, match=rf"notellm\.json belongs to the model {tiny.fingerprint()}, but"):
        opened.verified_fingerprint()


def test_large_weights_are_left_to_the_fingerprint(tiny: NoteLLM, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(base_module, "DIGESTED_BYTES", 20_000)
    path = tmp_path / "model"
    tiny.save_pretrained(path)
    assert NoteLLM.from_saved(path).verified_fingerprint() == tiny.fingerprint()
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (path / "model.safetensors").write_bytes(content)
    opened = NoteLLM.from_saved(path)  # nobody waits for the digest of gigabytes
    with pytest.raises(ModelError, match="belongs to the model"):
        opened.verified_fingerprint()
    (path / "model.safetensors").write_bytes(content[:-3])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        NoteLLM.from_saved(path)


def test_a_model_opened_in_another_way_has_no_fingerprint_to_compare(
    saved: Path, tiny: NoteLLM, tmp_path: Path
):
    assert NoteLLM.from_pretrained(saved).saved_fingerprint == tiny.fingerprint()
    assert NoteLLM.from_pretrained(saved, content_tokens=5).saved_fingerprint is None
    narrow = NoteLLM.from_saved(saved, dtype=torch.bfloat16)
    assert narrow.saved_fingerprint is None
    assert narrow.verified_fingerprint() == narrow.fingerprint() != tiny.fingerprint()
    narrow.save_pretrained(tmp_path / "narrow")  # its weights are bfloat16 now, which float32 holds exactly
    assert NoteLLM.from_saved(tmp_path / "narrow").verified_fingerprint() == narrow.fingerprint()
    assert tiny.saved_fingerprint is None


# ---------------------------------------------------------------- options


def test_wrong_options(saved: Path, notes: pa.Table):
    with pytest.raises(ConfigError, match="unknown option 'width'; NoteLLM knows dim"):
        NoteLLM.from_pretrained(saved, width=3)
    with pytest.raises(ConfigError, match="unknown option 'width'"):
        NoteLLM.from_corpus(notes, tiny=SMALL, width=3)
    with pytest.raises(ConfigError, match=r"dim is 8, but the model saved at .* has 16"):
        NoteLLM.from_pretrained(saved, dim=8)
    with pytest.raises(ConfigError, match="dim is 0; it must be a whole number of at least 1"):
        NoteLLM.from_corpus(notes, tiny=SMALL, dim=0)
    with pytest.raises(ConfigError, match="no template 'klingon'"):
        NoteLLM.from_corpus(notes, tiny=SMALL, template="klingon")


def test_the_longest_sequence_is_the_backbones(checkpoints: dict[str, Checkpoint], notes: pa.Table):
    assert fresh("neox", checkpoints, notes, max_length=4_000).settings.max_length == 512
