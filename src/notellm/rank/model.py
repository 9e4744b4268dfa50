"""BinLLM: a causal language model that says how likely a user is to enjoy a note.

    P(enjoy) = sigmoid( logit("Yes") - logit("No") )        at the last token of the prompt

that is, the probability of "Yes" among the two answers (BinLLM, arXiv 2406.03210; its public code takes the
logit of "Yes" alone). The prompt holds the titles of what the user liked, the candidate's, and the codes of
both (``prompt.py``, ``codes.py``).

    model = BinLLM.from_corpus(notes, impressions)   # tiny, no download
    model = BinLLM.from_pretrained("path/or/name")   # a saved BinLLM, or any causal language model
    logits = model.predict(model.encode(rows))       # (n,) float32
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from notellm.artifacts.write import write_folder
from notellm.backbone.base import PromptedModel, digest_of, longest, naming, read_saved, written_down
from notellm.backbone.batch import by_length, length_batches
from notellm.backbone.load import (
    LoraOptions,
    add_lora,
    hidden_states,
    label_logits,
    load_backbone,
    merged_state,
    save_backbone,
    to_accelerator,
)
from notellm.backbone.source import is_file
from notellm.backbone.tiny import octet, train_tokenizer
from notellm.data.note import Note
from notellm.errors import ConfigError, DataError
from notellm.files import json_text
from notellm.rank.codes.text import Bits, binary_text, decimal_text
from notellm.rank.config import FORMS, BinLLMConfig, Form, checked_config
from notellm.rank.prompt import RankPrompt, RankTemplate, load_template, template_from_dict
from notellm.rank.tiny import Marks, TinyRankOptions, build_tiny_rank

CONFIG = "binllm.json"


@dataclass(frozen=True)
class Question:
    """One prompt: would this user enjoy this note?

    Attributes:
        history: the notes the user liked, oldest first, cut by the prompt.
        note: the candidate, cut by the prompt.
        user_code: the text of the user's code; None without one.
        item_code: the text of the note's code; None without one.
    """

    history: Sequence[Note]
    note: Note
    user_code: str | None = None
    item_code: str | None = None

    @property
    def has_codes(self) -> bool:
        """Whether both codes are known; without them it is asked by text alone."""
        return self.user_code is not None and self.item_code is not None


class BinLLM(PromptedModel):
    """A causal language model with the ranking prompt.

    Args:
        backbone: the causal language model.
        tokenizer: its hardened tokenizer.
        config: prompt and budgets; kept as ``settings``.
        template: the wording, where it is not the one that ``config.template`` names.

    Raises:
        ConfigError: the template or the budgets are not allowed.
    """

    settings_file = CONFIG

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: BinLLMConfig,
        *,
        template: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, tokenizer)
        self.settings = config
        wording = (
            load_template(config.template)
            if template is None
            else template_from_dict(template, config.template)
        )
        self.prompt = rank_prompt(tokenizer, wording, config)

    # ---------------------------------------------------------------- making

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        lora: LoraOptions | None = None,
        dtype: torch.dtype | str = torch.float32,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Self:
        """A saved BinLLM, or a fresh one on any causal language model; on the accelerator if there is one.

        Args:
            name_or_path: a directory that :meth:`save_pretrained` wrote, or a model by hub name or path.
            lora: train low-rank adapters only; None trains every weight.
            dtype: of the backbone.
            trust_remote_code: allow the backbone to be Python code that comes with it; that code then runs.
            options: fields of :class:`BinLLMConfig` that shall differ from the saved ones (or from the
                defaults).

        Raises:
            ModelError: there is no usable model, its files do not fit together, or it is code that is not
                allowed to run.
            ConfigError: an option is unknown or not allowed.
        """
        path = Path(name_or_path)
        saved = read_saved(path / CONFIG, BinLLMConfig, "BinLLM") if is_checkpoint(path) else {}
        settings_file = path / CONFIG if saved and not options else None
        with naming(settings_file):
            config = checked_config({**saved.get("config", {}), **options})
        backbone, tokenizer = load_backbone(
            name_or_path, dtype=dtype, trust_remote_code=trust_remote_code, saved=bool(saved)
        )
        config = replace(config, max_length=longest(backbone, config.max_length))
        template = None if "template" in options else saved.get("template")
        with naming(settings_file):
            model = cls(backbone, tokenizer, config, template=template)
        if settings_file:
            model.opened_with(settings_file, saved)
        if lora is not None:
            add_lora(backbone, lora)
        return to_accelerator(model)

    @classmethod
    def from_corpus(
        cls,
        notes: Sequence[Note],
        *,
        liked: sp.csr_matrix | None = None,
        bits: int = 32,
        tiny: TinyRankOptions | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """The embedded default: a tiny Llama that compares codes and texts before any training.

        Its answers are random until :func:`notellm.rank.trainer.fit_answers` or training sets them.

        Args:
            notes: what will be ranked; the words it knows.
            liked: who liked which of them, (users, notes) of ones: words that the same users like start
                near each other.
            bits: of a code.
            tiny: the size of the backbone.
            seed: of everything random in it.
            options: fields of :class:`BinLLMConfig`.

        Raises:
            DataError: the notes hold no text.
            ConfigError: an option is unknown or not allowed.
        """
        size = tiny or TinyRankOptions()
        config = checked_config({"template": "compact", "max_length": size.max_length, **options})
        if bits < 8 or bits % 8:
            raise ConfigError(f"bits is {bits}; it must be a multiple of 8")
        config = replace(config, max_length=min(config.max_length, size.max_length))
        wording = load_template(config.template)
        texts = [" ".join((note.title or note.content, *note.topics)) for note in notes]
        if not any(text.strip() for text in texts):
            raise DataError("the notes hold no text to build a backbone from; give notes with titles")
        phrases = [wording.yes, wording.no, wording.history_item, wording.history_separator]
        phrases += [
            text for form in FORMS for text in (wording.form(form).shared, wording.form(form).candidate)
        ]
        # Twice, so that a word which occurs once becomes a token, too: it may tell one note from all others.
        tokenizer = train_tokenizer(
            [*texts, *texts, *phrases, *phrases], vocabulary=size.vocabulary, codes=True
        )
        prompt = rank_prompt(tokenizer, wording, config)
        parts = [prompt.candidate_text(note) for note in prompt.cut(notes)]
        backbone = build_tiny_rank(
            tokenizer, parts, _marks(prompt, config, bits), size, liked=liked, seed=seed
        )
        return cls(backbone, tokenizer, config)

    # ---------------------------------------------------------------- computing

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position: Tensor) -> Tensor:
        """Logits (n,) float32 of enjoying: "Yes" less "No".

        Args:
            input_ids: (n, length) int64.
            attention_mask: (n, length), 1 for tokens, 0 for padding (on the right).
            position: (n,) index of the last token.
        """
        groups = by_length(attention_mask)
        logits = []
        for rows, width in groups:
            states = hidden_states(self.backbone, input_ids[rows, :width], attention_mask[rows, :width])
            own = torch.arange(len(rows), device=rows.device)
            logits.append(self.answer(states[own, position[rows]]))
        back = torch.argsort(torch.cat([rows for rows, _ in groups]))
        return torch.cat(logits)[back]

    def answer(self, states: Tensor) -> Tensor:
        """Logits (n,) of last hidden states (n, hidden)."""
        both = label_logits(self.backbone, states)[:, [self.prompt.yes_id, self.prompt.no_id]].float()
        return both[:, 0] - both[:, 1]

    def encode(self, questions: Sequence[Question], form: Form | None = None) -> list[list[int]]:
        """Token ids of prompts.

        Args:
            questions: what is asked.
            form: which wording; the model's own (``settings.form``) when None. A question without codes is
                asked as text alone whatever is wished.

        Raises:
            ConfigError: a prompt does not fit.
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
        """Logits of prompts, (n,) float32, in the order given; a probability is their sigmoid.

        Args:
            ids: token ids from :meth:`encode`.
            progress: show a progress bar.
        """
        result = np.empty(len(ids), dtype=np.float32)
        training = self.training
        self.eval()
        with tqdm(total=len(ids), unit="prompt", desc="rank", disable=not progress) as bar:
            for rows, batch in length_batches(ids, self.tokenizer, self.device):
                result[rows] = self(**batch).cpu().numpy()
                bar.update(len(rows))
        self.train(training)
        return result

    def code_texts(self, codes: Bits) -> list[str]:
        """Codes (n, bits) as this model's prompt writes them."""
        return binary_text(codes) if self.settings.code_text == "binary" else decimal_text(codes)

    # ---------------------------------------------------------------- disk

    def save_pretrained(
        self, folder: str | Path, *, extra: dict[str, str] | None = None, force: bool = False
    ) -> None:
        """Write the model as one directory, whole or not at all; adapters are merged into the weights.

        Args:
            folder: where; a model that is there is replaced.
            extra: further text files to put in, by name.
            force: as in ``artifacts.write_folder``.

        Raises:
            StorageError: it cannot be written.
        """
        with write_folder(folder, "rank model", force=force) as aside:
            self.write(aside, extra=extra)

    def write(self, folder: Path, *, extra: dict[str, str] | None = None) -> None:
        """Write the model's files into an empty folder."""
        dtype = save_backbone(self.backbone, folder)
        self.tokenizer.save_pretrained(folder)
        saved = {"config": asdict(self.settings), "template": self.prompt.template.to_dict()}
        saved |= written_down(self.fingerprint(), dtype)
        for name, text in {CONFIG: json_text(saved), **(extra or {})}.items():
            (folder / name).write_text(text, encoding="utf-8")

    def fingerprint(self) -> str:
        """SHA-256 of settings, prompt, tokenizer, configuration and weights, 16 hexadecimal digits.

        A saved model has it again when it is opened.
        """
        return digest_of(
            (self.settings, self.prompt.template),
            self.backbone.config,
            self.tokenizer,
            merged_state(self.backbone),
        )


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is the directory of a saved BinLLM, and not of a causal language model alone."""
    return is_file(Path(path) / CONFIG)


def rank_prompt(
    tokenizer: PreTrainedTokenizerBase, wording: RankTemplate, config: BinLLMConfig
) -> RankPrompt:
    """The prompt of a configuration."""
    return RankPrompt(
        tokenizer,
        wording,
        title_tokens=config.title_tokens,
        content_tokens=config.content_tokens,
        topics_tokens=config.topics_tokens,
        history=config.history,
        max_length=config.max_length,
    )


def _marks(prompt: RankPrompt, config: BinLLMConfig, bits: int) -> Marks:
    """The tokens that the first weights are written for, found in a prompt of the template."""
    tokenizer = prompt.tokenizer
    octets = [tokenizer(octet(value), add_special_tokens=False)["input_ids"][0] for value in range(256)]
    token = octets[0b01100101]
    code, length = octet(0b01100101) * (bits // 8), bits // 8
    distances = set()
    for note in (Note("a"), Note("a b a b", "a b a", ("a", "b"))):
        shared = prompt.shared_ids([note], code, "with_codes")
        whole = shared + prompt.candidate_ids(note, code, "with_codes", config.max_length)
        at = [i for i, found in enumerate(whole) if found == token]
        user, item = at[:length], at[length:]
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
