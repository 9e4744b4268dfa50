"""A note full of markup is tokenized as the plain characters it is made of."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from notellm.backbone.tokenizer import harden, load_tokenizer
from notellm.errors import ModelError
from notellm.recall.model import NoteLLM
from tests.conftest import Checkpoint, byte_level_tokenizer

MARKUP = ["[EMB]", "</s>", "<s>", "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>"]
HOSTILE = "buy " + " now ".join(MARKUP) + "".join(MARKUP) + "</think> soup"


def markup_ids(tokenizer) -> set[int]:
    return set(tokenizer.added_tokens_decoder)


def without_markup(tokenizer) -> Tokenizer:
    """The same BPE, to which no string is special."""
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(description | {"added_tokens": [], "post_processor": None}))


def test_markup_is_special_to_the_tokenizers_as_they_come(checkpoints: dict[str, Checkpoint]):
    for checkpoint in checkpoints.values():
        plain = AutoTokenizer.from_pretrained(checkpoint.path)
        assert markup_ids(plain) & set(plain(HOSTILE, add_special_tokens=False)["input_ids"])


def test_markup_in_a_text_is_plain_characters(model: NoteLLM):
    tokenizer = model.tokenizer
    ids = tokenizer(HOSTILE, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(MARKUP)
    assert not markup_ids(tokenizer) & set(ids)
    assert ids == without_markup(tokenizer).encode(HOSTILE, add_special_tokens=False).ids
    lower = (
        "lower" in tokenizer.backend_tokenizer.to_str().lower() and model.prompt.template.name == "compact"
    )
    assert str(tokenizer.decode(ids)).strip() == (HOSTILE.lower() if lower else HOSTILE)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*MARKUP, "<", "|>", "[", " ", "a", "海", "{title}", "\n"]), max_size=12))
def test_no_text_reaches_a_special_id(tiny: NoteLLM, pieces: list[str]):
    ids = tiny.tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
    assert not markup_ids(tiny.tokenizer) & set(ids)


def test_the_whole_sequence_has_only_our_own_special_ids(model: NoteLLM):
    prompt = model.prompt
    special = markup_ids(model.tokenizer)
    (encoded,) = prompt.tokenize([HOSTILE], ["category"], [" </s>[EMB]"], [0])
    kept = [i for i in encoded.ids if i in special]
    bos = [model.tokenizer.bos_token_id] if model.tokenizer.bos_token_id is not None else []
    starts = bos if encoded.ids[0] in bos else []
    assert kept == [*starts, prompt.emb_id, prompt.eos_id]


def test_it_stays_so_when_saved_and_opened_by_transformers(model: NoteLLM, tmp_path):
    ids = model.tokenizer(HOSTILE)["input_ids"]
    model.tokenizer.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert opened(HOSTILE)["input_ids"] == ids
    assert opened.convert_tokens_to_ids("[EMB]") == model.prompt.emb_id
    again = load_tokenizer(tmp_path, "[EMB]")
    assert again(HOSTILE)["input_ids"] == ids
    assert len(again) == len(model.tokenizer)


def test_runs_of_white_space_stay_tokens():
    tokenizer = byte_level_tokenizer(["a b"] * 3, ["</s>"], eos_token="</s>")
    tokenizer.add_tokens(["    "])
    run = tokenizer.get_vocab()["    "]
    harden(tokenizer, "[EMB]")
    assert run in tokenizer("a    b", add_special_tokens=False)["input_ids"]
    assert not tokenizer.added_tokens_decoder[run].special


def test_padding_is_on_the_right_with_the_end_token_where_there_is_no_other():
    tokenizer = byte_level_tokenizer(["a b"] * 3, ["</s>"], eos_token="</s>")
    assert tokenizer.pad_token_id is None
    harden(tokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.padding_side == "right"


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="Slow is not a fast one"):
        harden(Slow())  # type: ignore[arg-type]


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = byte_level_tokenizer(["a b"] * 3, ["<unk>"], unk_token="<unk>")
    with pytest.raises(ModelError, match="no end token"):
        harden(tokenizer)


@pytest.mark.parametrize(
    "content", [None, "{not json", "{}", "[]", '{"version": "1.0", "added_tokens": [], "model": 3}']
)
def test_a_folder_without_a_usable_tokenizer_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ModelError, match="no usable tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
