"""The ranking prompt: a user's history and code, a candidate's text and code, and the question.

    [BOS] shared(history, user code) candidate(title, ..., item code) -> Yes or No, read at the last token

The wording is BinLLM's (arXiv 2406.03210, table 1 and appendix), in ``templates/*.json``: with codes,
without, and codes alone. The two parts are tokenized separately, so that the shared part is a prefix of all
prompts of a user. A note's text is never markup: line breaks become spaces, a run of 0s and 1s that could
pass for a code is split up, and special tokens in it are read as plain characters.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from notellm.backbone.tokenizer import cut_texts
from notellm.data.note import Note
from notellm.errors import ConfigError
from notellm.rank.config import FORMS, BinLLMConfig, Form
from notellm.templates import read_template, template_names

_FIELD = re.compile(r"\{(history|user_code|item_code|title|topics|category|content)\}")
_SHARED = {"history", "user_code"}
_CANDIDATE = {"item_code", "title", "topics", "category", "content"}
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]+")
_RUN = re.compile(r"[01]{7}(?=[01])")


@dataclass(frozen=True)
class Wording:
    """One form of the prompt: the part that all candidates share, and the candidate's part."""

    shared: str
    candidate: str


@dataclass(frozen=True)
class RankTemplate:
    """The wording of the ranking prompt in one language and domain."""

    name: str
    about: str
    history_item: str
    history_separator: str
    with_codes: Wording
    text_only: Wording
    codes_only: Wording
    yes: str
    no: str

    def form(self, form: Form) -> Wording:
        """Return the wording of a form."""
        wording: Wording = getattr(self, form)
        return wording

    def to_dict(self) -> dict[str, Any]:
        """Return the template as JSON values, which :func:`template_from_dict` reads."""
        return asdict(self)


def builtin_templates() -> list[str]:
    """Return the names of the templates that come with notellm."""
    return template_names("notellm.rank")


def load_template(name_or_path: str | Path) -> RankTemplate:
    """Load a template by its name ("movies", "books", "notes", "compact") or from a JSON file.

    Raises:
        ConfigError: if there is no such template, or a part of it is missing or has the wrong form.
    """
    return template_from_dict(read_template("notellm.rank", name_or_path), str(name_or_path))


def template_from_dict(value: Any, where: str) -> RankTemplate:
    """Build and check a template; ``where`` names it in errors.

    Raises:
        ConfigError: if the template is not allowed; the message lists every problem.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"ranking template {where}: expected a JSON object, found {type(value).__name__}")
    problems = [
        f"{name} must be a text"
        for name in ("history_item", "history_separator", "yes", "no")
        if not isinstance(value.get(name), str)
    ]
    in_history = set(_FIELD.findall(str(value.get("history_item", ""))))
    problems += [
        f"history_item must not contain {{{name}}}: it stands for one note"
        for name in sorted(in_history & {*_SHARED, "item_code"})
    ]
    wordings: dict[str, Wording] = {}
    needed = {
        "with_codes": {"user_code", "item_code", "history", "title"},
        "text_only": {"history", "title"},
        "codes_only": {"user_code", "item_code"},
    }
    for form in FORMS:
        parts = value.get(form)
        if not isinstance(parts, dict) or not all(
            isinstance(parts.get(n), str) for n in ("shared", "candidate")
        ):
            problems.append(f"{form} must be an object with the texts shared and candidate")
            continue
        wordings[form] = Wording(parts["shared"], parts["candidate"])
        fields = {n: set(_FIELD.findall(parts[n])) for n in ("shared", "candidate")}
        problems += [
            f"{form} lacks {{{name}}}"
            for name in sorted(needed[form] - fields["shared"] - fields["candidate"])
        ]
        problems += [
            f"{form}.shared must not contain {{{name}}}: it differs from candidate to candidate"
            for name in sorted(fields["shared"] & _CANDIDATE)
        ]
        problems += [
            f"{form}.candidate must not contain {{{name}}}: it belongs to the shared part"
            for name in sorted(fields["candidate"] & _SHARED)
        ]
        if form == "text_only" and {"user_code", "item_code"} & (fields["shared"] | fields["candidate"]):
            problems.append("text_only must not contain a code")
        if _FIELD.search(parts["candidate"]) and parts["candidate"].rstrip().endswith("}"):
            problems.append(f"{form}.candidate must end in fixed text: the answer is read at its last token")
    if not problems and value["yes"] == value["no"]:
        problems.append(f"yes and no are the same answer ({value['yes']!r})")
    if problems:
        raise ConfigError(f"ranking template {where}: " + "; ".join(problems))
    return RankTemplate(
        str(value.get("name", where)),
        str(value.get("about", "")),
        value["history_item"],
        value["history_separator"],
        **wordings,
        yes=value["yes"],
        no=value["no"],
    )


class RankPrompt:
    """Renders and tokenizes ranking prompts.

    A sequence that would be longer than ``config.max_length`` first loses the oldest notes of the history,
    then the candidate's content; codes, question and title are never left out.

    Args:
        tokenizer: a tokenizer from ``backbone.tokenizer``.
        template: the wording.
        config: budgets, notes of the history, and the longest sequence.

    Raises:
        ConfigError: if a budget is not positive, or the answers begin with the same token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: RankTemplate, config: BinLLMConfig
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.config = config
        self.budgets = {
            "title": config.title_tokens,
            "content": config.content_tokens,
            "topics": config.topics_tokens,
        }
        problems = [
            f"{name}_tokens is {n}; it must be at least 1" for name, n in self.budgets.items() if n < 1
        ]
        if config.history < 0:
            problems.append(f"history is {config.history}; it must be 0 or more")
        if problems:
            raise ConfigError("; ".join(problems))
        self.yes_id, self.no_id = (self._answer_id(text) for text in (template.yes, template.no))
        if self.yes_id == self.no_id:
            raise ConfigError(
                f"the answers {template.yes!r} and {template.no!r} begin with the same token; "
                "choose answers that differ in their first token"
            )

    def cut(self, notes: Sequence[Note]) -> list[Note]:
        """Return the notes with every text cut at its budget and on one line: once for many prompts."""
        titled = [bool(note.title.strip()) for note in notes]
        first = [note.title if has else note.content for note, has in zip(notes, titled, strict=True)]
        titles = self._cut(first, "title")
        contents = self._cut(
            [note.content if has else "" for note, has in zip(notes, titled, strict=True)], "content"
        )
        topics = self._cut([", ".join(note.topics) for note in notes], "topics")
        return [
            Note(title, content, (topic,) if topic else (), _one_line(note.category))
            for note, title, content, topic in zip(notes, titles, contents, topics, strict=True)
        ]

    def shared_ids(self, history: Sequence[Note], user_code: str | None, form: Form) -> list[int]:
        """Return the token ids of the part that all candidates share, [BOS] included.

        Args:
            history: notes the user liked, oldest first, from :meth:`cut`; the last ``config.history`` of them
                are named, fewer if the sequence would be too long.
            user_code: the text of the user's code; None if the form has none.
            form: form of the prompt.
        """
        wording = self.template.form(form).shared
        named = list(history[-self.config.history :]) if self.config.history else []
        room = self.config.max_length * 3 // 4  # the rest is for the candidate
        while True:
            ids = self._begin(self._shared_text(wording, named, user_code))
            if len(ids) <= room or not named:
                return ids
            named = named[1:]

    def candidate_ids(self, note: Note, item_code: str | None, form: Form, room: int) -> list[int]:
        """Return the token ids of a candidate's part.

        Args:
            note: the candidate, from :meth:`cut`.
            item_code: the text of its code; None if the form has none.
            form: form of the prompt.
            room: tokens that the shared part has left; content that does not fit is left out.

        Raises:
            ConfigError: if not even the title and the code fit.
        """
        wording = self.template.form(form).candidate
        ids = self._ids(self._candidate_text(wording, note, item_code))
        if len(ids) > room and note.content:
            ids = self._ids(
                self._candidate_text(wording, Note(note.title, "", note.topics, note.category), item_code)
            )
        if len(ids) > room:
            raise ConfigError(
                f"the prompt of the note {note.title!r} takes {len(ids)} tokens where {room} are left of "
                f"max_length {self.config.max_length}; raise max_length, or reduce the budgets or the history"
            )
        return ids

    def candidate_text(self, note: Note) -> str:
        """Return the text of a candidate's part without code; the note is from :meth:`cut`."""
        return self._candidate_text(self.template.text_only.candidate, note, None)

    def _shared_text(self, wording: str, named: Sequence[Note], user_code: str | None) -> str:
        titles = [_fill(self.template.history_item, _note_fields(note)) for note in named]
        values = {"history": self.template.history_separator.join(titles), "user_code": user_code or ""}
        return _fill(wording, values)

    def _candidate_text(self, wording: str, note: Note, item_code: str | None) -> str:
        return _fill(wording, {**_note_fields(note), "item_code": item_code or ""})

    def _cut(self, texts: Sequence[str], name: str) -> list[str]:
        return [_one_line(text) for text in cut_texts(self.tokenizer, texts, self.budgets[name])]

    def _begin(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        if ids and ids[-1] == self.tokenizer.eos_token_id and len(ids) > 1:
            ids = ids[:-1]  # some tokenizers end every text, but here the candidate's part follows
        return ids

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _answer_id(self, text: str) -> int:
        """Return the first token of an answer as it follows a text: some tokenizers put a space before it."""
        after = self._ids(f":{text}")[len(self._ids(":")) :]
        if not after:
            raise ConfigError(f"the answer {text!r} has no token of its own; give a word")
        return after[0]


def _fill(template: str, values: dict[str, str]) -> str:
    """Fill in the fields in one pass, so that a ``{title}`` inside a note's text is not replaced."""
    return _FIELD.sub(lambda match: values[match.group(1)], template)


def _note_fields(note: Note) -> dict[str, str]:
    return {
        "title": note.title,
        "content": note.content,
        "topics": ", ".join(note.topics),
        "category": note.category,
    }


def _one_line(text: str) -> str:
    """Return a text without line breaks and control characters, and without eight binary digits in a row.

    The tokenizer of the tiny backbone, which applies NFKC, would read such a run as a code.
    """
    line = _SPACE.sub(" ", text).strip()
    plain = unicodedata.normalize("NFKC", line)
    return _RUN.sub(r"\g<0> ", plain) if _RUN.search(plain) else line
