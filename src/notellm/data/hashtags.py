"""Splitting hashtags off a text: the tags become topics, the rest stays.

``split_hashtags`` reads what people type:

- ``#标签[话题]#`` (Xiaohongshu) is the tag from ``#`` to ``[话题]``, without white space.
- ``#tag`` is a run of letters, digits and underscores after ``#`` (or a full-width ``＃``), in any
  script; emoji, punctuation and white space end it. Tags may follow each other without a space
  (``#a#b``), and a closing ``#`` goes with the tag (``#tag#``).
- No tag: one without a letter (``#1``, ``#2024``); one glued to a Latin letter, a digit or one of
  ``/ & = ? . % _ -`` before it (``C#sharp``, ``page/#part``, ``&#39;``); anything inside a web
  address (``https://x.y/a#b``); a CSS colour, which is 3, 6 or 8 hexadecimal digits that are one
  letter repeated (``#fff``), or six or eight with a digit or of two letters only (``#ffcc00``,
  ``#fafafa``), or three of which the first or two are digits (``#0af``). So ``#cafe``, ``#facade``
  and ``#b2b`` are tags.

``split_running_hashtags`` reads captions where a tag runs on to the next ``#`` (``# two words #
next tag``).

Both return the topics without repeats, compared without case, in order, each as first written.
"""

import re

_HEX = re.compile(r"[0-9a-fA-F]{3}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8}")
# \w has no combining vowel signs, without which Hindi, Tamil or Thai words fall apart.
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
        The text without its hashtags and the spaces they leave behind, and the topics.
    """
    if "#" not in text and "＃" not in text:
        return text, []
    found: list[str] = []

    def take(match: re.Match[str]) -> str:
        if match["address"]:
            return match[0]
        if match["marked"]:
            found.append(match["marked"])
            return " "
        tags = re.split("[#＃]+", match["plain"])
        good = [tag for tag in tags if _is_tag(tag)]
        if not good:
            return match[0]
        found.extend(good)
        return " ".join(["", *(f"#{tag}" for tag in tags if not _is_tag(tag)), ""])

    rest = _HASHTAGS.sub(take, text)
    if not found:
        return text, []
    return _tidy(rest), add_topics([], found)


def split_running_hashtags(text: str, *, longest: int = 60) -> tuple[str, list[str]]:
    """Split off hashtags that run on to the next ``#``: ``a caption # two words # next tag``.

    Args:
        text: any text; what stands before the first ``#`` stays.
        longest: characters of the longest tag; a longer one is a sentence that follows a ``#``, and
            stays in the text without it.

    Returns:
        The text without its hashtags, and the topics.
    """
    first, *runs = re.split("[#＃]", text)
    tags = [" ".join(run.split()) for run in runs]
    kept = [first, *(tag for tag in tags if len(tag) > longest)]
    short = [tag for tag in tags if tag and len(tag) <= longest]
    return _tidy(" ".join(kept)), add_topics([], short)


def add_topics(topics: list[str], more: list[str]) -> list[str]:
    """The topics and the further ones, without repeats (compared without case), in order."""
    unique: dict[str, str] = {}
    for topic in [*topics, *more]:
        unique.setdefault(topic.casefold(), topic)
    return list(unique.values())


def _is_tag(tag: str) -> bool:
    """It has a letter and is not a CSS colour."""
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
