import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from notellm.errors import ConfigError, DataError, ModelError, StorageError
from notellm.rank.collaborative.base import CollaborativeModel, blocks, predict
from notellm.rank.collaborative.kinds import REAL_VALUED
from notellm.rank.collaborative.lightgcn import LightGCN
from notellm.rank.collaborative.mf import MatrixFactorization
from notellm.rank.collaborative.options import TrainingOptions
from notellm.rank.collaborative.rows import IdIndex
from notellm.rank.collaborative.sasrec import SASRec
from notellm.rank.collaborative.train import fit, fit_real_valued, train_collaborative
from tests.conftest import agree
from tests.rank.collaborative.checkerboard import NOTES, USERS, checkerboard, impressions

OPTIONS = TrainingOptions(
    learning_rate=0.01, weight_decay=1e-3, batch=16, epochs=40, patience=5, progress=False
)
# Neither has a row anywhere: what their rows of the tables hold was drawn, and must not show.
STRANGER, UNSEEN = "stranger", "unseen"


def scores_of(model, table):
    return model.scores(table["user_id"], table["note_id"], table["history"])


def auc(model, table):
    return roc_auc_score(table["label"].to_numpy(), scores_of(model, table))


class ModelContract:
    """What holds for every collaborative model; a subclass gives `build`."""

    @staticmethod
    def build(seed=0):
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, request):
        train, valid, test = checkerboard()
        model = request.cls.build()
        training = train_collaborative(model, train, valid, OPTIONS)
        return model, training, train, valid, test

    def test_the_checkerboard_is_learnt_exactly(self, trained):
        model, _, _, valid, test = trained
        untrained = self.build()
        untrained.prepare(trained[2])
        assert auc(untrained, test) < 0.9
        assert auc(model, valid) == 1.0
        assert auc(model, test) > 0.99  # the first epoch that is perfect on valid is kept

    def test_the_score_is_the_dot_product_of_the_embeddings(self, trained):
        model, *_, test = trained
        users = model.user_embeddings(test["user_id"], test["history"])
        items = model.item_embeddings(test["note_id"])
        assert users.dtype == items.dtype == np.float32
        assert users.shape == items.shape == (len(test), users.shape[1])
        assert np.std(scores_of(model, test)) > 0.01
        np.testing.assert_allclose((users * items).sum(1), scores_of(model, test), rtol=1e-4, atol=1e-5)

    def test_batched_is_single(self, trained):
        model, *_, test = trained
        together = scores_of(model, test)
        alone = [scores_of(model, test.slice(row, 1))[0] for row in range(len(test))]
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)

    def test_no_rows_have_no_scores(self, trained):
        model = trained[0]
        assert model.scores([], [], []).shape == (0,)
        assert model.user_embeddings([], []).shape == (0, model.item_embeddings(["n0"]).shape[1])

    def test_the_best_epoch_is_kept(self, trained):
        model, training, _, valid, _ = trained
        assert 1 <= training.best_epoch <= training.epochs <= OPTIONS.epochs
        assert auc(model, valid) == training.valid_auc

    def test_the_seeds_decide(self):
        train, valid, test = checkerboard()

        def scores(seed):
            model = self.build(seed)
            train_collaborative(model, train, valid, TrainingOptions(epochs=2, seed=seed, progress=False))
            return scores_of(model, test)

        state = torch.random.get_rng_state()
        first = scores(0)
        torch.rand(7)  # what else was drawn in the process does not matter
        np.testing.assert_array_equal(first, scores(0))
        assert not np.array_equal(first, scores(1))
        torch.random.set_rng_state(state)
        self.build()
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_a_saved_model_scores_the_same(self, trained, tmp_path):
        model, training, *_, test = trained
        model.save_pretrained(tmp_path / "model", training.to_json())
        again = CollaborativeModel.from_pretrained(tmp_path / "model")
        assert type(again) is type(model)
        np.testing.assert_array_equal(scores_of(again, test), scores_of(model, test))
        assert torch.equal(again.known_users, model.known_users)
        saved = json.loads((tmp_path / "model" / "config.json").read_text())
        assert saved["training"]["valid_auc"] == training.valid_auc
        assert {path.suffix for path in (tmp_path / "model").iterdir()} == {
            ".json",
            ".parquet",
            ".safetensors",
        }

    def test_what_was_not_trained_is_marked(self, trained):
        model, _, train, *_ = trained
        known = {model.users.ids[row].as_py() for row in torch.nonzero(model.known_users).flatten().tolist()}
        assert known == set(train["user_id"].to_pylist()) == set(USERS)
        assert {
            model.items.ids[row].as_py() for row in torch.nonzero(model.known_items).flatten().tolist()
        } == set(NOTES)

    def test_unknown_ids_have_no_vector_of_their_own(self, trained):
        model = trained[0]
        users = model.user_embeddings([STRANGER, "of no table"])
        items = model.item_embeddings([UNSEEN, "of no table"])
        np.testing.assert_array_equal(users[0], users[1])
        np.testing.assert_array_equal(items[0], items[1])
        np.testing.assert_allclose(items[0], model.item_embeddings(NOTES).mean(0), rtol=1e-4, atol=1e-6)

    def test_no_dimensions(self):
        with pytest.raises(ConfigError, match="dimensions is 0; it must be 1 or more"):
            type(self.build())(USERS, NOTES, dimensions=0)


class TestMatrixFactorization(ModelContract):
    @staticmethod
    def build(seed=0):
        return MatrixFactorization(
            [STRANGER, *USERS], [*NOTES, UNSEEN], dimensions=4, biases=False, seed=seed
        )

    def test_a_stranger_has_the_mean_vector(self, trained):
        model = trained[0]
        np.testing.assert_allclose(
            model.user_embeddings([STRANGER])[0], model.user_embeddings(USERS).mean(0), rtol=1e-4, atol=1e-6
        )


class TestBiases(TestMatrixFactorization):
    @staticmethod
    def build(seed=0):
        return MatrixFactorization([STRANGER, *USERS], [*NOTES, UNSEEN], dimensions=4, seed=seed)

    def test_biases_are_dimensions(self):
        model = self.build()
        model.prepare(checkerboard()[0])
        with torch.no_grad():
            model.user_bias[1], model.item_bias[0], model.bias[0] = 2.0, 30.0, 400.0
        product = float((model.user_table[1] @ model.item_table[0]).detach())
        assert model.scores(["u0"], ["n0"])[0] == pytest.approx(432 + product)


class TestLightGCN(ModelContract):
    @staticmethod
    def build(seed=0):
        return LightGCN([STRANGER, *USERS], [*NOTES, UNSEEN], dimensions=4, layers=2, seed=seed)

    def test_tables_are_the_mean_of_the_layers(self):
        train, *_ = checkerboard()
        model = self.build()
        model.prepare(train)
        users, items = len(model.users), len(model.items)
        adjacency = np.zeros((users + items, users + items))
        for row in train.to_pylist():
            if row["label"]:
                user = model.users.ids.to_pylist().index(row["user_id"])
                item = users + model.items.ids.to_pylist().index(row["note_id"])
                adjacency[user, item] = adjacency[item, user] = 1
        degree = np.maximum(adjacency.sum(1), 1)
        step = adjacency / np.sqrt(degree[:, None] * degree[None])
        first = model.table.detach().numpy()
        expected = (first + step @ first + step @ step @ first) / 3
        with torch.no_grad():
            table = torch.cat(model.tables()).numpy()
        assert model.edges.shape[1] == sum(train["label"].to_pylist())
        np.testing.assert_allclose(table, expected, rtol=1e-4, atol=1e-6)

    def test_a_second_like_of_the_same_note_is_no_second_edge(self):
        model = LightGCN(["a"], ["x", "y"], dimensions=2)
        model.prepare(impressions([("a", "x", True, []), ("a", "x", True, ["x"]), ("a", "y", False, [])]))
        assert model.edges.tolist() == [[0], [0]]

    def test_no_layers(self):
        with pytest.raises(ConfigError, match="layers is 0"):
            LightGCN(USERS, NOTES, layers=0)


class TestSASRec(ModelContract):
    @staticmethod
    def build(seed=0):
        return SASRec(
            [STRANGER, *USERS],
            [*NOTES, UNSEEN],
            dimensions=8,
            max_history=4,
            layers=1,
            dropout=0.1,
            seed=seed,
        )

    def test_a_stranger_is_scored_from_the_history(self, trained):
        model = trained[0]
        past = ["n0", "n2", "n4"]
        np.testing.assert_array_equal(
            model.user_embeddings([STRANGER], [past]), model.user_embeddings(["u0"], [past])
        )
        assert model.scores([STRANGER], ["n6"], [past]) > model.scores([STRANGER], ["n7"], [past])

    def test_only_the_latest_known_items_are_read_and_in_order(self, trained):
        model = trained[0]

        def vector(*past):
            return model.user_embeddings(["u0"], [past])[0]

        four = vector("n1", "n2", "n3", "n4")
        np.testing.assert_allclose(vector("n9", "n1", UNSEEN, "n2", "n3", "nowhere", "n4"), four, atol=1e-5)
        assert np.abs(vector("n2", "n1", "n3", "n4") - four).max() > 1e-3
        assert np.abs(vector() - four).max() > 1e-3

    def test_padding_changes_nothing(self, trained):
        model = trained[0]
        alone = model.user_embeddings(["u0"], [["n1"]])[0]
        padded = model.user_embeddings(["u0", "u1"], [["n1"], ["n1", "n2", "n3"]])[0]
        np.testing.assert_allclose(alone, padded, atol=1e-5)

    def test_heads_must_divide(self):
        with pytest.raises(ConfigError, match="heads 3, dimensions 8"):
            SASRec(USERS, NOTES, dimensions=8, heads=3)


def test_histories_are_cut_as_python_would():
    draw = np.random.default_rng(0)
    index = IdIndex(["a", "b", "c", "d"])
    allowed = np.array([True, True, False, True])
    letters = np.array(["a", "b", "c", "d", "e"])
    histories = [draw.choice(letters, draw.integers(0, 9)).tolist() for _ in range(200)]
    expected = []
    for history in histories:
        kept = ["abcd".index(letter) for letter in history if letter in "abd"][-3:]
        expected.append(kept + [-1] * (3 - len(kept)))
    assert len({len(history) for history in histories}) == 9
    assert index.last(histories, 3, allowed).tolist() == expected


def test_unknown_ids_are_no_rows():
    assert IdIndex(["a", "b"]).rows(["b", "z", "a"]).tolist() == [1, -1, 0]


@pytest.mark.parametrize("ids", [[], ["a", "a"]])
def test_ids_must_be_distinct(ids):
    with pytest.raises(DataError, match="not all distinct"):
        IdIndex(ids)


def test_blocks_cover_all_rows(monkeypatch):
    monkeypatch.setattr("notellm.rank.collaborative.base._BLOCK", 7)
    train, *_ = checkerboard()
    model = TestMatrixFactorization.build()
    model.prepare(train)
    rows = model.rows_of_table(train, "train")
    parts = [len(part) for part in blocks(rows)]
    assert len(parts) == -(-len(train) // 7) > 1
    assert sum(parts) == len(predict(model, rows)) == len(train)


def test_a_later_epoch_that_is_worse_is_not_kept():
    train, valid, _ = checkerboard()
    flipped = valid.set_column(2, "label", [[not label for label in valid["label"].to_pylist()]])
    model = TestMatrixFactorization.build()
    training = train_collaborative(model, train, flipped, OPTIONS)
    assert training.epochs == training.best_epoch + OPTIONS.patience < OPTIONS.epochs
    assert auc(model, flipped) == training.valid_auc
    steps = -(-len(train) // OPTIONS.batch)  # of an epoch
    shorter = replace(OPTIONS, patience_steps=2 * steps - 1)
    model = TestMatrixFactorization.build()
    training = train_collaborative(model, train, flipped, shorter)
    assert training.epochs == training.best_epoch + 2


def test_tables_are_checked():
    train, valid, _ = checkerboard()
    model = TestMatrixFactorization.build()
    with pytest.raises(DataError, match="the train impressions have no column 'history'"):
        train_collaborative(model, train.drop_columns("history"), valid)
    likes = valid.filter(valid["label"])
    with pytest.raises(DataError, match=r"of the \d+ valid impressions are liked; give rows of both labels"):
        train_collaborative(model, train, likes)


def test_options_are_checked_together():
    with pytest.raises(
        ConfigError, match=r"batch is 0.*patience is 0.*learning_rate is 0.*averaging is 1.*penalty is -1"
    ):
        TrainingOptions(batch=0, patience=0, learning_rate=0.0, averaging=1, penalty=-1)


@pytest.mark.parametrize(("decay", "share"), [(0.9, 2 / 11), (0.1, 0.1)])  # the first steps count less
def test_what_is_kept_is_the_moving_average_of_the_weights(decay, share):
    train, valid, _ = checkerboard()

    def weights(epochs, averaging):  # one step an epoch; the last is kept
        model = TestMatrixFactorization.build()
        model.prepare(train)
        seen, unseen = model.rows_of_table(train, "train"), model.rows_of_table(valid, "valid")
        options = replace(OPTIONS, batch=len(train), epochs=epochs, averaging=averaging)
        training = fit(model, seen, unseen, options, first_kept=epochs)
        assert training.best_epoch == epochs
        assert training.valid_auc == auc(model, valid)
        return dict(model.named_parameters())

    first, second, average = weights(1, 0), weights(2, 0), weights(2, decay)
    for name, value in average.items():
        torch.testing.assert_close(value, second[name] + share * (first[name] - second[name]))


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        CollaborativeModel.from_pretrained(tmp_path)
    model = TestMatrixFactorization.build()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        CollaborativeModel.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"kind": "codes"}')
    with pytest.raises(ModelError, match="kind 'codes'; it must be one of mf, lightgcn, sasrec"):
        CollaborativeModel.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("edges", torch.tensor([[0], [99]])),
        ("edges", torch.tensor([[-1], [0]])),
        ("edges", torch.zeros(3, 1, dtype=torch.int64)),
        ("known_users", torch.ones(3, dtype=torch.bool)),
        ("known_items", torch.ones(1)),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, name, value):
    """Whatever the manifest says: an edge outside of the tables would read foreign memory."""
    model = LightGCN(["u0", "u1"], ["n0"], dimensions=4)
    model.save_pretrained(tmp_path / "model")
    assert CollaborativeModel.from_pretrained(tmp_path / "model").scores(["u0"], ["n0"]).shape == (1,)
    save_file(model.state_dict() | {name: value}, tmp_path / "model" / "model.safetensors")
    agree(tmp_path / "model")
    with pytest.raises(ModelError, match=f"is not a whole lightgcn model: {name}"):
        CollaborativeModel.from_pretrained(tmp_path / "model")


@pytest.mark.real
def test_published_matrix_factorization(real_data):
    from notellm.data.datasets.collm import read_collm
    from notellm.evaluate.ranking import evaluate_ranking

    data = read_collm(real_data("ml-1m-collm"))
    model = MatrixFactorization(
        data.train["user_id"].unique(), data.train["note_id"].unique(), dimensions=256, biases=False
    )
    train_collaborative(model, data.train, data.valid, TrainingOptions(progress=False))
    scores = scores_of(model, data.test)
    known = np.isin(data.test["user_id"].to_pylist(), data.train["user_id"].to_pylist())
    assert 0.3 < np.mean(~known) < 0.5
    # As published: the vector of a user who was never trained has decayed to 0.
    figures = evaluate_ranking(data.test, np.where(known, scores, 0)).figures
    assert figures["AUC"].mean == pytest.approx(0.6482, abs=0.01)


def test_a_penalty_is_a_weight_decay_by_the_rows():
    train, valid, _ = checkerboard()
    tables = []
    for options in (
        replace(OPTIONS, weight_decay=0.02, epochs=3),
        replace(OPTIONS, weight_decay=0.01, penalty=0.01 * len(train), epochs=3),
    ):
        model = TestMatrixFactorization.build()
        train_collaborative(model, train, valid, options)
        tables.append(model.user_table.detach())
    torch.testing.assert_close(*tables)


class TestRealValued:
    @pytest.mark.parametrize("name", REAL_VALUED)
    def test_every_model_ranks_and_keeps_the_penalty_that_is_best_on_validation(self, name):
        train, valid, test = checkerboard()
        model, training = fit_real_valued(train, valid, name, epochs=4, seed=2, progress=False)
        kind = REAL_VALUED[name]
        assert isinstance(model, kind.load())
        assert model.config["dimensions"] == kind.dimensions
        assert model.config["seed"] == training.options.seed == 2
        assert training.epochs <= 4
        assert auc(model, valid) == training.valid_auc
        assert np.isfinite(scores_of(model, test)).all()
        best = []
        for penalty in kind.penalties:
            other = kind.load()(
                train["user_id"].unique(),
                train["note_id"].unique(),
                dimensions=kind.dimensions,
                seed=2,
                **kind.arguments,
            )
            options = replace(kind.training, penalty=penalty, epochs=4, seed=2, progress=False)
            best.append(train_collaborative(other, train, valid, options).valid_auc)
        assert training.valid_auc == max(best)
        assert training.options.penalty == kind.penalties[int(np.argmax(best))]

    def test_the_checkerboard_is_learnt(self):
        train, valid, test = checkerboard()
        model, _ = fit_real_valued(train, valid, "mf", progress=False)
        assert auc(model, test) > 0.9

    def test_an_unknown_model_is_answered_with_the_allowed_ones(self):
        train, valid, _ = checkerboard()
        with pytest.raises(ConfigError, match="'gru': give one of mf, mf_biases, lightgcn, sasrec"):
            fit_real_valued(train, valid, "gru")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="epochs is 0"):
            fit_real_valued(train, valid, epochs=0)
