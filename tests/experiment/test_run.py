"""An experiment from a folder to its report: every part, a second run, a killed one, a budget."""

import dataclasses
import json
import shutil

import polars as pl
import pytest

from notellm.data.problems import Report
from notellm.data.sample_world import sample_world
from notellm.data.split import Part, split_by_note
from notellm.errors import DataError, StorageError
from notellm.experiment.memory import reset_peak
from notellm.experiment.options import ExperimentOptions
from notellm.experiment.rank import part as rank_part
from notellm.experiment.rank.methods import rank_methods
from notellm.experiment.recall import part as recall_part
from notellm.experiment.report.write import read_results
from notellm.experiment.run import run_experiment
from notellm.jobs.folders import save_dataset, save_split
from notellm.lexical.terms import texts_of
from notellm.recall import config
from tests.sentence_encoder import write_sentence_encoder

pytestmark = pytest.mark.slow

QUICK = ExperimentOptions(
    seeds=2, max_steps=2, tagged_notes=20, resamples=2_000, min_users=1, rank=False, ablations=False
)


@pytest.fixture(scope="module", autouse=True)
def _small_backbone():
    """Train the tiny backbone in small steps."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"batch_pairs": 8, "tiny_hidden": 32, "tiny_layers": 1}.items():
            patch.setitem(config._TINY, name, value)
        patch.setitem(config._TINY_WRITING, "epochs", 1.0)
        yield


@pytest.fixture(scope="module")
def world():
    return sample_world(notes=200, users=100, clicks=3_500, bots=0, seed=4)


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "data"
    save_dataset(path, world.notes, world.clicks, Report(), config={})
    return path


@pytest.fixture(scope="module")
def finished(world, folder, tmp_path_factory):
    """An experiment without ablations, with a sentence encoder, and the lines that it printed."""
    home = tmp_path_factory.mktemp("experiment")
    (home / "encoder").mkdir()
    write_sentence_encoder(home / "encoder", texts_of(world.notes))
    options = dataclasses.replace(QUICK, sentence_encoder=str(home / "encoder"))
    lines: list[str] = []
    results = run_experiment(folder, home / "report", options, progress=False, say=lines.append)
    return home, options, results, lines


def figures(results, **where):
    return results.frames["figures"].filter(
        pl.all_horizontal(pl.col(key) == value for key, value in where.items())
    )


def test_every_method_is_measured_on_the_same_queries(finished):
    _, _, results, _ = finished
    rows = figures(results, table="recall", breakdown="", figure="R@10")
    assert rows["method"].to_list() == [
        "popularity (of the test clicks)",
        *("TF-IDF", "BM25", "SentenceBERT, as it is", "SentenceBERT, tuned"),
        *("PromptEOL+CSE (contrastive only)", "RepLLaMA", "NoteLLM before training", "NoteLLM"),
        "NoteLLM and words (hybrid)",
    ]
    assert rows["count"].n_unique() == rows["pool"].n_unique() == 1
    seeds = dict(rows.select("method", "seeds").iter_rows())
    assert seeds["NoteLLM"] == seeds["SentenceBERT, tuned"] == seeds["RepLLaMA"] == 2
    assert seeds["TF-IDF"] == seeds["SentenceBERT, as it is"] == 1
    assert rows["low"].is_between(0, rows["mean"]).all()


def test_the_report_is_written_and_read_back(finished):
    home, _, results, lines = finished
    for name in ("report.html", "report.md", "results.json", "record.json", "figures.parquet"):
        assert (home / "report" / name).is_file()
    again = read_results(home / "report")
    assert again.frames["figures"].equals(results.frames["figures"])
    assert all(check.passed for check in again.checks)
    assert len(again.checks) >= 4
    assert [claim.claim for claim in again.claims][:1] == [
        "Writing topics and categories (CSFT) helps recall"
    ]
    assert again.examples["found"]
    assert {"command", "machine", "versions", "split", "notes"} <= again.facts.keys()
    assert any(line.startswith("[1/") and "NoteLLM, seed 0" in line for line in lines)


def test_without_texts_no_title_is_in_any_file_of_the_report(finished, folder, world):
    home, options, results, _ = finished
    shutil.copytree(home / "report.runs", home / "shared.runs", dirs_exist_ok=True)
    quiet = dataclasses.replace(options, texts=False)
    shared = run_experiment(folder, home / "shared", quiet, progress=False, say=lambda _: None)
    assert shared.frames["figures"].equals(results.frames["figures"])
    titles = [title.encode() for title in world.notes["title"].to_pylist()]

    def told(report):
        content = [file.read_bytes() for file in (home / report).rglob("*") if file.is_file()]
        return sum(any(title in each for each in content) for title in titles)

    assert told("report") > 10
    assert told("shared") == 0
    assert shared.frames["map"].height == results.frames["map"].height


def test_a_second_run_computes_nothing_and_finds_the_same(finished, folder):
    home, options, results, _ = finished
    lines: list[str] = []
    again = run_experiment(folder, home / "report", options, progress=False, say=lines.append)
    assert not [line for line in lines if line.startswith("[")]
    assert again.frames["figures"].equals(results.frames["figures"])
    assert again.frames["differences"].equals(results.frames["differences"])


def repeated(home, calls):
    """What computes a result by copying that of the method's first seed."""

    def compute(method, _data, _options, seed, folder, **_more):
        calls.append((method.key, seed))
        (of_first,) = home.glob(f"report.runs/{folder.name.rpartition(f'seed-{seed}')[0]}seed-0-*")
        shutil.copy(of_first / "vectors.safetensors", folder)
        return json.loads((of_first / "result.json").read_text())["figures"]

    return compute


def test_one_more_seed_computes_only_that_seed(finished, folder, tmp_path, monkeypatch):
    home, options, _, _ = finished
    shutil.copytree(home / "report.runs", tmp_path / "report.runs")
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(recall_part, "compute_vectors", repeated(home, calls))
    more = dataclasses.replace(options, seeds=3)
    results = run_experiment(folder, tmp_path / "report", more, progress=False, say=lambda _: None)
    assert calls == [(key, 2) for key in ("notellm", "tuned-sentence", "contrastive", "repllama")]
    assert set(figures(results, method="RepLLaMA")["seeds"]) == {3}


def test_a_killed_experiment_goes_on(finished, folder, monkeypatch, tmp_path):
    home, options, _, _ = finished
    shutil.copytree(home / "report.runs", tmp_path / "report.runs")
    calls: list[tuple[str, int]] = []

    class KilledError(BaseException):
        """Ends the process at once, unlike Ctrl-C."""

    def killed(method, data, options, seed, folder, **more):
        if calls:
            raise KilledError
        return repeated(home, calls)(method, data, options, seed, folder, **more)

    more = dataclasses.replace(options, seeds=3)
    monkeypatch.setattr(recall_part, "compute_vectors", killed)
    with pytest.raises(KilledError):
        run_experiment(folder, tmp_path / "report", more, progress=False, say=lambda _: None)
    assert not (tmp_path / "report").exists()
    monkeypatch.setattr(recall_part, "compute_vectors", repeated(home, calls))
    lines: list[str] = []
    run_experiment(folder, tmp_path / "report", more, progress=False, say=lines.append)
    assert lines[0] == "10 of 13 results were computed before"
    assert len(calls) == len(set(calls)) == 4
    assert (tmp_path / "report" / "report.html").is_file()


def test_ctrl_c_reports_what_is_finished_and_the_rest_goes_on_later(finished, folder, monkeypatch, tmp_path):
    home, options, results, _ = finished
    shutil.copytree(home / "report.runs", tmp_path / "report.runs")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    more = dataclasses.replace(options, seeds=3)
    monkeypatch.setattr(recall_part, "compute_vectors", interrupted)
    found = run_experiment(folder, tmp_path / "report", more, progress=False, say=lambda _: None)
    assert found.frames["figures"].equals(results.frames["figures"])
    assert found.left_out[0].startswith("Not computed before the interrupt (4, about ")
    assert "NoteLLM, seed 2" in found.left_out[0]
    assert "Not computed before the interrupt" in (tmp_path / "report" / "report.md").read_text()


def test_a_budget_says_what_it_left_out(folder, tmp_path):
    options = dataclasses.replace(QUICK, ablations=True, budget="1s")
    results = run_experiment(folder, tmp_path / "report", options, progress=False, say=lambda _: None)
    assert any(
        line.startswith("Did not fit into the budget") and "NoteLLM, alpha: 0" in line
        for line in results.left_out
    )
    assert figures(results, method="TF-IDF").height  # simple methods need no budget
    text = (tmp_path / "report" / "report.md").read_text().replace("\\", "")  # signs of Markdown are escaped
    assert all(line in text for line in results.left_out)


def test_without_clicks_every_part_says_what_it_lacks(tmp_path, world):
    save_dataset(tmp_path / "data", world.notes, world.clicks.slice(0, 0), Report(), config={})
    options = dataclasses.replace(QUICK, rank=True)
    with pytest.raises(DataError) as error:
        run_experiment(tmp_path / "data", tmp_path / "report", options, progress=False, say=lambda _: None)
    assert "The table of related notes was left out: " in str(error.value)
    assert "The table of rankers was left out: " in str(error.value)


def test_rankers_are_compared_on_impressions_of_the_clicks(folder, tmp_path, monkeypatch):
    def few(backbone, **options):
        return rank_methods(
            backbone,
            only=["popularity", "binmf", "codes_only", "binllm"],
            code_epochs=2,
            out_of_fold=2,
            answer_rows=100,
            **options,
        )

    monkeypatch.setattr(rank_part, "rank_methods", few)
    options = dataclasses.replace(QUICK, recall=False, rank=True, seeds=1)
    results = run_experiment(folder, tmp_path / "report", options, progress=False, say=lambda _: None)
    rows = figures(results, table="rank", group="all", figure="AUC")
    assert rows["method"].to_list() == ["item popularity", "BinMF", "codes only", "BinLLM"]
    assert results.frames["costs"]["peak_memory_mib"].is_not_null().all() == reset_peak()
    assert rows["count"].n_unique() == 1
    assert figures(results, table="recall").is_empty()
    assert {claim.claim for claim in results.claims} == {
        "BinLLM is ahead of its codes alone",
        "Text helps the codes",
    }
    assert "impressions" in results.facts


def test_a_leak_ends_the_experiment(world, tmp_path):
    split = split_by_note(world.notes, world.clicks)
    leaking = type(split)(
        Part(world.notes, split.train.clicks), split.valid, split.test
    )  # train has the test notes, as a split by time; but its clicks are not earlier
    save_split(tmp_path / "split", leaking, Part(world.notes, world.clicks), config={}, seed=None)
    with pytest.raises(DataError, match="a training click that is not older than the first"):
        run_experiment(
            tmp_path / "split",
            tmp_path / "report",
            QUICK,
            progress=False,
            say=lambda _: None,
        )


def test_a_folder_of_others_is_never_replaced(folder, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"thesis\.txt"):
        run_experiment(folder, tmp_path / "report", QUICK, progress=False)
    assert (tmp_path / "report" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "report.runs").exists()


def test_results_in_json_are_read_without_notellm(finished):
    home, _, results, _ = finished
    found = json.loads((home / "report" / "results.json").read_text())
    assert found["title"] == results.title
    assert len(found["checks"]) == len(results.checks)
