"""BinLLM: a causal language model that predicts how likely a user is to enjoy a note (arXiv 2406.03210).

    P(enjoy) = sigmoid( logit("Yes") - logit("No") )        at the last token of the prompt

This is the probability of "Yes" among the two answers; the paper's public code uses the logit of "Yes" alone.
A model with an answer head (``answers.py``) reads the logit from it: w . state + b.

    model = BinLLM.from_corpus(notes, impressions)   # tiny, no download
    model = BinLLM.from_pretrained("path/or/name")   # a saved BinLLM, or any causal language model
    logits = model.predict(model.tokenize(questions))                 # (n,) float32
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from notellm.backbone.base import PromptedModel
from notellm.backbone.batch import by_length, length_batches
from notellm.backbone.load import hidden_states, label_logits
from notellm.data.matrices import liked_notes
from notellm.data.note import Note, Notes, as_notes
from notellm.errors import ConfigError, DataError, ModelError
from notellm.progress import progress_bar
from notellm.rank.code_tokens import octet, train_code_tokenizer
from notellm.rank.codes.text import Bits, binary_text, decimal_text
from notellm.rank.config import FORMS, BinLLMConfig, Form, checked_config
from notellm.rank.prompt import RankPrompt, load_template, template_from_dict
from notellm.rank.tiny import Marks, TinyRankOptions, build_tiny_rank

#: File of the answer head in a saved model, and the entry of its settings that says there is one.
ANSWER_HEAD, _HAS_HEAD = "answer_head.safetensors", "answer_head"


@dataclass(frozen=True)
class Question:
    """The content of one prompt: would this user enjoy this note?

    Attributes:
        history: notes the user liked, oldest first, cut by the prompt.
        note: the candidate, cut by the prompt.
        user_code: the text of the user's code; None if there is none.
        item_code: the text of the note's code; None if there is none.
    """

    history: Sequence[Note]
    note: Note
    user_code: str | None = None
    item_code: str | None = None

    @property
    def has_codes(self) -> bool:
        """Whether both codes are known; otherwise the question is asked by text alone."""
        return self.user_code is not None and self.item_code is not None


class BinLLM(PromptedModel):
    """A causal language model with the ranking prompt.

    Args:
        backbone: the causal language model.
        tokenizer: its hardened tokenizer.
        config: prompt and budgets; kept as ``settings``.
        template: the wording, if it is not the one that ``config.template`` names.

    Attributes:
        answer_head: the linear layer, hidden -> 1 in float32, that reads the answer from a last hidden state
            instead of the output head's rows of "Yes" and "No"; None without one.

    Raises:
        ConfigError: if the template or a budget is not allowed.
    """

    settings_file = "binllm.json"
    kind = "rank model"
    config_type = BinLLMConfig

    settings: BinLLMConfig
    prompt: RankPrompt

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: BinLLMConfig,
        *,
        template: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, tokenizer, config)
        self.answer_head: nn.Linear | None = None
        wording = (
            load_template(config.template)
            if template is None
            else template_from_dict(template, config.template)
        )
        self.prompt = RankPrompt(tokenizer, wording, config)

    # ---------------------------------------------------------------- making

    @classmethod
    def config_from_options(cls, options: dict[str, Any]) -> BinLLMConfig:
        """Return the configuration of some options, checked.

        Raises:
            ConfigError: if an option is unknown or not allowed.
        """
        return checked_config(options)

    @classmethod
    def from_corpus(
        cls,
        notes: Notes,
        impressions: pa.Table | None = None,
        *,
        bits: int = 32,
        tiny: TinyRankOptions | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Make the embedded default: a tiny Llama that compares codes and texts before any training.

        Its answers are random until :func:`notellm.rank.answers.fit_answer_rows` or training sets them.

        Args:
            notes: a notes table or a list of notes: those that will be ranked, whose words it knows.
            impressions: training impressions (schema ``data.schema.IMPRESSIONS``) on ``notes``, which then
                must be a table; words that the same users like start near each other.
            bits: length of a code.
            tiny: size of the backbone.
            seed: seed of everything random in it.
            options: fields of :class:`BinLLMConfig`.

        Raises:
            DataError: if there are no notes, or they hold no text.
            ConfigError: if an option is unknown or not allowed, or notes with impressions are not a table.
        """
        rows = as_notes(notes)
        size = tiny or TinyRankOptions()
        config = checked_config({"template": "compact", "max_length": size.max_length, **options})
        if bits < 8 or bits % 8:
            raise ConfigError(f"bits is {bits}; it must be a multiple of 8")
        config = replace(config, max_length=min(config.max_length, size.max_length))
        wording = load_template(config.template)
        texts = [" ".join((note.title or note.content, *note.topics)) for note in rows]
        if not any(text.strip() for text in texts):
            raise DataError("the notes hold no text to build a backbone from; give notes with titles")
        phrases = [wording.yes, wording.no, wording.history_item, wording.history_separator]
        phrases += [
            text for form in FORMS for text in (wording.form(form).shared, wording.form(form).candidate)
        ]
        # Twice, so that a word that occurs once becomes a token, too: it may distinguish one note from all
        # others.
        tokenizer = train_code_tokenizer([*texts, *texts, *phrases, *phrases], vocabulary=size.vocabulary)
        prompt = RankPrompt(tokenizer, wording, config)
        parts = [prompt.candidate_text(note) for note in prompt.cut(rows)]
        liked = None if impressions is None else _liked(notes, impressions)
        backbone = build_tiny_rank(
            tokenizer, parts, _marks(prompt, config, bits), size, liked=liked, seed=seed
        )
        return cls(backbone, tokenizer, config)

    # ---------------------------------------------------------------- computing

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position: Tensor) -> Tensor:
        """Return the logits of enjoying, float32 (n,): "Yes" less "No".

        Args:
            input_ids: (n, length) int64.
            attention_mask: (n, length), 1 for tokens, 0 for padding (on the right).
            position: (n,) index of the last token.
        """
        return self.answer(self.last_states(input_ids, attention_mask, position))

    def last_states(self, input_ids: Tensor, attention_mask: Tensor, position: Tensor) -> Tensor:
        """Return the hidden states, (n, hidden), that answers are read from; arguments as :meth:`forward`."""
        groups = by_length(attention_mask)
        found = []
        for rows, width in groups:
            states = hidden_states(self.backbone, input_ids[rows, :width], attention_mask[rows, :width])
            found.append(states[torch.arange(len(rows), device=rows.device), position[rows]])
        back = torch.argsort(torch.cat([rows for rows, _ in groups]))
        return torch.cat(found)[back]

    def answer(self, states: Tensor) -> Tensor:
        """Return the logits, float32 (n,), of last hidden states (n, hidden)."""
        if self.answer_head is not None:
            # Not as a matrix product, which autocast would round to bfloat16.
            weighted = states.float() * self.answer_head.weight[0]
            return weighted.sum(dim=1) + self.answer_head.bias
        answers = torch.tensor([self.prompt.yes_id, self.prompt.no_id], device=states.device)
        both = label_logits(self.backbone, states, answers).float()
        return both[:, 0] - both[:, 1]

    def tokenize(self, questions: Sequence[Question], form: Form | None = None) -> list[list[int]]:
        """Return the token ids of prompts.

        Args:
            questions: the contents of the prompts.
            form: form of the prompts; None uses ``settings.form``. A question without codes is always asked
                by text alone.

        Raises:
            ConfigError: if a prompt does not fit into ``settings.max_length``.
        """
        result = []
        for question in questions:
            wanted = (form or self.settings.form) if question.has_codes else "text_only"
            start = self.prompt.shared_ids(question.history, question.user_code, wanted)
            room = self.settings.max_length - len(start)
            result.append(start + self.prompt.candidate_ids(question.note, question.item_code, wanted, room))
        return result

    @torch.inference_mode()
    def predict(self, ids: Sequence[Sequence[int]], *, progress: bool = False) -> np.ndarray:
        """Return the logits of prompts in the given order, float32 (n,); their sigmoid is P(enjoy).

        Args:
            ids: token ids from :meth:`tokenize`.
            progress: show a progress bar.
        """
        result = np.empty(len(ids), dtype=np.float32)
        training = self.training
        self.eval()
        with progress_bar(total=len(ids), unit="prompt", desc="rank", disable=not progress) as bar:
            for rows, batch in length_batches(ids, self.tokenizer, self.device):
                result[rows] = self(**batch).cpu().numpy()
                bar.update(len(rows))
        self.train(training)
        return result

    # ---------------------------------------------------------------- the answer head

    def set_answer_head(self, weight: np.ndarray, bias: float) -> None:
        """Read answers from a head of the model's own from now on: weight . state + bias.

        Args:
            weight: (hidden,).
            bias: the logit of the state 0.
        """
        if self.answer_head is None:
            self.answer_head = nn.Linear(len(weight), 1, device=self.device, dtype=torch.float32)
        with torch.no_grad():
            self.answer_head.weight.copy_(torch.from_numpy(weight)[None])
            self.answer_head.bias.fill_(bias)

    def extra_settings(self) -> dict[str, Any]:
        """Return whether there is an answer head."""
        return {_HAS_HEAD: self.answer_head is not None}

    def extra_weights(self) -> dict[str, Tensor]:
        """Return the weight and the bias of the answer head, if there is one."""
        if self.answer_head is None:
            return {}
        return {"answer_weight": self.answer_head.weight, "answer_bias": self.answer_head.bias}

    def write_extra(self, folder: Path) -> None:
        """Write the answer head, if there is one."""
        weights = {name: w.detach().cpu().contiguous() for name, w in self.extra_weights().items()}
        if weights:
            save_file(weights, folder / ANSWER_HEAD)

    def load_extra(self, folder: Path, saved: Mapping[str, Any]) -> None:
        """Load the answer head, if the settings say that there is one.

        Raises:
            ModelError: if the settings do not say whether, or as :meth:`load_answer_head`.
        """
        has_head = saved.get(_HAS_HEAD, False)  # rankers of an older notellm have none
        if not isinstance(has_head, bool):
            raise ModelError(
                f"{folder / self.settings_file}: {_HAS_HEAD} is {has_head!r}; it must be true or false: save "
                "the model again"
            )
        if has_head:
            self.load_answer_head(folder)

    def load_answer_head(self, folder: Path) -> None:
        """Load the answer head that :meth:`write_extra` wrote.

        Raises:
            ModelError: if it is missing, or of another shape.
        """
        hidden = self.config.get_text_config().hidden_size
        try:
            weights = load_file(folder / ANSWER_HEAD)
            weight, bias = weights["answer_weight"], weights["answer_bias"]
        except (OSError, SafetensorError, KeyError) as error:
            raise ModelError(
                f"{folder} lacks its answer head ({ANSWER_HEAD}): {error}; copy the whole folder again"
            ) from error
        if weight.shape != (1, hidden) or bias.shape != (1,):
            raise ModelError(
                f"the answer head of {folder} is {tuple(weight.shape)}, but the backbone asks for "
                f"{(1, hidden)}; the files do not belong together"
            )
        self.set_answer_head(weight[0].numpy(), float(bias))

    def code_texts(self, codes: Bits) -> list[str]:
        """Return codes (n, bits) in the text form that this model reads."""
        return binary_text(codes) if self.settings.code_text == "binary" else decimal_text(codes)


def _liked(notes: Notes, impressions: pa.Table) -> sp.csr_matrix:
    """Return who liked what, (users, notes) of ones."""
    if not isinstance(notes, pa.Table):
        raise ConfigError("impressions name notes by their ids; give the notes as a table with note_id")
    return liked_notes(notes.column("note_id"), impressions)


def _marks(prompt: RankPrompt, config: BinLLMConfig, bits: int) -> Marks:
    """Find the tokens that the first weights are written for in prompts of the template."""
    tokenizer = prompt.tokenizer
    octets = [tokenizer(octet(value), add_special_tokens=False)["input_ids"][0] for value in range(256)]
    token = octets[0b01100101]
    code, length = octet(0b01100101) * (bits // 8), bits // 8
    distances = set()
    for note in (Note("a"), Note("a b a b", "a b a", ("a", "b"))):
        shared = prompt.shared_ids([note], code, "with_codes")
        whole = shared + prompt.candidate_ids(note, code, "with_codes", config.max_length)
        positions = [i for i, each in enumerate(whole) if each == token]
        user, item = positions[:length], positions[length:]
        adjacent = all(part == [*range(part[0], part[0] + length)] for part in (user, item) if part)
        apart = bool(item) and len(item) == length and user[-1] < len(shared) <= item[0]
        distances.add(item[0] - user[0] if config.code_text == "binary" and adjacent and apart else None)
    blank = {i for form in FORMS for i in prompt.shared_ids([], "", form)}
    return Marks(
        octets=octets,
        blank=sorted(blank),
        mark=shared[-1],
        end=whole[-1],
        distance=distances.pop() if len(distances) == 1 else None,
        length=length,
    )
