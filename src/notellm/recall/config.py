"""The options of NoteLLM: what a model is besides its weights, and what a training run is made of."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from notellm.errors import ConfigError
from notellm.options import check, check_known, option

TINY = "tiny"
#: The width of the tiny backbone is a multiple of this: four heads of an even number of dimensions each.
_WIDTH_STEP = 8

#: Where the projection of a new model on a pretrained backbone starts (``recall/projection.py``).
Projection = Literal["components", "ridge", "random"]


@dataclass
class ModelOptions:
    """What a run decides about the model.

    Attributes:
        dim: dimensions of the vector (paper: 128).
        title_tokens: tokens of the title that the prompt holds (paper: 20).
        content_tokens: tokens of the content that the prompt holds (paper: 80).
    """

    dim: int = option(128, least=1)
    title_tokens: int = option(20, least=1)
    content_tokens: int = option(80, least=1)


@dataclass
class NoteLLMConfig(ModelOptions):
    """What a NoteLLM is besides its weights; saved as ``notellm.json``.

    Attributes:
        template: name or path of the prompt's wording.
        topics_tokens: tokens that all topics together take in the category prompt.
        max_length: longest sequence in tokens.
        typical_topics: number of topics that a prompt asks for when the caller names none.
        categories: known categories, to which generation can be restricted.
    """

    template: str = "english"
    topics_tokens: int = 40
    max_length: int = 256
    typical_topics: int = 3
    categories: list[str] = field(default_factory=list)


def checked_config(options: dict[str, Any]) -> NoteLLMConfig:
    """The configuration with some options; those of the prompt are checked where it is built.

    Raises:
        ConfigError: if an option is unknown, or dim is not a positive whole number.
    """
    check_known(options, NoteLLMConfig, "NoteLLM")
    config = NoteLLMConfig(**options)
    if not isinstance(config.dim, int) or config.dim < 1:
        raise ConfigError(f"dim is {config.dim!r}; it must be a whole number of at least 1 (paper: 128)")
    return config


@dataclass
class LossOptions:
    """How the two losses are joined and which rates the parts of the model learn at.

    Attributes:
        alpha: weight of the generation loss (paper: 0.01); 0 trains the contrastive loss only.
        topic_share: share r of the notes that do the topics task (paper: 0.4; tiny: 0.2, since its vectors
            lean on the topics that this task hides).
        tau: starting value of the log inverse temperature (paper: 3); None keeps the model's.
        learn_tau: learn the temperature (paper); else tau keeps its starting value.
        sampling_correction: correct in-batch negatives for the popularity of notes (not in the paper).
        mask_false_negatives: leave out of a query's negatives its own note and its partner's in other pairs,
            notes with the text of either, and its known related notes; else every other note of the batch is
            a negative (paper).
        embedding_learning_rate: learning rate of the token embeddings; None takes that of the layers.
        head_learning_rate: learning rate of the projection, tau and the output head; None takes that of the
            layers.
        chunk_notes: notes that one forward pass holds at most, by gradient caching, for batches that do not
            fit into memory; None passes the whole batch at once.
        train_layers: train only the last layers of a pretrained backbone, that many; the states of the frozen
            layers below are computed once and kept on disk. Each note then has one sequence for each task.
            None trains all.
    """

    alpha: float = option(0.01, least=0)
    topic_share: float = option(0.4, least=0, most=1)
    tau: float | None = option(None)
    learn_tau: bool = option(True, flag="--learn-tau/--fixed-tau")
    sampling_correction: bool = option(True, flag="--sampling-correction/--paper-loss")
    mask_false_negatives: bool = option(True, flag="--mask-false-negatives/--paper-negatives")
    embedding_learning_rate: float | None = option(None, above=0)
    head_learning_rate: float | None = option(None, above=0)
    chunk_notes: int | None = option(None, least=1)
    train_layers: int | None = option(None, least=1)


#: Defaults by kind of backbone: tiny by measurement (benchmarks/README.md), pretrained by the paper.
_TINY: dict[str, Any] = {
    "template": "compact",
    "lora": False,
    "epochs": 1.0,
    "batch_pairs": 128,
    "topic_share": 0.2,
    "learning_rate": 2e-5,
    "embedding_learning_rate": 8e-4,
    "head_learning_rate": 2e-3,
    "tau": 2.0,
}
#: Of the training of the output head alone.
_TINY_WRITING: dict[str, Any] = {
    "epochs": 4.0,
    "batch_pairs": 32,
    "topic_share": 0.5,
    "head_learning_rate": 5e-3,
}
_PRETRAINED: dict[str, Any] = {
    "template": "english",
    "lora": True,
    "epochs": 1.0,
    "batch_pairs": 64,
    "topic_share": 0.4,
    "learning_rate": 1e-4,
    "tau": 3.0,
}
#: Options of a new model, which one that training goes on from has already.
OF_A_NEW_MODEL = (
    *("layers", "projection", "teacher", "teacher_layers"),
    *("tiny_layers", "tiny_hidden", "template"),
)
_FULL_LEARNING_RATE = 3e-6  # of the authors' script, which trains every weight


@dataclass
class RecallOptions(ModelOptions, LossOptions):
    """Everything that a training run of NoteLLM is made of. None means the default of the backbone's kind.

    Attributes:
        backbone: "tiny" (initialised from the notes), or a causal language model: a name on the hub, a
            folder, or a GGUF file.
        layers: keep the first layers of a pretrained backbone, that many, and drop the rest before it is
            trained; None keeps all.
        projection: where the projection of a new model on a pretrained backbone starts: "components"
            (principal components of the notes' hidden states), "ridge" (regression of who clicked the notes
            on their hidden states) or "random" (paper); None takes ridge if there are clicks enough, else
            components. A saved model keeps its own, and tiny has its own.
        teacher: pretrained model that the tiny backbone learns from before it is trained: a causal language
            model (a name on the hub, a folder, or a GGUF file), a saved NoteLLM, or a folder of
            sentence-transformers. It reads every training note once and is not needed afterwards. None
            learns from the notes and clicks alone.
        teacher_layers: keep the first layers of a teacher that is a causal language model, that many; None
            keeps all.
        tiny_layers: number of layers of the tiny backbone; None takes the measured default
            (``recall/tiny.py``).
        tiny_hidden: width of the tiny backbone's hidden states, a multiple of 8; its feed-forward parts are
            twice as wide. None takes the measured default.
        warm_start: a saved NoteLLM of this kind of backbone, whose weights, tokenizer and prompt the training
            goes on from; None starts anew. Sizes that it was made with cannot be chosen again.
        template: wording of the prompt: a name in ``recall/templates`` or the path of a JSON file; tiny:
            compact, pretrained: english.
        lora: train low-rank adapters instead of every weight; the default for pretrained backbones.
        epochs: passes over the related pairs; without pairs, over the notes.
        writing_epochs: passes over the notes after the joint training in which the output head alone learns
            to write, tiny backbone only; 0 for none. Vectors do not change.
        max_steps: training steps; where given, it replaces ``epochs``.
        batch_pairs: pairs in a batch of one process, B (paper: 64; tiny: 128).
        learning_rate: learning rate of the transformer's layers.
        evaluations: how often validation Recall is measured; the best checkpoint is kept.
        bf16: compute in bfloat16, for GPUs.
        seed: seed of everything random.
    """

    backbone: str = option(TINY)
    layers: int | None = option(None, least=1)
    projection: Projection | None = option(None)
    teacher: str | None = option(None)
    teacher_layers: int | None = option(None, least=1)
    tiny_layers: int | None = option(None, least=1)
    tiny_hidden: int | None = option(None, least=8)
    warm_start: str | None = option(None)
    template: str | None = option(None)
    lora: bool | None = option(None, flag="--lora/--full")
    epochs: float | None = option(None, above=0)
    writing_epochs: float = option(4.0, least=0)
    max_steps: int | None = option(None, least=1)
    batch_pairs: int | None = option(None, least=2)
    learning_rate: float | None = option(None, above=0)
    # None here, since the default depends on the backbone.
    topic_share: float | None = option(None, least=0, most=1)  # type: ignore[assignment]
    evaluations: int = option(5, least=1)
    bf16: bool = option(False)
    seed: int = option(0, least=0)

    def resolved(self, *, pairs: bool = True) -> "RecallOptions":
        """The options with every None replaced that has a default (tiny by measurement, else of the paper).

        Args:
            pairs: whether there are related pairs. Without them the output head of the tiny backbone alone
                learns to write category and topics.

        Raises:
            ConfigError: with every problem found.
        """
        tiny = self.backbone == TINY
        defaults = dict(_TINY if tiny else _PRETRAINED)
        if tiny and not pairs:
            defaults |= _TINY_WRITING
        if self.warm_start is not None:
            del defaults["tau"], defaults["template"]  # the model has its own
        if not tiny and self.lora is False:
            defaults["learning_rate"] = _FULL_LEARNING_RATE
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        chosen = replace(self, **missing)
        more = []
        if tiny and chosen.lora:
            more.append("the tiny backbone is trained whole; LoRA is for pretrained backbones")
        if tiny and chosen.layers is not None:
            more.append(
                f"layers is {chosen.layers}, but only pretrained backbones are cut to their first layers; "
                "leave layers out, or name a backbone"
            )
        if tiny and chosen.train_layers is not None:
            more.append(
                f"train_layers is {chosen.train_layers}, but the tiny backbone is trained whole; leave "
                "train_layers out, or name a backbone"
            )
        if tiny and chosen.projection is not None:
            more.append(
                f"projection is {chosen.projection!r}, but the tiny backbone has its own start; leave "
                "projection out, or name a backbone"
            )
        if not tiny and chosen.teacher is not None:
            more.append(
                f"teacher is {chosen.teacher!r}, but only the tiny backbone learns from a teacher, and the "
                f"backbone is {chosen.backbone!r}; leave one of them out"
            )
        if tiny and chosen.teacher == TINY:
            more.append(
                f"teacher is {TINY!r}, which knows nothing but these notes; give a causal language model, a "
                "saved NoteLLM or a folder of sentence-transformers, or leave teacher out"
            )
        if chosen.teacher is None and chosen.teacher_layers is not None:
            more.append(
                f"teacher_layers is {chosen.teacher_layers}, but there is no teacher to cut; give teacher, "
                "too, or leave teacher_layers out"
            )
        more += [
            f"{name} is {getattr(chosen, name)!r}, but the training goes on from {chosen.warm_start}, which "
            f"has its own; leave {name} out, or leave warm_start out"
            for name in OF_A_NEW_MODEL
            if chosen.warm_start is not None and getattr(chosen, name) is not None
        ]
        more += [
            f"{name} is {getattr(chosen, name)}, but the backbone is {chosen.backbone!r}, whose size is its "
            f"own; leave {name} out, or leave backbone out for the tiny one"
            for name in ("tiny_layers", "tiny_hidden")
            if not tiny and getattr(chosen, name) is not None
        ]
        if tiny and chosen.tiny_hidden is not None and chosen.tiny_hidden % _WIDTH_STEP:
            more.append(
                f"tiny_hidden is {chosen.tiny_hidden}; it must be a multiple of {_WIDTH_STEP}, such as 128"
            )
        check(chosen, *more)
        return chosen
