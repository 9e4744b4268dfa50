"""The concepts of a sample world and their words: those of ``sample_words.json``, and invented names."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from notellm.data.sample.truth import LANGUAGES

WORDS_PER_CONCEPT = 28
_ENGLISH_SYLLABLES = [
    "ba",
    "bel",
    "cor",
    "da",
    "dri",
    "fen",
    "ga",
    "hul",
    "ka",
    "lo",
    "mar",
    "ni",
    "pra",
    "qui",
    "ro",
    "sul",
    "ta",
    "ver",
    "wo",
    "zan",
]
_CHINESE_SYLLABLES = [
    "艾",
    "贝",
    "波",
    "达",
    "蒂",
    "尔",
    "菲",
    "格",
    "汉",
    "吉",
    "卡",
    "兰",
    "洛",
    "米",
    "纳",
    "欧",
    "佩",
    "瑞",
    "萨",
    "塔",
    "维",
    "希",
    "雅",
    "佐",
]


@dataclass(frozen=True)
class Concept:
    """What a note can be about.

    Attributes:
        name: the name, as "food/baking/bread".
        category: the category of its notes, by language.
        words: its words, by language, invented names last.
        names: those of its words that are invented names, by language.
        tags: the topics that its notes draw from, by language.
    """

    name: str
    category: dict[str, str]
    words: dict[str, list[str]]
    names: dict[str, list[str]]
    tags: dict[str, list[str]]


@dataclass(frozen=True)
class Sentences:
    """The sentences of notes in a language, with places for words, ``{w}``, and for invented names, ``{n}``.

    Attributes:
        titles: titles, each with places.
        with_words: sentences of a content with places.
        without_words: sentences of a content without places.
        list: a last sentence that names any number of words, ``{all}``.
    """

    titles: list[str]
    with_words: list[str]
    without_words: list[str]
    list: str


def vocabulary() -> tuple[list[Concept], dict[str, Sentences], dict[str, list[str]]]:
    """Return the concepts, and the sentences and the generic topics by language."""
    text = resources.files("notellm.data").joinpath("sample_words.json").read_text("utf-8")
    data: Any = json.loads(text)
    invented = {"en": _invented(_ENGLISH_SYLLABLES), "zh": _invented(_CHINESE_SYLLABLES)}
    concepts = []
    for first in data["categories"]:
        for second in first["subcategories"]:
            for concept in second["concepts"]:
                names = {
                    n: list(itertools.islice(invented[n], WORDS_PER_CONCEPT - len(concept[n])))
                    for n in LANGUAGES
                }
                words = {n: [*concept[n], *names[n]] for n in LANGUAGES}
                concepts.append(
                    Concept(
                        name=f"{first['en']}/{second['en']}/{concept['name']}",
                        category={n: f"{first[n]}/{second[n]}" for n in LANGUAGES},
                        words=words,
                        names=names,
                        tags={
                            n: list(dict.fromkeys([*words[n][:5], second[n], first[n]])) for n in LANGUAGES
                        },
                    )
                )
    sentences = {language: Sentences(**each) for language, each in data["sentences"].items()}
    return concepts, sentences, data["generic_topics"]


def _invented(syllables: list[str]) -> Iterator[str]:
    """Yield distinct names that look like brands, the same ones in every world."""
    names = ["".join(name).capitalize() for name in itertools.product(syllables, repeat=3)]
    random.Random(0).shuffle(names)
    return iter(dict.fromkeys(names))
