"""The rank methods of an experiment: their rows, fits that resume, figures and differences."""

import shutil
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from notellm.data.impressions import impressions_from_clicks
from notellm.data.problems import Report
from notellm.data.sample_world import sample_world
from notellm.data.split import split_impressions
from notellm.errors import ConfigError, DataError
from notellm.evaluate.ranking import cold_groups, evaluate_ranking, ranking_difference
from notellm.experiment.rank import runs as rank_runs
from notellm.experiment.rank.data import RankData
from notellm.experiment.rank.figures import cost_rows, curve_rows, rank_figures, reliability_rows
from notellm.experiment.rank.methods import rank_methods
from notellm.experiment.rank.runs import fit_rank_method
from notellm.experiment.results import frame
from notellm.experiment.statistics import holm
from notellm.files import write_parquet
from notellm.jobs import rank_codes
from notellm.jobs.evaluate_rank import evaluate_rank
from notellm.jobs.folders import save_dataset
from notellm.jobs.train_rank import train_rank
from notellm.rank.collaborative.kinds import RealValued
from notellm.rank.config import RankOptions
from notellm.rank.trainer import BinLLMTrainer

QUICK: dict[str, Any] = {"batch": 8, "evaluations": 2, "code_epochs": 3, "out_of_fold": 2}
STEPS = 4
METHODS = rank_methods(**QUICK)


@pytest.fixture(scope="module")
def world():
    return sample_world(notes=160, users=40, clicks=900, bots=0, seed=3)


@pytest.fixture(scope="module")
def data(world):
    return RankData.from_tables(world.notes, *split_impressions(impressions_from_clicks(world.clicks)))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("rank")


@pytest.fixture(scope="module")
def fit(data, home):
    """A function that fits a method by its key; what was fitted before is read."""

    def fitted(key, seed=0, folder=home, max_steps=STEPS):
        return fit_rank_method(METHODS[key], data, seed, folder, max_steps=max_steps, progress=False)

    return fitted


def scores_of(data, *, seed=0, signal=0.0):
    """Random scores of the test rows, with more or less of their labels in them."""
    draw = np.random.default_rng(seed)
    label = data.test["label"].to_numpy().astype(float)
    return draw.normal(size=data.test.num_rows) + signal * label


class TestRows:
    def test_clicks_of_a_prepared_folder_become_the_impressions_of_rank_train(self, world, data, tmp_path):
        save_dataset(tmp_path / "data", world.notes, world.clicks, Report(), config={})
        found = RankData.from_folder(tmp_path / "data")
        assert found.described == data.described
        smaller = RankData.from_folder(tmp_path / "data", test=0.3)
        assert smaller.test.num_rows > data.test.num_rows

    def test_impressions_beside_the_notes_are_taken_as_they_are(self, world, data, tmp_path):
        write_parquet(world.notes, tmp_path / "notes.parquet")
        for part in ("train", "valid", "test"):
            write_parquet(getattr(data, part), tmp_path / f"{part}.parquet")
        assert RankData.from_folder(tmp_path).described == data.described

    def test_rows_on_unknown_notes_are_left_out(self, data):
        known = data.notes.filter(pc.not_equal(data.notes["note_id"], data.test["note_id"][0]))
        fewer = RankData.from_tables(known, data.train, data.valid, data.test)
        assert fewer.test.num_rows < data.test.num_rows
        assert set(fewer.test["note_id"].to_pylist()) <= set(known["note_id"].to_pylist())

    def test_too_few_rows_to_choose_by_are_refused(self, data):
        with pytest.raises(DataError, match="there are 4 validation rows"):
            RankData.from_tables(data.notes, data.train, some_of_each(data.valid, 2), data.test)

    def test_a_limit_draws_whole_users_of_valid_and_test(self, data):
        smaller = data.limited(30, seed=1)
        assert smaller.train.equals(data.train)
        for part in ("valid", "test"):
            whole, cut = getattr(data, part), getattr(smaller, part)
            users = set(cut["user_id"].to_pylist())
            assert 0 < cut.num_rows <= 30 < whole.num_rows
            assert cut.equals(whole.filter(pc.is_in(whole["user_id"], pa.array(users))))
        assert data.limited(10**6).described == data.described
        assert data.limited(30, seed=1).described == smaller.described != data.limited(30).described
        with pytest.raises(ConfigError, match="most is 0"):
            data.limited(0)


def some_of_each(table, count):
    """The first rows of each label."""
    liked = table.filter(table["label"])
    return pa.concat_tables([liked[:count], table.filter(pc.invert(table["label"]))[:count]])


class TestMethods:
    def test_every_method_has_a_key_and_a_name_of_its_own(self):
        assert [key for key, method in METHODS.items() if method.key != key] == []
        assert len({method.name for method in METHODS.values()}) == len(METHODS)
        assert list(METHODS)[-1] == "binllm"
        assert METHODS["binllm"].name == "BinLLM"
        assert set(get_args(RealValued)) <= METHODS.keys()

    def test_a_form_differs_from_the_reference_in_what_its_name_says(self):
        reference = METHODS["binllm"].options
        assert METHODS["bits64"].options == replace(reference, bits=64)
        assert METHODS["decimal"].options == replace(reference, code_text="decimal")
        assert METHODS["text_only"].options.form == "text_only"
        assert METHODS["two_step"].options == replace(reference, two_step=True)

    def test_the_reference_takes_the_steps_that_are_usual_for_its_backbone(self):
        assert not METHODS["binllm"].options.two_step
        pretrained = rank_methods("some/model", layers=6)
        assert pretrained["binllm"].options.two_step
        assert not pretrained["one_step"].options.two_step
        assert "two_step" not in pretrained
        assert {method.options.layers for method in pretrained.values()} == {6}

    def test_an_unknown_method_is_answered_with_the_allowed_ones(self):
        with pytest.raises(
            ConfigError, match=r"no rank method 'bin_mf': give some of popularity, mf,.*binllm"
        ):
            rank_methods(only=["mf", "bin_mf"])
        assert list(rank_methods(only=["binllm", "mf"])) == ["mf", "binllm"]

    def test_options_in_which_methods_differ_are_refused_and_others_checked(self):
        with pytest.raises(ConfigError, match="bits is given for all rank methods"):
            rank_methods(bits=8)
        with pytest.raises(ConfigError, match="unknown option 'size'"):
            rank_methods(size=3)
        with pytest.raises(ConfigError, match="batch is 0"):
            rank_methods(batch=0)
        with pytest.raises(ConfigError, match="layers is 2, but only pretrained backbones"):
            rank_methods(layers=2)


class TestFits:
    def test_popularity_is_the_number_of_likes(self, data, fit):
        liked = data.train.filter(data.train["label"])["note_id"].to_pylist()
        assert fit("popularity").scores.tolist() == [liked.count(n) for n in data.test["note_id"].to_pylist()]
        assert not METHODS["popularity"].seeded

    @pytest.mark.slow
    def test_binllm_and_its_codes_alone_score_as_those_of_rank_train(self, data, fit, tmp_path):
        options = RankOptions(**QUICK, max_steps=STEPS)
        ranker = train_rank(
            data.notes, data.train, data.valid, tmp_path / "r", options=options, progress=False
        )
        result = evaluate_rank(ranker, data.test, train=data.train, resamples=1, progress=False)
        means = [{name: f.mean for name, f in each.figures.items()} for each in result.results]
        for key, expected in zip(("popularity", "binmf", "binllm"), means, strict=True):
            found = evaluate_ranking(data.test, fit(key).scores, resamples=1).figures
            assert {name: figure.mean for name, figure in found.items()} == pytest.approx(expected)

    def test_a_language_model_answers_with_probabilities_and_tells_its_training(self, data, fit):
        run = fit("binllm")
        assert run.scores.shape == (data.test.num_rows,)
        assert ((run.scores > 0) & (run.scores < 1)).all()
        assert run.figures.keys() == {"codes", "untrained", "validation"}
        assert run.steps == STEPS
        assert [step for step, _ in run.history] == [0, 2, 4]
        assert run.history[0][1] == run.figures["untrained"]["auc"]
        assert run.prompt_tokens is not None
        assert run.prompt_tokens > 5
        assert run.seconds is not None

    @pytest.mark.slow
    def test_methods_with_the_same_codes_fit_them_once(self, fit, monkeypatch, tmp_path):
        first = fit("binmf", folder=tmp_path)
        monkeypatch.delattr(rank_codes, "fit_out_of_fold")
        for key in ("decimal", "codes_only"):
            run = fit(key, folder=tmp_path)
            assert run.figures["codes"] == first.figures["validation"]
            assert run.seconds is not None
            assert first.seconds is not None
            assert run.seconds > first.seconds
        assert len([path for path in (tmp_path / "codes").iterdir() if path.is_dir()]) == 1
        with pytest.raises(NameError):
            fit("bits8", folder=tmp_path)

    def test_text_alone_needs_no_codes(self, fit, tmp_path):
        run = fit("text_only", folder=tmp_path)
        assert run.figures.keys() == {"untrained", "validation"}
        assert not (tmp_path / "codes").exists()

    @pytest.mark.parametrize("key", [*get_args(RealValued), "lightgcn_codes", "sasrec_codes"])
    def test_collaborative_models_score_every_row_and_seeds_decide(self, key, data, fit):
        one, other = fit(key), fit(key, seed=1)
        assert one.scores.shape == (data.test.num_rows,)
        assert np.isfinite(one.scores).all()
        assert not np.array_equal(one.scores, other.scores)
        assert (one.seed, other.seed, one.steps, one.history) == (0, 1, None, ())
        assert 0 < one.figures["validation"]["auc"] < 1

    @pytest.mark.slow
    def test_a_killed_fit_resumes_to_the_same_scores(self, fit, tmp_path, monkeypatch):
        """Killed in the second of two steps: the codes, the first step and a checkpoint are there."""
        whole = fit("two_step", folder=tmp_path / "whole")
        shutil.copytree(tmp_path / "whole" / "codes", tmp_path / "killed" / "codes")
        measured, measure = [], BinLLMTrainer.measure

        def killed(self):
            measured.append(self.state.global_step)
            if len(measured) == 4:
                raise KeyboardInterrupt
            return measure(self)

        with monkeypatch.context() as patched:
            patched.setattr(BinLLMTrainer, "measure", killed)
            with pytest.raises(KeyboardInterrupt):
                fit("two_step", folder=tmp_path / "killed")
        assert measured == [2, 4, 2, 4]
        assert [*(tmp_path / "killed").glob("two_step-*.run/codes/checkpoint-2")]
        with monkeypatch.context() as patched:
            patched.delattr(rank_codes, "fit_out_of_fold")
            again = fit("two_step", folder=tmp_path / "killed")
        np.testing.assert_array_equal(again.scores, whole.scores)
        assert again.figures == whole.figures
        assert again.history == whole.history
        assert [step for step, _ in again.history] == [0, 2, 4, 6, 8]
        assert again.steps == 2 * STEPS
        assert again.seconds is None  # nobody knows how long it took
        assert not [*(tmp_path / "killed").glob("*.run/*/checkpoint-*")]
        assert not [*(tmp_path / "killed").glob("*.run/*/tuned")]

    def test_a_finished_fit_is_read_and_no_other_one_is_taken_for_it(self, fit, monkeypatch):
        before = fit("codes_only")
        monkeypatch.delattr(rank_runs, "build_rank_model")
        again = fit("codes_only")
        np.testing.assert_array_equal(again.scores, before.scores)
        assert vars(again) | {"scores": None} == vars(before) | {"scores": None}
        with pytest.raises(NameError):
            fit("codes_only", max_steps=STEPS + 1)
        with pytest.raises(NameError):
            fit("codes_only", seed=1)

    def test_a_pretrained_backbone_is_cut_to_its_first_layers_and_tuned(self, data, checkpoints, tmp_path):
        pytest.importorskip("peft")
        shared = {"layers": 1, "template": "compact", "history": 2, "title_tokens": 6}
        backbone = str(checkpoints["qwen2"].path)
        small = replace(data, train=data.train[:80])
        few = RankData.from_tables(small.notes, small.train, small.valid, small.test).limited(30)
        methods = rank_methods(backbone, only=["text_only", "binllm"], **QUICK, **shared)
        for key, steps in (("text_only", 1), ("binllm", 2)):
            run = fit_rank_method(methods[key], few, 0, tmp_path, max_steps=1, progress=False)
            assert run.steps == steps
            assert run.scores.shape == (few.test.num_rows,)
            assert 0 < run.scores.min() <= run.scores.max() < 1


class TestFigures:
    def test_figures_of_one_seed_are_those_of_evaluate_ranking(self, data):
        scores = scores_of(data, signal=1)
        rows, differences = rank_figures(data, {"BinLLM": [scores]}, resamples=50)
        expected = evaluate_ranking(data.test, scores, groups=cold_groups(data.train, data.test))
        found = {(row["breakdown"], row["group"], row["figure"]): row for row in rows}
        count = 0
        for group, part in [("all", expected), *expected.by_group.items()]:
            for figure, value in part.figures.items():
                row = found["" if group == "all" else "warm", group, figure]
                assert row["mean"] == pytest.approx(value.mean)
                assert row["count"] == part.counted[figure]
                assert row["low"] <= row["mean"] <= row["high"]
                assert (row["seeds"], row["deviation"]) == (1, None)
                count += 1
        assert count == len(rows) > 6
        assert differences == []

    @pytest.fixture(autouse=True)
    def _few_users(self, monkeypatch):
        """Test differences on the few users of these data, too."""
        monkeypatch.setattr("notellm.experiment.rank.figures.LEAST", 1)

    def test_differences_are_paired_and_corrected_by_figure(self, data):
        runs = {
            "BinLLM": [scores_of(data, signal=4)],
            "close": [scores_of(data, signal=4) + 0.01 * scores_of(data, seed=5)],
            "poor": [scores_of(data, seed=7)],
        }
        rows = rank_figures(data, runs, resamples=200)[1]
        best = "BinLLM" if "BinLLM" not in {row["method"] for row in rows} else "close"
        assert {row["against"] for row in rows} == {"BinLLM", best}
        by_place = {(row["method"], row["figure"]): row for row in rows if row["against"] == "BinLLM"}
        assert {name for name, _ in by_place} == {"close", "poor"}
        for name in ("close", "poor"):
            expected = ranking_difference(data.test, runs[name][0], runs["BinLLM"][0])
            for figure, value in expected.items():
                assert by_place[name, figure]["difference"] == pytest.approx(value.mean)
        poor = by_place["poor", "AUC"]
        assert poor["high"] < 0
        assert poor["p"] == pytest.approx(2 / 201)
        for figure in ("AUC", "UAUC", "NDCG@10"):
            family = [by_place[name, figure] for name in ("close", "poor")]
            assert [row["comparisons"] for row in family] == [2, 2]
            expected_p = holm([row["p"] for row in family])
            np.testing.assert_array_equal([row["p_adjusted"] for row in family], expected_p)
        others = rank_figures(data, runs, against="poor", resamples=9)[1]
        assert {row["against"] for row in others} == {"poor", best}

    def test_identical_methods_differ_by_nothing(self, data):
        seeds = [scores_of(data, seed=seed, signal=1) for seed in range(3)]
        rows = rank_figures(data, {"BinLLM": seeds[:1], "twin": seeds[:1]}, resamples=100)[1]
        assert [row["figure"] for row in rows] == ["AUC", "UAUC", "NDCG@10"]
        for row in rows:
            assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
            assert (row["p"], row["p_adjusted"], row["comparisons"]) == (1, 1, 1)
        for row in rank_figures(data, {"BinLLM": seeds, "twin": [*seeds]}, resamples=400)[1]:
            assert row["difference"] == 0
            assert row["low"] < 0 < row["high"]  # other seeds might have been drawn
            assert row["p"] > 0.5

    def test_seeds_are_averaged_and_their_deviation_is_told(self, data):
        seeds = [scores_of(data, seed=seed, signal=1) for seed in range(3)]
        alone = [rank_figures(data, {"BinLLM": [each]}, resamples=5)[0] for each in seeds]
        together = rank_figures(data, {"BinLLM": seeds}, resamples=5)[0]
        for place, row in enumerate(together):
            means = [rows[place]["mean"] for rows in alone]
            assert row["mean"] == pytest.approx(np.mean(means))
            assert row["deviation"] == pytest.approx(np.std(means, ddof=1))
            assert row["seeds"] == 3

    def test_the_interval_is_that_of_resampled_users(self, data):
        """Of UAUC it is that of the users' own AUC, which evaluate_ranking resamples with other draws."""
        scores = scores_of(data, signal=1)
        rows = rank_figures(data, {"BinLLM": [scores]}, resamples=2_000)[0]
        found = next(row for row in rows if (row["group"], row["figure"]) == ("all", "UAUC"))
        expected = evaluate_ranking(data.test, scores, resamples=2_000, seed=1).figures["UAUC"]
        width = expected.high - expected.low
        assert found["low"] == pytest.approx(expected.low, abs=0.15 * width)
        assert found["high"] == pytest.approx(expected.high, abs=0.15 * width)

    def test_the_order_of_the_rows_changes_nothing(self, data):
        runs = {
            name: [scores_of(data, seed=seed, signal=1) for seed in seeds]
            for name, seeds in {"BinLLM": (0, 1), "other": (2, 3)}.items()
        }
        order = np.random.default_rng(0).permutation(data.test.num_rows)
        shuffled = replace(data, test=data.test.take(order))
        moved = {name: [each[order] for each in seeds] for name, seeds in runs.items()}
        for before, after in zip(
            rank_figures(data, runs, resamples=30), rank_figures(shuffled, moved, resamples=30), strict=True
        ):
            assert len(before) > 2
            for one, other in zip(before, after, strict=True):
                assert one == pytest.approx(other)

    def test_groups_without_rows_or_labels_of_both_kinds_have_no_such_figures(self, data):
        known = data.train["user_id"].unique()
        warm = data.test.filter(pc.is_in(data.test["user_id"], known))
        rows = rank_figures(replace(data, test=warm), {"BinLLM": [np.zeros(warm.num_rows)]}, resamples=5)[0]
        assert "cold user" not in {row["group"] for row in rows}
        liked = data.test.filter(data.test["label"])
        rows = rank_figures(replace(data, test=liked), {"BinLLM": [np.zeros(liked.num_rows)]}, resamples=5)[0]
        assert {row["figure"] for row in rows} == {"NDCG@10"}

    def test_too_few_users_are_not_tested(self, data, monkeypatch):
        monkeypatch.setattr("notellm.experiment.rank.figures.LEAST", 10_000)
        runs = {name: [scores_of(data, seed=seed)] for seed, name in enumerate(("BinLLM", "other"))}
        rows = rank_figures(data, runs, resamples=30)[1]
        assert {(row["p"], row["p_adjusted"]) for row in rows} == {(None, None)}

    def test_scores_that_do_not_fit_are_refused(self, data):
        with pytest.raises(DataError, match="the scores of mine have shape"):
            rank_figures(data, {"mine": [np.zeros(3)]})
        with pytest.raises(DataError, match="there are no scores of mine"):
            rank_figures(data, {"mine": []})
        with pytest.raises(ConfigError, match="resamples is 0"):
            rank_figures(data, {"mine": [scores_of(data)]}, resamples=0)

    def test_all_rows_fit_the_frames_of_the_results(self, data, fit):
        runs = {METHODS[key].name: [fit(key)] for key in ("popularity", "binmf", "binllm")}
        figures, differences = rank_figures(
            data, {name: [run.scores for run in of_seeds] for name, of_seeds in runs.items()}, resamples=20
        )
        made = {
            "figures": figures,
            "differences": differences,
            "costs": cost_rows(runs, {name: [100.0] * len(each) for name, each in runs.items()}),
            "curves": curve_rows(runs),
            "reliability": reliability_rows(data, [run.scores for run in runs["BinLLM"]]),
        }
        for name, rows in made.items():
            table = frame(name, rows)
            assert table.height == len(rows) > 0
            assert set(table["table"]) == {"rank"}
            assert not table["method"].eq("").any()
        assert set(frame("costs", made["costs"])["method"]) == {"BinMF", "BinLLM"}
        assert frame("curves", made["curves"])["step"].to_list() == [0, 2, 4]


class TestReliability:
    def test_bins_hold_the_mean_probability_and_the_share_that_was_enjoyed(self, data):
        label = data.test["label"].to_numpy().astype(float)
        chance = np.where(np.arange(len(label)) < 10, 0.12, 0.95)
        chance[0], chance[-1] = 0.18, 1.0
        low, high = reliability_rows(data, [chance])
        assert low["predicted"] == pytest.approx((9 * 0.12 + 0.18) / 10)
        assert low["observed"] == pytest.approx(label[:10].mean())
        assert high["observed"] == pytest.approx(label[10:].mean())
        assert (low["count"], high["count"], low["method"]) == (10, len(label) - 10, "BinLLM")

    def test_rows_of_every_seed_count(self, data):
        draw = np.random.default_rng(0)
        seeds = [draw.random(data.test.num_rows) for _ in range(3)]
        rows = reliability_rows(data, seeds)
        assert len(rows) == 10
        assert sum(row["count"] for row in rows) == 3 * data.test.num_rows
        predicted = [row["predicted"] for row in rows]
        assert predicted == sorted(predicted)

    def test_what_is_no_probability_is_refused(self, data):
        with pytest.raises(DataError, match="which is no probability"):
            reliability_rows(data, [scores_of(data)])
