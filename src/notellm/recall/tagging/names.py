"""The names that can be chosen for a task, with spellings that differ only in form merged."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse as sp

_FORM = re.compile(r"^#+|[\s_\-‐-―・·]+")


def name_key(name: str) -> str:
    """Return what spellings of a name have in common: "#Cold-Brew", "cold brew" and "coldbrew" are one."""
    folded = unicodedata.normalize("NFKC", name).casefold().strip()
    return _FORM.sub("", folded) or folded


class Names:
    """Different names, each in its most frequent spelling, in a fixed order (frequent ones first).

    Args:
        spellings: names as notes carry them, as often as they do.

    Attributes:
        names: the names.
    """

    def __init__(self, spellings: Iterable[str]) -> None:
        counts = Counter(name for name in spellings if name.strip())
        total: Counter[str] = Counter()
        best: dict[str, str] = {}
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            key = name_key(name)
            total[key] += count
            best.setdefault(key, name)
        order = sorted(total, key=lambda key: (-total[key], key))
        self.names = [best[key] for key in order]
        self._number = {key: number for number, key in enumerate(order)}

    def __len__(self) -> int:
        return len(self.names)

    def add(self, spellings: Iterable[str]) -> list[str]:
        """Add the names that are not there yet, at the end, and return them."""
        new = []
        for name in spellings:
            key = name_key(name)
            if name.strip() and key not in self._number:
                self._number[key] = len(self.names)
                self.names.append(name)
                new.append(name)
        return new

    def number(self, name: str) -> int | None:
        """Return the number of a name in any spelling; None if it is not among the names."""
        return self._number.get(name_key(name))

    def numbers(self, names: Iterable[str]) -> list[int]:
        """Return the numbers of the names that are known, each once."""
        found = dict.fromkeys(self.number(name) for name in names)
        return [number for number in found if number is not None]

    def matrix(self, answers: Sequence[Sequence[str]]) -> sp.csr_matrix:
        """Return which note carries which name, (notes, names) float32 of ones."""
        rows = [self.numbers(names) for names in answers]
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        indices = np.array([number for row in rows for number in row], dtype=np.int32)
        ones = np.ones(len(indices), dtype=np.float32)
        return sp.csr_matrix((ones, indices, indptr.astype(np.int64)), shape=(len(rows), len(self)))
