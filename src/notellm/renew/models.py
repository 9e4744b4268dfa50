"""The models that serve a store, and those of a renewal: their directories and what their records say."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notellm.errors import ConfigError, DataError
from notellm.files import json_text
from notellm.jobs.recall_model import made_with
from notellm.rank.config import RankOptions
from notellm.recall.config import TINY, RecallOptions
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
        return str(self._said("model", "fingerprint"))

    def recall_options(self) -> RecallOptions:
        """Return the options that the model was trained with.

        Raises:
            DataError: if its record does not say them.
        """
        try:
            return RecallOptions(**self._said("model", "config"))
        except TypeError as error:
            raise self._unknown("model", "config") from error

    def made_with(self) -> dict[str, Any]:
        """Return with which options the model was made anew, before trainings went on from it.

        Raises:
            ConfigError: if its record does not say them.
        """
        found = made_with(read_record(self.model))
        if not found:
            raise ConfigError(
                f"the training of {self.model} went on from another model, and its record does not say how "
                'that one was made, so none can be trained anew with the same options; use start "warm", or '
                "train one with notellm train and compare it with --candidate"
            )
        return found

    def is_tiny(self) -> bool:
        """Return whether the model has a tiny backbone, and its record says how that one was made.

        Raises:
            DataError: as :meth:`recall_options`.
        """
        return self.recall_options().backbone == TINY and bool(made_with(read_record(self.model)))

    def rank_options(self) -> RankOptions:
        """Return the options that the ranker was trained with; those of a new one if there is none.

        Raises:
            DataError: if its record does not say them.
        """
        if self.ranker is None:
            return RankOptions()
        try:
            return RankOptions(**self._said("ranker", "config"))
        except TypeError as error:
            raise self._unknown("ranker", "config") from error

    def trained_notes(self) -> int:
        """Return the number of notes that the model was trained on."""
        return int(self._said("model", "data", "notes", "rows"))

    def _said(self, kind: str, *names: str) -> Any:
        """Return a value of the record of a directory, by the names that lead to it."""
        value: Any = read_record(self.all()[kind])
        for name in names:
            if not isinstance(value, dict) or value.get(name) is None:
                raise self._unknown(kind, ".".join(names))
            value = value[name]
        return value

    def _unknown(self, kind: str, what: str) -> DataError:
        """Return the error that a record does not say something, or not as this version does."""
        command = {"model": "notellm train", "ranker": "notellm rank train"}[kind]
        return DataError(
            f"the record of {self.all()[kind]} does not say its {what} as a {kind} of this version does; "
            f"train it with {command}"
        )


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json_text(record).encode()).hexdigest()[:16]
