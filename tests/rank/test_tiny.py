"""The tiny ranking backbone compares codes and texts before any training."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import LlamaForCausalLM

from notellm.backbone.batch import length_batches
from notellm.backbone.load import hidden_states
from notellm.data.note import Note
from notellm.errors import ConfigError, DataError
from notellm.rank import tiny as tiny_rank
from notellm.rank.model import BinLLM, Question
from notellm.rank.tiny import TinyRankOptions

BITS = 32
SIZE = TinyRankOptions(vocabulary=1100, width=30, heads=4, head=32, intermediate=64)
KINDS = {kind: [f"{kind}{a}{b}" for a in "aeiou" for b in "klmn"] for kind in ("cat", "dog", "car")}


@pytest.fixture(scope="module")
def notes():
    """90 notes of three kinds, each of its own words; some titles hold what the prompt is made of."""
    draw = np.random.default_rng(0)
    odd = ["101 Dalmatians", "1 = 1 =", "a ⇒ b ⇒", "x \x02 y", "10101010", "(2001) , , \x03", "2010 ⇒"]
    found = []
    for i in range(90):
        words = draw.choice(KINDS[list(KINDS)[i % 3]], 3, replace=False).tolist()
        extra = [odd[i // 3 % len(odd)]] if i % 4 == 0 else []
        found.append(Note(" ".join([*words, *extra]), topics=("yes",) if i % 5 else ()))
    return found


@pytest.fixture(scope="module")
def table(notes):
    """The notes as a table."""
    return pa.table(
        {
            "note_id": [f"n{i}" for i in range(len(notes))],
            "title": [note.title for note in notes],
            "topics": pa.array([list(note.topics) for note in notes], pa.list_(pa.string())),
        }
    )


@pytest.fixture(scope="module")
def liked():
    """Who likes cats likes dogs; who likes cars likes nothing else."""
    kind = np.arange(90) % 3
    draw = np.random.default_rng(1)
    users = [(kind == 2 if u % 2 else kind < 2) & (draw.random(90) < 0.4) for u in range(40)]
    pairs = [(f"u{u}", f"n{i}", True) for u, likes in enumerate(users) for i in np.flatnonzero(likes)]
    user_ids, note_ids, labels = zip(*pairs, strict=True)
    return pa.table({"user_id": user_ids, "note_id": note_ids, "label": labels})


@pytest.fixture(scope="module")
def model(table, liked):
    return BinLLM.from_corpus(table, liked, bits=BITS, tiny=SIZE).eval()


@torch.inference_mode()
def last_states(model, questions):
    ids = model.tokenize(questions)
    states = np.empty((len(ids), model.config.hidden_size), np.float32)
    for rows, batch in length_batches(ids, model.tokenizer, model.device):
        found = hidden_states(model.backbone, batch["input_ids"], batch["attention_mask"])
        states[rows] = found[torch.arange(len(rows)), batch["position"]].numpy()
    return states


def asked(model, notes, count, seed=0, histories=range(13)):
    """Questions with random codes, and the inner products of these."""
    draw = np.random.default_rng(seed)
    users = draw.random((count, BITS)) < 0.5
    items = users ^ (draw.random((count, BITS)) < draw.random((count, 1)))
    cut = model.prompt.cut(notes)
    sizes = draw.choice(list(histories), count)
    questions = [
        Question([cut[i] for i in draw.integers(len(cut), size=size)], cut[draw.integers(len(cut))], u, v)
        for size, u, v in zip(sizes, model.code_texts(users), model.code_texts(items), strict=True)
    ]
    return questions, BITS - 2 * (users != items).sum(1)


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize("histories", [range(13), [0], [1], [10]], ids=["any", "none", "one", "long"])
def test_the_agreement_channel_is_the_inner_product_of_the_codes(model, notes, histories):
    questions, products = asked(model, notes, 250, histories=histories)
    assert products.min() < -8
    assert products.max() > 24
    channel = last_states(model, questions)[:, tiny_rank._AGREEMENT]
    assert correlation(channel, products) > 0.995
    slopes = channel[np.abs(products) > 7] / products[np.abs(products) > 7]
    assert slopes.min() > 0.75 * np.median(slopes)
    assert slopes.max() < 1.3 * np.median(slopes)


def test_titles_of_the_prompts_own_signs_change_nothing(model):
    odd = [
        "=",
        "⇒",
        "a ⇒ b = c |",
        "0110 = 1",
        "| ⇒ =",
        "11111111 ⇒ 00000000",
        "①⓪①⓪①⓪①⓪",
        "",
        "💥 \x02 \x03",
    ]
    questions, products = asked(model, [Note(f"catak {text}") for text in odd], 200, seed=3)
    channel = last_states(model, questions)[:, tiny_rank._AGREEMENT]
    assert correlation(channel, products) > 0.99


def test_random_weights_know_nothing_of_it(model, notes):
    torch.manual_seed(0)
    random = BinLLM(LlamaForCausalLM(model.config), model.tokenizer, model.settings).eval()
    questions, products = asked(model, notes, 150)
    states = last_states(random, questions)
    assert np.abs([correlation(channel, products) for channel in states.T]).max() < 0.6


def test_texts_that_the_same_people_like_agree(notes, table, liked):
    """A history of cats goes with dogs, which no note names beside a cat, and not with cars.

    All directions of the token vectors count alike, so there must be few for the likes to be among them.
    """
    model = BinLLM.from_corpus(table, liked, bits=BITS, tiny=replace(SIZE, width=4)).eval()
    cut = model.prompt.cut(notes)
    draw = np.random.default_rng(2)
    channels = {}
    for candidate in range(3):
        picks = draw.choice(np.arange(candidate, 90, 3), 30)
        histories = [[cut[i] for i in draw.choice(np.arange(0, 90, 3), 5)] for _ in picks]
        questions = [Question(h, cut[i]) for h, i in zip(histories, picks, strict=True)]
        channels[candidate] = last_states(model, questions)[:, tiny_rank._TEXTS]
    for near in (0, 1):
        above = channels[near][:, None] > channels[2][None]
        assert above.mean() > 0.75  # 0.5 by chance
    assert np.std(channels[2]) > 0


def test_an_empty_history_says_nothing_of_texts(model, notes):
    questions, _ = asked(model, notes, 20, histories=[0])
    for some in (questions, [Question([], q.note) for q in questions]):
        np.testing.assert_allclose(last_states(model, some)[:, tiny_rank._TEXTS], 0, atol=1e-3)
    known, _ = asked(model, notes, 20, histories=[3])
    assert np.abs(last_states(model, known)[:, tiny_rank._TEXTS]).mean() > 0.01


def test_it_is_the_same_for_one_seed(table, liked, model):
    weights = model.state_dict()
    again = BinLLM.from_corpus(table, liked, bits=BITS, tiny=SIZE).state_dict()
    other = BinLLM.from_corpus(table, liked, bits=BITS, tiny=SIZE, seed=1).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in weights.items())


def test_a_wording_whose_codes_stand_apart_by_the_title_is_not_taken_to_be_fixed(notes):
    """There the match head stays silent, rather than match at the distance of one title."""
    model = BinLLM.from_corpus(notes, bits=BITS, tiny=SIZE, template="notes")
    first = model.backbone.model.layers[0].self_attn
    assert not first.q_proj.weight[: SIZE.head].any()
    own = BinLLM.from_corpus(notes, bits=BITS, tiny=SIZE).backbone.model.layers[0].self_attn
    assert own.q_proj.weight[: SIZE.head].any()


def test_impressions_need_a_table_of_notes(notes, liked):
    with pytest.raises(ConfigError, match="give the notes as a table with note_id"):
        BinLLM.from_corpus(notes, liked, bits=BITS, tiny=SIZE)


def test_what_has_no_room_is_refused():
    with pytest.raises(ConfigError, match=r"head is 16; it must be at least 31.*heads x head is 64"):
        TinyRankOptions(width=60, heads=4, head=16)
    with pytest.raises(ConfigError, match="intermediate is 64; it must be at least 108"):
        TinyRankOptions(intermediate=64)
    with pytest.raises(ConfigError, match="bits is 12; it must be a multiple of 8"):
        BinLLM.from_corpus([Note("a")], bits=12)
    with pytest.raises(DataError, match="hold no text"):
        BinLLM.from_corpus([Note(" ")], tiny=SIZE)


def test_the_prompt_is_no_longer_than_the_backbone(notes):
    model = BinLLM.from_corpus(notes, tiny=SIZE, max_length=4_000)
    assert model.settings.max_length == SIZE.max_length
