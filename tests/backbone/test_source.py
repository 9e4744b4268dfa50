"""A model's files: where they are looked for, and what is refused before it is opened."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from notellm.backbone import source
from notellm.backbone.load import load_backbone
from notellm.backbone.tokenizer import load_tokenizer
from notellm.errors import ModelError
from notellm.rank.model import BinLLM
from notellm.recall.model import NoteLLM
from tests.conftest import Checkpoint
from tests.rank.small import TEMPLATE

#: Python code of a model folder: it leaves a mark where it was imported, then is a plain Llama.
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({mark!r}).write_text("ran")
class OwnConfig(LlamaConfig):
    model_type = "own-architecture"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def folder(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> Path:
    """A copy of the small Llama, to be changed."""
    path = tmp_path / "model"
    shutil.copytree(checkpoints["llama"].path, path)
    return path


def edit(path: Path, **changes) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | changes))


def refusal(path: str | Path, **options) -> str:
    """The one line by which every way of opening a backbone refuses it."""
    lines = set()
    for way in (load_backbone, NoteLLM.from_pretrained, BinLLM.from_pretrained):
        with pytest.raises(ModelError) as caught:
            way(path, **options)
        lines.add(str(caught.value))
    (line,) = lines
    assert "\n" not in line
    return line


# ---------------------------------------------------------------- code


@pytest.fixture
def with_code(folder: Path, tmp_path: Path) -> Path:
    """A model of an architecture that only its own code knows; ``ran`` appears when the code does."""
    (folder / "own.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    edit(folder / "config.json", model_type="own-architecture", auto_map=classes)
    return folder


def test_a_models_code_does_not_run(with_code: Path, tmp_path: Path):
    line = refusal(with_code)
    assert line.endswith("with notellm --trust-remote-code (in Python: trust_remote_code=True)")
    assert "auto_map in config.json" in line
    assert not (tmp_path / "ran").exists()


def test_a_tokenizers_code_does_not_run(folder: Path, tmp_path: Path):
    (folder / "own.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
        tokenizer_class="OwnTokenizer",
    )
    assert "auto_map in tokenizer_config.json" in refusal(folder)
    with pytest.raises(ModelError, match="trust_remote_code=True"):
        load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["y\n" * 9, ""])
def test_nobody_is_asked_whether_code_may_run(
    with_code: Path, checkpoints: dict[str, Checkpoint], tmp_path: Path, answer: str
):
    """As `echo y | notellm ...`: what comes on standard input is not taken for consent, nor waited for."""
    other = tmp_path / "tokenizer"
    shutil.copytree(checkpoints["llama"].path, other)
    shutil.copy(with_code / "own.py", other)
    edit(
        other / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
        tokenizer_class="OwnTokenizer",
    )
    program = (
        "import sys\nfrom notellm.backbone.load import load_backbone\n"
        "from notellm.backbone.tokenizer import load_tokenizer\n"
        "from notellm.errors import ModelError\n"
        "for way, path in ((load_backbone, 1), (load_backbone, 2), (load_tokenizer, 2)):\n"
        "    try: way(sys.argv[path])\n"
        "    except ModelError as error: print('refused', 'trust_remote_code=True' in str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(with_code), str(other)],
        input=answer,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.split() == ["refused", "True"] * 3, done.stderr
    assert not (tmp_path / "ran").exists()


def test_code_runs_where_it_is_allowed(with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    ids = torch.tensor([[5, 6, 7]])
    model, _ = load_backbone(with_code, trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert (tmp_path / "ran").exists()
    note_model = NoteLLM.from_pretrained(with_code, trust_remote_code=True, dim=4)
    with torch.no_grad():
        torch.testing.assert_close(note_model.backbone(ids).logits[..., :50], model(ids).logits[..., :50])
    wording = tmp_path / "wording.json"
    wording.write_text(json.dumps(TEMPLATE))
    rank_model = BinLLM.from_pretrained(with_code, trust_remote_code=True, template=str(wording))
    assert type(rank_model.backbone).__name__ == "OwnModel"


def test_code_beside_an_architecture_that_transformers_knows_is_left_alone(folder: Path, tmp_path: Path):
    (folder / "own.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "own.OwnModel"})
    model, _ = load_backbone(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_attention_kernels_of_the_hub_are_code(folder: Path, key: str):
    edit(folder / "config.json", **{key: "somebody/kernel"})
    assert f"asks for code from the hub ({key} is 'somebody/kernel')" in refusal(folder)
    edit(folder / "config.json", **{key: "eager"})
    load_backbone(folder)


# ---------------------------------------------------------------- weights


class Boom:
    """A pickle that writes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pth", "pytorch_model.bin.index.json"]
)
def test_weights_that_are_pickles_are_refused_with_the_way_out(folder: Path, tmp_path: Path, name: str):
    (folder / "model.safetensors").unlink()
    pickled = pickle.dumps({"weight": Boom(tmp_path / "ran")})
    if name.endswith(".json"):
        (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": {"a": "pytorch_model-1.bin"}}))
        (folder / "pytorch_model-1.bin").write_bytes(pickled)
    else:
        (folder / name).write_bytes(pickled)
    line = refusal(folder)
    assert "only safetensors are opened" in line
    assert "save_pretrained(NEW_FOLDER)" in line
    assert not (tmp_path / "ran").exists()


def test_the_way_out_works(folder: Path, tmp_path: Path):
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    new = tmp_path / "new"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new)
    load_tokenizer(folder).save_pretrained(new)
    model, _ = load_backbone(new)
    assert torch.equal(model.state_dict()["lm_head.weight"], weights["lm_head.weight"])


def test_a_pickle_beside_safetensors_is_not_opened(folder: Path, tmp_path: Path):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Boom(tmp_path / "ran")))
    load_backbone(folder)
    assert not (tmp_path / "ran").exists()


def shard(folder: Path, names: dict[str, str] | None = None) -> dict[str, torch.Tensor]:
    """Split the weights in two files and an index; ``names`` are other names in the index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {key: f"model-{1 + i % 2}.safetensors" for i, key in enumerate(weights)}
    for file in set(files.values()):
        save_file(
            {key: weights[key] for key in weights if files[key] == file}, folder / file, {"format": "pt"}
        )
    mapped = {key: (names or {}).get(file, file) for key, file in files.items()}
    index = {"metadata": {"total_size": 1}, "weight_map": mapped}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights


def test_sharded_safetensors_are_opened(folder: Path):
    weights = shard(folder)
    model, _ = load_backbone(folder)
    assert torch.equal(model.state_dict()["lm_head.weight"], weights["lm_head.weight"])


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/outside.safetensors", "sub/a.safetensors", "a.bin"]
)
def test_shards_outside_of_the_folder_are_refused_before_anything_is_opened(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "outside.safetensors" if name.startswith("/") else folder / name
    shard(folder, {"model-2.safetensors": str(target) if name.startswith("/") else name})
    target.parent.mkdir(exist_ok=True)
    shutil.move(folder / "model-2.safetensors", target)  # all of the weights are there to be read

    def opened(*_, **__):
        pytest.fail("the weights were opened")

    monkeypatch.setattr("transformers.modeling_utils.safe_open", opened)
    assert "only files of the model's own folder that end in .safetensors are opened" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "is not a JSON object"),
        ("{}", "is not an index of weights"),
        ('{"weight_map": {"a": 3}}', "a file name in weight_map is not a text"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "lacks gone.safetensors"),
        ("{", "is not valid JSON"),
    ],
)
def test_what_is_no_index_of_shards(folder: Path, content: str, says: str):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    assert says in refusal(folder)


@pytest.mark.parametrize("where", ["config", "text_config"])
def test_weights_named_by_the_configuration_stay_in_the_folder(folder: Path, tmp_path: Path, where: str):
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    for name in ("../outside.safetensors", "adapter_model.bin"):
        change = {"transformers_weights": name}
        edit(folder / "config.json", **(change if where == "config" else {"text_config": change}))
        assert f"names the file {name!r}" in refusal(folder)


def test_other_files_that_json_names_stay_in_the_folder(folder: Path):
    edit(folder / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.4.0.json"])
    assert "names the file '../tokenizer.4.0.json'" in refusal(folder)
    edit(folder / "tokenizer_config.json", fast_tokenizer_files=[])
    edit(folder / "config.json", configuration_files=["config.4.0.json"])
    assert "names other configuration files" in refusal(folder)


def test_an_adapter_is_no_backbone(folder: Path):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/model"}))
    assert "merge it into its backbone" in refusal(folder)


def test_a_distributed_checkpoint_is_refused(folder: Path):
    shutil.copy(folder / "model.safetensors", folder / "shard-00000-model-00001-of-00001.safetensors")
    assert "distributed checkpoint" in refusal(folder)


@pytest.mark.parametrize("change", ["more layers", "lost weights"])
def test_weights_that_are_not_there_are_not_made_up(folder: Path, change: str):
    if change == "more layers":
        edit(folder / "config.json", num_hidden_layers=3)
    else:
        weights = load_file(folder / "model.safetensors")
        del weights["model.norm.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "its weights lack model." in refusal(folder)


# ---------------------------------------------------------------- names and paths


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that the hub is asked for."""
    names: list[str] = []

    def ask(name: str, **_):
        names.append(name)
        raise OSError("no such repository")

    monkeypatch.setattr(source, "snapshot_download", ask)
    return names


@pytest.mark.parametrize(
    "name",
    [
        "./model",
        "../model",
        "/no/such/model",
        "~/model",
        "a/b/model",
        "models/",
        "model\\new",
        "",
        ".",
        "a" * 300,
    ],
)
def test_a_path_is_never_asked_for_on_the_hub(
    asked: list[str], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    line = refusal(name)
    assert "no model folder" in line or "is not a model directory" in line or "cannot open" in line
    assert asked == []


def test_a_folder_or_file_of_that_name_is_not_asked_for_either(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    assert "owner/model is not a model directory: it has no config.json" in refusal("owner/model")
    assert "file is a file" in refusal("file")
    assert asked == []


def test_a_name_of_the_hub_is_asked_for(asked: list[str]):
    assert "no causal language model at owner/model: no such repository" in refusal("owner/model")
    assert set(asked) == {"owner/model"}


def test_a_saved_model_is_opened_without_the_hub(
    tiny: NoteLLM, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny.save_pretrained(tmp_path / "model")
    seen = []
    real = AutoConfig.from_pretrained

    def spy(*args, **options):
        seen.append(options["local_files_only"])
        return real(*args, **options)

    monkeypatch.setattr(AutoConfig, "from_pretrained", spy)
    NoteLLM.from_saved(tmp_path / "model", trust_remote_code=True)
    assert seen[-1] is True
    assert asked == []


def test_the_hubs_cache_of_symbolic_links_is_opened(
    checkpoints: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As huggingface_hub leaves it: a snapshot of links into a folder of blobs."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--model"
    snapshot, blobs, refs = repository / "snapshots" / commit, repository / "blobs", repository / "refs"
    for made in (snapshot, blobs, refs):
        made.mkdir(parents=True)
    (refs / "main").write_text(commit)
    for number, file in enumerate(checkpoints["llama"].path.iterdir()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(blobs / str(number))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    plain, _ = load_backbone(checkpoints["llama"].path)
    for name in ("owner/model", snapshot):
        model, tokenizer = load_backbone(name)
        assert torch.equal(model.state_dict()["lm_head.weight"], plain.state_dict()["lm_head.weight"])
        assert tokenizer.eos_token == "</s>"


def test_what_is_downloaded_is_checked_before_the_weights_are(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The second download names what an index names; an index that points outside ends it."""
    shard(folder, {"model-2.safetensors": "../outside.safetensors"})
    patterns = []

    def give(name: str, *, allow_patterns: list[str], **_):  # noqa: ARG001 - as the hub's
        patterns.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(source, "snapshot_download", give)
    with pytest.raises(ModelError, match="own folder"):
        load_backbone("owner/model")
    assert len(patterns) == 1
    assert not any("py" in pattern or "safetensors" in pattern for pattern in patterns[0])
