"""The two losses against their formulas, written out in plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from notellm.recall.losses import (
    blockwise_contrastive_loss,
    contrastive_loss,
    false_negatives,
    generation_loss,
    joint_loss,
    known_pairs,
)

Rows = list[list[float]]


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def gcl_by_hand(
    vectors: Rows, partner: list[int], excluded: list[set[int]], tau: float, log_frequency=None
) -> float:
    """1/N of the sum, as the paper writes it."""
    n = len(vectors)
    offset = log_frequency or [0.0] * n

    def term(i: int, j: int) -> float:
        return math.exp(cosine(vectors[i], vectors[j]) * math.exp(tau) - offset[j])

    total = 0.0
    for i in range(n):
        below = sum(term(i, j) for j in range(n) if j != i and j not in excluded[i])
        total -= math.log(term(i, partner[i]) / below)
    return total / n


def batch(n: int = 8, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    half = n // 2
    return vectors, torch.cat([torch.arange(half, n), torch.arange(half)])


def ours(
    vectors: torch.Tensor, partner: torch.Tensor, excluded: torch.Tensor, tau: float, frequency=None
) -> float:
    unit = torch.nn.functional.normalize(vectors, dim=1)
    total = contrastive_loss(unit, unit, partner, excluded, torch.tensor(tau, dtype=torch.float64), frequency)
    return float(total.detach()) / len(vectors)


@pytest.mark.parametrize("tau", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("corrected", [False, True])
def test_gcl(tau: float, corrected: bool):
    vectors, partner = batch()
    frequency = torch.arange(8).float().log1p() if corrected else None
    excluded = torch.eye(8, dtype=torch.bool)
    by_hand = gcl_by_hand(
        vectors.tolist(),
        partner.tolist(),
        [set()] * 8,
        tau,
        None if frequency is None else frequency.tolist(),
    )
    assert by_hand > 0.1
    assert ours(vectors, partner, excluded, tau, frequency) == pytest.approx(by_hand, rel=1e-5)


def test_gcl_with_false_negatives():
    vectors, partner = batch()
    note = torch.tensor([0, 1, 2, 3, 4, 0, 6, 7])  # 0 and 5 are the same note
    text = torch.tensor([0, 1, 2, 3, 4, 0, 1, 7])  # 1 and 6 have the same text
    known = torch.zeros(8, 8, dtype=torch.bool)
    known[2, 3] = known[3, 2] = True
    masked = false_negatives(note, text, partner, note, text, known)
    by_rule = []
    for i in range(8):
        p = int(partner[i])
        by_rule.append(
            {
                j
                for j in range(8)
                if j not in {i, p}
                and (note[j] in (note[i], note[p]) or text[j] in (text[i], text[p]) or bool(known[i, j]))
            }
        )
    assert by_rule[0] == {5}  # itself under another number
    assert by_rule[1] == {0, 6}  # 0 is its partner 5 again, 6 has its text
    assert by_rule[2] == {1, 3}  # 1 has its partner's text, 3 is a known related note
    assert by_rule[7] == set()
    found = [{j for j in range(8) if bool(masked[i, j]) and j != i} for i in range(8)]
    assert found == by_rule
    masked[torch.arange(8), torch.arange(8)] = True
    by_hand = gcl_by_hand(vectors.tolist(), partner.tolist(), by_rule, 1.0)
    assert ours(vectors, partner, masked, 1.0) == pytest.approx(by_hand, rel=1e-5)
    assert by_hand < gcl_by_hand(vectors.tolist(), partner.tolist(), [set()] * 8, 1.0)


def test_the_partner_is_never_masked():
    note = torch.zeros(4, dtype=torch.int64)  # all the same note
    partner = torch.tensor([2, 3, 0, 1])
    masked = false_negatives(note, note, partner, note, note, torch.ones(4, 4, dtype=torch.bool))
    assert masked.sum() == 12
    assert not masked[torch.arange(4), partner].any()


def test_queries_may_be_a_part_of_the_candidates():
    """Two halves of the batch, as two processes hold them, add up to the whole."""
    vectors, partner = batch()
    unit = torch.nn.functional.normalize(vectors, dim=1)
    own = torch.eye(8, dtype=torch.bool)
    tau = torch.tensor(2.0)
    parts = [contrastive_loss(unit[s], unit, partner[s], own[s], tau) for s in (slice(0, 4), slice(4, 8))]
    whole = contrastive_loss(unit, unit, partner, own, tau)
    assert parts[0] != parts[1]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_generation_loss_is_the_sum_of_negative_log_likelihoods():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 0.0]])
    labels = torch.tensor([0, 2])
    by_hand = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        by_hand -= math.log(math.exp(row[label]) / sum(math.exp(value) for value in row))
    assert float(generation_loss(logits, labels)) == pytest.approx(by_hand, rel=1e-6)


def test_without_labels_it_is_zero_and_has_a_gradient():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = generation_loss(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 4.0), (1.0, 3.0), (0.01, (4 + 0.02) / 1.01)])
def test_joint_loss(alpha: float, expected: float):
    assert float(joint_loss(torch.tensor(4.0), torch.tensor(2.0), alpha)) == pytest.approx(expected)


def test_gradients_reach_vectors_and_temperature():
    vectors, partner = batch()
    vectors.requires_grad_()
    tau = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    total = contrastive_loss(unit, unit, partner, torch.eye(8, dtype=torch.bool), tau)
    total.backward()
    assert vectors.grad is not None
    assert tau.grad is not None
    step = 1e-3
    excluded = torch.eye(8, dtype=torch.bool)
    slope = (ours(vectors, partner, excluded, 1 + step) - ours(vectors, partner, excluded, 1 - step)) / (
        2 * step
    )
    assert float(tau.grad) / 8 == pytest.approx(slope, rel=1e-2)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return result


@pytest.mark.parametrize("block", [1, 64, 130, 200, 64 * 64])
def test_blocks_have_the_loss_and_the_gradients_of_the_whole(block):
    vectors, partner = batch(64)
    vectors = vectors.float()
    frequency = torch.arange(64).float().log1p()
    excluded = torch.eye(64, dtype=torch.bool)
    excluded[3, 7] = excluded[40, 2] = True
    results = []
    for blocks in (False, True):
        unit = torch.nn.functional.normalize(vectors, dim=1).requires_grad_()
        tau = torch.tensor(1.5, requires_grad=True)
        given = (unit, unit, partner)
        with Largest() as largest:
            if blocks:
                loss = blockwise_contrastive_loss(*given, excluded.__getitem__, tau, frequency, block=block)
            else:
                loss = contrastive_loss(*given, excluded, tau, frequency)
            loss.backward()
        results.append((loss.detach(), unit.grad, tau.grad))
        assert largest.size == (max(64 * 5, min(block // 64, 64) * 64) if blocks else 64 * 64)
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole)


@given(
    st.integers(1, 9).flatmap(
        lambda count: st.tuples(
            st.just(count),
            st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), min_size=1),
        )
    )
)
def test_known_pairs_are_those_of_the_keys(drawn):
    """Any number of notes: at powers of two the key of a pair might be put together in a wrong way unseen."""
    count, pairs = drawn
    keys = torch.tensor(sorted(a * count + b for a, b in pairs))
    every = torch.arange(count)
    found = known_pairs(every, every, keys, count)
    assert {(int(a), int(b)) for a, b in found.nonzero()} == pairs
