"""A ranker and vectors, made once."""

import numpy as np
import pytest

from notellm.data.impressions import impressions_from_clicks
from notellm.data.sample_world import sample_world
from notellm.data.split import split_impressions
from notellm.files import write_parquet
from notellm.jobs.train_rank import train_rank
from notellm.rank.config import RankOptions
from notellm.vectors import vector_table


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A ranker and vectors on disk; the vectors are random, so their neighbours are nothing but numbers."""
    folder = tmp_path_factory.mktemp("recommend")
    sample = sample_world(notes=260, users=60, clicks=1_500, bots=0, seed=4)
    train, valid, _ = split_impressions(impressions_from_clicks(sample.clicks))
    options = RankOptions(max_steps=2, batch=8, evaluations=1, code_epochs=2, out_of_fold=0)
    train_rank(sample.notes, train, valid, folder / "ranker", options=options, progress=False)
    vectors = np.random.default_rng(0).normal(size=(sample.notes.num_rows, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_parquet(vector_table(sample.notes["note_id"], vectors), folder / "vectors.parquet")
    return folder
