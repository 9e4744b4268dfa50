"""Likelihoods of names over a trie are those of a plain computation of each name by itself."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from notellm.backbone.branches import Branches
from notellm.backbone.tiny import train_tokenizer
from notellm.recall.tagging import likelihood
from notellm.recall.tagging.likelihood import NameLikelihoods, NameTrie, name_likelihoods

PROMPTS = [[5, 6], [20, 30, 40, 41, 42, 43], [9]]
END, SEPARATOR = 2, 3


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["some text"], vocabulary=300)


def random_model(seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=0,
        )
    )
    model.eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(6)
    return model


def random_names(seed: int, count: int = 40) -> list[list[int]]:
    """Names of few tokens, so that many share a beginning, begin another one, or are spelt alike."""
    rng = random.Random(seed)
    names = [[rng.randint(10, 14) for _ in range(rng.randint(1, 5))] for _ in range(count)]
    return [*names, [50], [50, 51], [50, 51, 52], [50, 51], []]


class ByHand:
    """Log-likelihoods after one prompt: a forward pass for each prefix, on the alphabet of all names."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompt: Sequence[int],
        names: Sequence[Sequence[int]],
        ends: Sequence[int],
    ) -> None:
        self.model, self.prompt, self.names, self.ends = model, prompt, names, ends
        self.alphabet = sorted({*ends, *(token for name in names for token in name)})
        self.steps: dict[tuple[int, ...], dict[int, float]] = {}

    def step(self, prefix: Sequence[int]) -> dict[int, float]:
        """The log-probability of each token of the alphabet after a prefix."""
        key = tuple(prefix)
        if key not in self.steps:
            with torch.no_grad():
                logits = self.model(torch.tensor([[*self.prompt, *prefix]])).logits[0, -1, self.alphabet]
            logs = logits.double().log_softmax(dim=0).tolist()
            self.steps[key] = dict(zip(self.alphabet, logs, strict=True))
        return self.steps[key]

    def prefix(self, tokens: Sequence[int]) -> float:
        return sum(self.step(tokens[:i])[token] for i, token in enumerate(tokens))

    def likelihoods(self) -> dict[int, float]:
        """The log-likelihood of each name by its number; of names with the same tokens the first one."""
        numbers = {tuple(name): number for number, name in reversed(list(enumerate(self.names))) if name}
        found = {}
        for name, number in numbers.items():
            found[number] = self.prefix(name)
            if any(len(other) > len(name) and other[: len(name)] == name for other in numbers):
                found[number] += float(np.logaddexp.reduce([self.step(name)[end] for end in self.ends]))
        return found

    def best_prefixes(self) -> list[float]:
        """The log-likelihood of the likeliest prefix of each length."""
        longest = max(map(len, self.names))
        lengths = range(1, longest + 1)
        return [max(self.prefix(name[:n]) for name in self.names if len(name) >= n) for n in lengths]


def likelihoods(
    model: PreTrainedModel,
    names: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerFast,
    *,
    ends: Sequence[int] = (END,),
    floor: float = 1e-300,
    width: int = 10_000,
    whole: bool = False,
) -> NameLikelihoods:
    branches = Branches(model, PROMPTS, tokenizer, whole=whole)
    return name_likelihoods(branches, NameTrie.build(names, ends), floor=floor, width=width)


def as_dicts(found: NameLikelihoods) -> list[dict[int, float]]:
    return [
        dict(zip(numbers.tolist(), logs.tolist(), strict=True))
        for numbers, logs in zip(found.numbers, found.logs, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ends", [(END,), (END, SEPARATOR), (END, 12)])
def test_every_likelihood_is_that_of_the_name_by_itself(tokenizer, seed, ends):
    """The end may also be a token that names are spelt with, as a comma in "a, b"."""
    model, names = random_model(seed), random_names(seed)
    found = as_dicts(likelihoods(model, names, tokenizer, ends=ends))
    for prompt, ours in zip(PROMPTS, found, strict=True):
        wanted = ByHand(model, prompt, names, ends).likelihoods()
        assert ours.keys() == wanted.keys()
        assert ours == pytest.approx(wanted, abs=1e-3)


def test_reading_whole_sequences_changes_nothing(tokenizer):
    model, names = random_model(1), random_names(1)
    branched, whole = (as_dicts(likelihoods(model, names, tokenizer, whole=each)) for each in (False, True))
    for one, other in zip(branched, whole, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("floor", [0.3, 1e-2, 1e-4])
def test_what_is_pruned_is_below_the_floor(tokenizer, seed, floor):
    """Of the likeliest name, or of the likeliest prefix of some length; the rest is exact."""
    model, names = random_model(seed), random_names(seed)
    dropped = 0
    for prompt, found in zip(
        PROMPTS, as_dicts(likelihoods(model, names, tokenizer, floor=floor)), strict=True
    ):
        hand = ByHand(model, prompt, names, (END,))
        wanted = hand.likelihoods()
        assert found == pytest.approx({number: wanted[number] for number in found}, abs=1e-3)
        bound = max(*wanted.values(), *hand.best_prefixes()) + np.log(floor)
        rest = [log for number, log in wanted.items() if number not in found]
        assert all(log < bound + 1e-3 for log in rest)
        best = max(wanted, key=lambda number: wanted[number])
        assert best in found or wanted[best] < bound
        dropped += len(rest)
    assert dropped > 0


@pytest.mark.parametrize("width", [1, 3])
def test_a_narrow_search_returns_exact_likelihoods_of_some_names(tokenizer, width):
    model, names = random_model(2), random_names(2)
    for prompt, found in zip(
        PROMPTS, as_dicts(likelihoods(model, names, tokenizer, width=width)), strict=True
    ):
        wanted = ByHand(model, prompt, names, (END,)).likelihoods()
        assert found
        assert len(found) < len(wanted)
        assert found == pytest.approx({number: wanted[number] for number in found}, abs=1e-3)


def test_the_likelihoods_of_names_of_which_none_begins_another_sum_to_at_most_1(tokenizer):
    names = [[10], [11, 12], [11, 13], [14]]
    for found in as_dicts(likelihoods(random_model(0), names, tokenizer)):
        assert 0 < sum(np.exp(list(found.values()))) <= 1 + 1e-6


def test_of_names_that_are_spelt_alike_the_first_counts(tokenizer):
    names = [[11, 12], [11, 12], [13]]
    assert [found.keys() for found in as_dicts(likelihoods(random_model(0), names, tokenizer))] == [
        {0, 2}
    ] * 3


@pytest.mark.parametrize("names", [[], [[]], [[], []]])
def test_without_a_name_of_any_token_nothing_is_likely(tokenizer, names):
    found = likelihoods(random_model(0), names, tokenizer)
    assert [len(numbers) for numbers in found.numbers] == [0, 0, 0]
    assert [len(logs) for logs in found.logs] == [0, 0, 0]


def test_logits_in_parts_are_the_same(tokenizer, monkeypatch):
    model, names = random_model(1), random_names(1)
    wanted = as_dicts(likelihoods(model, names, tokenizer))
    monkeypatch.setattr(likelihood, "_LOGITS", 10)
    for one, other in zip(as_dicts(likelihoods(model, names, tokenizer)), wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
