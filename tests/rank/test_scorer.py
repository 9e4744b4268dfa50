"""What candidates share is computed once, and nothing else about their scores changes."""

import copy
import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.errors import DataError, ModelError
from notellm.rank.model import BinLLM
from notellm.rank.scorer import Ranker
from tests.conftest import ARCHITECTURES, agree
from tests.rank.small import USERS, random_codes, ranking_model

HISTORIES = {"u0": ["n3", "gone", "n40"], "u1": [f"n{i}" for i in range(30)], "u21": ["n5"]}


@pytest.fixture(scope="module")
def many(notes):
    """200 notes: the 60 of the fixture, and again with other ids."""
    ids = [f"n{i}" for i in range(200)]
    table = pa.concat_tables([notes] * 4).slice(0, 200)
    return table.set_column(0, table.schema.field(0), [ids])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def ranker(request, checkpoints, notes, many, tmp_path_factory):
    model = ranking_model(request.param, checkpoints, notes, tmp_path_factory.mktemp("template"))
    codes = random_codes(many["note_id"].to_pylist(), unknown="none", known=20)
    return Ranker(model, codes, many, HISTORIES)


@pytest.fixture(scope="module")
def tiny_ranker(checkpoints, notes, many, tmp_path_factory):
    model = ranking_model("tiny", checkpoints, notes, tmp_path_factory.mktemp("template"))
    return Ranker(model, random_codes(many["note_id"].to_pylist()), many, HISTORIES)


@pytest.mark.parametrize("count", [1, 3, 131])
@pytest.mark.parametrize("user", ["u0", "u1", "nobody", None])
def test_shared_scores_are_the_plain_ones(ranker, user, count):
    """With codes and without them, in one call."""
    candidates = [f"n{i}" for i in range(10, 10 + count)]
    shared, basis = ranker.scores(user, candidates)
    plain, same = ranker.scores(user, candidates, shared=False)
    assert basis == same
    assert shared.dtype == np.float32
    assert ((shared > 0) & (shared < 1)).all()
    np.testing.assert_allclose(shared, plain, atol=1e-4)
    again, _ = ranker.scores(user, candidates)
    np.testing.assert_array_equal(shared, again)
    if count > 100:
        assert np.ptp(shared) > 0.01


def test_whom_the_ranker_knows_has_a_history_or_a_code(ranker):
    users = ["u21", "nobody", *USERS, "u0", "nobody"]
    known = ranker.knows_all(users)
    assert known.dtype == bool
    assert known.tolist() == [ranker.knows(user) for user in users]
    assert known.tolist() == [user in HISTORIES or user in USERS for user in users]
    assert len(ranker.knows_all([])) == 0
    assert Ranker(ranker.model, None, ranker.table, HISTORIES).knows_all(users).tolist() == [
        user in HISTORIES for user in users
    ]


def test_a_batch_is_its_single_candidates_in_any_order(ranker):
    candidates = [f"n{i}" for i in range(12, 28)]
    together, _ = ranker.scores("u0", candidates)
    single = [ranker.scores("u0", [candidate])[0][0] for candidate in candidates]
    np.testing.assert_allclose(together, single, atol=1e-4)
    backwards, _ = ranker.scores("u0", candidates[::-1])
    np.testing.assert_allclose(together, backwards[::-1], atol=1e-5)
    ranking = ranker.rank("u0", candidates)
    assert sorted(ranking.note_ids) == sorted(candidates)
    assert (np.diff(ranking.scores) <= 0).all()
    by_id = dict(zip(candidates, together, strict=True))
    np.testing.assert_allclose(ranking.scores, [by_id[i] for i in ranking.note_ids], atol=1e-5)


def test_a_model_of_codes_alone_reads_no_titles(tiny_ranker, tmp_path):
    model = copy.copy(tiny_ranker.model)
    candidates = [f"n{i}" for i in range(10, 22)]
    with_titles, _ = tiny_ranker.scores("u0", candidates)
    other = tiny_ranker.table.set_column(1, "title", pa.array(["another title"] * len(tiny_ranker.table)))
    changed, _ = Ranker(model, tiny_ranker.codes, other, HISTORIES).scores("u0", candidates)
    assert np.abs(changed - with_titles).max() > 1e-4
    model.settings = dataclasses.replace(model.settings, form="codes_only")
    alone, _ = Ranker(model, tiny_ranker.codes, tiny_ranker.table, HISTORIES).scores("u0", candidates)
    renamed = Ranker(model, tiny_ranker.codes, other, HISTORIES)
    np.testing.assert_array_equal(renamed.scores("u0", candidates)[0], alone)
    np.testing.assert_allclose(renamed.scores("u0", candidates, shared=False)[0], alone, atol=1e-5)
    renamed.save_pretrained(tmp_path / "codes-only")
    again = Ranker.from_pretrained(tmp_path / "codes-only")
    np.testing.assert_array_equal(again.scores("u0", candidates)[0], alone)


def test_candidates_without_a_code_are_asked_about_by_text(ranker):
    scores, _ = ranker.scores("u0", ["n10", "n30"])
    text_only = Ranker(ranker.model, None, ranker.table, HISTORIES)
    (known, unknown), _ = text_only.scores("u0", ["n10", "n30"])
    assert scores[1] == pytest.approx(unknown, abs=1e-5)
    assert abs(scores[0] - known) > 1e-6


def test_the_basis_says_what_is_known_of_the_user(ranker, tiny_ranker):
    cases = [
        ("u0", None, "code and history"),
        ("u2", None, "code"),
        ("u0", [], "code"),
        ("u21", None, "history"),
        ("u22", None, "nothing"),
        ("nobody", None, "nothing"),
        ("nobody", ["n1"], "history"),
        (None, ["n1"], "history"),
        (None, None, "nothing"),
    ]
    for some in (ranker, tiny_ranker):
        for user, history, basis in cases:
            assert some.rank(user, ["n10", "n11"], history=history).basis == basis


def test_the_history_given_counts_and_not_the_stored_one(tiny_ranker):
    candidates = [f"n{i}" for i in range(6)]
    stored, _ = tiny_ranker.scores("u0", candidates)
    same, _ = tiny_ranker.scores("u0", candidates, history=["n3", "n40"])
    other, _ = tiny_ranker.scores("u0", candidates, history=["n4"])
    np.testing.assert_array_equal(stored, same)
    assert np.abs(stored - other).max() > 1e-5


def test_a_long_history_of_one_user_shortens_no_candidate_for_others(checkpoints, notes, many, tmp_path):
    def fresh():
        probe = ranking_model("llama", checkpoints, notes, tmp_path)
        ranker = Ranker(probe, None, many)
        return probe, ranker, ranker.texts.note("n17")

    model, ranker, note = fresh()
    assert note.content
    form = "text_only"
    whole = model.prompt.candidate_ids(note, None, form, 500)
    long = [f"n{i}" for i in range(20, 30)]
    starts = len(model.prompt.shared_ids(ranker.texts.history(long), None, form))
    object.__setattr__(model.settings, "max_length", starts + len(whole) - 1)
    before, _ = ranker.scores(None, ["n17"], history=["n1"])
    ranker.scores(None, ["n17"], history=long)
    model2, ranker2, _ = fresh()
    object.__setattr__(model2.settings, "max_length", starts + len(whole) - 1)
    shortened, _ = ranker2.scores(None, ["n17"], history=long)
    after, _ = ranker2.scores(None, ["n17"], history=["n1"])
    np.testing.assert_array_equal(before, after)
    assert shortened == ranker2.scores(None, ["n17"], history=long, shared=False)[0].round(9) or np.allclose(
        shortened, ranker2.scores(None, ["n17"], history=long, shared=False)[0], atol=1e-4
    )


def test_nobody_is_not_the_user_without_a_name(tiny_ranker, many):
    """Logs call visitors "", whose likes are not those of a request without a user."""
    ranker = Ranker(tiny_ranker.model, tiny_ranker.codes, many, {"": ["n1", "n2"]})
    assert ranker.rank("", ["n10"]).basis == "history"
    assert ranker.rank(None, ["n10"]).basis == "nothing"


def test_threads_score_as_one_does(tiny_ranker):
    asked = [(f"u{i % 4}", [f"n{j}" for j in range(i, i + 9)]) for i in range(24)]
    alone = [tiny_ranker.scores(*each)[0] for each in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: tiny_ranker.scores(*each)[0], asked))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_column_that_the_notes_lack_is_named(tiny_ranker, many):
    with pytest.raises(DataError, match="the notes have no column 'content'"):
        Ranker(tiny_ranker.model, None, many.drop_columns(["content"]))


@pytest.mark.parametrize(
    ("candidates", "history", "says"),
    [
        ([], None, "there are no candidates to rank"),
        (["n1", "what"], None, "there is no note 'what' among the 200 notes"),
        (["n1", "n2", "n1"], None, "the candidate 'n1' occurs twice"),
        (["n1"], ["n2", "lost"], "there is no note 'lost'"),
    ],
)
def test_what_cannot_be_ranked_is_named_in_one_line(tiny_ranker, candidates, history, says):
    with pytest.raises(DataError, match=says) as caught:
        tiny_ranker.rank("u0", candidates, history=history)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- disk


def test_saved_is_loaded(ranker, tmp_path):
    ranker.save_pretrained(tmp_path / "ranker", extra={"card.md": "text"})
    loaded = Ranker.from_pretrained(tmp_path / "ranker")
    assert (tmp_path / "ranker" / "card.md").read_text() == "text"
    assert loaded.histories == HISTORIES
    assert loaded.table.equals(ranker.table)
    candidates = [f"n{i}" for i in range(10, 40)]
    for user in ("u0", "u21", "nobody"):
        ours, theirs = ranker.scores(user, candidates), loaded.scores(user, candidates)
        assert ours[1] == theirs[1]
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
    assert BinLLM.from_pretrained(tmp_path / "ranker").fingerprint() == ranker.model.fingerprint()


def test_notes_are_cut_when_they_are_asked_for(tiny_ranker, tmp_path, monkeypatch):
    """A service opens a ranker and gives it the notes of its store: to cut all others takes long."""
    tiny_ranker.save_pretrained(tmp_path / "ranker")
    opened = Ranker.from_pretrained(tmp_path / "ranker")
    cuts = []
    prompt = type(opened.model.prompt)
    cut = prompt.cut

    def counted(self, notes):
        cuts.append(len(notes))
        return cut(self, notes)

    monkeypatch.setattr(prompt, "cut", counted)
    first = opened.texts.ids[0]
    of_a_store = opened.with_notes({first: tiny_ranker.texts.note(first)})
    assert not cuts
    assert of_a_store.texts.note(first) == tiny_ranker.texts.note(first)
    assert cuts == [1]
    assert opened.texts.note(first) == tiny_ranker.texts.note(first)
    opened.texts.note(opened.texts.ids[1])
    assert cuts == [1, len(opened.texts)]  # those of a table all together, once


def test_a_ranker_without_codes_is_saved_too(tiny_ranker, tmp_path):
    Ranker(tiny_ranker.model, None, tiny_ranker.table).save_pretrained(tmp_path / "ranker")
    loaded = Ranker.from_pretrained(tmp_path / "ranker")
    assert loaded.codes is None
    assert loaded.rank("u0", ["n1"]).basis == "nothing"


def test_codes_of_another_model_are_refused(tiny_ranker, many, tmp_path):
    ids = many["note_id"].to_pylist()
    tiny_ranker.save_pretrained(tmp_path / "ranker")
    for number, other in enumerate(
        [random_codes(ids, seed=5), random_codes(ids, known=19), random_codes(ids, unknown="folded")]
    ):
        folder = tmp_path / f"spoilt{number}"
        shutil.copytree(tmp_path / "ranker", folder)
        other.save_pretrained(folder / "codes")
        agree(folder)
        with pytest.raises(ModelError, match=r"the codes in .* do not belong") as caught:
            Ranker.from_pretrained(folder)
        assert "\n" not in str(caught.value)
    shutil.rmtree(tmp_path / "ranker" / "codes")
    with pytest.raises(ModelError, match="lacks codes/config"):
        Ranker.from_pretrained(tmp_path / "ranker")
    agree(tmp_path / "ranker")
    with pytest.raises(ModelError, match="the codes in"):
        Ranker.from_pretrained(tmp_path / "ranker")


@pytest.mark.parametrize("name", ["histories.parquet", "notes.parquet", "codes/config.json"])
def test_parts_that_changed_are_named(tiny_ranker, tmp_path, name):
    """A whole file with other content, which no checksum of its own tells."""
    tiny_ranker.save_pretrained(tmp_path / "ranker")
    file = tmp_path / "ranker" / name
    if name.endswith(".json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"scale": 9.0}))
    else:
        table = pq.read_table(file)
        pq.write_table(table.slice(1), file)
    with pytest.raises(ModelError, match=rf"{name} is damaged, or is not the file that was saved"):
        Ranker.from_pretrained(tmp_path / "ranker")


def test_tables_of_another_form_are_refused(tiny_ranker, tmp_path):
    tiny_ranker.save_pretrained(tmp_path / "ranker")
    users = pa.table({"user_id": ["u0"], "history": [3]})
    pq.write_table(users, tmp_path / "ranker" / "histories.parquet")
    agree(tmp_path / "ranker")
    with pytest.raises(DataError, match=r"histories\.parquet is not what Ranker\.save_pretrained writes"):
        Ranker.from_pretrained(tmp_path / "ranker")


def test_what_is_no_ranker_is_refused(tiny_ranker, tmp_path):
    tiny_ranker.model.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"has no ranker.json"):
        Ranker.from_pretrained(tmp_path / "model")
    tiny_ranker.save_pretrained(tmp_path / "ranker")
    (tmp_path / "ranker" / "ranker.json").write_text("[]")
    with pytest.raises(ModelError, match=r"is not what Ranker\.save_pretrained writes"):
        Ranker.from_pretrained(tmp_path / "ranker")


def test_the_fingerprint_of_codes_is_theirs(many):
    ids = many["note_id"].to_pylist()
    one, again = (random_codes(ids).fingerprint() for _ in range(2))
    assert one == again != random_codes([*ids[1:], ids[0]]).fingerprint()
    assert len(USERS) == 24
