"""The Note Compression Prompt: from a note to token ids, the position of its vector, and labels.

    [BOS] prompt(title, topics, content) [EMB] guidance output [EOS]
                                       ^ the vector is read at the token before [EMB]

Two tasks have this form (NoteLLM, arXiv 2403.01744, section 4.1): **category** reads the note with its topics
and writes its category, **topics** reads it without them and writes a random subset of them. The wording is
data (``templates/*.json``); where prompts end in ``{end}``, an [EOS] stands before [EMB], and the vector is
read there. A note's text never acts as markup: it is put into the template in one pass, and the tokenizer
reads special tokens in it as plain characters. The prompt's text alone determines the vector.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from notellm.backbone.tokenizer import CHARACTERS_PER_TOKEN, cut_texts, ends_texts
from notellm.data.note import Note
from notellm.errors import ConfigError
from notellm.recall.config import NoteLLMConfig
from notellm.templates import read_template, template_names

Task = Literal["category", "topics"]

#: Special token that stands in the place of the compression word; added to every tokenizer.
EMB_TOKEN = "[EMB]"  # noqa: S105 - a token of text, not a secret
#: Tokens of an instruction, and prompts, from which it saves time to compute the instruction once.
LEAST_SHARED, LEAST_SHARING = 8, 4
IGNORED = -100  # label of a token without loss, as in transformers

#: What stands at the end of a prompt whose vector is read at an end token.
_END = "{end}"
_FIELD = re.compile(r"\{(title|topics|content|category|n|end)\}")
_NOTE_AT_END = re.compile(r"\{(title|topics|content|category|n)\}\s*$")


@dataclass(frozen=True)
class TaskTemplate:
    """The wording of one task: the text before [EMB], the text after it, and the output."""

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
        """Return the wording of a task."""
        return self.category if task == "category" else self.topics

    @property
    def ends(self) -> bool:
        """Whether the prompts end in an end token, at which the vector is read."""
        return self.category.prompt.endswith(_END)

    def to_dict(self) -> dict[str, Any]:
        """Return the wording as a JSON object, which :func:`template_from_dict` reads."""
        return asdict(self)


def builtin_templates() -> list[str]:
    """Return the names of the templates that come with notellm."""
    return template_names("notellm.recall")


def load_template(name_or_path: str | Path) -> Template:
    """Load a template by its name ("english", "compact", ...), or from a JSON file by its path.

    Raises:
        ConfigError: if there is no such template, or a part of it is missing or malformed.
    """
    return template_from_dict(read_template("notellm.recall", name_or_path), str(name_or_path))


def template_from_dict(value: Any, where: str) -> Template:
    """Build a template from a JSON object.

    Args:
        value: the JSON object.
        where: name or path of the template, for errors.

    Raises:
        ConfigError: if the template is malformed; the message names every problem.
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
        problems += [f"{task}.prompt must not contain {{{field}}}: that is the answer" for field in leaked]
        if _END in "\n".join((parts["prompt"].removesuffix(_END), parts["guidance"], parts["output"])):
            problems.append(f"{task}: {_END} may only stand at the very end of the prompt")
        if not parts["prompt"] or _NOTE_AT_END.search(parts["prompt"]):
            problems.append(f"{task}.prompt must end in fixed text: the vector is read at its last token")
        if needed not in _FIELD.findall(parts["output"]):
            problems.append(f"{task}.output must contain {{{needed}}}")
    if len(tasks) == 2 and len({each.prompt.endswith(_END) for each in tasks.values()}) == 2:
        problems.append(f"the prompts of both tasks must end in {_END}, or none")
    separator = value.get("topic_separator", ", ")
    if not isinstance(separator, str) or not separator.strip():
        problems.append("topic_separator must be a text that is not only white space")
    if problems:
        raise ConfigError(f"template {where}: " + "; ".join(problems))
    return Template(str(value.get("name", where)), str(value.get("about", "")), separator, **tasks)


@dataclass(frozen=True)
class TokenizedPrompt:
    """One whole sequence as token ids.

    Attributes:
        ids: token ids.
        position: index of the token before [EMB], where the vector is read: the end token if the template has
            one there.
        labels: one label for each token: its id in the output, ``IGNORED`` everywhere else.
    """

    ids: list[int]
    position: int
    labels: list[int]


class PromptBuilder:
    """Renders and tokenizes prompts.

    Args:
        tokenizer: a tokenizer from ``backbone.tokenizer``.
        template: the wording.
        config: the budgets of title, content and topics and the longest sequence, all in tokens. If a prompt
            is too long, first its content is shortened, then its topics, then its title; never its wording.

    Raises:
        ConfigError: if a budget is not positive, the wording alone is too long, or the tokenizer has no end
            token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        config: NoteLLMConfig | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.config = config or NoteLLMConfig()
        self.emb_id = int(tokenizer.convert_tokens_to_ids(EMB_TOKEN))  # type: ignore[arg-type]
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                f"the tokenizer has no end token (eos_token), with which the sequences of the template "
                f"{template.name!r} end; set one, or choose another backbone"
            )
        self.eos_id = int(tokenizer.eos_token_id)
        #: The end of a prompt that the tokenizer does not add by itself.
        self._end = [self.eos_id] if template.ends and not ends_texts(tokenizer) else []
        budgets = {
            "title": self.config.title_tokens,
            "content": self.config.content_tokens,
            "topics": self.config.topics_tokens,
        }
        for name, value in budgets.items():
            if value < 1:
                raise ConfigError(f"{name}_tokens is {value}; it must be at least 1")
        wording = max(
            len(self._ids(self._fill(self.template.task(task).prompt, Note(), 10)))
            + len(self._plain_ids(self._fill(self.template.task(task).guidance, Note(), 10)))
            + 2
            for task in ("category", "topics")
        )
        longest_parts = max(  # a template may contain a part twice
            sum(budgets.get(name, 0) for name in _FIELD.findall(self.template.task(task).prompt))
            for task in ("category", "topics")
        )
        # Joined texts may tokenize differently at their seams, so the sum needs a margin.
        self._always_fits = wording + longest_parts + 16 <= self.config.max_length
        if wording + 8 > self.config.max_length:
            raise ConfigError(
                f"max_length is {self.config.max_length}, but the template {template.name!r} alone takes "
                f"{wording} tokens: set it to at least {wording + 8}, or choose a shorter template"
            )

    def cut(self, notes: Sequence[Note]) -> list[Note]:
        """Cut title, content and topics of notes at their budgets; cut once, then :meth:`render` often.

        Topics are never cut inside: the first ones are kept, as many as fit.
        """
        config = self.config
        titles = cut_texts(self.tokenizer, [note.title for note in notes], config.title_tokens)
        contents = cut_texts(self.tokenizer, [note.content for note in notes], config.content_tokens)
        limit = config.topics_tokens * CHARACTERS_PER_TOKEN
        all_topics = [topic[:limit] for note in notes for topic in note.topics]
        lengths = iter(len(ids) for ids in self._batch_ids(all_topics))
        result = []
        for note, title, content in zip(notes, titles, contents, strict=True):
            room = config.topics_tokens
            topics = []
            for topic in note.topics:
                room -= next(lengths) + 1  # one for the separator
                if room >= 0:
                    topics.append(topic)
            result.append(replace(note, title=title, content=content, topics=tuple(topics)))
        return result

    def render(self, note: Note, task: Task = "category", n: int | None = None) -> str:
        """Return the text before [EMB].

        Args:
            note: a note from :meth:`cut`. Its category is never part of the text, and its topics are not part
                of the topics task.
            task: the task.
            n: number of topics that the wording asks for; None takes the number of the note's topics.
        """
        count = len(note.topics) if n is None else n
        text = self._fill(self.template.task(task).prompt, note, count)
        if self._always_fits:
            return text
        reserve = len(self._plain_ids(self._fill(self.template.task(task).guidance, Note(), count))) + 2
        excess = len(self._ids(text)) + reserve - self.config.max_length
        shorter = note
        for part in ("content", "topics", "title"):
            while excess > 0 and getattr(shorter, part):
                shorter = replace(shorter, **{part: self._shorten(getattr(shorter, part), excess)})
                text = self._fill(self.template.task(task).prompt, shorter, count)
                excess = len(self._ids(text)) + reserve - self.config.max_length
        return text

    def tokenize(
        self, prompts: Sequence[str], tasks: Sequence[Task], outputs: Sequence[str], counts: Sequence[int]
    ) -> list[TokenizedPrompt]:
        """Tokenize whole sequences for training.

        Args:
            prompts: texts from :meth:`render`.
            tasks: the task of each prompt.
            outputs: texts from :meth:`output`; after a prompt with the output "" nothing is learnt, and the
                sequence ends with the prompt.
            counts: number of topics that each guidance names.
        """
        prompt_ids = self._batch_ids(prompts, special=True)
        output_ids = self._batch_ids(outputs)
        tokenized = []
        for ids, task, output, count in zip(prompt_ids, tasks, output_ids, counts, strict=True):
            position = len(ids) - 1
            if not output:
                tokenized.append(TokenizedPrompt(ids, position, [IGNORED] * len(ids)))
                continue
            head = [*ids, self.emb_id, *self.guidance_ids(task, count)]
            room = max(self.config.max_length - len(head) - 1, 0)
            tail = [*output[:room], self.eos_id] if len(output) <= room else output[:room]
            tokenized.append(TokenizedPrompt([*head, *tail], position, [IGNORED] * len(head) + tail))
        return tokenized

    def output(self, task: Task, *, category: str = "", topics: Sequence[str] = ()) -> str:
        """Return the output text of a task: the category, or the topics joined by the separator."""
        wanted = category if task == "category" else topics
        if not wanted:
            return ""
        note = Note(topics=tuple(topics), category=category)
        return self._fill(self.template.task(task).output, note, len(topics))

    def parse_topics(self, text: str) -> list[str]:
        """Split a generated output into topics; empty and repeated ones are dropped."""
        topics: dict[str, str] = {}
        for piece in text.split(self.template.topic_separator.strip()):
            topic = piece.strip()
            if topic:
                topics.setdefault(topic.casefold(), topic)
        return list(topics.values())

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of rendered prompts, with [BOS]; the vector is read at the last one."""
        return self._batch_ids(prompts, special=True)

    def instruction_ids(self, task: Task = "category", n: int = 0) -> list[int]:
        """Return the token ids with which the prompt of every note begins.

        They are [BOS] and the wording before the first field, less what may join with the field's text.

        Args:
            task: the task.
            n: number of topics that the wording asks for, the same one as in :meth:`render`.
        """
        texts = [
            self._fill(self.template.task(task).prompt, Note(text, text, (text,)), n)
            for text in ("", " ", "a", "A", "0", "'", "中")
        ]
        columns = zip(*self._batch_ids(texts, special=True), strict=False)
        return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]

    def shared_length(self, ids: Sequence[Sequence[int]], instruction: Sequence[int]) -> int:
        """Return how many first tokens of prompts are to be computed once; 0 where that saves no time.

        Args:
            ids: token ids of prompts.
            instruction: ids from :meth:`instruction_ids`, with which all prompts of notes begin, but not all
                texts.
        """
        size, start = len(instruction), list(instruction)
        if len(ids) < LEAST_SHARING or size < LEAST_SHARED:
            return 0
        return size if all(len(row) > size and list(row[:size]) == start for row in ids) else 0

    def output_ids(self, outputs: Sequence[str]) -> list[list[int]]:
        """Return the token ids of outputs, without [EOS]."""
        return self._batch_ids(outputs)

    def guidance_ids(self, task: Task, n: int) -> list[int]:
        """Return the token ids of the guidance, which follows [EMB]."""
        return self._plain_ids(self._fill(self.template.task(task).guidance, Note(), n))

    def _fill(self, template: str, note: Note, n: int) -> str:
        values = {
            "title": note.title,
            "content": note.content,
            "topics": self.template.topic_separator.join(note.topics),
            "category": note.category,
            "n": str(n),
            "end": "",  # a token, which no text can hold
        }
        return _FIELD.sub(lambda match: values[match.group(1)], template)

    def _shorten(self, value: Any, excess: int) -> Any:
        """Remove at least ``excess`` tokens from the end of a text, or the last one of a tuple of topics."""
        if isinstance(value, tuple):
            return value[:-1]
        keep = len(self._plain_ids(value)) - excess
        shorter = cut_texts(self.tokenizer, [value], keep)[0] if keep > 0 else ""
        return shorter if len(shorter) < len(value) else value[:-1]

    def _batch_ids(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=special)["input_ids"]
        return [[*row, *self._end] for row in ids] if special and self._end else ids

    def _ids(self, text: str) -> list[int]:
        return self._batch_ids([text], special=True)[0]

    def _plain_ids(self, text: str) -> list[int]:
        return self._batch_ids([text])[0]
