"""The configuration of a BinLLM: everything besides its weights."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from notellm.backbone.base import check_known
from notellm.errors import ConfigError

#: Text form of a code: a string of 0 and 1, or a decimal number for every 8 bits.
CodeText = Literal["binary", "decimal"]
#: Content of a prompt: text and codes, text alone, or codes alone.
Form = Literal["with_codes", "text_only", "codes_only"]
FORMS: tuple[Form, ...] = ("with_codes", "text_only", "codes_only")


@dataclass(frozen=True)
class BinLLMConfig:
    """Everything about a BinLLM besides its weights; saved in ``binllm.json``.

    Attributes:
        template: name or path of the prompt's wording.
        form: form of the prompts that the model was tuned on; notes without a code are asked about by text
            alone.
        code_text: text form of the codes (paper: binary, and decimal as its compressed form).
        title_tokens: budget of a title, in tokens.
        content_tokens: budget of the candidate's content, if the wording has it.
        topics_tokens: budget of all topics of a note, if the wording has them.
        history: how many of the last liked notes a prompt names (paper: 10).
        max_length: longest sequence in tokens.
    """

    template: str = "notes"
    form: Form = "with_codes"
    code_text: CodeText = "binary"
    title_tokens: int = 20
    content_tokens: int = 40
    topics_tokens: int = 20
    history: int = 10
    max_length: int = 768


def checked_config(options: dict[str, Any]) -> BinLLMConfig:
    """Return the configuration of some options; `RankPrompt` checks the budgets.

    Raises:
        ConfigError: if an option is unknown or not allowed.
    """
    check_known(options, BinLLMConfig, "BinLLM")
    config = BinLLMConfig(**options)
    if config.form not in FORMS:
        raise ConfigError(f"form is {config.form!r}; it must be one of {', '.join(FORMS)}")
    if config.code_text not in get_args(CodeText):
        raise ConfigError(
            f"code_text is {config.code_text!r}; it must be one of {', '.join(get_args(CodeText))}"
        )
    return config
