"""A large catalogue for measuring a store and an index: captions of public data sets, and crops of them.

MicroLens, KuaiRec, MovieLens and MIND have about 40,000 notes with text. To reach 200,000, crops are added:
60 to 90 % of the words of a random note (of the characters, if it has no spaces). The vectors are those of a
NoteLLM on the tiny backbone, trained for a few steps on pairs of MicroLens.

To reach a million vectors, vectors between two neighbours are added: a weighted mean of a vector and one
of its ten nearest, plus noise, so that they lie where the notes are.

Everything is computed once and kept in a working folder, since embedding takes several minutes.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.training import DATASETS, load
from notellm.data.schema import NOTES
from notellm.files import write_parquet
from notellm.jobs.train_recall import train_recall
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions
from notellm.recall.config import RecallOptions
from notellm.recall.embed import embed_to_parquet
from notellm.recall.model import NoteLLM
from notellm.vectors import read_vectors, search

COUNT = 200_000
_STEPS = 120


def model_folder(work: Path) -> Path:
    """Return a NoteLLM directory; it is trained at the first call."""
    folder = work / "model"
    if not folder.is_dir():
        data = load("MicroLens")
        pairs = mine_pairs(data.clicks, PairOptions())
        train_recall(data.notes, pairs, folder, clicks=data.clicks, options=RecallOptions(max_steps=_STEPS))
    return folder


def make_notes(count: int = COUNT, *, seed: int = 0) -> pa.Table:
    """Return ``count`` notes: real ones, then crops of them."""
    rows = []
    for name in DATASETS:
        notes = load(name).notes.to_pylist()
        rows += [
            {**row, "note_id": f"{name}/{row['note_id']}"}
            for row in notes
            if len(row["title"] + row["content"]) >= 12
        ]
    rng = np.random.default_rng(seed)
    real = len(rows)
    for number in range(count - real):
        source = rows[int(rng.integers(real))]
        text = f"{source['title']} {source['content']}".strip()
        glue = " " if text.count(" ") * 12 > len(text) else ""
        words = text.split() if glue else list(text)
        length = max(1, int(len(words) * rng.uniform(0.6, 0.9)))
        start = int(rng.integers(len(words) - length + 1))
        cropped = glue.join(words[start : start + length])
        rows.append({**source, "note_id": f"crop/{number}", "title": "", "content": cropped})
    return pa.Table.from_pylist(rows[:count], schema=NOTES)


def catalogue(work: Path, count: int = COUNT) -> tuple[Path, pa.Table, np.ndarray]:
    """Return the folder of the model, ``count`` notes, and their vectors, (n, d) float32."""
    model = model_folder(work)
    notes = make_notes(count)
    path = work / "vectors.parquet"
    if not path.is_file():
        write_parquet(notes, work / "notes.parquet", force=True)
        embed_to_parquet(NoteLLM.from_pretrained(model), notes, path)
    ids, vectors = read_vectors(path)
    if ids != notes["note_id"].to_pylist():
        raise SystemExit(f"{path} has vectors of other notes; remove the file")
    return model, notes, vectors


def more_vectors(vectors: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Return ``count`` vectors of unit norm, beginning with the given ones."""
    rng = np.random.default_rng(seed)
    pieces = [vectors[:count]]
    missing = count - len(pieces[0])
    neighbours, _ = search(vectors, vectors[rng.permutation(len(vectors))[:20_000]], 11)
    while missing > 0:
        take = neighbours[rng.permutation(len(neighbours))[:missing]]
        other = take[np.arange(len(take)), rng.integers(1, 11, len(take))]
        weight = rng.uniform(0.2, 0.8, (len(take), 1)).astype(np.float32)
        noise = rng.standard_normal((len(take), vectors.shape[1])).astype(np.float32)
        mixed = weight * vectors[take[:, 0]] + (1 - weight) * vectors[other] + 0.02 * noise
        pieces.append(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))
        missing -= len(take)
    return np.concatenate(pieces)
