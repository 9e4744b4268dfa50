"""Figures of predicted categories: accuracy, macro-F1, top-5 accuracy, calibration error, ill-formed share.

Accuracy and the share of ill-formed categories are those of NoteLLM (arXiv 2403.01744). The expected
calibration error is that of Guo et al. 2017 (arXiv 1706.04599). Macro-F1 is the mean of the F1 of the single
categories (Opitz and Burst 2019, arXiv 1911.03347).
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from notellm.evaluate.tagging import Ranked, distinct, key, names_of, notes_with_truth

#: Depth of the top-5 accuracy.
TOP = 5
_BINS = 15


@dataclass(frozen=True)
class CategoryResult:
    """Figures of predicted categories, as shares (0 to 1).

    The predicted category is the first name of a ranking. An empty ranking counts as a wrong and ill-formed
    category with probability 0.

    Attributes:
        name: the method.
        notes: number of notes that have a true category and were compared.
        accuracy: share of notes whose predicted category is the true one.
        macro_f1: mean over the categories that occur among the true ones of 2 TP / (2 TP + FP + FN).
        top5: share of notes whose true category is among the first five names.
        calibration_error: mean distance between the probability of the predicted category and the share of
            correct ones, over 15 bins of equal width, each weighted by its number of notes.
        ill_formed: share of notes whose predicted category is in no list.
    """

    name: str
    notes: int
    accuracy: float
    macro_f1: float
    top5: float
    calibration_error: float
    ill_formed: float

    @property
    def figures(self) -> Mapping[str, float]:
        """The shares by the names that tables show."""
        return {
            "accuracy": self.accuracy,
            "macro-F1": self.macro_f1,
            "top-5": self.top5,
            "ECE": self.calibration_error,
            "ill-formed": self.ill_formed,
        }

    @property
    def means(self) -> Mapping[str, float]:
        """Nothing: all figures are shares."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Return the number of notes and all figures, without the method, which is their key in a report."""
        values = dataclasses.asdict(self)
        del values["name"]
        return values


def evaluate_categories(
    predicted: Sequence[Ranked], true: Sequence[str], categories: Iterable[str], *, name: str = "method"
) -> CategoryResult:
    """Compute the figures of predicted categories.

    Args:
        predicted: a ranking of categories for each note.
        true: the true category of each note, aligned; "" if unknown.
        categories: the list of known categories.
        name: the method, for the report.

    Raises:
        DataError: if the lengths differ, a probability is not from 0 to 1, or no note has a true category.
    """
    notes = notes_with_truth("categories", predicted, true)
    rankings = [distinct(names_of(predicted[note])) for note in notes]
    firsts = [ranking[0] if ranking else None for ranking in rankings]
    truths = [key(true[note]) for note in notes]
    known = {key(category) for category in categories}
    correct = [first == truth for first, truth in zip(firsts, truths, strict=True)]
    return CategoryResult(
        name=name,
        notes=len(notes),
        accuracy=sum(correct) / len(notes),
        macro_f1=_macro_f1(firsts, truths),
        top5=sum(truth in ranking[:TOP] for ranking, truth in zip(rankings, truths, strict=True))
        / len(notes),
        calibration_error=_calibration_error(
            [predicted[note][0][1] if predicted[note] else 0.0 for note in notes], correct
        ),
        ill_formed=sum(first not in known for first in firsts) / len(notes),
    )


def _macro_f1(predicted: Sequence[str | None], true: Sequence[str]) -> float:
    """Return the mean of the F1 of all categories that occur among the true ones."""
    # TP + FP is how often a category was predicted, TP + FN how often it is the true one.
    said, there = Counter(predicted), Counter(true)
    right = Counter(truth for output, truth in zip(predicted, true, strict=True) if output == truth)
    return sum(2 * right[each] / (said[each] + count) for each, count in there.items()) / len(there)


def reliability(probabilities: Sequence[float], correct: Sequence[bool]) -> list[dict[str, float]]:
    """Return how often predictions of some probabilities are correct, by bins of the probability.

    Args:
        probabilities: (n,) of the predictions, from 0 to 1.
        correct: (n,) whether each is correct.

    Returns:
        For each of 15 bins of equal width that holds a prediction: "predicted", the mean probability;
        "observed", the share of correct ones; "count", the number of predictions.
    """
    confidence, hit = np.asarray(probabilities, np.float64), np.asarray(correct, np.float64)
    # A bin includes its upper end, as in the paper, so 1 is in the last one; 0 joins the first one.
    which = np.clip(np.ceil(confidence * _BINS).astype(np.intp) - 1, 0, _BINS - 1)
    sums = (np.bincount(which, values, minlength=_BINS) for values in (confidence, hit, np.ones(len(hit))))
    return [
        {"predicted": float(said / count), "observed": float(true / count), "count": int(count)}
        for said, true, count in zip(*sums, strict=True)
        if count
    ]


def category_reliability(predicted: Sequence[Ranked], true: Sequence[str]) -> list[dict[str, float]]:
    """Return the reliability of predicted categories; notes without a true category do not count.

    Args:
        predicted: a ranking of categories for each note.
        true: the true category of each note, aligned; "" if unknown.
    """
    notes = notes_with_truth("categories", predicted, true)
    firsts = [predicted[note][0] if predicted[note] else ("", 0.0) for note in notes]
    correct = [key(name) == key(true[note]) for (name, _), note in zip(firsts, notes, strict=True)]
    return reliability([probability for _, probability in firsts], correct)


def _calibration_error(probabilities: Sequence[float], correct: Sequence[bool]) -> float:
    """Return the expected calibration error of probabilities (n,) that n predictions are correct."""
    bins = reliability(probabilities, correct)
    return sum(each["count"] * abs(each["predicted"] - each["observed"]) for each in bins) / len(correct)
