"""The options of BinLLM: what a model is besides its weights, and what a training run is made of."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from notellm.errors import ConfigError
from notellm.options import check, check_known, option
from notellm.rank.codes.options import CodeChoice
from notellm.templates import read_template

#: Text form of a code: a string of 0 and 1, or a decimal number for every 8 bits.
CodeText = Literal["binary", "decimal"]
#: Content of a prompt: text and codes, text alone, or codes alone.
Form = Literal["with_codes", "text_only", "codes_only"]
#: How a model answers before it is tuned.
Answers = Literal["fitted", "words"]
FORMS: tuple[Form, ...] = get_args(Form)
TINY = "tiny"


@dataclass
class ModelOptions:
    """What a run decides about the model.

    Attributes:
        form: what the model reads: with_codes (titles and codes), text_only (no collaborative model) or
            codes_only. A note without a code is asked about by its text alone.
        code_text: how codes are written (paper: binary, and decimal as its compressed form).
        history: number of the last liked notes that a prompt names (paper: 10).
        title_tokens: tokens of a title that the prompt holds.
        content_tokens: tokens of the candidate's content that the prompt holds, if its wording has content.
    """

    form: Form = option("with_codes")
    code_text: CodeText = option("binary")
    history: int = option(10, least=0)
    title_tokens: int = option(20, least=1)
    content_tokens: int = option(40, least=1)


@dataclass
class BinLLMConfig(ModelOptions):
    """What a BinLLM is besides its weights; saved as ``binllm.json``.

    Attributes:
        template: name or path of the prompt's wording.
        topics_tokens: tokens that a note's topics take together, if the wording has topics.
        max_length: longest sequence in tokens.
    """

    template: str = "notes"
    topics_tokens: int = 20
    max_length: int = 768


def checked_config(options: dict[str, Any]) -> BinLLMConfig:
    """The configuration with some options; the template is read where the prompt is built.

    Raises:
        ConfigError: if an option is unknown or not allowed.
    """
    check_known(options, BinLLMConfig, "BinLLM")
    config = BinLLMConfig(**options)
    check(config)
    return config


@dataclass
class TuningOptions:
    """How a step of tuning goes on and ends.

    Attributes:
        embedding_learning_rate: learning rate of the token embeddings; None takes that of the layers.
        patience: measurements without a better validation AUC before a step ends; None never ends early.
    """

    embedding_learning_rate: float | None = option(None, above=0)
    patience: int | None = option(None, least=1)


#: Defaults by kind of backbone: tiny by measurement (benchmarks/README.md), pretrained by the paper.
_TINY: dict[str, Any] = {
    "template": "compact",
    "lora": False,
    "two_step": False,
    "epochs": 0.2,
    "text_epochs": 0.5,
    "learning_rate": 1e-5,
    "embedding_learning_rate": 1e-4,
    "text_embedding_learning_rate": 1e-3,
    "evaluations": 2,
}
_PRETRAINED: dict[str, Any] = {
    "template": "notes",
    "lora": True,
    "two_step": True,
    "epochs": 1.0,
    "text_epochs": 1.0,
    "learning_rate": 1e-4,
    "evaluations": 5,
}
_FULL_LEARNING_RATE = 1e-5  # of a pretrained backbone tuned whole, where the paper has adapters only


@dataclass
class RankOptions(ModelOptions, CodeChoice, TuningOptions):
    """Everything that a training run of BinLLM is made of. None means the default of the backbone's kind.

    Attributes:
        backbone: "tiny" (initialised from the notes), or a causal language model: a name on the hub, a
            folder, or a GGUF file.
        layers: keep the first layers of a pretrained backbone, that many, and drop the rest before it is
            tuned; None keeps all.
        template: wording of the prompt: a name in ``rank/templates`` or the path of a JSON file; tiny:
            compact, pretrained: notes.
        lora: tune low-rank adapters instead of every weight; the default for pretrained backbones.
        answers: what answers before tuning: "fitted", weights of the last hidden state that are fitted to
            training rows first, or "words", the language model's own Yes and No (paper; pretrained backbones
            only).
        answer_rows: largest number of training rows to which the answers are fitted.
        two_step: tune on the text alone first, then with codes (paper; tiny: one step).
        code_epochs: largest number of passes of the collaborative model.
        out_of_fold: number of folds by which training rows get codes of models that have not seen them; 0
            takes codes that have seen them.
        epochs: passes over the training rows.
        text_epochs: passes of the first of two steps.
        max_steps: updates of every step of tuning; where given, it replaces its epochs. Codes are fitted on
            all rows either way.
        batch: rows in a batch.
        learning_rate: learning rate of the transformer's layers.
        text_embedding_learning_rate: learning rate of the token embeddings where prompts hold no codes; None
            takes that of the layers.
        evaluations: how often a step measures validation AUC; the best checkpoint is kept.
        bf16: compute in bfloat16, for GPUs.
        seed: seed of everything random.
    """

    backbone: str = option(TINY)
    layers: int | None = option(None, least=1)
    template: str | None = option(None)
    lora: bool | None = option(None, flag="--lora/--full")
    answers: Answers = option("fitted")
    answer_rows: int = option(16_000, least=2)
    two_step: bool | None = option(None, flag="--two-step/--one-step")
    code_epochs: int = option(500, least=1)
    out_of_fold: int = option(5, least=0)
    epochs: float | None = option(None, above=0)
    text_epochs: float | None = option(None, above=0)
    max_steps: int | None = option(None, least=1)
    batch: int = option(64, least=1)
    learning_rate: float | None = option(None, above=0)
    text_embedding_learning_rate: float | None = option(None, above=0)
    evaluations: int | None = option(None, least=1)
    bf16: bool = option(False)
    seed: int = option(0, least=0)

    def resolved(self) -> "RankOptions":
        """The options with every None replaced that has a default (tiny by measurement, else of the paper).

        Raises:
            ConfigError: with every problem found.
        """
        tiny = self.backbone == TINY
        defaults = dict(_TINY if tiny else _PRETRAINED)
        if not tiny and self.lora is False:
            defaults["learning_rate"] = _FULL_LEARNING_RATE
        if self.form != "with_codes":
            defaults["two_step"] = False
        if self.form == "text_only":
            defaults["epochs"] = defaults["text_epochs"]
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        chosen = replace(self, **missing)
        check(chosen, *chosen.code_problems(), *chosen.conflicts())
        return chosen

    def conflicts(self) -> list[str]:
        """What of resolved options does not go together, or is not there."""
        problems = []
        if self.out_of_fold == 1:
            problems.append("out_of_fold is 1; it must be 0, or 2 folds or more")
        if self.backbone == TINY and self.lora:
            problems.append("the tiny backbone is tuned whole; LoRA is for pretrained backbones")
        if self.backbone == TINY and self.layers is not None:
            problems.append(
                f"layers is {self.layers}, but only pretrained backbones are cut to their first layers; "
                "leave layers out, or name a backbone"
            )
        if self.backbone == TINY and self.answers == "words":
            problems.append(
                "answers is words, but the tiny backbone knows no Yes and No before its answers are fitted; "
                "give fitted, or name a pretrained backbone"
            )
        if self.form != "with_codes" and self.two_step:
            problems.append(
                f"two_step tunes on text first and then on codes, too; form {self.form} has only one of them"
            )
        try:
            read_template("notellm.rank", self.template or "notes")
        except ConfigError as error:
            problems.append(str(error))
        return problems
