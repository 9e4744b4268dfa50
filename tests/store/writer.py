"""A process that writes to a store until it is killed: ``python -m tests.store.writer``.

Importing takes seconds, so one process does it once and forks for each round. A round begins with a line on
standard input, a folder and where to count from; the writer answers with its process id, then with the number
of each batch that was acknowledged, and with "dead" when it is.
"""

import os
import signal
import sys
import warnings
from collections.abc import Callable

import lancedb  # noqa: F401 - for the forks; nothing is done with it before
import numpy as np

from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote

MODEL, DIM, BATCH = "0123456789abcdef", 4, 7


def vector_of(number: int) -> np.ndarray:
    return np.array([[np.cos(number), np.sin(number), 0, 0]], dtype=np.float32)


def batch_of(batch: int) -> tuple[list[StoredNote], np.ndarray]:
    """Notes of a batch: half of them its own, the others written by every batch anew."""
    names = [f"own {batch} {i}" for i in range(BATCH // 2)]
    names += [f"all {i}" for i in range(BATCH - len(names))]
    return [StoredNote(note_id=name, title=str(batch)) for name in names], np.repeat(
        vector_of(batch), BATCH, axis=0
    )


def write(folder: str, first: int, say: Callable[[str], object]) -> None:
    """Batches without end."""
    store = NoteStore.open(folder, MODEL)
    batch = first
    while True:
        store.upsert(*batch_of(batch))
        say(str(batch))
        if batch % 5 == 4:  # so that a kill meets this, too
            store.optimize()
        batch += 1


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="lancedb fork support")
    for line in sys.stdin:
        first, folder = line.rstrip("\n").split(" ", 1)
        child = os.fork()
        if not child:
            try:
                say(str(os.getpid()))
                write(folder, int(first), say)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        say("dead")
    os._exit(0)  # letting go of everything takes seconds, too
