"""A store with a log, and models that were trained on the older part of it."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from notellm.client import Client
from notellm.data.impressions import click_histories
from notellm.data.sample_world import sample_world
from notellm.data.schema import TIME
from notellm.data.split import split_impressions
from notellm.files import json_text
from notellm.jobs import recall_model
from notellm.jobs.build_store import build_store
from notellm.jobs.train_rank import train_rank
from notellm.jobs.train_recall import train_recall
from notellm.pairs.local import mine_pairs
from notellm.rank.config import RankOptions
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recommend.candidates import impressions_from_candidates
from notellm.record import RECORD, read_record
from notellm.renew.models import Models
from notellm.renew.options import RenewOptions
from notellm.renew.run import Renewal
from notellm.renew.service import Service
from notellm.store.clicks import Click, ClickLog
from tests.conftest import SMALL

RECALL = RecallOptions(max_steps=2, batch_pairs=16, dim=32, writing_epochs=0)
RANK = RankOptions(max_steps=1, code_epochs=2, bits=8, out_of_fold=0, answer_rows=100, evaluations=1)
#: A renewal with as little training as possible.
QUICK = RenewOptions(start="warm", test_days=3, max_steps=2, rank_steps=1, users=20, least_users=5)


@dataclass(frozen=True)
class Served:
    """A store and the models that serve it, which a test may change."""

    store: Path
    models: Models
    work: Path


class KilledError(BaseException):
    """Stands for a kill, which nothing catches."""


def renewal(served: Served, *, ranked: bool = False, **options) -> Renewal:
    """A renewal of the model, and of the ranker if asked for."""
    models = served.models if ranked else Models(served.models.model, None)
    return Renewal(
        str(served.store), models, served.work, progress=False, **{"say": lambda _: None, **options}
    )


def service_at(url: str, key: str | None = None) -> Service:
    """What a renewal asks a service by its address."""
    return Service(Client(url, key=key, retries=0), url)


def candidate(served: Served, folder, *, useless: bool = False) -> Models:
    """The serving model with slightly other weights, or with vectors of a single dimension."""
    model = NoteLLM.from_saved(served.models.model)
    with torch.no_grad():
        weight = model.projection.weight
        drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        weight.add_(1e-4 * weight.abs().mean() * drawn)
        if useless:
            weight[1:] = 0
    record = read_record(served.models.model) | {"fingerprint": model.fingerprint()}
    model.save_pretrained(folder, extra={RECORD: json_text(record)})
    return Models(folder, None)


def shifted(table: pa.Table, by: timedelta, *names: str) -> pa.Table:
    """A table whose times are later by a duration."""
    for name in names:
        column = pc.add(table[name], pa.scalar(by)).cast(TIME)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return table


def click_on(store: Path, clicks: pa.Table) -> None:
    """Write clicks to the log of a store."""
    log = ClickLog.open(store, max_age=None)
    log.append(
        [Click(row["user_id"], row["note_id"], row["event"], row["timestamp"]) for row in clicks.to_pylist()]
    )
    log.close()


@pytest.fixture(scope="session")
def renewal_world():
    """Notes and clicks of four weeks that end now."""
    world = sample_world(notes=160, users=80, clicks=1_600, bots=0, seed=5)
    newest = pc.max(world.clicks["timestamp"]).as_py()
    by = datetime.now(UTC) - timedelta(hours=1) - newest
    return shifted(world.notes, by, "published_at"), shifted(world.clicks, by, "timestamp")


@pytest.fixture(scope="session")
def served_once(renewal_world, tmp_path_factory) -> Served:
    """A store whose models know the first three weeks; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("served")
    notes, clicks = renewal_world
    first = clicks.filter(
        pc.less(clicks["timestamp"], pa.scalar(datetime.now(UTC) - timedelta(days=7), TIME))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall_model, "TinyOptions", lambda: SMALL)
        model = train_recall(
            notes,
            mine_pairs(first, progress=False),
            folder / "model",
            clicks=first,
            options=RECALL,
            progress=False,
        )
    vectors = notes["note_id"].to_pylist(), model.encode(notes)
    rows = impressions_from_candidates(first, vectors)
    train, _, valid = split_impressions(rows, valid=0, test=0.1)
    train_rank(
        notes,
        train,
        valid,
        folder / "ranker",
        options=RANK,
        vectors=vectors,
        vectors_model=model.fingerprint(),
        histories=click_histories(first),
        progress=False,
    )
    build_store(folder / "store", model, notes, progress=False)
    click_on(folder / "store", clicks)
    return Served(folder / "store", Models(folder / "model", folder / "ranker"), folder / "work")


@pytest.fixture
def served(served_once, tmp_path) -> Served:
    """A copy of the store and its models."""
    shutil.copytree(served_once.store.parent, tmp_path / "served")
    folder = tmp_path / "served"
    return Served(folder / "store", Models(folder / "model", folder / "ranker"), folder / "work")
