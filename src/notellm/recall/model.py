"""NoteLLM: a causal language model that compresses a note into one vector and writes its topics and category.

    vector(note) = normalize( W h_p + b )     h_p: last hidden state at the token before [EMB]

W is one linear layer to ``dim`` dimensions, similarity is the cosine (arXiv 2403.01744).

    model = NoteLLM.from_corpus(notes)               # tiny backbone, no download
    model = NoteLLM.from_pretrained("path/or/name")  # a saved NoteLLM, or any causal language model
    vectors = model.encode(notes)                    # (n, dim) float32, unit norm
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
from notellm.recall.generate import generate_categories, generate_topics
from notellm.recall.losses import generation_loss
from notellm.recall.prompt import (
    EMB_TOKEN,
    IGNORED,
    PromptBuilder,
    Task,
    load_template,
    template_from_dict,
)
from notellm.recall.tiny import TinyOptions, build_tiny


@dataclass
class NoteLLMOutput:
    """The result of one forward pass.

    Attributes: vectors: (n, dim) float32, unit norm. generation_sum: sum of the negative log-likelihoods of
        the output tokens. label_count: number of output tokens. tau: the log inverse temperature. The loss
        takes it from here and not from the model, because distributed
            training does not see a parameter that is used outside a forward pass.
    """

    vectors: Tensor
    generation_sum: Tensor
    label_count: Tensor
    tau: Tensor


class NoteLLM(PromptedModel):
    """A causal language model with a projection, a temperature and a prompt.

    Args:
        backbone: the causal language model.
        tokenizer: its hardened tokenizer, with [EMB].
        config: prompt, budgets and dimensions; kept as ``settings``.
        template: the wording, if it is not the one that ``config.template`` names.
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
        self.prompt = PromptBuilder(tokenizer, wording, config)
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
        """Open a saved NoteLLM or make a new one on any causal language model, on an accelerator if possible.

        Call :meth:`from_saved` where a new model, whose projection is untrained, must not be made.

        Args:
            name_or_path: a directory that :meth:`save_pretrained` wrote, or a model by hub name or path.
            lora: train low-rank adapters only; None trains every weight.
            dtype: of the backbone; the projection is always float32.
            trust_remote_code: allow the backbone to be Python code that comes with it, and run that code.
            options: fields of :class:`NoteLLMConfig` that replace the saved values (or the defaults).

        Raises: ModelError: if there is no usable model, its files do not fit together, or it is code that may
            not run. ConfigError: if an option is unknown or not allowed.
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
        """Make a model on a tiny Llama that is initialised from the notes; nothing is downloaded.

        Before any training its vectors are close to those of latent semantic analysis, since the projection
        starts as the principal components of the notes' hidden states.

        Args:
            notes: the notes; a table with ``note_id`` where clicks are given.
            clicks: table with the schema CLICKS: words that the same users click start near each other.
            tiny: size of the backbone.
            seed: seed of everything random in it.
            options: fields of :class:`NoteLLMConfig`.

        Raises:
            DataError: if the notes hold no text.
            ConfigError: if an option is unknown or not allowed.
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
        builder = PromptBuilder(tokenizer, wording, config)
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
        """Compute vectors and generation loss of a batch in one forward pass.

        Args:
            input_ids: (n, length) int64.
            attention_mask: (n, length), 1 for tokens, 0 for padding on the right.
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
        """Return the vectors of notes, (n, dim) float32 of unit norm, in the order of the notes.

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
        """Write a category for each note; the options are those of ``generate.generate_categories``."""
        return generate_categories(self, notes, **options)

    def write_topics(self, notes: Notes, **options: Any) -> list[list[str]]:
        """Write topics for each note; the options are those of ``generate.generate_topics``."""
        return generate_topics(self, notes, **options)

    def prompts(self, notes: Notes) -> list[str]:
        """Return the text before [EMB] of each note, which is what any embedding server must be sent."""
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
        """Write the model as one directory, all of it or nothing; adapters are merged into the weights.

        Args:
            folder: the directory; an existing model is replaced, anything else is refused.
            extra: further text files, by name (the model card, the record).
            force: as in ``artifacts.write_folder``.

        Raises:
            StorageError: if it cannot be written.
        """
        template, tau = self.prompt.template.to_dict(), float(self.tau.detach())
        settings = Settings(asdict(self.settings), template, tau, self.fingerprint())
        write_checkpoint(
            folder, self.backbone, self.tokenizer, self.projection, settings, extra or {}, force=force
        )

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of settings, prompt, tokenizer and weights.

        It tells which model made a vector. A saved model has the same fingerprint when it is opened again.
        """
        heads = {"projection": self.projection.weight, "bias": self.projection.bias, "tau": self.tau}
        return digest_of(
            (self.settings, self.prompt.template),
            self.backbone.config,
            self.tokenizer,
            merged_state(self.backbone) | heads,
        )


def _outputs(builder: PromptBuilder, notes: Sequence[Note]) -> list[tuple[list[int], int]]:
    """Every category and list of topics as a whole sequence, with the position of its [EMB]."""
    tasks: list[tuple[Note, Task]] = [(note, "category") for note in notes if note.category]
    tasks += [(note, "topics") for note in notes if note.topics]
    encoded = builder.tokenize(
        [builder.render(note, task) for note, task in tasks],
        [task for _, task in tasks],
        [builder.output(task, category=note.category, topics=note.topics) for note, task in tasks],
        [len(note.topics) for note, _ in tasks],
    )
    return [(item.ids, item.position + 1) for item in encoded]


def _clicked(notes: Notes, clicks: pa.Table) -> sp.csr_matrix:
    """Who clicked what, as a sparse matrix (users, notes) of ones."""
    if not isinstance(notes, pa.Table):
        raise ConfigError("clicks name notes by their ids: give the notes as a table with note_id")
    return sp.csr_matrix(click_matrix(notes.column("note_id"), clicks).T)


def _are_texts(notes: Notes | Sequence[str]) -> bool:
    return not isinstance(notes, pa.Table) and len(notes) > 0 and isinstance(notes[0], str)
