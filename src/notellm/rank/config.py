"""What a BinLLM is besides its weights."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from notellm.backbone.base import check_known
from notellm.errors import ConfigError

#: How a code is written: as a string of 0 and 1, or every 8 bits as a decimal number.
CodeText = Literal["binary", "decimal"]
#: What a prompt holds: history and codes, the text alone, the codes alone.
Form = Literal["with_codes", "text_only", "codes_only"]
FORMS: tuple[Form, ...] = ("with_codes", "text_only", "codes_only")


@dataclass(frozen=True)
class BinLLMConfig:
    """What a BinLLM is besides its weights; saved as ``binllm.json``.

    Attributes:
        template: name or path of the prompt's wording.
        form: what the model was tuned to read; without a code a note is asked about by text alone.
        code_text: how codes are written (paper: binary, and decimal as its compressed form).
        title_tokens: the title's budget.
        content_tokens: the budget of the candidate's content, where the wording has it.
        topics_tokens: the budget of a note's topics together, where the wording has them.
        history: how many of the last liked notes are named (paper: 10).
        max_length: the longest sequence in tokens.
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
    """The configuration of some options; those of the prompt are checked where it is built.

    Raises:
        ConfigError: an option is unknown or not allowed.
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
