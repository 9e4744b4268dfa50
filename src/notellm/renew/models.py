"""The models that serve a store, and those of a renewal: their directories and what their records say."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notellm.files import json_text
from notellm.rank.config import RankOptions
from notellm.recall.config import RecallOptions
from notellm.record import read_record


@dataclass(frozen=True)
class Models:
    """A model directory, and the directory of the ranker that belongs to it.

    Attributes:
        model: a NoteLLM directory.
        ranker: a ranker directory; None where nothing is ranked.
    """

    model: Path
    ranker: Path | None

    def all(self) -> dict[str, Path]:
        """Return the directories by their kind, "model" and perhaps "ranker"."""
        return {"model": self.model} | ({} if self.ranker is None else {"ranker": self.ranker})

    def beside(self, ending: str) -> "Models":
        """Return the directories beside these whose names have an ending, such as ".former"."""
        model, *ranker = (path.with_name(path.name + ending) for path in self.all().values())
        return Models(model, ranker[0] if ranker else None)

    def identities(self) -> dict[str, str]:
        """Return what tells whether the directories still hold the same models, by their kind.

        Raises:
            StorageError: if a directory does not exist.
            DataError: if it has no record.
        """
        return {kind: self.identity(kind) for kind in self.all()}

    def identity(self, kind: str) -> str:
        """Return what tells whether one of the directories still holds the same model; see above."""
        return _digest(read_record(self.all()[kind]))

    def fingerprint(self) -> str:
        """Return the fingerprint of the model, as a store names the maker of its vectors."""
        return str(read_record(self.model)["fingerprint"])

    def recall_options(self) -> RecallOptions:
        """Return the options that the model was trained with."""
        return RecallOptions(**read_record(self.model)["config"])

    def rank_options(self) -> RankOptions:
        """Return the options that the ranker was trained with; those of a new one if there is none."""
        return RankOptions() if self.ranker is None else RankOptions(**read_record(self.ranker)["config"])

    def trained_notes(self) -> int:
        """Return the number of notes that the model was trained on."""
        return int(read_record(self.model)["data"]["notes"]["rows"])


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json_text(record).encode()).hexdigest()[:16]
