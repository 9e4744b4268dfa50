"""Train the models of a renewal on a snapshot: recall anew or from the serving model, the ranker anew.

Each directory is written whole, so one that is there is finished; an unfinished training is continued.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from notellm.data.impressions import click_histories
from notellm.data.split import Part, split_impressions
from notellm.errors import DataError
from notellm.jobs.train_rank import train_rank
from notellm.jobs.train_recall import train_recall
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions
from notellm.recall.config import OF_A_NEW_MODEL, RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recommend.candidates import impressions_from_candidates
from notellm.renew.models import Models
from notellm.renew.options import RenewOptions

#: Share of the ranker's rows that choose its checkpoint, and the most rows that do.
_VALID_SHARE, _VALID_ROWS = 0.1, 4_000


def train_model(
    part: Part,
    output: Path,
    serving: Models,
    options: RenewOptions,
    *,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> None:
    """Train the NoteLLM of a renewal, if its directory is not there yet.

    Args:
        part: notes and clicks to train on.
        output: the model directory to write.
        serving: the serving models; the training goes on from its model, or takes its options.
        options: options of the renewal.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show progress bars.

    Raises:
        DataError: if the log has no related pairs.
        NotellmError: as ``train_recall``.
    """
    if NoteLLM.is_saved(output):
        return
    pairs = mine_pairs(part.clicks, PairOptions(min_users=options.min_users), progress=progress)
    if not pairs.num_rows:
        raise DataError(
            f"the {part.clicks.num_rows:,} clicks before the test days make no related pairs that "
            f"{options.min_users} users share; wait until there are more, or lower min_users"
        )
    train_recall(
        part.notes,
        pairs,
        output,
        clicks=part.clicks,
        options=recall_options(serving, options),
        resume=True,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )


def recall_options(serving: Models, options: RenewOptions) -> RecallOptions:
    """Return the options by which recall is trained: those of the serving model, anew or from its weights.

    Most of what a tiny backbone knows it has from its start on a corpus: it learns hardly anything about
    words that the corpus did not have.
    """
    chosen = replace(serving.recall_options(), max_steps=options.max_steps, seed=options.seed)
    if options.start == "new" or (options.start == "auto" and serving.is_tiny()):
        return replace(chosen, warm_start=None, **serving.made_with())
    nothing: dict[str, Any] = dict.fromkeys((*OF_A_NEW_MODEL, "tau"))  # the saved model has its own
    return replace(chosen, warm_start=str(serving.model), **nothing)


def train_ranker(
    part: Part,
    model: Path,
    output: Path,
    serving: Models,
    options: RenewOptions,
    *,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> None:
    """Train the ranker of a renewal on what its model offers before each click, if it is not there yet.

    Args:
        part: notes and clicks to train on.
        model: directory of the trained NoteLLM.
        output: the ranker directory to write.
        serving: the serving models, whose ranker's options are taken.
        options: options of the renewal.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show progress bars.

    Raises:
        NotellmError: as ``train_rank``, and ``impressions_from_candidates``.
    """
    if output.is_dir():
        return
    recall = NoteLLM.from_saved(model, trust_remote_code=trust_remote_code)
    vectors = part.notes["note_id"].to_pylist(), recall.encode(part.notes, progress=progress)
    rows = impressions_from_candidates(part.clicks, vectors, seed=options.seed, progress=progress)
    train, _, latest = split_impressions(rows, valid=0, test=_VALID_SHARE, seed=options.seed)
    drawn = np.random.default_rng(options.seed).permutation(len(latest))[:_VALID_ROWS]
    chosen = replace(serving.rank_options(), seed=options.seed)
    if options.rank_steps is not None:
        chosen = replace(chosen, max_steps=options.rank_steps)
    train_rank(
        part.notes,
        train,
        latest.take(pa.array(np.sort(drawn))),
        output,
        options=chosen,
        vectors=vectors,
        vectors_model=recall.fingerprint(),
        histories=click_histories(part.clicks),
        resume=True,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )
