"""What a NoteLLM is besides its weights."""

from dataclasses import dataclass, field
from typing import Any

from notellm.backbone.base import check_known
from notellm.errors import ConfigError


@dataclass(frozen=True)
class NoteLLMConfig:
    """What a NoteLLM is besides its weights; saved as ``notellm.json``.

    Attributes:
        template: name or path of the prompt's wording.
        dim: dimensions of the vector (paper: 128).
        title_tokens: the title's budget (paper: 20).
        content_tokens: the content's budget (paper: 80).
        topics_tokens: the budget of the topics in the category prompt, together.
        max_length: the longest sequence in tokens.
        typical_topics: how many topics a prompt asks for when nobody says a number.
        categories: the known categories, to which generation can be held.
    """

    template: str = "english"
    dim: int = 128
    title_tokens: int = 20
    content_tokens: int = 80
    topics_tokens: int = 40
    max_length: int = 256
    typical_topics: int = 3
    categories: list[str] = field(default_factory=list)


def checked_config(options: dict[str, Any]) -> NoteLLMConfig:
    """The configuration of some options; those of the prompt are checked where it is built.

    Raises:
        ConfigError: an option is unknown, or dim is not a positive whole number.
    """
    check_known(options, NoteLLMConfig, "NoteLLM")
    config = NoteLLMConfig(**options)
    if not isinstance(config.dim, int) or config.dim < 1:
        raise ConfigError(f"dim is {config.dim!r}; it must be a whole number of at least 1 (paper: 128)")
    return config
