"""Fitting a rank method to impressions, in a folder that keeps what is finished.

    FOLDER/codes/NAME        fitted codes, which all methods with the same codes and seed share
    FOLDER/NAME              a finished run: scores.parquet, run.json
    FOLDER/NAME.run          the working folder of an unfinished run of a language model (``jobs/runs.py``)

A name ends in a digest of options, data and version of notellm, so a run is never taken for another one.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import expit

from notellm.artifacts.write import write_folder
from notellm.experiment.rank.data import RankData
from notellm.experiment.rank.methods import RankMethod
from notellm.files import read_json, read_parquet, write_json, write_parquet
from notellm.jobs.evaluate_rank import answer_logits, popularity
from notellm.jobs.rank_codes import codes_of_run
from notellm.jobs.rank_tuning import CODES_STEP, TEXT_STEP, ranking_figures
from notellm.jobs.runs import Run, discard_unfinished, unfinished_parts
from notellm.jobs.train_rank import build_rank_model, fit_ranker
from notellm.options import values_of
from notellm.rank.batch import NoteTexts
from notellm.rank.codes.codes import Codes
from notellm.rank.codes.options import CodeChoice
from notellm.rank.collaborative.train import fit_real_valued
from notellm.rank.config import RankOptions
from notellm.version import __version__

Floats: TypeAlias = npt.NDArray[np.float64]
_SCORES, _RUN, _KIND = "scores.parquet", "run.json", "rank run"


@dataclass(frozen=True, eq=False)
class RankRun:
    """What became of a method with a seed.

    Attributes:
        method: key of the method.
        seed: its seed.
        scores: float64 (rows,), the score of each test row; P(enjoy) of a language model, else any scale.
        figures: "auc" and "uauc" of the validation rows by what was measured: "codes" alone, "untrained",
            and the chosen "validation".
        history: steps and the validation AUC after each of them, from step 0, in the order of a language
            model's tuning; the second of two steps of tuning continues the count of the first.
        steps: updates of a language model; None for others.
        prompt_tokens: mean length of a language model's prompts; None for others.
        seconds: time of the fit, that of its codes included, even if another method had fitted them; None
            for popularity, and where a fit was cut off and continued, since its time is not known.
    """

    method: str
    seed: int
    scores: Floats
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    history: tuple[tuple[int, float], ...] = ()
    steps: int | None = None
    prompt_tokens: float | None = None
    seconds: float | None = None


def fit_rank_method(
    method: RankMethod,
    data: RankData,
    seed: int,
    folder: str | Path,
    *,
    max_steps: int | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> RankRun:
    """Fit a method on train and valid, and score test; a finished run is read, an unfinished one continued.

    Args:
        method: the method, from ``rank_methods``.
        data: the impressions.
        seed: seed of everything random.
        folder: working folder that the methods and seeds of an experiment share.
        max_steps: updates of every step of tuning; None for the epochs of the method's options.
        trust_remote_code: as in ``BinLLM.from_pretrained``.
        progress: show progress bars with rate and remaining time.

    Raises:
        ConfigError: if ``seed`` or ``max_steps`` is not allowed.
        DataError: if the rows do not suffice for the method, such as too few rows for its folds.
        ModelError: if the backbone cannot be loaded.
        StorageError: if something cannot be written.
    """
    if method.kind == "popularity":
        liked = data.train["note_id"].filter(data.train["label"])
        scores = popularity(liked, data.test["note_id"]).astype(np.float64)
        return RankRun(method.key, seed, scores)
    options = replace(method.options, seed=seed, max_steps=max_steps).resolved()
    home = Path(folder)
    started = {"config": _decisive(method, options), "data": dict(data.described)}
    output = home / f"{method.key}-seed{seed}-{_digest(started)}"
    unfinished = Run(output, _KIND, force=True)
    unfinished.started = started
    if not output.is_dir():
        if method.kind == "real_valued":
            run = _real_valued(method, data, options, progress=progress)
        elif method.kind == "codes":
            run = _codes_alone(method, data, options, home, progress=progress)
        else:
            run = _language_model(
                method, data, options, home, unfinished, remote=trust_remote_code, progress=progress
            )
        _write(run, output)
    discard_unfinished(unfinished.folder)  # also what a kill left after the result was written
    return _read(output)


def _decisive(method: RankMethod, options: RankOptions) -> dict[str, Any]:
    """Return the options that decide the scores of a method."""
    if method.kind == "real_valued":
        return {"model": method.model, "code_epochs": options.code_epochs, "seed": options.seed}
    return _decisive_of_codes(options) if method.kind == "codes" else asdict(options)


def _decisive_of_codes(options: RankOptions) -> dict[str, Any]:
    """Return the options that decide codes."""
    others = {name: getattr(options, name) for name in ("code_epochs", "out_of_fold", "seed")}
    return values_of(options, CodeChoice) | others


def _real_valued(method: RankMethod, data: RankData, options: RankOptions, *, progress: bool) -> RankRun:
    """Fit a real-valued collaborative model."""
    begin = time.perf_counter()
    model, _ = fit_real_valued(
        data.train,
        data.valid,
        method.model or "mf",
        epochs=options.code_epochs,
        seed=options.seed,
        progress=progress,
    )
    return _collaborative(method, data, options.seed, model.scores, time.perf_counter() - begin)


def _codes_alone(
    method: RankMethod, data: RankData, options: RankOptions, home: Path, *, progress: bool
) -> RankRun:
    """Fit codes, or read those that a language model was tuned with."""
    place = _codes_folder(home, data, options)
    seconds = _fit_codes(place, data, options, progress=progress)
    codes = Codes.from_pretrained(place / "codes")
    return _collaborative(method, data, options.seed, codes.scores, seconds)


def _collaborative(
    method: RankMethod, data: RankData, seed: int, score: Callable[..., Any], seconds: float | None
) -> RankRun:
    """Score the validation and the test rows."""
    valid, test = (
        score(part["user_id"], part["note_id"], part["history"]) for part in (data.valid, data.test)
    )
    figures = {"validation": ranking_figures(data.valid, valid)}
    return RankRun(method.key, seed, np.asarray(test, np.float64), figures, seconds=seconds)


def _language_model(
    method: RankMethod,
    data: RankData,
    options: RankOptions,
    home: Path,
    unfinished: Run,
    *,
    remote: bool,
    progress: bool,
) -> RankRun:
    """Fit codes if the method has any, tune its model, or continue both, and score the test rows."""
    unfinished.check_unfinished(resume=True, steps=(TEXT_STEP, CODES_STEP))
    continued = bool(unfinished_parts(unfinished.folder))
    # Before the codes are fitted, so that a backbone that cannot be loaded is reported at once.
    model = build_rank_model(options, data.notes, data.train, trust_remote_code=remote)
    unfinished.start()
    place = _codes_folder(home, data, options)
    code_seconds: float | None = 0.0
    if options.form != "text_only":
        code_seconds = _fit_codes(place, data, options, progress=progress)
    begin = time.perf_counter()
    codes, metrics = fit_ranker(
        model, unfinished.folder, place, data.notes, data.train, data.valid, options, progress=progress
    )
    seconds = None if continued or code_seconds is None else code_seconds + time.perf_counter() - begin
    logits = answer_logits(model, NoteTexts(model, data.notes), codes, data.test, progress=progress)
    history, steps = _history(metrics)
    return RankRun(
        method.key,
        options.seed,
        expit(logits.astype(np.float64)),
        {name: metrics[name] for name in ("codes", "untrained", "validation") if name in metrics},
        history,
        steps,
        metrics["prompt_tokens"],
        seconds,
    )


def _history(metrics: Mapping[str, Any]) -> tuple[tuple[tuple[int, float], ...], int]:
    """Return the validation AUC by step over all steps of tuning, and the number of their updates."""
    tuned = [metrics[name] for name in (f"{TEXT_STEP}_step", f"{CODES_STEP}_step") if name in metrics]
    points = [(0, tuned[0]["before"]["auc"])]
    done = 0
    for step in tuned:
        points += [(done + entry["step"], entry["auc"]) for entry in step["history"]]
        done += step["steps"]
    return tuple(points), done


def _codes_folder(home: Path, data: RankData, options: RankOptions) -> Path:
    """Return the folder of codes, which is named after all that decides them."""
    parts = {name: data.described[name] for name in ("train", "valid")}
    name = f"{options.collaborative}-{options.bits}bits-seed{options.seed}"
    return home / "codes" / f"{name}-{_digest({'config': _decisive_of_codes(options), 'data': parts})}"


def _fit_codes(place: Path, data: RankData, options: RankOptions, *, progress: bool) -> float | None:
    """Fit codes if they are not there; return how long it took, None if that is not known."""
    taken = place.with_suffix(".json")
    if not place.is_dir():
        begin = time.perf_counter()
        codes_of_run(place, data.train, data.valid, options, progress=progress)
        write_json({"seconds": time.perf_counter() - begin}, taken, replace=True)
    return float(read_json(taken)["seconds"]) if taken.is_file() else None


def _digest(made_of: Mapping[str, Any]) -> str:
    """Return 10 hexadecimal digits of what a result is made of, the version of notellm included."""
    text = json.dumps([__version__, made_of], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _write(run: RankRun, folder: Path) -> None:
    """Write a finished run, whole or not at all."""
    values = {each: value for each, value in vars(run).items() if each != "scores"}
    with write_folder(folder, _KIND) as aside:
        write_parquet(pa.table({"score": run.scores}), aside / _SCORES)
        write_json(values, aside / _RUN)


def _read(folder: Path) -> RankRun:
    """Read a finished run."""
    values = read_json(folder / _RUN)
    values["history"] = tuple((step, auc) for step, auc in values["history"])
    return RankRun(scores=read_parquet(folder / _SCORES, ["score"])["score"].to_numpy(), **values)
