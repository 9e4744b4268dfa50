"""The note table of a sample world."""

import random

import pyarrow as pa

from notellm.data.sample.truth import BEGIN, LANGUAGES, Ints, Truth, note_id
from notellm.data.sample.words import Concept, Sentences
from notellm.data.schema import NOTES, TIME


def note_table(
    truth: Truth,
    published: Ints,
    concepts: list[Concept],
    *,
    sentences: dict[str, Sentences],
    generic: dict[str, list[str]],
    seed: int,
) -> pa.Table:
    """Write the texts of all notes.

    Args:
        truth: concepts and languages of the notes.
        published: (notes,) publication times, in seconds from the start of the log.
        concepts: the concepts.
        sentences: sentences that all notes use, by language.
        generic: topics that all notes use, by language.
        seed: seed of the texts.

    Returns:
        Table with the schema NOTES.
    """
    draw = random.Random(seed)
    titles, contents, topics, categories = [], [], [], []
    for number, spoken in zip(truth.note_concept.tolist(), truth.note_language.tolist(), strict=True):
        language, concept = LANGUAGES[spoken], concepts[number]
        title, content = _write(concept, language, sentences[language], draw)
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


def _write(concept: Concept, language: str, sentences: Sentences, draw: random.Random) -> tuple[str, str]:
    """Write a title of 3 to 10 words and a content of 10 to 60, with 5 to 10 of the concept's words.

    The words come in random order; each sentence is one that has places for the next words and names.
    """
    names = set(concept.names[language])
    chosen = draw.sample(concept.words[language], draw.randint(5, 10))
    open_words = [word for word in chosen if word not in names]
    open_names = [word for word in chosen if word in names]
    space, comma, last = (" ", ", ", " and ") if language == "en" else ("", "、", "和")
    title = _fill(sentences.titles, open_words, open_names, draw)
    repeated = draw.choices(chosen, k=draw.randint(0, 4))
    open_words += [word for word in repeated if word not in names]
    open_names += [word for word in repeated if word in names]
    target = draw.randint(10, 36)
    others = draw.sample(sentences.without_words, len(sentences.without_words))
    written: list[str] = []
    while _length(written, language) < target:
        written.append(_fill(sentences.with_words, open_words, open_names, draw) or others.pop())
        if draw.random() < 0.3:
            written.append(others.pop())
    draw.shuffle(written)
    left = list(dict.fromkeys(open_words + open_names))
    if left:
        listed = comma.join(left[:-1]) + last + left[-1] if len(left) > 1 else left[0]
        written.append(sentences.list.format(all=listed))
    return _capital(title), space.join(_capital(sentence) for sentence in written)


def _fill(templates: list[str], words: list[str], names: list[str], draw: random.Random) -> str:
    """Return a sentence with the next words and names, which are taken; "" if there are none left."""
    fitting = [
        template
        for template in templates
        if all(
            len(set(rest[: template.count(place)])) == template.count(place)
            for place, rest in (("{w}", words), ("{n}", names))
        )
    ]
    if not fitting:
        return ""
    sentence = draw.choice(fitting)
    for place, rest in (("{w}", words), ("{n}", names)):
        while place in sentence:
            sentence = sentence.replace(place, rest.pop(0), 1)
    return sentence


def _length(sentences: list[str], language: str) -> int:
    """Return about how many words sentences have."""
    return sum(len(text.split()) if language == "en" else len(text) // 2 for text in sentences)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
