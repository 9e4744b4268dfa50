"""Split hashtags off a text: the tags become topics, the rest stays.

``split_hashtags`` reads what people type, in any script: ``#tag``, ``#a#b``, ``#tag#``, and ``#标签[话题]#``
of Xiaohongshu. It ignores a tag without a letter (``#2024``), one that follows a Latin letter, a digit or one
of ``/ & = ? . % _ -`` (``C#sharp``, ``&#39;``), anything in a web address, and CSS colours (see ``_is_tag``).
``split_running_hashtags`` reads captions whose tags run on to the next ``#`` (``# two words # next tag``).

Both return the topics in order without repeats (compared without case), each as first written.
"""

import re

_HEX = re.compile(r"[0-9a-fA-F]{3}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8}")
# \w does not include combining vowel signs, which are parts of words in Hindi, Tamil and Thai.
_LETTER = r"\w\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e"
_HASHTAGS = re.compile(
    rf"""
    (?P<address>(?:https?://|www\.)[!-~]+)   # skipped as a whole
    | [#＃](?P<marked>[^#＃\[\]\s]+)\[话题\][#＃]?
    | (?<![A-Za-z0-9\u00c0-\u024f/&=?.%_-])
      [#＃]+(?P<plain>[{_LETTER}]+(?:[#＃]+[{_LETTER}]+)*)[#＃]?
    """,
    re.VERBOSE,
)
_SPACES = re.compile(r"[^\S\n]{2,}")
_SPACE_AT_LINE_END = re.compile(r"[^\S\n]+(?=\n)|(?<=\n)[^\S\n]+")


def split_hashtags(text: str) -> tuple[str, list[str]]:
    """Split ``#tag`` and ``#标签[话题]#`` off a text.

    Args:
        text: any text.

    Returns:
        The text without its hashtags and the spaces around them, and the topics.
    """
    if "#" not in text and "＃" not in text:
        return text, []
    topics: list[str] = []

    def take(match: re.Match[str]) -> str:
        if match["address"]:
            return match[0]
        if match["marked"]:
            topics.append(match["marked"])
            return " "
        tags = re.split("[#＃]+", match["plain"])
        good = [tag for tag in tags if _is_tag(tag)]
        if not good:
            return match[0]
        topics.extend(good)
        return " ".join(["", *(f"#{tag}" for tag in tags if not _is_tag(tag)), ""])

    rest = _HASHTAGS.sub(take, text)
    if not topics:
        return text, []
    return _tidy(rest), add_topics([], topics)


def split_running_hashtags(text: str, *, longest: int = 60) -> tuple[str, list[str]]:
    """Split off hashtags that run on to the next ``#``: ``a caption # two words # next tag``.

    Args:
        text: any text; the part before the first ``#`` stays.
        longest: largest number of characters of a tag; longer ones are sentences, which stay in the text.

    Returns:
        The text without its hashtags, and the topics.
    """
    first, *runs = re.split("[#＃]", text)
    tags = [" ".join(run.split()) for run in runs]
    kept = [first, *(tag for tag in tags if len(tag) > longest)]
    short = [tag for tag in tags if tag and len(tag) <= longest]
    return _tidy(" ".join(kept)), add_topics([], short)


def add_topics(topics: list[str], more: list[str]) -> list[str]:
    """Return the topics and further ones in order, without repeats (compared without case)."""
    unique: dict[str, str] = {}
    for topic in [*topics, *more]:
        unique.setdefault(topic.casefold(), topic)
    return list(unique.values())


def _is_tag(tag: str) -> bool:
    """Tell whether a tag has a letter and is not a CSS colour.

    Colours are 3, 6 or 8 hexadecimal digits. Of 3: one letter repeated (``#fff``), two digits, or a leading
    digit (``#0af``). Of 6 or 8: at least one digit, or at most two different letters (``#fafafa``). So
    ``#cafe``, ``#facade`` and ``#b2b`` are tags.
    """
    if not any(character.isalpha() for character in tag):
        return False
    if not _HEX.fullmatch(tag):
        return True
    digits = sum(character.isdigit() for character in tag)
    letters = len(set(tag.lower()))
    if len(tag) == 3:
        return not (letters == 1 or digits >= 2 or tag[0].isdigit())
    return not (digits or letters <= 2)


def _tidy(text: str) -> str:
    return _SPACE_AT_LINE_END.sub("", _SPACES.sub(" ", text)).strip()
