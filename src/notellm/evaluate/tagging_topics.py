"""Figures of predicted topics: of those that a method would publish, and of its whole ranking.

Published, as sets of whole topics: mean precision, recall and F1, and the share that is new; joined with ", "
in their order: corpus BLEU-4 (sacrebleu, tokenizer "zh") and mean ROUGE-1, -2, -L F1 (rouge_score), as in
NoteLLM (arXiv 2403.01744). ROUGE counts single characters of scripts written without spaces, and words
otherwise; signs do not count.

Ranked: F1@k as of keyphrases (Yuan et al. 2020, arXiv 1810.05241), precision@1, and nDCG@10 with gains 0 and
1 and discount log2(rank + 1) (Järvelin and Kekäläinen 2002, doi 10.1145/582415.582418).
"""

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from notellm.data.same_text import UNSPACED
from notellm.errors import DataError
from notellm.evaluate.tagging import Ranked, distinct, key, names_of, notes_with_truth

_TOKENS = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_ROUGE = ("rouge1", "rouge2", "rougeL")
_DEPTH = 10  # of nDCG


@dataclass(frozen=True)
class TopicResult:
    """Figures of predicted topics, as shares (0 to 1) except for the number published.

    A note for which nothing is published counts 0 in precision, recall, F1 and ROUGE; one with an empty
    ranking counts 0 in the figures of rankings.

    Attributes:
        name: the method.
        notes: number of notes that have true topics and were compared.
        precision: mean share of the published topics that are true.
        recall: mean share of the true topics that are published.
        f1: mean of the harmonic means of precision and recall.
        f1_at_1: mean F1 of the first name of the ranking against all true topics.
        f1_at_3: the same of the first three names, or of all if there are fewer.
        f1_at_5: the same of the first five names.
        precision_at_1: share of notes whose first name is a true topic.
        ndcg_at_10: mean over notes of the discounted gain of the first ten names, relative to that of a
            ranking that begins with the true topics.
        novel: share of all published topics that no train note carries; 0 if nothing is published.
        bleu4: corpus BLEU-4.
        rouge1: mean F1 of single tokens.
        rouge2: mean F1 of pairs of tokens.
        rouge_l: mean F1 of the longest common subsequence.
        published: mean number of published topics a note, without repetitions.
    """

    name: str
    notes: int
    precision: float
    recall: float
    f1: float
    f1_at_1: float
    f1_at_3: float
    f1_at_5: float
    precision_at_1: float
    ndcg_at_10: float
    novel: float
    bleu4: float
    rouge1: float
    rouge2: float
    rouge_l: float
    published: float

    @property
    def figures(self) -> Mapping[str, float]:
        """The shares by the names that tables show; precision and recall are only in the JSON."""
        return {
            "F1": self.f1,
            "F1@1": self.f1_at_1,
            "F1@3": self.f1_at_3,
            "F1@5": self.f1_at_5,
            "P@1": self.precision_at_1,
            "nDCG@10": self.ndcg_at_10,
            "novel": self.novel,
            "BLEU-4": self.bleu4,
            "RG-1": self.rouge1,
            "RG-2": self.rouge2,
            "RG-L": self.rouge_l,
        }

    @property
    def means(self) -> Mapping[str, float]:
        """The figure that is no share: topics a note."""
        return {"topics": self.published}

    def to_json(self) -> dict[str, Any]:
        """Return the number of notes and all figures, without the method, which is their key in a report."""
        values = dataclasses.asdict(self)
        del values["name"]
        return values


def evaluate_topics(
    predicted: Sequence[Ranked],
    written: Sequence[int],
    true: Sequence[Sequence[str]],
    *,
    known: Iterable[str],
    name: str = "method",
) -> TopicResult:
    """Compute the figures of predicted topics.

    Args:
        predicted: a ranking of topics for each note.
        written: for each note, how many topics from the top of its ranking the method would publish, aligned.
        true: the true topics of each note, aligned; empty if unknown.
        known: the topics of the train notes.
        name: the method, for the report.

    Raises:
        DataError: if the lengths differ, a probability is not from 0 to 1, a number is negative or larger
            than its ranking, or no note has true topics.
    """
    notes = notes_with_truth("topics", predicted, true)
    if len(written) != len(predicted):
        raise DataError(
            f"{len(written)} numbers of topics for {len(predicted)} notes: give one for each note"
        )
    for count, ranking in zip(written, predicted, strict=True):
        if not 0 <= count <= len(ranking):
            raise DataError(f"{count} topics to publish of {len(ranking)}: give 0 to {len(ranking)}")
    rankings = [distinct(names_of(predicted[note])) for note in notes]
    published = [names_of(predicted[note])[: written[note]] for note in notes]
    truths = [set(distinct(true[note])) for note in notes]
    precision, recall, f1 = _means(
        overlap(distinct(topics), truth) for topics, truth in zip(published, truths, strict=True)
    )
    at = {
        k: _means(overlap(ranking[:k], truth) for ranking, truth in zip(rankings, truths, strict=True))
        for k in (1, 3, 5)
    }
    outputs, texts = [", ".join(topics) for topics in published], [", ".join(true[note]) for note in notes]
    rouge1, rouge2, rouge_l = _rouge(outputs, texts)
    old = set(map(key, known))
    everything = [topic for topics in published for topic in distinct(topics)]
    return TopicResult(
        name=name,
        notes=len(notes),
        precision=precision,
        recall=recall,
        f1=f1,
        f1_at_1=at[1][2],
        f1_at_3=at[3][2],
        f1_at_5=at[5][2],
        precision_at_1=at[1][0],
        ndcg_at_10=sum(_ndcg(*pair) for pair in zip(rankings, truths, strict=True)) / len(notes),
        novel=sum(topic not in old for topic in everything) / max(1, len(everything)),
        bleu4=_bleu4(outputs, texts),
        rouge1=rouge1,
        rouge2=rouge2,
        rouge_l=rouge_l,
        published=len(everything) / len(notes),
    )


def overlap(names: Sequence[str], true: Collection[str]) -> tuple[float, float, float]:
    """Return precision, recall and F1 (each 0 to 1) of a set of names.

    Args:
        names: distinct names.
        true: distinct true names, at least one, in the same form.
    """
    common = sum(name in true for name in names)
    if common == 0:
        return 0.0, 0.0, 0.0
    return common / len(names), common / len(true), 2 * common / (len(names) + len(true))


def _means(rows: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    """Return the mean of each column of at least one row."""
    return tuple(math.fsum(column) / len(column) for column in zip(*rows, strict=True))


def _ndcg(ranking: Sequence[str], true: Collection[str]) -> float:
    """Return nDCG@10 of a ranking of distinct names; at least one name is true."""
    discounts = [1 / math.log2(rank + 1) for rank in range(1, _DEPTH + 1)]
    gain = sum(discount for name, discount in zip(ranking[:_DEPTH], discounts, strict=False) if name in true)
    return gain / sum(discounts[: len(true)])


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
    return _means(
        tuple(score[kind].fmeasure for kind in _ROUGE)
        for score in (scorer.score(truth, output) for output, truth in zip(outputs, truths, strict=True))
    )
