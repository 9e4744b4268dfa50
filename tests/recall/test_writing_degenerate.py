"""Ten thousand outputs on notes of every kind: none loops, is broken, or says the same twice."""

import random
import re
import sys
import unicodedata
from collections.abc import Callable

import pyarrow as pa
import pytest
import torch

from notellm.data.note import Note
from notellm.recall.model import NoteLLM
from notellm.recall.tagging.names import name_key
from notellm.recall.tagging.tags import NoteTags
from tests.conftest import Checkpoint, fresh

NOTES = 1_250  # with two models, chosen and free, a category and topics each: 10,000 outputs
LOOP = re.compile(r"(.{1,8}?)\1{3}", re.DOTALL)
SCRIPTS = (
    "Быстрый ужин из тыквы",
    "وصفة سريعة للعشاء",
    "מתכון מהיר לארוחת ערב",
    "สูตรอาหารเย็นง่ายๆ",
    "रात के खाने की आसान रेसिपी",
    "今日の晩ごはん簡単レシピ",
    "오늘의 저녁 레시피",
    "超好吃的家常菜做法",
    "Γρήγορη συνταγή για βραδινό",
)
EMOJI = "🍰🍕🏖️👩‍🍳👨‍👩‍👧🇫🇷✨💪🏽☕"
WORDS = ["soup", "bread", "star", "moon", "海滩", "酒店", "garlic", "the", "best", "#tea", "C++", "100%"]


def characters(rng: random.Random, count: int) -> str:
    """Random code points: unassigned and private ones, controls and lone combining marks as well."""
    points = (rng.randrange(1, sys.maxunicode + 1) for _ in range(count))
    return "".join(chr(point) for point in points if not 0xD800 <= point <= 0xDFFF)


def low_characters(rng: random.Random, count: int) -> str:
    return "".join(chr(rng.randrange(1, 0x3000)) for _ in range(count))


KINDS: tuple[Callable[[random.Random], Note], ...] = (
    lambda _: Note(),
    lambda _: Note(" \n\t ", " "),
    lambda rng: Note(characters(rng, 30), characters(rng, 60)),
    lambda rng: Note(low_characters(rng, 30), low_characters(rng, 60)),
    lambda rng: Note(rng.choice(SCRIPTS), " ".join(rng.sample(SCRIPTS, 3))),
    lambda rng: Note("".join(rng.choices(EMOJI, k=9)), "".join(rng.choices(EMOJI, k=30))),
    lambda rng: Note(rng.choice(WORDS) * 30, rng.choice("a!。🍰#,") * 200),
    lambda rng: Note(" ".join(rng.choices(WORDS, k=5)), " ".join(rng.choices(WORDS, k=30))),
    lambda rng: Note("", " ".join(rng.choices(WORDS, k=500))),
    lambda rng: Note("x" * 2_000, characters(rng, 500)),
    lambda rng: Note("[EMB]</s><s>", "\ufffd\u200b\u202e" * rng.randint(1, 9)),
    lambda _: Note(", ".join(["tea"] * 9), "#tea " * 40, ("tea", "#Tea", "T-e-a"), "tea"),
)


def odd_notes() -> list[Note]:
    rng = random.Random(0)
    return [KINDS[row % len(KINDS)](rng) for row in range(NOTES)]


def faults(name: str, longest: int) -> list[str]:
    """What is wrong with a name that was written."""
    found = {
        "loops": LOOP.search(name),
        "has a broken character": "\ufffd" in name,
        "cannot be printed": not name.isprintable(),
        "has no text": not any(unicodedata.category(character)[0] in "LN" for character in name),
        "is too long": len(name) > longest,
        "has a marker": "[EMB]" in name or "</s>" in name,
    }
    return [f"{name!r} {fault}" for fault, value in found.items() if value]


def test_the_faults_are_found():
    for name in ("hahahahaha", "旅行旅行旅行旅行", "a\ufffd", "a\nb", "!!", "x y z " * 30, "a[EMB]"):
        assert faults(name, 60), name
    assert faults("cold brew", 60) == []


@pytest.fixture(scope="module", params=["made from the notes", "half noise"])
def writer(request, checkpoints: dict[str, Checkpoint], notes: pa.Table) -> NoteLLM:
    """A model that starts from the notes, and one whose output head is disturbed, so that it also errs."""
    model = fresh("tiny", checkpoints, notes, content_tokens=30)
    if request.param == "half noise":
        head = model.backbone.get_output_embeddings().weight.data
        head += torch.randn(head.shape, generator=torch.Generator().manual_seed(0)) * head.std()
    model.fit_tagger(notes)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("free", [False, True], ids=["chosen", "free"])
def test_no_output_is_degenerate(writer: NoteLLM, notes: pa.Table, free: bool):
    rows = odd_notes()
    tags = writer.tag(rows, free=free, topics=None if free else 5)
    assert len(tags) == NOTES
    longest = max(len(topic) for topics in notes["topics"].to_pylist() for topic in topics)
    found: list[str] = []
    for each in tags:
        for topic in each.topics:
            found += faults(topic.name, 2 * longest)
        if each.category is not None:
            found += faults(each.category.name, 60)
        keys = [name_key(topic.name) for topic in each.topics]
        found += [f"{keys} repeat" for _ in range(len(keys) - len(set(keys)))]
    assert not found, found[:20]
    written = [topic for each in tags for topic in each.topics]
    assert len(written) > (NOTES // 10 if free else NOTES)  # noise is left out, but not everything is noise
    assert all(complete(each) for each in tags) or free


def complete(tags: NoteTags) -> bool:
    return len(tags.topics) == 5 and tags.category is not None
