"""How a tokenizer reads binary codes: 8 bits are one token, which no other text can produce.

A normalizer replaces the digits of a run of eight or more 0s and 1s by two signs that NFKC removes from
every text, so a digit of a title is never taken for a bit of a code. A pre-tokenizer then splits the signs
into groups of eight, and each of the 256 groups becomes a token of the BPE.
"""

from collections.abc import Sequence

from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from notellm.backbone.tiny import train_tokenizer

_OCTETS = 256  # values of 8 bits
#: The sign that replaces each digit of a binary code.
_SIGNS = {"0": "\N{CIRCLED DIGIT ZERO}", "1": "\N{CIRCLED DIGIT ONE}"}


def train_code_tokenizer(
    texts: Sequence[str], *, vocabulary: int, new_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Train a tokenizer that reads every 8 digits of a run of 0s and 1s as one token.

    Args:
        texts: the texts to learn from.
        vocabulary: the largest number of tokens; raised to 1,024 where it is smaller, so that all groups of
            8 bits have a token.
        new_tokens: special tokens to add.

    Raises:
        DataError: if no text holds anything but white space.
    """
    signs = "".join(_SIGNS.values())
    return train_tokenizer(
        texts,
        vocabulary=max(vocabulary, 2 * _OCTETS + 512),
        new_tokens=new_tokens,
        normalizer_steps=[
            normalizers.Replace(Regex(_in_a_run(digit)), sign) for digit, sign in _SIGNS.items()
        ],
        first_split=pre_tokenizers.Split(Regex(f"[{signs}]{{8}}"), behavior="isolated"),
        prefix_space=False,
        # As frequent as the commonest words, so that their merges come early and each group becomes a token.
        extra_texts=["".join(map(octet, range(_OCTETS)))] * max(100, len(texts) // 20),
    )


def octet(value: int) -> str:
    """Return the text of 8 bits of a code, the highest bit first: "00000101" for 5."""
    return f"{value:08b}"


def _in_a_run(digit: str) -> str:
    """Return a pattern for a digit in a run of eight or more: a bits before it and 7 - a after it."""
    bit = f"[01{''.join(_SIGNS.values())}]"
    return "|".join(f"(?<={bit}{{{a}}}){digit}(?={bit}{{{7 - a}}})" for a in range(8))
