"""NoteLLM: a causal language model that squeezes a note into one vector and writes its topics and category.

    vector(note) = normalize( W h_p + b )     h_p: last hidden state at the token before [EMB]

W is one linear layer to ``dim`` dimensions; similarity is the cosine (NoteLLM, arXiv 2403.01744). What a
model is on disk, ``checkpoint.py`` says.

    model = NoteLLM.from_corpus(notes)              # tiny, no download
    model = NoteLLM.from_pretrained("path/or/name") # a saved NoteLLM, or any causal language model
    vectors = model.encode(notes)                   # (n, dim) float32, unit norm
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from notellm.backbone.base import PromptedModel, digest_of, longest_prompt, naming
from notellm.backbone.batch import by_length, length_batches
from notellm.backbone.load import (
    LoraOptions,
    add_lora,
    hidden_states,
    label_logits,
    load_backbone,
    merged_state,
    to_accelerator,
)
from notellm.backbone.tiny import train_tokenizer
from notellm.data.matrices import click_matrix
from notellm.data.note import Note, Notes, as_notes
from notellm.errors import ConfigError, DataError
from notellm.recall.checkpoint import (
    CONFIG,
    Settings,
    check_complete,
    is_checkpoint,
    load_projection,
    read_settings,
    write_checkpoint,
)
from notellm.recall.config import NoteLLMConfig, checked_config
from notellm.recall.losses import generation_loss
from notellm.recall.prompt import (
    EMB_TOKEN,
    IGNORED,
    PromptBuilder,
    Task,
    Template,
    load_template,
    template_from_dict,
)
from notellm.recall.tiny import TinyOptions, build_tiny


@dataclass
class NoteLLMOutput:
    """What one forward pass gives.

    Attributes:
        vectors: (n, dim) float32, unit norm.
        generation_sum: sum of the negative log-likelihoods of the output tokens.
        label_count: number of output tokens.
        tau: the log inverse temperature. The loss takes it from here, not from the model: a parameter
            used outside a forward pass has no place in distributed training.
    """

    vectors: Tensor
    generation_sum: Tensor
    label_count: Tensor
    tau: Tensor


class NoteLLM(PromptedModel):
    """A causal language model with a projection, a temperature and a prompt.

    Args:
        backbone: the causal language model.
        tokenizer: its hardened tokenizer, [EMB] included.
        config: prompt, budgets, dimensions; kept as ``settings``.
        template: the wording, where it is not the one that ``config.template`` names.
    """

    settings_file = CONFIG

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: NoteLLMConfig,
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
        self.prompt = _prompt_builder(tokenizer, wording, config)
        hidden = backbone.config.get_text_config().hidden_size
        self.projection = nn.Linear(hidden, config.dim, dtype=torch.float32)
        self.tau = nn.Parameter(torch.tensor(3.0))

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
        """A saved NoteLLM, or a fresh one on any causal language model; on the accelerator if there is one.

        Whoever must not get a fresh one, with a projection that nobody has trained, calls :meth:`from_saved`.

        Args:
            name_or_path: a directory that :meth:`save_pretrained` wrote, or a model by hub name or path.
            lora: train low-rank adapters only; None trains every weight.
            dtype: of the backbone; the projection is always float32.
            trust_remote_code: allow the backbone to be Python code that comes with it; that code then runs.
            options: fields of :class:`NoteLLMConfig` that shall differ from the saved ones (or from
                the defaults).

        Raises:
            ModelError: there is no usable model, its files do not fit together, or it is code that is not
                allowed to run.
            ConfigError: an option is unknown or not allowed.
        """
        path = Path(name_or_path)
        saved = read_settings(path) if is_checkpoint(path) else None
        if saved is None:
            check_complete(path)
        settings_file = path / CONFIG if saved and not options else None
        with naming(settings_file):
            config = checked_config({**(saved.config if saved else {}), **options})
        if saved and config.dim != saved.config["dim"]:
            raise ConfigError(
                f"dim is {config.dim}, but the model saved at {path} has {saved.config['dim']}; "
                "leave dim out, or start from a backbone without a projection"
            )
        backbone, tokenizer = load_backbone(
            name_or_path,
            EMB_TOKEN,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            saved=saved is not None,
        )
        config = replace(config, max_length=longest_prompt(backbone, config.max_length))
        template = saved.template if saved and "template" not in options else None
        with naming(settings_file):
            model = cls(backbone, tokenizer, config, template=template)
        if saved:
            load_projection(path, model.projection)
            model.tau.data = torch.tensor(saved.tau)
            if settings_file:
                model.opened_with(settings_file, saved.written)
        if lora is not None:
            add_lora(backbone, lora)
        return to_accelerator(model)

    @classmethod
    def from_corpus(
        cls,
        notes: Notes,
        *,
        clicks: pa.Table | None = None,
        tiny: TinyOptions | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """The embedded default: a tiny Llama initialised from the notes themselves, no download.

        Its vectors are close to latent-semantic ones before any training; the projection starts as
        the principal components of the notes' hidden states.

        Args:
            notes: a notes table or a list of notes; those it will be trained on.
            clicks: who clicked what of ``notes``, which then is a table: words that interest the same users
                start near each other.
            tiny: the size of the backbone.
            seed: of everything random in it.
            options: fields of :class:`NoteLLMConfig`.

        Raises:
            DataError: the notes hold no text.
            ConfigError: an option is unknown or not allowed.
        """
        rows = as_notes(notes)
        size = tiny or TinyOptions()
        config = checked_config({"template": "compact", "max_length": min(256, size.max_length), **options})
        wording = load_template(config.template)
        # The wording belongs to the corpus too: the BPE then has its words as tokens.
        texts = [" ".join((note.title, *note.topics, note.content)) for note in rows]
        if not any(text.strip() for text in texts):
            raise DataError("the notes hold no text to build a backbone from; give notes with titles")
        categories = sorted({note.category for note in rows if note.category})
        phrases = [
            text
            for task in (wording.category, wording.topics)
            for text in (task.prompt, task.guidance, *categories)
        ]
        tokenizer = train_tokenizer(
            [*texts, *phrases, *phrases], vocabulary=size.vocabulary, new_tokens=[EMB_TOKEN]
        )
        builder = _prompt_builder(tokenizer, wording, config)
        cut = builder.cut(rows)
        rendered = [builder.render(note) for note in cut]
        clicked = None if clicks is None else _clicked(notes, clicks)
        backbone = build_tiny(tokenizer, rendered, _outputs(builder, cut), size, clicked=clicked, seed=seed)
        torch.manual_seed(seed + 1)
        model = cls(backbone, tokenizer, config)
        model._project_to_principal_components(rows, seed)
        return model

    # ---------------------------------------------------------------- computing

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position: Tensor, labels: Tensor | None = None
    ) -> NoteLLMOutput:
        """Vectors and generation loss of a batch from one forward pass.

        Args:
            input_ids: (n, length) int64.
            attention_mask: (n, length), 1 for tokens, 0 for padding (on the right).
            position: (n,) index of the token before [EMB].
            labels: (n, length) int64 with -100 where there is no loss; None computes vectors only.
        """
        vectors, total, count = [], input_ids.new_zeros((), dtype=torch.float32), 0
        groups = by_length(attention_mask)
        for rows, width in groups:
            states = hidden_states(self.backbone, input_ids[rows, :width], attention_mask[rows, :width])
            own = torch.arange(len(rows), device=rows.device)
            vectors.append(self._to_vectors(states[own, position[rows]]))  # (group, dim)
            if labels is None:
                continue
            # The state at t predicts the token at t + 1; logits are computed nowhere else.
            targets = labels[rows, 1:width]
            predicts = targets != IGNORED
            wanted = targets[predicts]  # (labels,)
            logits = label_logits(self.backbone, states[:, :-1][predicts])  # (labels, vocabulary)
            total = total + generation_loss(logits, wanted)
            count += len(wanted)
        back = torch.argsort(torch.cat([rows for rows, _ in groups]))
        counted = torch.tensor(float(count), device=input_ids.device)
        return NoteLLMOutput(torch.cat(vectors)[back], total, counted, self.tau.clone())

    @torch.inference_mode()
    def encode(self, notes: Notes | Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Vectors of notes, (n, dim) float32 with unit norm, in the order given.

        Args:
            notes: a notes table, a list of notes, or prompts that :meth:`prompts` rendered.
            progress: show a progress bar.
        """
        texts = list(notes) if _are_texts(notes) else self.prompts(notes)
        vectors = np.empty((len(texts), self.settings.dim), dtype=np.float32)
        training = self.training
        if training:  # to walk over all modules takes as long as a short note
            self.eval()
        with tqdm(total=len(texts), unit="note", desc="embed", disable=not progress) as bar:
            for rows, batch in self._batches(texts):
                vectors[rows] = self(**batch).vectors.float().cpu().numpy()
                bar.update(len(rows))
        if training:
            self.train()
        return vectors

    def categorize(self, notes: Notes, **options: Any) -> list[str]:
        """A category for each note; the options are those of ``generate.generate_categories``."""
        from notellm.recall.generate import generate_categories  # noqa: PLC0415 - it imports this module

        return generate_categories(self, notes, **options)

    def write_topics(self, notes: Notes, **options: Any) -> list[list[str]]:
        """Topics for each note; the options are those of ``generate.generate_topics``."""
        from notellm.recall.generate import generate_topics  # noqa: PLC0415 - it imports this module

        return generate_topics(self, notes, **options)

    def prompts(self, notes: Notes) -> list[str]:
        """The text in front of [EMB] of each note: what any embedding server must be sent."""
        rows = self.prompt.cut(as_notes(notes))
        return [self.prompt.render(note) for note in rows]

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        return length_batches(self.prompt.prompt_ids(texts), self.tokenizer, self.device)

    def _to_vectors(self, states: Tensor) -> Tensor:
        return functional.normalize(self.projection(states.to(self.projection.weight.dtype)), dim=-1)

    @torch.inference_mode()
    def _project_to_principal_components(self, notes: Sequence[Note], seed: int) -> None:
        """Set the projection to the leading principal components of the notes' hidden states."""
        texts = [self.prompt.render(note) for note in self.prompt.cut(notes)]
        if len(texts) > 20_000:
            chosen = np.random.default_rng(seed).choice(len(texts), 20_000, replace=False)
            texts = [texts[i] for i in chosen]
        if len(set(texts)) < 2:
            return  # a single text has no principal components; the random start stays
        self.eval()
        pieces = []
        for _, batch in self._batches(texts):
            states = hidden_states(self.backbone, batch["input_ids"], batch["attention_mask"])
            pieces.append(states[torch.arange(len(states)), batch["position"]])
        states = torch.cat(pieces).double()
        mean = states.mean(dim=0)
        _, _, axes = torch.linalg.svd(torch.cov((states - mean).T))
        rank = min(self.settings.dim, len(axes))
        self.projection.weight.data.normal_(std=1e-3)
        self.projection.weight.data[:rank] = axes[:rank].float()
        self.projection.bias.data.copy_(-(self.projection.weight.data.double() @ mean).float())
        self.train()

    # ---------------------------------------------------------------- disk

    def save_pretrained(
        self, folder: str | Path, *, extra: dict[str, str] | None = None, force: bool = False
    ) -> None:
        """Write the model as one directory, whole or not at all; adapters are merged into the weights.

        Args:
            folder: where; a model that is there is replaced, anything else is refused.
            extra: further text files to put in, by name (the model card, the record).
            force: as in ``artifacts.write_folder``.

        Raises:
            StorageError: it cannot be written.
        """
        template, tau = self.prompt.template.to_dict(), float(self.tau.detach())
        settings = Settings(asdict(self.settings), template, tau, self.fingerprint())
        write_checkpoint(
            folder, self.backbone, self.tokenizer, self.projection, settings, extra or {}, force=force
        )

    def fingerprint(self) -> str:
        """SHA-256 of settings, prompt, tokenizer, configuration and weights, 16 hexadecimal digits.

        It says which vectors are whose. A saved model has it again when it is opened.
        """
        heads = {"projection": self.projection.weight, "bias": self.projection.bias, "tau": self.tau}
        return digest_of(
            (self.settings, self.prompt.template),
            self.backbone.config,
            self.tokenizer,
            merged_state(self.backbone) | heads,
        )


def _prompt_builder(
    tokenizer: PreTrainedTokenizerBase, wording: Template, config: NoteLLMConfig
) -> PromptBuilder:
    return PromptBuilder(
        tokenizer,
        wording,
        title_tokens=config.title_tokens,
        content_tokens=config.content_tokens,
        topics_tokens=config.topics_tokens,
        max_length=config.max_length,
    )


def _outputs(builder: PromptBuilder, notes: Sequence[Note]) -> list[tuple[list[int], int]]:
    """Every category and list of topics as a whole sequence, with the position of its [EMB]."""
    tasks: list[tuple[Note, Task]] = [(note, "category") for note in notes if note.category]
    tasks += [(note, "topics") for note in notes if note.topics]
    encoded = builder.encode(
        [builder.render(note, task) for note, task in tasks],
        [task for _, task in tasks],
        [builder.output(task, category=note.category, topics=note.topics) for note, task in tasks],
        [len(note.topics) for note, _ in tasks],
    )
    return [(item.ids, item.position + 1) for item in encoded]


def _clicked(notes: Notes, clicks: pa.Table) -> sp.csr_matrix:
    """Who clicked what, (users, notes) of ones."""
    if not isinstance(notes, pa.Table):
        raise ConfigError("clicks name notes by their ids: give the notes as a table with note_id")
    return sp.csr_matrix(click_matrix(notes.column("note_id"), clicks).T)


def _are_texts(notes: Notes | Sequence[str]) -> bool:
    return not isinstance(notes, pa.Table) and len(notes) > 0 and isinstance(notes[0], str)
