"""NoteLLM: a language model that compresses a note into one vector and generates its topics and category.

    vector(note) = normalize( W h_p + b )     h_p: last hidden state at the token before [EMB]

W is one linear layer to ``dim`` dimensions; the similarity of notes is the cosine (NoteLLM, arXiv
2403.01744).

    model = NoteLLM.from_corpus(notes)                    # tiny, no download
    model = NoteLLM.from_pretrained("path or hub name")   # a saved NoteLLM, or any causal language model
    vectors = model.encode(notes)                         # (n, dim) float32, unit norm
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from notellm.backbone.base import PromptedModel
from notellm.backbone.batch import by_length, length_batches
from notellm.backbone.frozen import SplitModel
from notellm.backbone.load import evaluation_mode, hidden_states, label_logits
from notellm.backbone.shared import can_share, end_states, read_beginning
from notellm.backbone.tokenizer import end_texts
from notellm.backbone.wanted import can_skip, last_layer_at, states_at
from notellm.data.note import Notes, as_notes
from notellm.errors import ConfigError, DataError, ModelError
from notellm.lexical.hybrid import DEFAULT_SHARE
from notellm.progress import progress_bar
from notellm.recall.checkpoint import (
    CONFIG,
    check_complete,
    is_tau,
    load_projection,
    read_share,
    write_projection,
)
from notellm.recall.config import NoteLLMConfig, checked_config
from notellm.recall.corpus import backbone_of_corpus
from notellm.recall.learnt import read_learnt, tasks_of
from notellm.recall.losses import generation_loss
from notellm.recall.projection import drawn_rows, principal_components, write_start
from notellm.recall.prompt import (
    EMB_TOKEN,
    IGNORED,
    PromptBuilder,
    Task,
    load_template,
    template_from_dict,
)
from notellm.recall.tiny import TinyOptions
from notellm.recall.writing import WritesTags

#: Output tokens whose logits are computed at once.
_LABELS = 512


@dataclass
class NoteLLMOutput:
    """The result of one forward pass.

    Attributes:
        vectors: (n, dim) float32, unit norm.
        generation_sum: sum of the negative log-likelihoods of the output tokens.
        label_count: number of output tokens.
        tau: the log inverse temperature. Losses read it here and not from the model, since distributed
            training only sees parameters that a forward pass used.
    """

    vectors: Tensor
    generation_sum: Tensor
    label_count: Tensor
    tau: Tensor


class NoteLLM(WritesTags, PromptedModel):
    """A causal language model with a projection, a temperature and the Note Compression Prompt.

    Args:
        backbone: the causal language model.
        tokenizer: its hardened tokenizer, with the token [EMB].
        config: prompt, budgets and dimensions; kept as ``settings``.
        template: the wording as a JSON object; None loads the one that ``config.template`` names.

    Attributes:
        lexical_share: share of the words where notes are searched by vectors and words (``notellm.lexical``).
            Training fits it on validation notes; it changes no vector.
        learnt: what its training notes taught it to write (``recall/learnt.py``); None if that is unknown, as
            of a language model that was not trained here.
        split: the backbone in two parts while its upper layers alone are trained; None computes it whole.
    """

    settings_file = CONFIG
    kind = "model"
    config_type = NoteLLMConfig
    new_tokens = (EMB_TOKEN,)

    settings: NoteLLMConfig
    prompt: PromptBuilder

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: NoteLLMConfig,
        *,
        template: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, tokenizer, config)
        wording = (
            load_template(config.template)
            if template is None
            else template_from_dict(template, config.template)
        )
        end_texts(tokenizer, wanted=wording.ends)
        self.prompt = PromptBuilder(tokenizer, wording, config)
        hidden = backbone.config.get_text_config().hidden_size
        self.projection = nn.Linear(hidden, config.dim, dtype=torch.float32)
        self.tau = nn.Parameter(torch.tensor(3.0))
        self.lexical_share = DEFAULT_SHARE
        self.learnt: frozenset[Task] | None = None
        self.split: SplitModel | None = None
        self._shares: bool | None = None  # whether the backbone can share a beginning; tried once
        self._skips: bool | None = None  # whether its last layer can skip tokens
        self.no_tagger()

    # ---------------------------------------------------------------- building

    @classmethod
    def from_corpus(
        cls,
        notes: Notes,
        *,
        clicks: pa.Table | None = None,
        taught: np.ndarray | None = None,
        tiny: TinyOptions | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Build a model on a tiny Llama that is initialised from the notes, without any download.

        Before any training its vectors are close to those of latent semantic analysis. The projection starts
        as the principal components of the notes' hidden states.

        Args:
            notes: a notes table or a list of notes, the ones that the model will be trained on.
            clicks: a clicks table on ``notes``, which then must be a table. Words that interest the same
                users then start near each other.
            taught: (notes, k) float32, vectors of the notes by a teacher (``recall/teacher.py``), of unit
                norm, that the token vectors approximate as well; None without a teacher.
            tiny: size of the backbone.
            seed: seed of everything random.
            options: fields of :class:`NoteLLMConfig`.

        Raises:
            DataError: if the notes hold no text, or ``taught`` is of other notes.
            ConfigError: if an option is unknown or has a value that is not allowed.
        """
        rows = as_notes(notes)
        if taught is not None and len(taught) != len(rows):
            raise DataError(
                f"there are {len(taught)} vectors of a teacher and {len(rows)} notes; give one for each"
            )
        size = tiny or TinyOptions()
        config = checked_config({"template": "compact", "max_length": min(256, size.max_length), **options})
        wording = load_template(config.template)
        backbone, tokenizer = backbone_of_corpus(
            notes, wording, config, size, clicks=clicks, taught=taught, seed=seed
        )
        torch.manual_seed(seed + 1)
        model = cls(backbone, tokenizer, config)
        drawn = [rows[row] for row in drawn_rows(len(rows), seed)]
        texts = model.prompts(drawn)
        if len(set(texts)) > 1:  # a single text has no principal components: the projection stays random
            write_start(model.projection, principal_components(model.prompt_states(texts), config.dim))
        model.learnt = tasks_of(model.prompt.cut(rows))  # a tiny backbone knows nothing but these notes
        return model

    # ---------------------------------------------------------------- computing

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position: Tensor,
        labels: Tensor | None = None,
        states: Tensor | None = None,
    ) -> NoteLLMOutput:
        """Compute the vectors and the generation loss of a batch in one forward pass.

        Args:
            input_ids: (n, length) int64.
            attention_mask: (n, length), 1 for tokens, 0 for padding (on the right).
            position: (n,) int64, index of the token before [EMB].
            labels: (n, length) int64, -100 for tokens without loss; None computes vectors only.
            states: (n, length, hidden), what the lower layers of ``split`` give for the tokens; None computes
                all layers.
        """
        has_label = torch.zeros_like(attention_mask, dtype=torch.bool)
        if labels is not None:  # the state at token t predicts token t + 1
            has_label[:, :-1] = labels[:, 1:] != IGNORED
        is_read = has_label.clone()
        is_read[torch.arange(len(position), device=position.device), position] = True
        groups, skips = by_length(attention_mask), self._can_skip()
        vectors, to_label, wanted = [], [], []
        for rows, width in groups:
            tokens, mask = input_ids[rows, :width], attention_mask[rows, :width]
            row, place = is_read[rows, :width].nonzero(as_tuple=True)
            with last_layer_at(self.backbone, row, place) if skips else nullcontext():
                if states is None or self.split is None:
                    last = hidden_states(self.backbone, tokens, mask)
                else:
                    last = self.split.upper(tokens, mask, states[rows, :width])
            last = last[row, place]  # (read tokens, hidden)
            vectors.append(self.to_vectors(last[place == position[rows][row]]))  # (group, dim)
            if labels is not None:
                labelled = has_label[rows][row, place]
                to_label.append(last[labelled])
                wanted.append(labels[rows][row[labelled], place[labelled] + 1])
        original_order = torch.argsort(torch.cat([rows for rows, _ in groups]))
        total = input_ids.new_zeros((), dtype=torch.float32)
        if labels is not None:
            of_labels, tokens = torch.cat(to_label), torch.cat(wanted)
            for start in range(0, max(1, len(tokens)), _LABELS):
                logits = label_logits(self.backbone, of_labels[start : start + _LABELS])
                total = total + generation_loss(logits, tokens[start : start + _LABELS])
        count = has_label.sum().float()
        return NoteLLMOutput(torch.cat(vectors)[original_order], total, count, self.tau.clone())

    def _can_skip(self) -> bool:
        """Return whether the last layer may compute only the tokens whose state is needed; tried once.

        A layer that is computed again in the backward pass would compute all tokens there.
        """
        if self.backbone.is_activation_checkpointing:
            return False
        if self._skips is None:
            self._skips = can_skip(self.backbone)
        return self._skips

    @torch.inference_mode()
    def encode(
        self, notes: Notes | Sequence[str], *, shared: bool = True, progress: bool = False
    ) -> np.ndarray:
        """Return the vectors of notes, (n, dim) float32 of unit norm, in the order of the notes.

        Args:
            notes: a notes table, a list of notes, or texts from :meth:`prompts`.
            shared: compute the instruction with which all prompts begin once, if the backbone allows it;
                False computes every prompt whole. Both give the same vectors within rounding.
            progress: show a progress bar.
        """
        texts = list(notes) if _are_texts(notes) else self.prompts(notes)
        vectors = np.empty((len(texts), self.settings.dim), dtype=np.float32)
        for rows, states in self._read(texts, shared=shared, progress=progress, label="embed"):
            vectors[rows] = self.to_vectors(states).float().cpu().numpy()
        return vectors

    @torch.no_grad()
    def prompt_states(self, texts: Sequence[str], *, shared: bool = True, progress: bool = False) -> Tensor:
        """Return the last hidden states at the token before [EMB], (n, hidden) float32 on the CPU.

        Args:
            texts: texts from :meth:`prompts`.
            shared: as in :meth:`encode`.
            progress: show a progress bar.
        """
        states = torch.empty(len(texts), self.projection.in_features)
        for rows, batch in self._read(texts, shared=shared, progress=progress, label="states"):
            states[torch.from_numpy(rows)] = batch.float().cpu()
        return states

    def _read(
        self, texts: Sequence[str], *, shared: bool, progress: bool, label: str
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield the hidden states before [EMB] of prompts in batches, with the rows of their prompts."""
        ids = self.prompt.prompt_ids(texts)
        start = self._instruction(ids) if shared else []
        with (
            evaluation_mode(self),
            progress_bar(total=len(texts), unit="note", desc=label, disable=not progress) as bar,
        ):
            beginning = read_beginning(self.backbone, start) if start else None
            rest = [row[len(start) :] for row in ids]
            for rows, batch in length_batches(rest, self.tokenizer, self.device):
                for group, width in by_length(batch["attention_mask"]):
                    tokens, mask = (batch[name][group, :width] for name in ("input_ids", "attention_mask"))
                    ends = torch.arange(len(group), device=group.device), batch["position"][group]
                    if beginning is not None:
                        states = end_states(self.backbone, beginning, tokens, mask)
                    elif self._can_skip():
                        states = states_at(self.backbone, tokens, mask, *ends)
                    else:
                        states = hidden_states(self.backbone, tokens, mask)[ends]
                    yield rows[group.cpu().numpy()], states
                bar.update(len(rows))

    def _instruction(self, ids: Sequence[Sequence[int]]) -> list[int]:
        """Return the instruction with which all prompts begin; empty if each prompt is to be read whole."""
        start = self.prompt.instruction_ids()
        if not self.prompt.shared_length(ids, start):
            return []
        if self._shares is None:
            self._shares = can_share(self.backbone)
        return start if self._shares else []

    def prompts(self, notes: Notes) -> list[str]:
        """Return the text before [EMB] of each note, which an embedding server must be sent."""
        rows = self.prompt.cut(as_notes(notes))
        return [self.prompt.render(note) for note in rows]

    def to_vectors(self, states: Tensor) -> Tensor:
        """Return the vectors, (n, dim) float32 of unit norm, of hidden states, (n, hidden)."""
        return functional.normalize(self.projection(states.to(self.projection.weight.dtype)), dim=-1)

    # ---------------------------------------------------------------- what a saved model adds to its backbone

    @classmethod
    def config_from_options(cls, options: dict[str, Any]) -> NoteLLMConfig:
        """Build the settings from a dict of options.

        Raises:
            ConfigError: if an option is unknown or has a value that is not allowed.
        """
        return checked_config(options)

    @classmethod
    def check_new(cls, folder: Path) -> None:
        """Refuse the folder of a saved NoteLLM that has lost its settings file.

        Raises:
            ModelError: as :func:`notellm.recall.checkpoint.check_complete`.
        """
        check_complete(folder)

    @classmethod
    def read_settings(cls, folder: Path) -> dict[str, Any]:
        """Read ``notellm.json`` and compare the folder's files with its manifest.

        Raises:
            ModelError: as the base class, or if an entry of NoteLLM is missing or malformed.
        """
        saved = super().read_settings(folder)
        if "dim" not in saved["config"] or not is_tau(saved.get("tau")):
            raise ModelError(f"{folder / CONFIG} is not a NoteLLM configuration; save the model again")
        try:
            read_learnt(saved.get("learnt"))
            read_share(saved)
        except ModelError as error:
            raise ModelError(f"{folder / CONFIG}: {error}") from error
        return saved

    def extra_settings(self) -> dict[str, Any]:
        """Return the temperature, the lexical share, and what the model has learnt to write."""
        return {
            "tau": float(self.tau.detach()),
            "lexical_share": self.lexical_share,
            "learnt": None if self.learnt is None else sorted(self.learnt),
        }

    def extra_weights(self) -> dict[str, Tensor]:
        """Return the projection and the temperature."""
        return {"projection": self.projection.weight, "bias": self.projection.bias, "tau": self.tau}

    def write_extra(self, folder: Path) -> None:
        """Write the projection in the format of sentence-transformers, and the tagger."""
        write_projection(folder, self.projection, self.settings.max_length, ends=self.prompt.template.ends)
        if self.tagger is not None:
            self.tagger.write(folder)

    def load_extra(self, folder: Path, saved: Mapping[str, Any]) -> None:
        """Load the projection, the temperature, the lexical share, and what the model has learnt to write.

        Raises:
            ConfigError: if the caller asked for other dimensions than the saved ones.
            ModelError: if the projection is missing, or of another shape.
        """
        dim = saved["config"]["dim"]
        if self.settings.dim != dim:
            raise ConfigError(
                f"dim is {self.settings.dim}, but the model saved at {folder} has {dim}; "
                "leave dim out, or start from a backbone without a projection"
            )
        load_projection(folder, self.projection)
        self.tau.data = torch.tensor(saved["tau"])
        self.lexical_share = read_share(saved)
        self.learnt = read_learnt(saved.get("learnt"))
        self.find_tagger(folder)


def _are_texts(notes: Notes | Sequence[str]) -> bool:
    return not isinstance(notes, pa.Table) and len(notes) > 0 and isinstance(notes[0], str)
