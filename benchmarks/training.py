"""What the benchmarks of models share: the real data, and training with a clock."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from benchmarks.common import ROOT
from notellm.data.datasets.files import RawData
from notellm.data.datasets.kuairec import read_kuairec
from notellm.data.datasets.microlens import read_microlens
from notellm.data.datasets.mind import read_mind
from notellm.data.datasets.movielens import read_movielens
from notellm.data.split import Part
from notellm.data.validate import validate
from notellm.evaluate.bootstrap import Interval
from notellm.jobs.train_recall import train_recall
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recall.trainer import Validation

#: As `notellm pairs` mines by default: a pair that one user made is no related pair.
MIN_USERS = 2

#: Folder below the data folder, and reader, of each public data set.
DATASETS: dict[str, tuple[str, Callable[[Path], RawData]]] = {
    "MicroLens": ("microlens-50k", read_microlens),
    "MovieLens": ("movielens-small-tmdb", read_movielens),
    "MIND": ("mind-subset", read_mind),
    "KuaiRec": ("kuairec-captions", read_kuairec),
}


def load(name: str) -> Part:
    """The cleaned notes and clicks of a public data set; ends the program where it is absent."""
    below, read = DATASETS[name]
    folder = Path(os.environ.get("NOTELLM_DATA", ROOT.parent / "shared" / "data")) / below
    if not folder.is_dir():
        sys.exit(f"{name} is not in {folder}: set NOTELLM_DATA to the folder that holds {below}/")
    data = read(folder)
    notes, clicks, _ = validate(data.notes, data.clicks)
    return Part(notes, clicks)


def train(
    notes: pa.Table,
    pairs: pa.Table | None,
    output: Path,
    options: RecallOptions,
    clicks: pa.Table | None = None,
    validation: Validation | None = None,
) -> tuple[NoteLLM, float]:
    """A trained model and the seconds of `fit`; a run that was cut off starts anew, for its clock."""
    shutil.rmtree(output.with_name(f"{output.name}.run"), ignore_errors=True)
    start = time.perf_counter()
    model = train_recall(notes, pairs, output, clicks=clicks, validation=validation, options=options)
    return model, time.perf_counter() - start


def points(value: Interval) -> str:
    """A difference in points with its interval."""
    return f"{100 * value.mean:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"
