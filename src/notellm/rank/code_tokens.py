"""A tokenizer that reads 8 bits of a binary code as one token, which no other text can produce.

A run of eight or more digits 0 and 1 is a code. Its digits are replaced by signs that no text holds after
NFKC, and are split into groups of eight, which training makes tokens.
"""

from collections.abc import Sequence

from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from notellm.backbone.tiny import train_tokenizer

#: The signs that replace the digits of a code.
CODE_SIGNS = {"0": "\N{CIRCLED DIGIT ZERO}", "1": "\N{CIRCLED DIGIT ONE}"}
_OCTETS = 256  # values of 8 bits


def train_code_tokenizer(texts: Sequence[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer with :func:`notellm.backbone.tiny.train_tokenizer` that has a token for every 8 bits.

    Args:
        texts: the texts that it is trained on.
        vocabulary: largest number of tokens; raised where it is too small for all octets.
    """
    # Octets occur as often as the most common words, so that they are merged early and each becomes a token.
    octets = ["".join(map(octet, range(_OCTETS)))] * max(100, len(texts) // 20)
    signs = "".join(CODE_SIGNS.values())
    return train_tokenizer(
        [*texts, *octets],
        vocabulary=max(vocabulary, 2 * _OCTETS + 512),
        replacements=[normalizers.Replace(Regex(_in_a_run(d)), sign) for d, sign in CODE_SIGNS.items()],
        splits=[pre_tokenizers.Split(Regex(f"[{signs}]{{8}}"), behavior="isolated")],
        prefix_space=False,
    )


def octet(value: int) -> str:
    """Return the text of 8 bits of a code, the highest first: "00000101" for 5."""
    return f"{value:08b}"


def _in_a_run(digit: str) -> str:
    """Return a pattern for a digit in a run of eight or more: with a digits before it and 7 - a after it."""
    bit = f"[01{''.join(CODE_SIGNS.values())}]"
    return "|".join(f"(?<={bit}{{{a}}}){digit}(?={bit}{{{7 - a}}})" for a in range(8))
