"""The demo: every stage once on the built-in sample world, and the commands for one's own files."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa

from notellm.artifacts.replace import check_file_replaceable, check_replaceable
from notellm.data.impressions import click_histories
from notellm.data.sample_world import sample_world
from notellm.data.split import Part, split_by_note, split_impressions_by_time
from notellm.data.validate import validate
from notellm.jobs.build_store import build_store
from notellm.jobs.evaluate_rank import evaluate_rank
from notellm.jobs.evaluate_recall import evaluate_recall
from notellm.jobs.folders import load_pairs, load_split, mine_folder, save_dataset, save_split
from notellm.jobs.recall_model import build_recall_model
from notellm.jobs.runs import discard_unfinished
from notellm.jobs.train_rank import train_rank
from notellm.jobs.train_recall import train_recall
from notellm.pairs.score import PairOptions
from notellm.rank.config import RankOptions
from notellm.recall.config import RecallOptions
from notellm.recall.embed import embed_to_parquet
from notellm.recall.model import NoteLLM
from notellm.recall.related import Words, related_by_id
from notellm.recall.tagging.tags import Tag
from notellm.recall.trainer import Validation
from notellm.recommend.candidates import impressions_from_candidates
from notellm.recommend.recommender import Recommender
from notellm.vectors import read_vectors

#: Number of the newest impressions that the ranker is trained, validated and tested on.
_ROWS = (5_000, 400, 2_000)
#: Folders that a demo makes, and their kinds.
_FOLDERS = {
    "data": "dataset",
    "split": "split",
    "model": "model",
    "report": "report",
    "ranker": "ranker",
    "rank-report": "report",
}
_VECTORS = "vectors.parquet"


def run_demo(
    output: str | Path,
    *,
    notes: int = 2_000,
    max_steps: int = 70,
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], object],
) -> None:
    """Generate data, mine pairs, train, evaluate, and show results.

    Args:
        output: working folder; results of an earlier demo are replaced, other files are never touched.
        notes: number of notes of the sample world, which has 20 clicks for each.
        max_steps: number of training steps; the default keeps the demo within minutes on two cores.
        seed: seed of everything random.
        progress: show progress bars.
        say: function that is called with every piece of text to show.

    Raises:
        StorageError: if the folder cannot be written, or holds files that may not be replaced.
    """
    begin = time.monotonic()
    home = Path(output)
    for name, kind in _FOLDERS.items():  # reported before minutes of work
        check_replaceable(home / name, kind)
    check_file_replaceable(home / _VECTORS, "vectors")
    say(f"1/6  A sample world of {notes:,} notes (English and Chinese), its clicks, its bots")
    size = {"notes": notes, "users": max(300, 2 * notes // 3), "clicks": 20 * notes}
    world = sample_world(**size, seed=seed)
    good_notes, clicks, report = validate(world.notes, world.clicks, max_user_clicks=min(5_000, notes))
    say(f"{report}\n")
    save_dataset(home / "data", good_notes, clicks, report, config={"sample": size}, seed=seed)

    say("2/6  70 % of the notes for training, 30 % held out; related pairs from the click log")
    shares = {"test": 0.3, "valid": 0.05}
    split = split_by_note(good_notes, clicks, seed=seed, **shares)
    save_split(home / "split", split, Part(good_notes, clicks), config={"by": "note", **shares}, seed=seed)
    counts = mine_folder(home / "split", PairOptions(), progress=False)
    say("     " + ", ".join(f"{name}: {each.kept:,} pairs" for name, each in counts.items()) + "\n")

    say("3/6  Training NoteLLM (the tiny backbone, initialised from the notes)")
    split = load_split(home / "split")
    pairs = {name: load_pairs(home / "split" / name) for name in ("train", "valid", "test")}
    valid_pairs = pairs["valid"]
    validation = None
    if valid_pairs is not None and valid_pairs.num_rows:
        validation = Validation(split.valid.notes, valid_pairs)
    options = RecallOptions(seed=seed, max_steps=max_steps)
    discard_unfinished(home / "model.run")  # a demo always starts over
    model = train_recall(
        split.train.notes,
        pairs["train"],
        home / "model",
        clicks=split.train.clicks,
        validation=validation,
        options=options,
        progress=progress,
    )

    say("\n4/6  Evaluation on the held-out notes")
    untrained = build_recall_model(options, split.train.notes, split.train.clicks)
    result = evaluate_recall(
        model, split, pairs["test"], untrained=untrained, tagged_notes=300, seed=seed, progress=progress
    )
    result.save(home / "report")
    say(result.text())

    say("5/6  Five held-out notes")
    _show(model, split.test.notes, seed, say)

    say("\n6/6  Ranking and recommending (BinLLM with its tiny backbone); a store of all notes")
    _remove_store(home / "store")  # made last, so that a store means a finished demo
    embed_to_parquet(model, good_notes, home / _VECTORS, progress=False)
    _rank(model, good_notes, clicks, home, seed, progress, say)
    if find_spec("lancedb") is None:
        say("No store was made; for a store and for notellm demo --serve: pip install 'notellm[serve]'")
    else:
        build_store(home / "store", model, good_notes, vectors=home / _VECTORS, progress=False)
    say(_NEXT.format(home=home, seconds=time.monotonic() - begin))


def _remove_store(place: Path) -> None:
    """Remove the store of an earlier demo."""
    if place.is_dir():
        from notellm.store.tables import remove_store  # noqa: PLC0415 - its package is an extra

        remove_store(place)


def is_finished(home: Path) -> bool:
    """Return whether a folder holds a finished demo, which can be served."""
    return all((home / name).is_dir() for name in ("model", "ranker", "store"))


def _show(model: NoteLLM, pool: pa.Table, seed: int, say: Callable[[str], object]) -> None:
    """Show five notes, their related notes, and their generated and true topics and categories."""
    ids = pool.column("note_id").to_pylist()
    rows = pool.to_pylist()
    titles = {row["note_id"]: f"{row['title']}  [{row['category']}]" for row in rows}
    taggable = [i for i, row in enumerate(rows) if row["topics"]]
    chosen = np.sort(np.random.default_rng(seed).choice(taggable, min(5, len(taggable)), replace=False))
    table = pool.take(chosen)
    words = Words.of(ids, pool, model.lexical_share)
    related = related_by_id(ids, model.encode(pool), [ids[i] for i in chosen], k=3, words=words)
    for i, neighbours, tags in zip(chosen, related, model.tag(table), strict=True):
        row = rows[i]
        say(f"* {row['title']}")
        say(f"    category  {_with_probability(tags.category)}   (true: {row['category']})")
        written = ", ".join(map(_with_probability, tags.topics)) or "none is likely enough"
        say(f"    topics    {written}   (true: {', '.join(row['topics'])})")
        for note_id, score in neighbours:
            say(f"    {score:.2f}      {titles[note_id]}")


def _with_probability(tag: Tag | None) -> str:
    """Return a tag as the demo shows it, with its probability."""
    if tag is None:
        return "none is likely enough"
    return tag.name if tag.probability is None else f"{tag.name} {tag.probability:.0%}"


def _rank(
    model: NoteLLM,
    notes: pa.Table,
    clicks: pa.Table,
    home: Path,
    seed: int,
    progress: bool,
    say: Callable[[str], object],
) -> None:
    """Train a ranker on new impressions, evaluate it on later ones, and recommend to one user."""
    vectors = read_vectors(home / _VECTORS)
    rows = impressions_from_candidates(clicks, vectors, negatives=1, seed=seed)
    parts = zip(split_impressions_by_time(rows), _ROWS, strict=True)
    train, valid, test = (part.slice(max(0, len(part) - newest)) for part, newest in parts)
    options = RankOptions(code_epochs=30, out_of_fold=2, max_steps=10, evaluations=1, seed=seed)
    discard_unfinished(home / "ranker.run")
    ranker = train_rank(
        notes,
        train,
        valid,
        home / "ranker",
        options=options,
        vectors=vectors,
        vectors_model=model.fingerprint(),
        histories=click_histories(clicks),
        progress=progress,
    )
    result = evaluate_rank(ranker, test, train=train, resamples=200, seed=seed, progress=progress)
    result.save(home / "rank-report")
    say(result.text())
    texts = {row["note_id"]: row for row in notes.to_pylist()}
    user = max(ranker.histories, key=lambda name: (min(len(ranker.histories[name]), 12), name))
    recommender = Recommender.from_vectors(*vectors, ranker, made_by=model.fingerprint())
    recommended = recommender.recommend(user, k=5)
    say(f"For {user} ({recommended.basis}):")
    rows = zip(recommended.note_ids, recommended.scores, recommended.reasons, strict=True)
    for note_id, score, reason in rows:
        why = "popular" if reason is None else f"near {texts[reason]['title']}"
        say(f"    {score:.2f}  {texts[note_id]['title']}  [{texts[note_id]['category']}]   ({why})")


_NEXT = """
Done in {seconds:.0f} s; everything is in {home}/. To look at it in a browser:

  notellm demo --serve

The same with your own files:

  notellm prepare --notes notes.csv --clicks clicks.csv -o data
  notellm split data -o split
  notellm pairs split
  notellm train split -o model
  notellm evaluate model split -o report
  notellm embed model data -o vectors.parquet
  notellm related vectors.parquet --id NOTE_ID --notes data
  notellm tag model --title "..." --content "..."
  notellm rank train data --vectors vectors.parquet -o ranker
  notellm recommend --vectors vectors.parquet --ranker ranker --user USER_ID
  notellm store build store --model model --notes data --vectors vectors.parquet
  notellm serve store --model model --ranker ranker --no-keys
"""
