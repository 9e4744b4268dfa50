import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import roc_auc_score

from notellm.errors import ConfigError, DataError, ModelError, NotellmError, StorageError
from notellm.files import read_json, write_json
from notellm.rank.codes.codes import Codes, inner_product
from notellm.rank.codes.fit import fit_codes, fit_out_of_fold
from notellm.rank.codes.model import CodeModel
from notellm.rank.codes.options import CodeOptions
from notellm.rank.codes.text import binary_text, decimal_text, parse_binary
from notellm.rank.collaborative.options import TrainingOptions
from tests.conftest import agree
from tests.rank.collaborative.checkerboard import NOTES, USERS, checkerboard, impressions

TRAINING = TrainingOptions(
    learning_rate=0.03, weight_decay=1e-4, batch=64, epochs=80, patience=20, progress=False
)
OPTIONS = CodeOptions(bits=16, dimensions=8, penalties=(0.0,), training=TRAINING)

codes_of_bytes = arrays.arrays(
    np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 5).map(lambda count: 8 * count))
)


def auc(table, scores):
    return roc_auc_score(table["label"].to_numpy(), scores)


@pytest.fixture(scope="module")
def board():
    return checkerboard()


@pytest.fixture(scope="module")
def codes(board):
    return fit_codes(board[0], board[1], OPTIONS)


def test_the_checkerboard_is_learnt_exactly(board, codes):
    test = board[2]
    assert len(np.unique(codes.user_codes, axis=0)) > 1
    assert auc(test, codes.scores(test["user_id"], test["note_id"])) == 1.0


def test_the_best_penalty_is_kept(board, codes):
    """One that holds the codes back is tried first, and the folds do not try again."""
    options = replace(OPTIONS, penalties=(1e6, 0.0))
    fitted = fit_out_of_fold(board[0], board[1], options, folds=2)
    assert fitted.codes.description["training"]["options"]["penalty"] == 0
    np.testing.assert_array_equal(fitted.codes.user_codes, codes.user_codes)
    plain = fit_out_of_fold(board[0], board[1], OPTIONS, folds=2)
    np.testing.assert_array_equal(fitted.user_bits, plain.user_bits)
    held_back = fit_codes(board[0], board[1], replace(OPTIONS, penalties=(1e6,)))
    assert held_back.description["training"]["valid_auc"] < codes.description["training"]["valid_auc"]


def test_the_score_is_the_product_of_the_signs(board, codes):
    test = board[2]
    users, items = codes.user_bits(test["user_id"]), codes.item_bits(test["note_id"])
    assert users.dtype == items.dtype == np.bool_
    assert users.shape == items.shape == (len(test), 16)
    signs = np.where(users, 1, -1) * np.where(items, 1, -1)
    scores = codes.scores(test["user_id"], test["note_id"])
    assert len(set(scores.tolist())) > 2
    np.testing.assert_array_equal(scores, signs.sum(1))


def test_codes_are_those_of_the_model_that_scored_best(board, codes):
    valid = board[1]
    expected = codes.description["training"]["valid_auc"]
    assert auc(valid, codes.scores(valid["user_id"], valid["note_id"])) == pytest.approx(expected)


def test_batched_is_single(board):
    train, valid, test = board
    codes = fit_codes(train, valid, replace(OPTIONS, unknown="folded"))
    users = ["nobody", *test["user_id"].to_pylist()[:5]]
    past = [["n1", "n3"], *test["history"].to_pylist()[:5]]
    alone = np.concatenate([codes.user_bits([u], [h]) for u, h in zip(users, past, strict=True)])
    np.testing.assert_array_equal(codes.user_bits(users, past), alone)
    assert codes.user_bits([], []).shape == (0, 16)


@pytest.mark.parametrize("anneal_epochs", [0, 3])
def test_the_seed_decides(board, anneal_epochs):
    def bits(seed):
        training = replace(TRAINING, epochs=6, seed=seed)
        return fit_codes(board[0], board[1], replace(OPTIONS, anneal_epochs=anneal_epochs, training=training))

    first, again, other = bits(0), bits(0), bits(1)
    np.testing.assert_array_equal(first.user_codes, again.user_codes)
    np.testing.assert_array_equal(first.item_codes, again.item_codes)
    assert not np.array_equal(first.item_codes, other.item_codes)
    assert first.description["training"]["best_epoch"] > anneal_epochs


def test_the_sign_passes_the_gradient_of_tanh():
    model = CodeModel.from_options(USERS, NOTES, OPTIONS)
    real = torch.linspace(-2, 2, 16, requires_grad=True)
    weights = torch.arange(16.0)
    code = model._code(real)
    assert set(code.tolist()) == {-1.0, 1.0}
    (code * weights).sum().backward()
    torch.testing.assert_close(real.grad, weights * (1 - torch.tanh(real.detach()) ** 2))


def test_annealing_mixes_signs_and_tanh():
    model = CodeModel.from_options(USERS, NOTES, OPTIONS)
    real = torch.linspace(-0.5, 0.5, 1000)
    model.sign_share = 0.25
    signs = (model._code(real).abs() == 1).float().mean()
    assert 0.2 < signs < 0.3
    model.eval()
    assert (model._code(real).abs() == 1).all()


class TestUnknown:
    def test_average(self, codes):
        nobody = codes.user_bits(["nobody", "none"], [["n0", "n2"], []])
        nothing = codes.item_bits(["nothing"])
        np.testing.assert_array_equal(nobody, np.stack([codes.maps["average_user"]] * 2))
        np.testing.assert_array_equal(nothing[0], codes.maps["average_item"])
        assert codes.has_user(["nobody", "u0"]).tolist() == [True, True]
        assert codes.has_item(["nothing", "n0"]).tolist() == [True, True]

    def test_none_has_no_code(self, codes):
        without = replace(codes, unknown="none")
        assert without.has_user(["nobody", "u0"]).tolist() == [False, True]
        assert without.has_item(["nothing", "n0"]).tolist() == [False, True]

    def test_folded_knows_who_likes_what(self, codes):
        folded = replace(codes, unknown="folded")
        users = ["nobody"] * len(NOTES)
        for colour in (0, 1):
            liked = NOTES[colour:8:2]
            scores = folded.scores(users, NOTES, [liked] * len(NOTES))
            own = np.arange(len(NOTES)) % 2 == colour
            assert roc_auc_score(own, scores) == 1.0
            assert roc_auc_score(own, codes.scores(users, NOTES, [liked] * len(NOTES))) < 1.0

    def test_folded_is_average_without_history(self, codes):
        folded = replace(codes, unknown="folded")
        nothing: list[list[list[str]] | None] = [None, [[]], [["of no table"]]]
        for histories in nothing:
            np.testing.assert_array_equal(
                folded.user_bits(["nobody"], histories)[0], codes.maps["average_user"]
            )

    def test_folded_leaves_known_users_as_they_are(self, codes):
        folded = replace(codes, unknown="folded")
        np.testing.assert_array_equal(
            folded.user_bits(USERS, [["n0", "n1", "n2"]] * len(USERS)), codes.user_bits(USERS)
        )

    def test_folding_is_the_ridge_of_its_definition(self, board, codes):
        train = board[0]
        signs = dict(zip(codes.items.ids.to_pylist(), np.where(codes.item_codes, 1.0, -1.0), strict=True))
        background = np.mean([signs[note] for note in train["note_id"].to_pylist()], axis=0)
        np.testing.assert_allclose(codes.maps["background"], background, atol=1e-6)
        past = ["n0", "n3", "n3", "of no table"]
        likes = sum(signs[note] - background for note in past[:3]) / (3 + 5)
        expected = likes @ codes.maps["weight"] + codes.maps["offset"] >= 0
        folded = replace(codes, unknown="folded").user_bits(["nobody"], [past])[0]
        np.testing.assert_array_equal(folded, expected)


def test_ids_that_only_valid_has_are_unknown(board):
    train, valid, _ = board
    train = train.filter(np.array(train["user_id"].to_pylist()) != "u3")
    codes = fit_codes(train, valid, replace(OPTIONS, unknown="none"))
    assert "u3" in valid["user_id"].to_pylist()
    assert codes.has_user(["u3", "u4"]).tolist() == [False, True]
    np.testing.assert_array_equal(codes.user_bits(["u3"])[0], codes.maps["average_user"])


class TestOutOfFold:
    @pytest.fixture(scope="class")
    @classmethod
    def result(cls, board):
        return fit_out_of_fold(board[0], board[1], OPTIONS, folds=4)

    def test_every_row_has_codes(self, board, result):
        rows = len(board[0])
        assert result.user_bits.shape == result.item_bits.shape == (rows, 16)
        assert result.has_user.all()
        assert result.has_item.all()
        counts = np.bincount(result.fold)
        assert len(counts) == 4
        assert counts.max() - counts.min() <= 1

    def test_codes_are_those_of_all_rows_too(self, codes, result):
        np.testing.assert_array_equal(result.codes.user_codes, codes.user_codes)
        np.testing.assert_array_equal(result.codes.item_codes, codes.item_codes)

    def test_rows_of_a_user_in_one_fold_share_the_code(self, board, result):
        users = np.array(board[0]["user_id"].to_pylist())
        for user in USERS:
            for fold in range(4):
                mine = result.user_bits[(users == user) & (result.fold == fold)]
                assert len(np.unique(mine, axis=0)) <= 1

    def test_bits_keep_their_meaning(self, board, result):
        train, valid, _ = board
        own = (result.codes.user_bits(train["user_id"]), result.codes.item_bits(train["note_id"]))
        other = fit_codes(train, valid, replace(OPTIONS, training=replace(TRAINING, seed=5)))
        agreement = (own[0] == result.user_bits).mean()
        assert (own[1] == result.item_bits).mean() > 0.65
        assert agreement > 0.65
        assert agreement > (own[0] == other.user_bits(train["user_id"])).mean() + 0.1
        # So codes of a fold can be read against those of all rows.
        assert auc(train, inner_product(result.user_bits, own[1])) > 0.9

    def test_the_checkerboard_is_known_without_the_rows(self, board, result):
        assert auc(board[0], inner_product(result.user_bits, result.item_bits)) > 0.95

    def test_noise_is_not_known_without_the_rows(self):
        draw = np.random.default_rng(0)
        noise = impressions(
            [
                (user, note, bool(draw.random() < 0.5), [])
                for user in USERS
                for note in draw.permutation(NOTES)
            ]
        )
        result = fit_out_of_fold(noise, noise, OPTIONS, folds=4)
        seen = result.codes.scores(noise["user_id"], noise["note_id"])
        assert auc(noise, seen) > 0.85
        assert auc(noise, inner_product(result.user_bits, result.item_bits)) < 0.6

    def test_a_user_with_one_row_is_unknown_in_its_fold(self, board):
        train, valid, _ = board
        rows = [*map(tuple, (row.values() for row in train.to_pylist())), ("lone", "n0", True, [])]
        lone = impressions(rows)
        result = fit_out_of_fold(lone, valid, replace(OPTIONS, unknown="none"), folds=2)
        assert result.codes.has_user(["lone"])[0]
        assert not result.has_user[-1]
        assert result.has_user[:-1].all()

    def test_folds(self, board):
        with pytest.raises(ConfigError, match="folds is 1; it must be 2 or more"):
            fit_out_of_fold(board[0], board[1], OPTIONS, folds=1)
        with pytest.raises(DataError, match="there are 3 training rows in 5 folds"):
            fit_out_of_fold(board[0].slice(0, 3), board[1], OPTIONS)


@pytest.mark.parametrize("unknown", ["average", "folded", "none"])
def test_saved_codes_are_the_same(codes, tmp_path, unknown):
    chosen = replace(codes, unknown=unknown)
    chosen.save_pretrained(tmp_path / "codes")
    again = Codes.from_pretrained(tmp_path / "codes")
    users, past = ["nobody", *USERS], [["n1", "n3", "n5"]] * 17
    np.testing.assert_array_equal(again.user_bits(users, past), chosen.user_bits(users, past))
    np.testing.assert_array_equal(again.item_bits([*NOTES, "x"]), chosen.item_bits([*NOTES, "x"]))
    np.testing.assert_array_equal(again.has_user(users), chosen.has_user(users))
    assert (again.scale, again.bits) == (chosen.scale, 16)
    assert again.description["options"]["bits"] == 16
    table = pq.read_table(tmp_path / "codes" / "users.parquet")
    assert table["code"].to_pylist() == binary_text(codes.user_codes)


def test_the_same_rows_make_the_same_bytes(board, codes, tmp_path):
    codes.save_pretrained(tmp_path / "first")
    fit_codes(board[0], board[1], OPTIONS).save_pretrained(tmp_path / "second")
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert first == second


@pytest.mark.parametrize("description", [None, {}, {"options": {"collaborative": "gru"}}])
def test_codes_of_no_known_model_are_refused(codes, tmp_path, description):
    codes.save_pretrained(tmp_path / "codes")
    path = tmp_path / "codes" / "config.json"
    write_json(read_json(path) | {"description": description}, path, replace=True)
    agree(tmp_path / "codes")
    with pytest.raises(
        ModelError, match=r"the collaborative model in config\.json is .*, not one of mf, lightgcn"
    ):
        Codes.from_pretrained(tmp_path / "codes")


@pytest.mark.parametrize(
    ("name", "table", "says"),
    [
        ("users", {"user_id": ["u"], "known": [True], "code": [7]}, "the column code is int64"),
        (
            "users",
            {"user_id": ["u"], "known": [None], "code": ["01"]},
            "the column known is null with 1 empty",
        ),
        (
            "items",
            {"note_id": ["n"], "known": [True], "code": ["01"]},
            "users have codes of 16 bits, items of 2",
        ),
        ("items", {"note_id": ["n", "n"], "known": [True] * 2, "code": ["01"] * 2}, r"items\.parquet: 2 ids"),
    ],
)
def test_tables_that_are_no_codes_are_named(codes, tmp_path, name, table, says):
    """Whatever the manifest says."""
    codes.save_pretrained(tmp_path / "codes")
    pq.write_table(pa.table(table), tmp_path / "codes" / f"{name}.parquet")
    agree(tmp_path / "codes")
    with pytest.raises(NotellmError, match=says):
        Codes.from_pretrained(tmp_path / "codes")


def test_what_is_no_folder_of_codes_is_named(codes, tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        Codes.from_pretrained(tmp_path)
    codes.save_pretrained(tmp_path / "codes")
    os.truncate(tmp_path / "codes" / "maps.safetensors", 5)
    with pytest.raises(ModelError, match=r"maps\.safetensors is damaged"):
        Codes.from_pretrained(tmp_path / "codes")
    (tmp_path / "codes" / "config.json").write_text('{"kind": "mf"}')
    with pytest.raises(ModelError, match="holds 'mf'"):
        Codes.from_pretrained(tmp_path / "codes")


def test_texts():
    code = np.unpackbits(np.array([[172, 16, 254, 1], [0, 255, 8, 0]], np.uint8), axis=1).astype(bool)
    assert decimal_text(code) == ["172.16.254.1", "0.255.8.0"]
    assert binary_text(code)[0] == "10101100000100001111111000000001"


@given(codes_of_bytes)
def test_texts_lose_nothing(code):
    np.testing.assert_array_equal(parse_binary(binary_text(code)), code)
    numbers = np.array([text.split(".") for text in decimal_text(code)], np.uint8)
    np.testing.assert_array_equal(np.unpackbits(numbers, axis=1), code)


def test_no_texts_are_no_codes():
    assert parse_binary([]).shape == (0, 0)
    assert binary_text(np.empty((0, 8), bool)) == decimal_text(np.empty((0, 8), bool)) == []


def test_decimal_needs_whole_bytes():
    with pytest.raises(ConfigError, match="a code has 12 bits"):
        decimal_text(np.zeros((1, 12), bool))


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["01", "012"], "'012' is not a code like '01'"),
        (["01", "0"], "'0' is not a code like '01'"),
        (["01", "1", "11"], "'1' is not a code like '01'"),
        (["0b"], "'0b' is not a code like '0b'"),
        (["01", "0-"], "'0-' is not a code like '01'"),
        (["٠١"], "'٠١' is not a code like '٠١'"),
    ],
)
def test_what_is_no_binary_text_is_named(texts, named):
    with pytest.raises(DataError, match=f"^{named}; give strings of 0 and 1 of one length$"):
        parse_binary(texts)


def test_options_are_checked_together():
    expected = r"unknown is 'x'.*dimensions is 0.*bits is 12.*anneal_epochs is 9.*penalties is \(-1,\)"
    with pytest.raises(ConfigError, match=expected):
        CodeOptions(
            bits=12,
            dimensions=0,
            anneal_epochs=9,
            penalties=(-1,),
            unknown="x",  # type: ignore[arg-type]
            training=replace(TRAINING, epochs=9),
        )


@pytest.mark.real
def test_published_codes(real_data):
    from notellm.data.datasets.collm import read_collm

    data = read_collm(real_data("ml-1m-collm"))
    codes = fit_codes(data.train, data.valid)
    scores = codes.scores(data.test["user_id"], data.test["note_id"], data.test["history"])
    assert auc(data.test, scores) > 0.719  # published: 0.7189
