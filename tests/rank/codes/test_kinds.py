"""What holds for codes of every kind of collaborative model, on data whose right answer is known."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from notellm.errors import ConfigError, ModelError
from notellm.files import read_json, write_json
from notellm.rank.codes.codes import Codes, inner_product
from notellm.rank.codes.fit import fit_codes, fit_out_of_fold
from notellm.rank.codes.model import CodeModel
from notellm.rank.codes.options import CodeOptions
from notellm.rank.collaborative.base import CollaborativeModel
from notellm.rank.collaborative.kinds import KINDS, Collaborative
from notellm.rank.collaborative.options import TrainingOptions
from tests.conftest import agree
from tests.rank.collaborative.checkerboard import NOTES, USERS, checkerboard

TRAINING = TrainingOptions(
    learning_rate=0.02, weight_decay=1e-4, batch=32, epochs=60, patience=20, progress=False
)


def options(kind: str, **changes):
    return CodeOptions(
        **{
            "collaborative": kind,
            "bits": 16,
            "dimensions": 8,
            "penalties": (0.0,),
            "training": TRAINING,
            **changes,
        }
    )


def auc(table, scores):
    return roc_auc_score(table["label"].to_numpy(), scores)


def scores_of(codes, table):
    return codes.scores(table["user_id"], table["note_id"], table["history"])


@pytest.fixture(scope="module")
def board():
    return checkerboard()


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(kind, board):
    return fit_out_of_fold(board[0], board[1], options(kind), folds=4)


@pytest.fixture(scope="module")
def sasrec(board):
    return fit_codes(board[0], board[1], options("sasrec"))


def test_every_kind_is_named_once():
    assert tuple(KINDS) == get_args(Collaborative)
    for name, each in KINDS.items():
        model = each.load()
        assert issubclass(model, CollaborativeModel)
        assert model.kind == name


def test_the_checkerboard_is_learnt(board, kind, fitted):
    codes = fitted.codes
    assert (codes.encoder is not None) == (kind == "sasrec")
    assert auc(board[1], scores_of(codes, board[1])) > 0.97
    assert auc(board[2], scores_of(codes, board[2])) > 0.95


def test_codes_are_those_of_the_model_that_scored_best(board, fitted):
    expected = fitted.codes.description["training"]["valid_auc"]
    assert auc(board[1], scores_of(fitted.codes, board[1])) == pytest.approx(expected)


def test_the_checkerboard_is_known_out_of_fold(board, fitted):
    train = board[0]
    assert fitted.user_bits.shape == fitted.item_bits.shape == (len(train), 16)
    assert fitted.has_user.all()
    assert auc(train, inner_product(fitted.user_bits, fitted.item_bits)) > 0.9


def test_codes_beside_those_out_of_fold_are_those_of_all_rows(board, kind, fitted):
    codes = fit_codes(board[0], board[1], options(kind))
    assert codes.fingerprint() == fitted.codes.fingerprint()
    other = fit_codes(board[0], board[1], options(kind).with_training(seed=1))
    assert codes.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("unknown", ["average", "folded", "none"])
def test_saved_codes_are_the_same(board, kind, fitted, tmp_path, unknown):
    codes = replace(fitted.codes, unknown=unknown)
    codes.save_pretrained(tmp_path / "codes")
    again = Codes.from_pretrained(tmp_path / "codes")
    assert again.fingerprint() == codes.fingerprint()
    test = board[2]
    np.testing.assert_array_equal(scores_of(again, test), scores_of(codes, test))
    users = ["nobody", "nobody", *USERS]
    past = [["n1", "n3", "nowhere"], [], *[["n2"]] * len(USERS)]
    np.testing.assert_array_equal(again.user_bits(users, past), codes.user_bits(users, past))
    np.testing.assert_array_equal(again.user_bits(users), codes.user_bits(users))
    np.testing.assert_array_equal(again.has_user(users, past), codes.has_user(users, past))
    kinds = {path.suffix for path in (tmp_path / "codes").iterdir()}
    assert kinds == {".json", ".parquet", ".safetensors"}
    assert (tmp_path / "codes" / "model.safetensors").exists() == (kind == "sasrec")


def test_one_at_a_time_is_together(board, fitted):
    test = board[2].slice(0, 12)
    users, past = test["user_id"].to_pylist(), test["history"].to_pylist()
    alone = np.concatenate([fitted.codes.user_bits([u], [h]) for u, h in zip(users, past, strict=True)])
    np.testing.assert_array_equal(fitted.codes.user_bits(users, past), alone)
    assert fitted.codes.user_bits([], []).shape == (0, 16)


def test_unknown_ids_have_the_average_code(fitted):
    codes = fitted.codes
    np.testing.assert_array_equal(codes.user_bits(["nobody"])[0], codes.maps["average_user"])
    np.testing.assert_array_equal(codes.user_bits(["nobody"], [[]])[0], codes.maps["average_user"])
    np.testing.assert_array_equal(codes.item_bits(["nothing"])[0], codes.maps["average_item"])
    none = replace(codes, unknown="none")
    assert none.has_user(["nobody", "u0"]).tolist() == [False, True]
    assert none.has_item(["nothing", "n0"]).tolist() == [False, True]


class TestHistoriesMakeTheCodes:
    def test_a_stranger_is_scored_from_the_history(self, sasrec):
        """Whoever the user is, the history alone decides."""
        for colour in (0, 1):
            past = [NOTES[colour:8:2]] * len(NOTES)
            scores = sasrec.scores(["nobody"] * len(NOTES), NOTES, past)
            same = np.arange(len(NOTES)) % 2 == colour
            assert roc_auc_score(same, scores) > 0.95
            np.testing.assert_array_equal(scores, sasrec.scores(USERS[:1] * len(NOTES), NOTES, past))

    def test_a_user_with_a_known_note_in_the_history_is_never_unknown(self, sasrec):
        none = replace(sasrec, unknown="none")
        past = [["n0"], ["of no table"], []]
        assert none.knows_user(["nobody"] * 3, past).tolist() == [True, False, False]
        assert none.has_user(["nobody"] * 3, past).tolist() == [True, False, False]
        assert sasrec.has_user(["nobody"] * 3, past).all()
        assert none.has_user(["u0", "nobody"]).tolist() == [True, False]

    def test_without_histories_the_stored_codes_are_used(self, board, sasrec):
        train = board[0]
        users, histories = train["user_id"].to_pylist(), train["history"].to_pylist()
        longest = {
            u: max((h for v, h in zip(users, histories, strict=True) if v == u), key=len) for u in USERS
        }
        expected = sasrec.user_bits(USERS, [longest[user] for user in USERS])
        np.testing.assert_array_equal(sasrec.user_bits(USERS), expected)
        assert len(np.unique(expected, axis=0)) > 1

    def test_serving_is_the_model_that_was_trained(self, board, sasrec):
        test = board[2]
        with torch.no_grad():
            logits = sasrec.encoder(sasrec.encoder.base.rows_of_table(test, "test")).numpy()
        np.testing.assert_allclose(sasrec.scale * scores_of(sasrec, test), logits, rtol=1e-5)

    def test_the_weights_are_part_of_the_fingerprint(self, sasrec, tmp_path):
        sasrec.save_pretrained(tmp_path / "codes")
        again = Codes.from_pretrained(tmp_path / "codes")
        assert again.encoder is not None
        with torch.no_grad():
            assert again.encoder is not None
            again.encoder.user_layer.bias[0] += 1
        assert again.fingerprint() != sasrec.fingerprint()

    @pytest.mark.parametrize(
        ("encoder", "says"),
        [
            ("x", "encoder in config.json is 'x'"),
            ({"kind": "gru", "config": {}}, "'gru' is not one of mf, lightgcn, sasrec"),
            ({"kind": "sasrec", "config": {"dimensions": "x"}}, "dimensions in config.json is 'x'"),
            ({"kind": "mf", "config": {"dimensions": 8}}, "is not a whole folder of codes"),
        ],
    )
    def test_a_damaged_description_is_named(self, sasrec, tmp_path, encoder, says):
        sasrec.save_pretrained(tmp_path / "codes")
        values = read_json(tmp_path / "codes" / "config.json")
        write_json(values | {"encoder": encoder}, tmp_path / "codes" / "config.json", replace=True)
        agree(tmp_path / "codes")
        with pytest.raises(ModelError, match=says):
            Codes.from_pretrained(tmp_path / "codes")

    def test_missing_weights_are_named(self, sasrec, tmp_path):
        sasrec.save_pretrained(tmp_path / "codes")
        (tmp_path / "codes" / "model.safetensors").unlink()
        with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
            Codes.from_pretrained(tmp_path / "codes")


def test_defaults_are_those_of_the_kind():
    for name in get_args(Collaborative):
        each = KINDS[name]
        whole = CodeOptions(collaborative=name).resolved()
        assert (whole.dimensions, whole.penalties, whole.training) == (
            each.dimensions,
            each.penalties,
            each.training,
        )
        seeded = CodeOptions(collaborative=name).with_training(seed=7)
        assert seeded.training == replace(each.training, seed=7)
        model = CodeModel.from_options(USERS, NOTES, seeded)
        assert model.base.kind == name
        assert model.user_layer.weight.shape == (32, each.dimensions)


def test_what_is_no_kind_is_named():
    with pytest.raises(ConfigError, match="collaborative is 'gru'; it must be one of mf, lightgcn, sasrec"):
        CodeOptions(collaborative="gru")  # type: ignore[arg-type]


def test_users_who_are_taken_out_are_unknown_and_the_others_stay(fitted, tmp_path):
    codes = fitted.codes
    gone, *others = codes.users.ids.to_pylist()
    codes.without_users({gone, "nobody"}).save_pretrained(tmp_path / "codes")
    opened = Codes.from_pretrained(tmp_path / "codes")
    assert opened.users.rows([gone]).tolist() == [-1]
    assert not opened.knows_user([gone])[0]
    np.testing.assert_array_equal(opened.user_bits([gone]), codes.user_bits(["nobody"]))
    np.testing.assert_array_equal(opened.user_bits(others), codes.user_bits(others))
    assert opened.fingerprint() != codes.fingerprint()
