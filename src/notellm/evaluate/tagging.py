"""How well generated topics and categories match a note's own.

Categories, as in NoteLLM (arXiv 2403.01744): **accuracy**, and the share of **ill-formed**
ones, which are not in the list of categories. Compared after stripping and case folding.

Topics are compared as one string, joined with ", " in the order given, as they are generated:

- **BLEU-4** of the corpus, by sacrebleu with its tokenizer "zh" (single Chinese characters, and the
  usual words and signs in between).
- **ROUGE-1, -2, -L**, F1, mean over notes, by rouge_score on single characters of scripts written
  without spaces, and words otherwise; signs do not count.
- **precision, recall, F1** of whole topics as sets, after stripping and case folding, mean over
  notes: order and near misses do not matter.

Notes without topics (or category) of their own have no truth and are left out; a note for which
nothing was generated counts as 0. All figures are shares, 0 to 1.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from notellm.errors import DataError
from notellm.evaluate.baselines import UNSPACED

_TOKENS = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
T = TypeVar("T", bound=Sequence[str])
_ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class CategoryResult:
    """Figures of generated categories, as shares.

    Args:
        notes: notes with a category of their own, which were compared.
        accuracy: share of them whose generated category is their own.
        ill_formed: share of them whose generated category is in no list.
    """

    notes: int
    accuracy: float
    ill_formed: float


@dataclass(frozen=True)
class TopicResult:
    """Figures of generated topics, as shares.

    Args:
        notes: notes with topics of their own, which were compared.
        bleu4: corpus BLEU-4.
        rouge1: mean F1 of single tokens.
        rouge2: mean F1 of pairs of tokens.
        rouge_l: mean F1 of the longest common subsequence.
        precision: mean share of the generated topics that are the note's own.
        recall: mean share of the note's own topics that were generated.
        f1: mean of their harmonic means.
    """

    notes: int
    bleu4: float
    rouge1: float
    rouge2: float
    rouge_l: float
    precision: float
    recall: float
    f1: float


def evaluate_categories(
    generated: Sequence[str], true: Sequence[str], categories: Iterable[str]
) -> CategoryResult:
    """Accuracy and ill-formed share of generated categories.

    Args:
        generated: one category a note, as it was generated.
        true: the notes' own categories, aligned; "" where unknown.
        categories: the known categories.

    Raises:
        DataError: lengths differ, or no note has a category.
    """
    pairs = _with_truth("categories", generated, true)
    known = {_key(category) for category in categories}
    return CategoryResult(
        notes=len(pairs),
        accuracy=sum(_key(found) == _key(own) for found, own in pairs) / len(pairs),
        ill_formed=sum(_key(found) not in known for found, _ in pairs) / len(pairs),
    )


def evaluate_topics(generated: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> TopicResult:
    """BLEU-4, ROUGE and exact precision, recall and F1 of generated topics.

    Args:
        generated: topics of each note, as they were generated.
        true: the notes' own topics, aligned; empty where there are none.

    Raises:
        DataError: lengths differ, or no note has topics.
    """
    pairs = _with_truth("topics", generated, true)
    found, own = ([", ".join(topics) for topics in side] for side in zip(*pairs, strict=True))
    rouge1, rouge2, rouge_l = _rouge(found, own)
    exact = [_exact(*pair) for pair in pairs]
    precision, recall, f1 = (sum(figure) / len(pairs) for figure in zip(*exact, strict=True))
    return TopicResult(
        notes=len(pairs),
        bleu4=_bleu4(found, own),
        rouge1=rouge1,
        rouge2=rouge2,
        rouge_l=rouge_l,
        precision=precision,
        recall=recall,
        f1=f1,
    )


def _with_truth(what: str, generated: Sequence[T], true: Sequence[T]) -> list[tuple[T, T]]:
    """Pairs of generated and true where there is a truth."""
    if len(generated) != len(true):
        raise DataError(f"{len(generated)} generated {what} for {len(true)} notes: give one each")
    pairs = [pair for pair in zip(generated, true, strict=True) if pair[1]]
    if not pairs:
        raise DataError(f"none of {len(true)} notes has {what} of its own to compare with")
    return pairs


def _key(text: str) -> str:
    return text.strip().casefold()


def _exact(found: Sequence[str], own: Sequence[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 of two sets of topics, the second not empty."""
    ours, theirs = {_key(topic) for topic in found}, {_key(topic) for topic in own}
    common = len(ours & theirs)
    if common == 0:
        return 0.0, 0.0, 0.0
    return common / len(ours), common / len(theirs), 2 * common / (len(ours) + len(theirs))


def _bleu4(found: list[str], own: list[str]) -> float:
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 - see `_rouge`

    return float(BLEU(tokenize="zh").corpus_score(found, [own]).score) / 100


class _Tokens:
    """The tokenizer that rouge_score asks for."""

    def tokenize(self, text: str) -> list[str]:
        return _TOKENS.findall(text.casefold())


def _rouge(found: list[str], own: list[str]) -> tuple[float, ...]:
    """Mean F1 of ROUGE-1, -2 and -L."""
    # It brings NLTK and scikit-learn: a second that a service, which imports this module, need not spend.
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415

    scorer = RougeScorer(_ROUGE, tokenizer=_Tokens())
    scores = [scorer.score(truth, text) for text, truth in zip(found, own, strict=True)]
    return tuple(sum(score[kind].fmeasure for score in scores) / len(scores) for kind in _ROUGE)
