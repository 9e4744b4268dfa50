"""The note table of a sample world."""

import random
from collections.abc import Iterator

import pyarrow as pa

from notellm.data.sample.truth import BEGIN, LANGUAGES, Ints, Truth, note_id
from notellm.data.sample.words import Concept
from notellm.data.schema import NOTES, TIME


def note_table(
    truth: Truth,
    published: Ints,
    concepts: list[Concept],
    *,
    filler: dict[str, list[str]],
    generic: dict[str, list[str]],
    seed: int,
) -> pa.Table:
    """Write the texts of all notes.

    Args:
        truth: concepts and languages of the notes.
        published: (notes,) publication times, in seconds from the start of the log.
        concepts: the concepts.
        filler: words that all notes use, by language.
        generic: topics that all notes use, by language.
        seed: seed of the texts.

    Returns:
        Table with the schema NOTES.
    """
    draw = random.Random(seed)
    titles, contents, topics, categories = [], [], [], []
    for number, spoken in zip(truth.note_concept.tolist(), truth.note_language.tolist(), strict=True):
        language, concept = LANGUAGES[spoken], concepts[number]
        title, content = _write(concept.words[language], filler[language], language, draw)
        titles.append(title)
        contents.append(content)
        tags = draw.sample(concept.tags[language], draw.choice((0, 1, 2, 2, 3, 3, 4, 5)))
        if draw.random() < 0.3:
            tags.append(draw.choice(generic[language]))
        topics.append(tags)
        categories.append(concept.category[language])
    columns = [
        pa.array([note_id(i) for i in range(len(titles))]),
        pa.array(titles),
        pa.array(contents),
        pa.array(topics, NOTES.field("topics").type),
        pa.array(categories),
        pa.array((published + BEGIN) * 1_000_000).cast(TIME),
    ]
    return pa.table(columns, schema=NOTES)


def _write(words: list[str], filler: list[str], language: str, draw: random.Random) -> tuple[str, str]:
    """Write a title of 3 to 10 words and a content of 10 to 60, with 5 to 10 of the concept's words."""
    chosen = draw.sample(words, draw.randint(5, 10))
    in_title = draw.randint(1, 3)
    title = chosen[:in_title] + draw.choices(filler, k=draw.randint(2, 7))
    content = chosen[in_title:] + draw.choices(chosen, k=draw.randint(0, 4))
    content += draw.choices(filler, k=max(0, draw.randint(10, 60) - len(content)))
    draw.shuffle(title)
    draw.shuffle(content)
    if language == "zh":
        return "".join(title), "".join(f"{part}。" for part in _sentences(content, "", draw))
    sentences = _sentences(content, " ", draw)
    return _capital(" ".join(title)), " ".join(f"{_capital(part)}." for part in sentences)


def _sentences(words: list[str], space: str, draw: random.Random) -> Iterator[str]:
    """Yield the words in sentences of 4 to 12 words."""
    while words:
        length = draw.randint(4, 12)
        yield space.join(words[:length])
        words = words[length:]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
