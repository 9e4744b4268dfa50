"""The likelihood of every known name (category or topic) as the output of a prompt.

    P(name | prompt) = prod_i P(token_i | prompt, tokens before it) * P(end | prompt, name)

The end counts only where a longer name begins with the name: elsewhere nothing else could follow. The model
is restricted to the tokens that names are spelt with: a softmax over these tokens. The tokens of all names
form a trie, so that what names share is computed once, and the prompt once for all names
(``backbone/branches.py``). A prefix is at least as likely as every name that continues it. So a prefix below
the floor is not continued: its names get no likelihood, which is at most the floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from notellm.backbone.branches import Branches
from notellm.backbone.load import label_logits

_LOGITS = 2**25  # logits that are held in memory at once


@dataclass(frozen=True)
class NameTrie:
    """The token ids of names as a trie; node 0 is the root.

    Attributes:
        alphabet: (tokens,) int64, the ids of all tokens of names and of ``ends``, ascending.
        token: (nodes,) int64, the place in the alphabet of the token that leads to each node.
        name: (nodes,) int64, the number of the name that ends at each node, -1 if none does; of names with
            the same tokens the first one.
        first: (nodes + 1,) int64, where the children of each node begin in ``children``.
        children: (nodes - 1,) int64.
        ends: places in the alphabet of the tokens that may follow a whole name.
    """

    alphabet: np.ndarray
    token: np.ndarray
    name: np.ndarray
    first: np.ndarray
    children: np.ndarray
    ends: np.ndarray

    @classmethod
    def build(cls, spellings: Sequence[Sequence[int]], ends: Sequence[int]) -> "NameTrie":
        """Build the trie.

        Args:
            spellings: the token ids of each name; a name without tokens is left out.
            ends: ids of the tokens that may follow a whole name.
        """
        nodes: dict[tuple[int, int], int] = {}
        token, name, parent = [-1], [-1], [-1]
        for number, ids in enumerate(spellings):
            node = 0
            for item in ids:
                child = nodes.setdefault((node, item), len(token))
                if child == len(token):
                    token.append(item)
                    name.append(-1)
                    parent.append(node)
                node = child
            if node and name[node] < 0:
                name[node] = number
        parents = np.array(parent[1:], dtype=np.int64)
        counts = np.bincount(parents, minlength=len(token))
        first = np.concatenate([[0], np.cumsum(counts)])
        children = np.argsort(parents, kind="stable") + 1
        alphabet = np.unique([*token[1:], *ends])
        places = np.searchsorted(alphabet, [*token, *ends])
        return cls(alphabet, places[: len(token)], np.array(name), first, children, places[len(token) :])


@dataclass(frozen=True)
class NameLikelihoods:
    """The names that a prompt makes likely, for each of n prompts.

    Attributes:
        numbers: for each prompt the numbers of names in the trie, int64.
        logs: for each prompt the logs of their likelihoods, float32.
    """

    numbers: list[np.ndarray]
    logs: list[np.ndarray]


@torch.inference_mode()
def name_likelihoods(branches: Branches, trie: NameTrie, *, floor: float, width: int) -> NameLikelihoods:
    """Compute the likelihoods of names after a batch of prompts.

    Args:
        branches: the prompts, which nothing continues yet.
        trie: the names.
        floor: a prefix is left when it is less likely than this share of the likeliest name so far, or of the
            likeliest prefix of its length.
        width: the most prefixes of one length that are continued for a prompt, the likeliest ones.
    """
    device = branches.states.device
    alphabet = torch.from_numpy(trie.alphabet).to(device)
    count = len(branches.states)
    numbers: list[list[np.ndarray]] = [[] for _ in range(count)]
    logs: list[list[np.ndarray]] = [[] for _ in range(count)]
    # The frontier: nodes whose state is known, with their prompt, their column in the level and their log.
    node = np.zeros(count, dtype=np.int64)
    row, column = np.arange(count), np.zeros(count, dtype=np.int64)
    reached, best = np.zeros(count), np.full(count, -np.inf)
    states = branches.states
    fan_of = np.diff(trie.first)
    while True:
        # One entry for each child of each node of the frontier.
        fan = fan_of[node]
        origin = np.repeat(np.arange(len(node)), fan)
        offset = np.arange(len(origin)) - np.repeat(np.cumsum(fan) - fan, fan)
        child = trie.children[trie.first[node][origin] + offset]
        steps, end = _log_probabilities(
            branches.model, states, alphabet, origin, trie.token[child], trie.ends
        )
        named = trie.name[node]
        for i in np.flatnonzero(named >= 0):
            numbers[row[i]].append(named[i : i + 1])
            logs[row[i]].append(reached[i : i + 1] + end[i])
        np.maximum.at(best, row[named >= 0], (reached + end)[named >= 0])
        total = reached[origin] + steps
        kept = _likeliest(row[origin], total, best, floor, width)
        leaf = fan_of[child[kept]] == 0
        for i in kept[leaf]:
            numbers[row[origin[i]]].append(trie.name[child[i] : child[i] + 1])
            logs[row[origin[i]]].append(total[i : i + 1])
        np.maximum.at(best, row[origin[kept[leaf]]], total[kept[leaf]])
        kept = kept[~leaf]
        if not len(kept):
            break
        parent_column = column[origin[kept]]
        node, row, reached = child[kept], row[origin[kept]], total[kept]
        sizes = np.bincount(row, minlength=count)
        column = np.arange(len(row)) - (np.cumsum(sizes) - sizes)[row]
        tokens = np.full((count, sizes.max()), trie.alphabet[0], dtype=np.int64)
        parents = np.zeros_like(tokens)
        tokens[row, column], parents[row, column] = trie.alphabet[trie.token[node]], parent_column
        level = branches.extend(torch.from_numpy(tokens).to(device), torch.from_numpy(parents).to(device))
        states = level[torch.from_numpy(row).to(device), torch.from_numpy(column).to(device)]
    empty: list[np.ndarray] = [np.zeros(0)]
    return NameLikelihoods(
        [np.concatenate(part or empty).astype(np.int64) for part in numbers],
        [np.concatenate(part or empty).astype(np.float32) for part in logs],
    )


def _log_probabilities(
    model: PreTrainedModel,
    states: Tensor,
    alphabet: Tensor,
    origin: np.ndarray,
    tokens: np.ndarray,
    ends: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-probabilities of tokens after states, and of the end after each state.

    Args:
        model: the model.
        states: (s, hidden).
        alphabet: (a,) int64, ids of the tokens that the model is restricted to.
        origin: (t,) int64, ascending, the state that each token follows.
        tokens: (t,) int64, places in the alphabet.
        ends: places in the alphabet of the tokens that count as the end, together.
    """
    size = max(1, _LOGITS // len(alphabet))
    steps, end = np.empty(len(tokens)), np.empty(len(states))
    for start in range(0, len(states), size):
        logits = label_logits(model, states[start : start + size], alphabet).float()
        logs = logits.log_softmax(dim=1).cpu().numpy()
        end[start : start + size] = np.logaddexp.reduce(logs[:, ends], axis=1)
        low, high = np.searchsorted(origin, [start, start + size])
        steps[low:high] = logs[origin[low:high] - start, tokens[low:high]]
    return steps, end


def _likeliest(row: np.ndarray, total: np.ndarray, best: np.ndarray, floor: float, width: int) -> np.ndarray:
    """Return which prefixes are kept, ordered by prompt: the likeliest of each prompt above the floor.

    Args:
        row: (p,) int64, the prompt of each prefix.
        total: (p,) the log-likelihood of each prefix.
        best: (prompts,) the log-likelihood of the likeliest name so far.
        floor: see :func:`name_likelihoods`.
        width: see :func:`name_likelihoods`.
    """
    if not len(row):
        return row
    bound = best.copy()
    np.maximum.at(bound, row, total)
    candidates = np.flatnonzero(total >= bound[row] + np.log(floor))
    order = candidates[np.lexsort((-total[candidates], row[candidates]))]
    sizes = np.bincount(row[order], minlength=len(best))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[rank < width]
