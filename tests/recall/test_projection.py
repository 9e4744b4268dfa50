"""Where the projection starts: components and ridge regression are what their formulas say."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from notellm.data.note import notes_from_table
from notellm.data.schema import CLICKS
from notellm.errors import ConfigError, DataError, ModelError
from notellm.files import read_json
from notellm.jobs.recall_model import build_recall_model
from notellm.jobs.train_recall import train_recall
from notellm.recall import projection as module
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recall.projection import (
    PENALTIES,
    WHITENING,
    co_click_vectors,
    common_readers,
    drawn_rows,
    principal_components,
    ridge,
    write_start,
)
from notellm.recall.start import start_projection
from tests.conftest import NOTE_COUNT, SMALL, Checkpoint, fresh

START = datetime(2024, 1, 1, tzinfo=UTC)
KINDS = ("components", "ridge")


@pytest.fixture(scope="module")
def clicks() -> pa.Table:
    """40 users who each click 5 notes of one theme, i % 3, and one user with a single click."""
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{user}", "note_id": f"n{3 * int(pick) + user % 3}", "event": "click"}
        for user in range(40)
        for pick in rng.choice(NOTE_COUNT // 3, 5, replace=False)
    ]
    rows.append({"user_id": "single", "note_id": "n0", "event": "click"})
    return pa.Table.from_pylist([row | {"timestamp": START} for row in rows], schema=CLICKS)


def options(checkpoints: dict[str, Checkpoint], **more: Any) -> RecallOptions:
    return RecallOptions(
        backbone=str(checkpoints["llama"].path),
        dim=16,
        template="compact",
        max_steps=4,
        batch_pairs=4,
        **more,
    )


def weights(model: NoteLLM) -> tuple[np.ndarray, np.ndarray]:
    return model.projection.weight.detach().numpy(), model.projection.bias.detach().numpy()


def test_components_are_those_of_the_centred_states():
    states = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.linspace(3, 0.1, 12)
    )
    start = principal_components(states + 50, 4)
    centred = states.double().numpy() - states.double().numpy().mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign((start.weight.numpy() * axes[:4]).sum(axis=1))
    np.testing.assert_allclose(start.weight.numpy(), signs[:, None] * axes[:4], atol=1e-4)
    layer = torch.nn.Linear(12, 4)
    write_start(layer, start)
    np.testing.assert_allclose(layer(states + 50).mean(dim=0).detach(), 0, atol=1e-4)


@pytest.mark.parametrize("whitening", [0.5, 1.0])
def test_whitened_components_are_divided_by_a_power_of_their_deviation(whitening: float):
    states = torch.randn(300, 8, generator=torch.Generator().manual_seed(1)) * torch.linspace(2, 0.2, 8)
    states[:, 7] = 3.0  # nothing varies along this one
    start = principal_components(states, 8, whitening=whitening)
    assert start.weight.shape == (7, 8)
    plain = principal_components(states, 7)
    deviations = ((states.double() - plain.mean) @ plain.weight.T).std(dim=0)
    wanted = plain.weight / deviations[:, None] ** whitening
    scale = float(start.weight.norm() / wanted.norm())
    np.testing.assert_allclose(start.weight, scale * wanted, atol=1e-6)
    assert float(start.weight.square().sum(dim=1).mean()) == pytest.approx(1)


def test_they_are_those_of_the_tiny_backbone_whitened(notes: pa.Table):
    model = NoteLLM.from_corpus(notes, tiny=SMALL, dim=16)
    plain = model.projection.weight.detach().double().numpy().copy()
    states = model.prompt_states(model.prompts(notes)).double().numpy()
    deviations = ((states - states.mean(axis=0)) @ plain.T).std(axis=0, ddof=1)
    assert start_projection(model, notes, "components") == "components"
    wanted = plain / deviations[:, None] ** WHITENING
    wanted /= np.sqrt((wanted**2).sum(axis=1).mean())
    np.testing.assert_allclose(weights(model)[0], wanted, atol=1e-4)


def test_ridge_is_the_closed_form(checkpoints: dict[str, Checkpoint], notes: pa.Table, clicks: pa.Table):
    model = fresh("llama", checkpoints, notes)
    rows, clicked = common_readers(notes["note_id"], clicks)
    vectors = co_click_vectors(clicked, 16, 0)
    texts = model.prompts(notes_from_table(notes.take(rows)))
    states = model.prompt_states(texts)
    start, penalty = ridge(states, torch.from_numpy(vectors), 0)
    assert penalty in PENALTIES
    x, y = states.double().numpy(), vectors - vectors.mean(axis=0)
    x = x - x.mean(axis=0)
    gram = x.T @ x
    ridged = gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram))
    wanted = np.linalg.solve(ridged, x.T @ y).T
    wanted /= np.sqrt((wanted**2).sum(axis=1).mean())
    np.testing.assert_allclose(start.weight.numpy(), wanted, atol=1e-7)
    start_projection(model, notes, "ridge", clicks=clicks)
    np.testing.assert_allclose(weights(model)[0], wanted, atol=1e-5)
    np.testing.assert_allclose(model.projection(states).mean(dim=0).detach(), 0, atol=1e-4)


def test_notes_with_the_same_readers_are_near_each_other(notes: pa.Table, clicks: pa.Table):
    rows, clicked = common_readers(notes["note_id"], clicks)
    vectors = co_click_vectors(clicked, 8, 0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    same = rows[:, None] % 3 == rows[None, :] % 3
    assert cosines[same].mean() > cosines[~same].mean() + 0.2


def test_ridge_finds_what_states_tell_below_what_they_vary_by():
    """The targets are in two directions with a thousandth of the variance, and noise is on top of them."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.cat([torch.ones(2), torch.full((8,), 30.0)])
    states = torch.randn(600, 10, generator=generator) * scale + 100
    targets = states[:, :2] - 100
    start, penalty = ridge(states[:400], targets[:400] + torch.randn(400, 2, generator=generator), 0)
    assert penalty < 1
    predicted = (states[400:].double() - start.mean) @ start.weight.T
    cosines = torch.nn.functional.cosine_similarity(predicted, targets[400:].double())
    assert float(cosines.mean()) > 0.9
    components = principal_components(states[:400], 2)
    assert float(components.weight[:, :2].abs().max()) < 0.1  # which see nothing of them


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_depends_on_notes_clicks_and_seed_alone(
    kind: Any, checkpoints: dict[str, Checkpoint], notes: pa.Table, clicks: pa.Table
):
    chosen = options(checkpoints, projection=kind)
    one, two = (weights(build_recall_model(chosen, notes, clicks)) for _ in range(2))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    if kind == "components":
        np.testing.assert_array_equal(weights(build_recall_model(chosen, notes))[0], one[0])


def test_the_default_is_ridge_with_clicks_and_components_without(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, clicks: pa.Table
):
    def built(kind: Any, given: pa.Table | None, seed: int = 5) -> np.ndarray:
        return weights(build_recall_model(options(checkpoints, projection=kind, seed=seed), notes, given))[0]

    few = clicks.slice(0, 2)
    np.testing.assert_array_equal(built(None, clicks), built("ridge", clicks))
    np.testing.assert_array_equal(built(None, None), built("components", None))
    np.testing.assert_array_equal(built(None, few), built("components", None))
    random = built("random", clicks)
    assert np.abs(random - built("random", clicks, seed=6)).max() > 0.01
    assert np.abs(random - built(None, clicks)).max() > 0.01
    assert np.abs(random - built(None, None)).max() > 0.01


def test_many_notes_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_NOTES", 10)
    assert len(set(drawn_rows(50, 1).tolist())) == 10
    assert drawn_rows(50, 1).tolist() == drawn_rows(50, 1).tolist() != drawn_rows(50, 2).tolist()
    assert drawn_rows(7, 1).tolist() == list(range(7))


def test_what_cannot_be_is_a_clear_error(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, clicks: pa.Table
):
    with pytest.raises(ConfigError, match="projection is 'pca'; it must be one of components, ridge, random"):
        options(checkpoints, projection="pca").resolved()
    model = fresh("llama", checkpoints, notes)
    unknown: Any = "pca"
    with pytest.raises(ConfigError, match="'pca'; it must be one of components, ridge, random"):
        start_projection(model, notes, unknown)
    with pytest.raises(ConfigError, match="the tiny backbone has its own start"):
        RecallOptions(projection="components").resolved()
    with pytest.raises(DataError, match="fitted to clicks, and there are none"):
        build_recall_model(options(checkpoints, projection="ridge"), notes)
    two = clicks.slice(0, 2)
    with pytest.raises(DataError, match="only 2 of 60 notes have such a user; it needs 20"):
        build_recall_model(options(checkpoints, projection="ridge"), notes, two)
    with pytest.raises(ModelError, match="not finite"):
        principal_components(torch.full((3, 2), torch.nan), 2)


def test_one_text_alone_leaves_the_projection_as_it_was(checkpoints: dict[str, Checkpoint], notes: pa.Table):
    model = fresh("llama", checkpoints, notes)
    before = weights(model)[0].copy()
    start_projection(model, notes.slice(0, 1), "components")
    np.testing.assert_array_equal(weights(model)[0], before)


def test_a_saved_model_keeps_its_projection(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, clicks: pa.Table, tmp_path: Any
):
    saved = build_recall_model(options(checkpoints, projection="ridge"), notes, clicks)
    saved.save_pretrained(tmp_path / "saved")
    chosen = replace(options(checkpoints), backbone=str(tmp_path / "saved"), dim=16)
    again = build_recall_model(chosen, notes, clicks)
    np.testing.assert_array_equal(weights(again)[0], weights(saved)[0])
    with pytest.raises(ConfigError, match="is a saved NoteLLM, which keeps its own"):
        build_recall_model(replace(chosen, projection="components"), notes, clicks)


class KilledError(Exception):
    """Ends a run in the middle."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_cut_off_ends_with_the_same_model(
    kind: Any,
    checkpoints: dict[str, Checkpoint],
    notes: pa.Table,
    pairs: pa.Table,
    clicks: pa.Table,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    chosen = options(checkpoints, projection=kind, evaluations=4)
    whole = train_recall(notes, pairs, tmp_path / "whole", clicks=clicks, options=chosen, progress=False)

    def fail(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(NoteLLM, "fit_tagger", fail)
        with pytest.raises(KilledError):
            train_recall(notes, pairs, tmp_path / "cut", clicks=clicks, options=chosen, progress=False)
    resumed = train_recall(
        notes, pairs, tmp_path / "cut", clicks=clicks, options=chosen, resume=True, progress=False
    )
    np.testing.assert_array_equal(weights(whole)[0], weights(resumed)[0])
    assert whole.fingerprint() == resumed.fingerprint()
    assert read_json(tmp_path / "cut" / "record.json")["config"]["projection"] == kind
