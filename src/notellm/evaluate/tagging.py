"""Figures of generated categories and topics against those that notes already have.

Categories, as in NoteLLM (arXiv 2403.01744): accuracy, and the share of ill-formed ones, which are not in the
list of categories. Topics: BLEU-4 of the corpus (sacrebleu, tokenizer "zh") and mean ROUGE-1, -2, -L F1
(rouge_score) of the topics joined with ", " in their order; mean precision, recall and F1 of whole topics as
sets. ROUGE counts single characters of scripts written without spaces, and words otherwise; signs do not
count.

Categories and whole topics are compared after stripping and case folding. Notes without a true category or
topics are left out; a note for which nothing was generated counts 0.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from notellm.data.same_text import UNSPACED
from notellm.errors import DataError
from notellm.evaluate.tables import Table, check_comparable

_TOKENS = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
T = TypeVar("T", bound=Sequence[str])
_ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class CategoryResult:
    """Figures of generated categories, as shares (0 to 1).

    Args:
        name: the method.
        notes: number of notes that have a true category and were compared.
        accuracy: share of notes whose generated category is the true one.
        ill_formed: share of notes whose generated category is in no list.
    """

    name: str
    notes: int
    accuracy: float
    ill_formed: float

    @property
    def figures(self) -> Mapping[str, float]:
        """The figures by the names that tables show."""
        return {"accuracy": self.accuracy, "ill-formed": self.ill_formed}

    def to_json(self) -> dict[str, Any]:
        """Return the number of notes and all figures."""
        return _without_name(dataclasses.asdict(self))


@dataclass(frozen=True)
class TopicResult:
    """Figures of generated topics, as shares (0 to 1).

    Args:
        name: the method.
        notes: number of notes that have true topics and were compared.
        bleu4: corpus BLEU-4.
        rouge1: mean F1 of single tokens.
        rouge2: mean F1 of pairs of tokens.
        rouge_l: mean F1 of the longest common subsequence.
        precision: mean share of the generated topics that are true.
        recall: mean share of the true topics that were generated.
        f1: mean of the harmonic means of precision and recall.
    """

    name: str
    notes: int
    bleu4: float
    rouge1: float
    rouge2: float
    rouge_l: float
    precision: float
    recall: float
    f1: float

    @property
    def figures(self) -> Mapping[str, float]:
        """The figures by the names that tables show."""
        return {
            "BLEU-4": self.bleu4,
            "ROUGE-1": self.rouge1,
            "ROUGE-2": self.rouge2,
            "ROUGE-L": self.rouge_l,
            "exact F1": self.f1,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the number of notes and all figures."""
        return _without_name(dataclasses.asdict(self))


def evaluate_categories(
    generated: Sequence[str], true: Sequence[str], categories: Iterable[str], *, name: str = "method"
) -> CategoryResult:
    """Compute accuracy and ill-formed share of generated categories.

    Args:
        generated: the generated category of each note.
        true: the true category of each note, aligned; "" if unknown.
        categories: the list of known categories.
        name: the method, for the report.

    Raises:
        DataError: if the lengths differ, or no note has a true category.
    """
    pairs = _with_truth("categories", generated, true)
    known = {_key(category) for category in categories}
    return CategoryResult(
        name=name,
        notes=len(pairs),
        accuracy=sum(_key(output) == _key(truth) for output, truth in pairs) / len(pairs),
        ill_formed=sum(_key(output) not in known for output, _ in pairs) / len(pairs),
    )


def evaluate_topics(
    generated: Sequence[Sequence[str]], true: Sequence[Sequence[str]], *, name: str = "method"
) -> TopicResult:
    """Compute BLEU-4, ROUGE and exact precision, recall and F1 of generated topics.

    Args:
        generated: the generated topics of each note.
        true: the true topics of each note, aligned; empty if unknown.
        name: the method, for the report.

    Raises:
        DataError: if the lengths differ, or no note has true topics.
    """
    pairs = _with_truth("topics", generated, true)
    outputs, truths = ([", ".join(topics) for topics in side] for side in zip(*pairs, strict=True))
    rouge1, rouge2, rouge_l = _rouge(outputs, truths)
    exact = [_exact(*pair) for pair in pairs]
    precision, recall, f1 = (sum(figure) / len(pairs) for figure in zip(*exact, strict=True))
    return TopicResult(
        name=name,
        notes=len(pairs),
        bleu4=_bleu4(outputs, truths),
        rouge1=rouge1,
        rouge2=rouge2,
        rouge_l=rouge_l,
        precision=precision,
        recall=recall,
        f1=f1,
    )


def tagging_table(title: str, results: Sequence[CategoryResult] | Sequence[TopicResult]) -> Table:
    """Return a table of results on the same notes, one row per method, figures in %.

    Args:
        title: what was generated, for the caption.
        results: results of one kind.

    Raises:
        DataError: if there is no result, or the results are of different numbers of notes.
    """
    alike: Sequence[CategoryResult | TopicResult] = results
    check_comparable(alike, lambda result: (result.notes, list(result.figures)), "notes and figures")
    rows = [
        [result.name, f"{result.notes:,}", *(f"{100 * value:.1f}" for value in result.figures.values())]
        for result in alike
    ]
    return Table(["method", "notes", *alike[0].figures], rows, f"{title}, %")


def _without_name(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the name of the method, which a report uses as the key of the result."""
    return {field: value for field, value in values.items() if field != "name"}


def _with_truth(what: str, generated: Sequence[T], true: Sequence[T]) -> list[tuple[T, T]]:
    """Return the pairs of generated and true values whose true value is known."""
    if len(generated) != len(true):
        raise DataError(f"{len(generated)} generated {what} for {len(true)} notes: give one for each note")
    pairs = [pair for pair in zip(generated, true, strict=True) if pair[1]]
    if not pairs:
        raise DataError(f"none of {len(true)} notes has {what} of its own to compare with")
    return pairs


def _key(text: str) -> str:
    return text.strip().casefold()


def _exact(generated: Sequence[str], true: Sequence[str]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of two sets of topics, of which the second is not empty."""
    outputs, truths = {_key(topic) for topic in generated}, {_key(topic) for topic in true}
    common = len(outputs & truths)
    if common == 0:
        return 0.0, 0.0, 0.0
    return common / len(outputs), common / len(truths), 2 * common / (len(outputs) + len(truths))


def _bleu4(outputs: list[str], truths: list[str]) -> float:
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 - slow to import, see `_rouge`

    return float(BLEU(tokenize="zh").corpus_score(outputs, [truths]).score) / 100


class _Tokens:
    """The tokenizer interface of rouge_score."""

    def tokenize(self, text: str) -> list[str]:
        return _TOKENS.findall(text.casefold())


def _rouge(outputs: list[str], truths: list[str]) -> tuple[float, ...]:
    """Return the mean F1 of ROUGE-1, -2 and -L."""
    # It imports NLTK and scikit-learn, which takes a second; a service that imports this module needs
    # neither.
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415

    scorer = RougeScorer(_ROUGE, tokenizer=_Tokens())
    scores = [scorer.score(truth, output) for output, truth in zip(outputs, truths, strict=True)]
    return tuple(sum(score[kind].fmeasure for score in scores) / len(scores) for kind in _ROUGE)
