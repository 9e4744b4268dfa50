"""Fitted answers: what they read, that they are saved and loaded, and that the backbone does not change."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM

from notellm.data.note import Note
from notellm.errors import DataError, ModelError
from notellm.rank.answers import fit_answer_head, fit_answer_rows
from notellm.rank.batch import RankRows
from notellm.rank.model import ANSWER_HEAD, BinLLM, Question
from tests.rank.small import BITS, SIZE, agreeing, random_codes, ranking_model, rows_of


@pytest.fixture(scope="module")
def codes(notes):
    return random_codes(notes.column("note_id").to_pylist())


@pytest.fixture(params=["qwen2", "llama"])  # tied embeddings, and an output head of its own
def pretrained(request, checkpoints, notes, tmp_path):
    return ranking_model(request.param, checkpoints, notes, tmp_path)


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def good_words(model, count, seed):
    """Rows that are enjoyed where the candidate's title has one of two words; histories tell nothing."""
    draw = np.random.default_rng(seed)
    words = ["quiet", "camp", "coffee", "lake"]
    chosen = draw.integers(len(words), size=count)
    notes = [Note(f"{words[draw.integers(len(words))]} {words[i]} note") for i in chosen]
    pasts = [[Note(words[draw.integers(len(words))])] for _ in range(count)]
    ids = model.tokenize([Question(past, note) for past, note in zip(pasts, notes, strict=True)])
    return RankRows(ids, (chosen < 2).astype(np.float32))


def test_a_head_on_a_pretrained_model_reads_what_its_states_hold(pretrained):
    model = pretrained
    train, test = good_words(model, 400, 1), good_words(model, 300, 2)
    before, answered = weights_of(model), model.predict(test.ids)
    model.train()
    fit_answer_head(model, train, [str(i % 40) for i in range(400)])
    assert model.training
    fitted = model.predict(test.ids)
    assert roc_auc_score(test.labels, fitted) > max(0.9, roc_auc_score(test.labels, answered))
    assert abs(float((1 / (1 + np.exp(-fitted))).mean()) - float(test.labels.mean())) < 0.1
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in before.items())
    fit_answer_head(model, train, [str(i % 40) for i in range(400)])
    np.testing.assert_array_equal(model.predict(test.ids), fitted)


def test_the_size_of_a_dimension_does_not_matter(pretrained):
    """Pretrained models have dimensions that are far larger than all others."""
    model = pretrained
    train, test = good_words(model, 400, 1), good_words(model, 300, 2)
    # Rows that can be told apart wholly have no best penalty: rounding would choose among those with AUC 1.
    flipped = np.random.default_rng(3).random(400) < 0.15
    train = RankRows(train.ids, np.where(flipped, 1 - train.labels, train.labels))
    fit_answer_head(model, train)
    fitted = model.predict(test.ids)
    with torch.no_grad():
        model.backbone.model.norm.weight[3] *= 1_000
    fit_answer_head(model, train)
    np.testing.assert_allclose(model.predict(test.ids), fitted, atol=0.05 * float(np.abs(fitted).max()))


def test_an_answer_head_is_saved_and_loaded(pretrained, tmp_path):
    model = pretrained
    rows = good_words(model, 60, 1)
    words = model.predict(rows.ids)
    fit_answer_head(model, rows)
    fitted = model.predict(rows.ids)
    assert np.abs(fitted - words).max() > 1e-3
    fingerprint = model.fingerprint()
    model.save_pretrained(tmp_path / "model")
    again = BinLLM.from_saved(tmp_path / "model")
    assert again.verified_fingerprint() == fingerprint
    np.testing.assert_allclose(again.predict(rows.ids), fitted, atol=1e-6)
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")  # the backbone is a plain model
    again.answer_head = None
    assert again.fingerprint() != fingerprint
    np.testing.assert_allclose(again.predict(rows.ids), words, atol=1e-5)
    again.save_pretrained(tmp_path / "words")
    assert not (tmp_path / "words" / ANSWER_HEAD).exists()
    assert BinLLM.from_saved(tmp_path / "words").answer_head is None


def test_a_head_that_is_missing_or_does_not_fit_is_refused(pretrained, tmp_path):
    with pytest.raises(ModelError, match=rf"lacks its answer head \({ANSWER_HEAD}\).*copy the whole folder"):
        pretrained.load_answer_head(tmp_path)
    save_file({"answer_weight": torch.zeros(1, 3), "answer_bias": torch.zeros(1)}, tmp_path / ANSWER_HEAD)
    with pytest.raises(ModelError, match=r"is \(1, 3\), but the backbone asks for"):
        pretrained.load_answer_head(tmp_path)


def test_the_rows_of_a_tiny_model_read_the_agreement_of_codes(notes, codes):
    """The label is the sign of the codes' inner product; new rows, the same notes and users."""
    model = BinLLM.from_corpus(notes, agreeing(codes, 300, 7), bits=BITS, tiny=SIZE)
    train, test = (rows_of(model, notes, codes, count, seed) for count, seed in ((600, 7), (300, 8)))
    before = {name: weight for name, weight in weights_of(model).items() if "lm_head" not in name}
    fit_answer_rows(model, train)
    assert roc_auc_score(test.labels, model.predict(test.ids)) > 0.9
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in before.items())
    assert model.training
    once = model.predict(test.ids[:5])
    fit_answer_rows(model, train)
    np.testing.assert_array_equal(model.predict(test.ids[:5]), once)
    noise = RankRows(train.ids, np.random.default_rng(0).permutation(train.labels))
    fit_answer_rows(model, noise)
    assert roc_auc_score(test.labels, model.predict(test.ids)) < 0.8


@pytest.mark.parametrize("fit", [fit_answer_rows, fit_answer_head])
def test_one_user_of_many_rows_does_not_decide_alone(fit, notes, codes):
    """Half of the rows are one user's, who enjoys the opposite of what the others do."""
    model = BinLLM.from_corpus(notes, bits=BITS, tiny=SIZE)
    rows, test = (rows_of(model, notes, codes, count, seed) for count, seed in ((600, 7), (300, 8)))
    labels, users = rows.labels.copy(), [str(i) for i in range(600)]
    labels[:330], users[:330] = 1 - labels[:330], ["one"] * 330
    spoilt = RankRows(rows.ids, labels)
    fit(model, spoilt)
    assert roc_auc_score(test.labels, model.predict(test.ids)) < 0.5
    fit(model, spoilt, users)
    assert roc_auc_score(test.labels, model.predict(test.ids)) > 0.8


@pytest.mark.parametrize("fit", [fit_answer_rows, fit_answer_head])
def test_rows_of_one_label_are_refused(fit, notes, codes):
    model = BinLLM.from_corpus(notes, bits=BITS, tiny=SIZE)
    rows = rows_of(model, notes, codes, 20, 1)
    with pytest.raises(DataError, match="the 20 rows have one label only"):
        fit(model, RankRows(rows.ids, np.ones(20, np.float32)))
    mixed = RankRows(rows.ids, np.arange(20, dtype=np.float32) % 2)
    with pytest.raises(DataError, match="the 1 rows have one label only"):
        fit(model, mixed, limit=1)


def test_states_that_are_not_finite_are_refused(pretrained):
    with torch.no_grad():
        pretrained.backbone.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"hidden states that are not finite.*wider dtype"):
        fit_answer_head(pretrained, good_words(pretrained, 20, 1))
