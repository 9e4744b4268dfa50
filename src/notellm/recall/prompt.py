"""The Note Compression Prompt of NoteLLM (arXiv 2403.01744, section 4.1), as text, token ids and labels.

    [BOS] prompt(title, topics, content) [EMB] guidance output [EOS]
                                       ^ the vector is read here, at the token before [EMB]

The task "category" shows the topics and asks for the category; the task "topics" hides the topics and asks
for a random subset of them. The wording is in ``templates/*.json``. The text of a note is data, never markup:
it is cut at its budgets as text, inserted in one pass, and the whole prompt is tokenized once, with special
tokens read as plain characters. So the string that :meth:`PromptBuilder.render` returns determines the
vector, and any tool that tokenizes it and takes the last token computes the same vector.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from notellm.backbone.tokenizer import CHARACTERS_PER_TOKEN, cut_texts
from notellm.data.note import Note
from notellm.errors import ConfigError
from notellm.recall.config import NoteLLMConfig
from notellm.templates import read_template, template_names

Task = Literal["category", "topics"]

#: Added to every tokenizer; stands where the compression word would be.
EMB_TOKEN = "[EMB]"  # noqa: S105 - a token of text, not a secret
IGNORED = -100  # the label of a position without loss, as in transformers

_FIELD = re.compile(r"\{(title|topics|content|category|n)\}")
_FIELD_AT_END = re.compile(_FIELD.pattern + r"\s*$")


@dataclass(frozen=True)
class TaskTemplate:
    """The wording of one task: before [EMB], between [EMB] and the output, and of the output."""

    prompt: str
    guidance: str
    output: str


@dataclass(frozen=True)
class Template:
    """The wording of the Note Compression Prompt in one language."""

    name: str
    about: str
    topic_separator: str
    category: TaskTemplate
    topics: TaskTemplate

    def task(self, task: Task) -> TaskTemplate:
        """The wording of a task."""
        return self.category if task == "category" else self.topics

    def to_dict(self) -> dict[str, Any]:
        """The template as JSON values, which :func:`load_template` reads."""
        return asdict(self)


def builtin_templates() -> list[str]:
    """Names of the templates that come with notellm."""
    return template_names("notellm.recall")


def load_template(name_or_path: str | Path) -> Template:
    """Load a template by its name ("english", "chinese", "compact") or from a JSON file.

    Raises:
        ConfigError: if there is no such template, or a part of it is missing or malformed.
    """
    return template_from_dict(read_template("notellm.recall", name_or_path), str(name_or_path))


def template_from_dict(value: Any, where: str) -> Template:
    """Check JSON values and return them as a template; ``where`` names them in errors.

    Raises:
        ConfigError: with every problem found.
    """
    problems = []
    tasks: dict[str, TaskTemplate] = {}
    if not isinstance(value, dict):
        raise ConfigError(f"template {where}: expected a JSON object, found {type(value).__name__}")
    for task, needed in (("category", "category"), ("topics", "topics")):
        parts = value.get(task)
        if not isinstance(parts, dict) or not all(
            isinstance(parts.get(part), str) for part in ("prompt", "guidance", "output")
        ):
            problems.append(f"{task} must be an object with the texts prompt, guidance and output")
            continue
        tasks[task] = TaskTemplate(parts["prompt"], parts["guidance"], parts["output"])
        fields = set(_FIELD.findall(parts["prompt"]))
        if not fields & {"title", "content"}:
            problems.append(f"{task}.prompt must contain {{title}} or {{content}}")
        leaked = fields & ({"category"} | ({"topics"} if task == "topics" else set()))
        problems += [f"{task}.prompt must not contain {{{field}}}: it is the answer" for field in leaked]
        if not parts["prompt"] or _FIELD_AT_END.search(parts["prompt"]):
            problems.append(f"{task}.prompt must end in fixed text: the vector is read at its last token")
        if needed not in _FIELD.findall(parts["output"]):
            problems.append(f"{task}.output must contain {{{needed}}}")
    separator = value.get("topic_separator", ", ")
    if not isinstance(separator, str) or not separator.strip():
        problems.append("topic_separator must be a text that is not only white space")
    if problems:
        raise ConfigError(f"template {where}: " + "; ".join(problems))
    return Template(str(value.get("name", where)), str(value.get("about", "")), separator, **tasks)


@dataclass(frozen=True)
class Encoded:
    """One prompt as token ids.

    Attributes:
        ids: token ids of the whole sequence.
        position: index of the token before [EMB], where the vector is read.
        labels: one label a token, ``IGNORED`` outside the output.
    """

    ids: list[int]
    position: int
    labels: list[int]


class PromptBuilder:
    """Renders and tokenizes prompts.

    Args: tokenizer: a tokenizer from ``backbone.tokenizer``. template: the wording. config: budgets of title,
        content and topics in tokens, and the longest sequence. Where a prompt would be
            longer, its content is shortened first, then its topics, then its title; the wording never is.

    Raises:
        ConfigError: if a budget is not positive, or the wording alone does not fit.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        config: NoteLLMConfig | None = None,
    ) -> None:
        config = config or NoteLLMConfig()
        self.tokenizer = tokenizer
        self.template = template
        self.title_tokens = config.title_tokens
        self.content_tokens = config.content_tokens
        self.topics_tokens = config.topics_tokens
        self.max_length = config.max_length
        self.emb_id = int(tokenizer.convert_tokens_to_ids(EMB_TOKEN))  # type: ignore[arg-type]
        self.eos_id = int(tokenizer.eos_token_id)
        budgets = {"title": self.title_tokens, "content": self.content_tokens, "topics": self.topics_tokens}
        for name, value in budgets.items():
            if value < 1:
                raise ConfigError(f"{name}_tokens is {value}; it must be at least 1")
        wording = max(
            len(self._ids(self._fill(self.template.task(task).prompt, Note(), 10)))
            + len(self._plain_ids(self._fill(self.template.task(task).guidance, Note(), 10)))
            + 2
            for task in ("category", "topics")
        )
        # Joined texts may merge into other tokens at their seams: leave some room before trusting sums.
        filled = max(  # a template may say a part twice
            sum(budgets.get(name, 0) for name in _FIELD.findall(self.template.task(task).prompt))
            for task in ("category", "topics")
        )
        self._always_fits = wording + filled + 16 <= self.max_length
        if wording + 8 > self.max_length:
            raise ConfigError(
                f"max_length is {self.max_length}, but the template {template.name!r} alone takes {wording} "
                f"tokens: give at least {wording + 8}, or a shorter template"
            )

    def cut(self, notes: Sequence[Note]) -> list[Note]:
        """Cut title, content and topics of notes at their budgets; cut once, then render as often as needed.

        Topics are kept whole and in order, as many as fit.
        """
        titles = cut_texts(self.tokenizer, [note.title for note in notes], self.title_tokens)
        contents = cut_texts(self.tokenizer, [note.content for note in notes], self.content_tokens)
        limit = self.topics_tokens * CHARACTERS_PER_TOKEN
        flat = [topic[:limit] for note in notes for topic in note.topics]
        lengths = iter(len(ids) for ids in self._batch_ids(flat))
        result = []
        for note, title, content in zip(notes, titles, contents, strict=True):
            room = self.topics_tokens
            topics = []
            for topic in note.topics:
                room -= next(lengths) + 1  # one for the separator
                if room >= 0:
                    topics.append(topic)
            result.append(replace(note, title=title, content=content, topics=tuple(topics)))
        return result

    def render(self, note: Note, task: Task = "category", n: int | None = None) -> str:
        """Return the text before [EMB] of a note that :meth:`cut` has cut.

        Args:
            note: the note. Its category is never shown, its topics are hidden in the topics task.
            task: which wording.
            n: number of topics that the wording asks for; None asks for as many as the note has.
        """
        count = len(note.topics) if n is None else n
        text = self._fill(self.template.task(task).prompt, note, count)
        if self._always_fits:
            return text
        reserve = len(self._plain_ids(self._fill(self.template.task(task).guidance, Note(), count))) + 2
        excess = len(self._ids(text)) + reserve - self.max_length
        shorter = note
        for part in ("content", "topics", "title"):
            while excess > 0 and getattr(shorter, part):
                shorter = replace(shorter, **{part: self._shorten(getattr(shorter, part), excess)})
                text = self._fill(self.template.task(task).prompt, shorter, count)
                excess = len(self._ids(text)) + reserve - self.max_length
        return text

    def tokenize(
        self, prompts: Sequence[str], tasks: Sequence[Task], outputs: Sequence[str], counts: Sequence[int]
    ) -> list[Encoded]:
        """Return token ids, position of the vector and labels of whole sequences, for training.

        Args:
            prompts: texts from :meth:`render`.
            tasks: the task of each prompt.
            outputs: texts from :meth:`output`; a sequence with the output "" ends with its prompt.
            counts: number of topics that each guidance names.
        """
        prompt_ids = self._batch_ids(prompts, special=True)
        output_ids = self._batch_ids(outputs)
        encoded = []
        for ids, task, output, count in zip(prompt_ids, tasks, output_ids, counts, strict=True):
            position = len(ids) - 1
            if not output:
                encoded.append(Encoded(ids, position, [IGNORED] * len(ids)))
                continue
            head = [*ids, self.emb_id, *self.guidance_ids(task, count)]
            room = max(self.max_length - len(head) - 1, 0)
            tail = [*output[:room], self.eos_id] if len(output) <= room else output[:room]
            encoded.append(Encoded([*head, *tail], position, [IGNORED] * len(head) + tail))
        return encoded

    def output(self, task: Task, *, category: str = "", topics: Sequence[str] = ()) -> str:
        """Return the output of a task: the category, or the topics joined by the separator."""
        wanted = category if task == "category" else topics
        if not wanted:
            return ""
        note = Note(topics=tuple(topics), category=category)
        return self._fill(self.template.task(task).output, note, len(topics))

    def parse_topics(self, text: str) -> list[str]:
        """Split a generated text at the separator, and return its topics without repetitions."""
        seen: dict[str, str] = {}
        for piece in text.split(self.template.topic_separator.strip()):
            topic = piece.strip()
            if topic:
                seen.setdefault(topic.casefold(), topic)
        return list(seen.values())

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return token ids of rendered prompts, [BOS] included; the vector is read at the last one."""
        return self._batch_ids(prompts, special=True)

    def output_ids(self, outputs: Sequence[str]) -> list[list[int]]:
        """Return token ids of outputs as they are labelled in training, without [EOS]."""
        return self._batch_ids(outputs)

    def guidance_ids(self, task: Task, n: int) -> list[int]:
        """Return token ids of the guidance after [EMB]."""
        return self._plain_ids(self._fill(self.template.task(task).guidance, Note(), n))

    def _fill(self, template: str, note: Note, n: int) -> str:
        values = {
            "title": note.title,
            "content": note.content,
            "topics": self.template.topic_separator.join(note.topics),
            "category": note.category,
            "n": str(n),
        }
        return _FIELD.sub(lambda match: values[match.group(1)], template)

    def _shorten(self, value: Any, excess: int) -> Any:
        """Remove at least ``excess`` tokens from a text, or the last topic from a tuple of topics."""
        if isinstance(value, tuple):
            return value[:-1]
        keep = len(self._plain_ids(value)) - excess
        shorter = cut_texts(self.tokenizer, [value], keep)[0] if keep > 0 else ""
        return shorter if len(shorter) < len(value) else value[:-1]

    def _batch_ids(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=special)["input_ids"]
        return ids

    def _ids(self, text: str) -> list[int]:
        return self._batch_ids([text], special=True)[0]

    def _plain_ids(self, text: str) -> list[int]:
        return self._batch_ids([text])[0]
