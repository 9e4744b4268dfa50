"""BinLLM computes what plain transformers compute, in whatever batch, before and after saving."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from notellm.backbone import batch as batches
from notellm.backbone.batch import pad
from notellm.backbone.load import LoraOptions
from notellm.data.matrices import liked_notes
from notellm.data.note import Note
from notellm.errors import ConfigError, ModelError
from notellm.rank.batch import NoteTexts, RowCodes, impression_codes, questions
from notellm.rank.model import BinLLM, Question
from tests.conftest import ARCHITECTURES
from tests.rank.small import USERS, agreeing, random_codes, ranking_model


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request, checkpoints, notes, tmp_path_factory):
    model = ranking_model(request.param, checkpoints, notes, tmp_path_factory.mktemp("template"))
    ids = notes.column("note_id").to_pylist()
    codes = random_codes(ids, unknown="none")
    rows = agreeing(codes, 40)
    some = rows.set_column(
        1,
        rows.schema.field(1),
        [[ids[30] if i % 5 == 0 else n for i, n in enumerate(rows["note_id"].to_pylist())]],
    )
    texts = NoteTexts(model, notes)
    asked = questions(model, texts, some, impression_codes(some, codes))
    return model, model.encode(asked), asked


def test_prompts_differ_in_length_and_form(case):
    _, ids, asked = case
    assert {question.has_codes for question in asked} == {True, False}
    assert len({len(row) for row in ids}) > 10


def test_padded_is_single_is_grouped(case, monkeypatch):
    model, ids, _ = case
    together = model.predict(ids)
    assert together.dtype == np.float32
    assert np.ptp(together) > 0.1
    single = np.array([model.predict([row])[0] for row in ids])
    np.testing.assert_allclose(together, single, atol=1e-4)
    model.eval()
    with torch.inference_mode():
        forward = model(**pad(ids, model.tokenizer)).numpy()
    np.testing.assert_allclose(together, forward, atol=1e-4)
    monkeypatch.setattr(batches, "TOKENS_PER_BATCH", 200)
    np.testing.assert_allclose(model.predict(ids[::-1])[::-1], together, atol=1e-4)


def test_predict_is_what_transformers_compute(case, tmp_path):
    model, ids, _ = case
    model.save_pretrained(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    with torch.inference_mode():
        logits = torch.stack([plain(torch.tensor([row])).logits[0, -1] for row in ids])
    wanted = (logits[:, model.prompt.yes_id] - logits[:, model.prompt.no_id]).numpy()
    np.testing.assert_allclose(model.predict(ids), wanted, atol=1e-4)


def test_saved_is_loaded(case, tmp_path):
    model, ids, asked = case
    model.save_pretrained(tmp_path / "saved", extra={"note.txt": "hello"})
    loaded = BinLLM.from_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "note.txt").read_text() == "hello"
    assert loaded.settings == model.settings
    assert loaded.prompt.template == model.prompt.template
    assert loaded.encode(asked) == ids
    np.testing.assert_array_equal(loaded.predict(ids), model.predict(ids))
    assert loaded.fingerprint() == loaded.saved_fingerprint == model.fingerprint()
    assert loaded.verified_fingerprint() == model.fingerprint()
    with torch.no_grad():
        next(loaded.backbone.parameters())[0, 0] += 1
    assert loaded.fingerprint() != model.fingerprint()
    less = BinLLM.from_pretrained(tmp_path / "saved", history=1)
    assert less.fingerprint() != model.fingerprint()
    assert less.prompt.template == model.prompt.template


def test_predict_leaves_training_mode_as_it_was(case):
    model, ids, _ = case
    for mode in (True, False):
        model.train(mode)
        model.predict(ids[:2])
        assert model.training is mode


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_lora_merged_is_unmerged(name, checkpoints, notes, tmp_path):
    pytest.importorskip("peft")
    ranking_model(name, checkpoints, notes, tmp_path).save_pretrained(tmp_path / "start")
    model = BinLLM.from_pretrained(tmp_path / "start", lora=LoraOptions(rank=2))
    (note,) = model.prompt.cut([Note("soup bread")])
    ids = model.encode([Question([note], note)])
    before = model.predict(ids)
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "lora_" in weight_name:
                assert weight.requires_grad
                weight.normal_(std=0.3)
    changed = model.predict(ids)
    assert abs(changed - before)[0] > 1e-3
    model.save_pretrained(tmp_path / "merged")
    loaded = BinLLM.from_pretrained(tmp_path / "merged")
    assert not any("lora" in weight_name for weight_name, _ in loaded.named_parameters())
    np.testing.assert_allclose(loaded.predict(ids), changed, atol=1e-4)
    assert loaded.fingerprint() == model.fingerprint()


# ---------------------------------------------------------------- encoding


def test_encode_asks_in_the_form_wished_for(case):
    model, ids, asked = case
    text = model.encode(asked, "text_only")
    assert [row for row, question in zip(text, asked, strict=True) if not question.has_codes] == [
        row for row, question in zip(ids, asked, strict=True) if not question.has_codes
    ]
    for form in ("codes_only", "with_codes", "text_only"):
        for row, question in zip(model.encode(asked, form), asked, strict=True):
            own = form if question.has_codes else "text_only"
            start = model.prompt.shared_ids(question.history, question.user_code, own)
            room = model.settings.max_length - len(start)
            assert row == start + model.prompt.candidate_ids(question.note, question.item_code, own, room)


def test_decimal_codes_are_written(checkpoints, notes, tmp_path):
    model = ranking_model("llama", checkpoints, notes, tmp_path, code_text="decimal")
    assert model.code_texts(np.array([[1, 0, 1, 0, 1, 1, 0, 0] + [0] * 7 + [1]], bool)) == ["172.1"]
    tiny = ranking_model("tiny", checkpoints, notes, tmp_path, code_text="decimal")
    assert not tiny.backbone.model.layers[0].self_attn.q_proj.weight[:32].any()


# ---------------------------------------------------------------- questions


def test_questions_name_the_latest_notes_that_are_still_there(checkpoints, notes, tmp_path):
    model = ranking_model("llama", checkpoints, notes, tmp_path, history=2)
    texts = NoteTexts(model, notes)
    codes = random_codes(notes.column("note_id").to_pylist())
    rows = agreeing(codes, 1)
    past = ["n1", "n2", "n3", "gone", "lost"]
    rows = rows.set_column(4, rows.schema.field(4), [[past]])
    (asked,) = questions(model, texts, rows, None)
    assert asked.history == [texts.note("n2"), texts.note("n3")]
    assert not asked.has_codes
    assert texts.history(past) == [texts.note(i) for i in past[:3]]
    assert texts.history(past, 0) == []


def test_codes_out_of_fold_are_those_of_the_row(checkpoints, notes, tmp_path):
    model = ranking_model("llama", checkpoints, notes, tmp_path)
    codes = random_codes(notes.column("note_id").to_pylist())
    rows = agreeing(codes, 6)
    bits = np.arange(6 * 16).reshape(6, 16) % 3 == 0
    own = RowCodes(bits, ~bits, np.array([True, False] * 3))
    asked = questions(model, NoteTexts(model, notes), rows, own)
    assert [q.has_codes for q in asked] == [True, False] * 3
    assert [q.user_code for q in asked[::2]] == model.code_texts(bits[::2])
    assert [q.item_code for q in asked[::2]] == model.code_texts(~bits[::2])


def test_liked_notes_counts_a_like_once(notes):
    codes = random_codes(notes.column("note_id").to_pylist())
    rows = agreeing(codes, 60)
    twice = liked_notes(notes["note_id"], pa.concat_tables([rows, rows]))
    assert set(twice.data.tolist()) == {1.0}
    columns = (rows[name].to_pylist() for name in ("user_id", "note_id", "label"))
    wanted = {(user, note) for user, note, label in zip(*columns, strict=True) if label}
    assert twice.nnz == len(wanted) > 10
    assert twice.shape == (len({u for u, _ in wanted}), notes.num_rows)
    assert len(wanted & {(u, n) for u in USERS for n in notes["note_id"].to_pylist()}) == len(wanted)


# ---------------------------------------------------------------- what is no model


def test_what_is_no_model_is_refused(tmp_path, checkpoints, notes):
    with pytest.raises(ModelError, match=r"is not a model directory: it has no config\.json"):
        BinLLM.from_pretrained(tmp_path)
    saved = tmp_path / "saved"
    ranking_model("llama", checkpoints, notes, tmp_path).save_pretrained(saved)
    for spoilt, says in (
        ("[]", r"binllm\.json is not a JSON object"),
        ("{}", "is not a BinLLM configuration"),
        ("{", "is not valid JSON"),
    ):
        (saved / "binllm.json").write_text(spoilt)
        with pytest.raises(ModelError, match=says) as caught:
            BinLLM.from_pretrained(saved)
        assert "\n" not in str(caught.value)
    (saved / "binllm.json").write_text(json.dumps({"config": {"colour": 1}, "template": {}}))
    with pytest.raises(ModelError, match="unknown field 'colour'; it needs a newer notellm"):
        BinLLM.from_pretrained(saved)


def test_only_what_was_saved_is_opened_as_saved(tmp_path, checkpoints, notes):
    model = ranking_model("llama", checkpoints, notes, tmp_path)
    model.save_pretrained(tmp_path / "saved")
    assert BinLLM.from_saved(tmp_path / "saved").verified_fingerprint() == model.fingerprint()
    (tmp_path / "saved" / "binllm.json").unlink()
    for path in (tmp_path / "saved", checkpoints["llama"].path, "owner/model"):
        with pytest.raises(ModelError, match=r"is not a saved BinLLM: there is no binllm\.json"):
            BinLLM.from_saved(path)


def test_unknown_options_are_refused(checkpoints):
    with pytest.raises(ConfigError, match="unknown option 'titel_tokens'; BinLLM knows template"):
        BinLLM.from_pretrained(checkpoints["llama"].path, titel_tokens=3)
    with pytest.raises(ConfigError, match="code_text is 'hex'; it must be one of binary, decimal"):
        BinLLM.from_pretrained(checkpoints["llama"].path, code_text="hex")
    with pytest.raises(ConfigError, match="unknown option"):
        BinLLM.from_corpus([Note("a")], colour=1)
