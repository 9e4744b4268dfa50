"""A batch is a function of (seed, k): which pair, which task, which topics."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from notellm.data.note import notes_from_table
from notellm.data.schema import PAIRS
from notellm.errors import DataError
from notellm.recall.batch import PairCollator, PairIndex, PairStream
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import IGNORED


@pytest.fixture(scope="module")
def index(notes: pa.Table, pairs: pa.Table) -> PairIndex:
    return PairIndex.build(notes.column("note_id").to_pylist(), pairs)


def collator(tiny: NoteLLM, notes: pa.Table, **options) -> PairCollator:
    rows = tiny.prompt.cut(notes_from_table(notes))
    return PairCollator(tiny.prompt, rows, **{"topic_share": 0.4, "seed": 0, **options})


def is_topics(tiny: NoteLLM, ids: torch.Tensor) -> bool:
    guidance = tiny.prompt.guidance_ids("topics", 1)
    after = ids.tolist().index(tiny.prompt.emb_id) + 1
    return bool(ids[after : after + len(guidance)].tolist() == guidance)


# ---------------------------------------------------------------- the index


def test_ids_become_rows(index: PairIndex, notes: pa.Table, pairs: pa.Table):
    names = notes.column("note_id").to_pylist()
    assert [names[row] for row in index.source] == pairs.column("source").to_pylist()
    assert [names[row] for row in index.target] == pairs.column("target").to_pylist()
    assert index.weight.tolist() == pairs.column("score").to_pylist()
    both = {(a, b) for a, b in zip(index.source, index.target, strict=True)}
    both |= {(b, a) for a, b in both}
    assert {(int(key) // index.count, int(key) % index.count) for key in index.known} == both
    assert index.known.tolist() == sorted(set(index.known.tolist()))


def test_log_frequency_counts_both_ends(index: PairIndex):
    uses = np.zeros(index.count)
    for row in (*index.source, *index.target):
        uses[row] += 1
    assert len(set(uses)) > 1
    np.testing.assert_allclose(index.log_frequency(), np.log(uses), rtol=1e-6)


def test_a_note_in_no_pair_has_frequency_zero():
    table = pa.Table.from_pylist([{"source": "a", "target": "b", "score": 1.0, "users": 1}], schema=PAIRS)
    assert PairIndex.build(["a", "b", "c"], table).log_frequency().tolist() == [0, 0, 0]


@pytest.mark.parametrize("column", ["source", "target"])
def test_an_unknown_note_is_refused(notes: pa.Table, pairs: pa.Table, column: str):
    at = pairs.schema.get_field_index(column)
    strange = pairs.set_column(at, PAIRS.field(column), pa.array(["nowhere"] * len(pairs)))
    with pytest.raises(DataError, match="name the note 'nowhere', which is not in the notes table"):
        PairIndex.build(notes.column("note_id").to_pylist(), strange)


def test_no_pairs_are_refused(notes: pa.Table, pairs: pa.Table):
    with pytest.raises(DataError, match="no related pairs to train on"):
        PairIndex.build(notes.column("note_id").to_pylist(), pairs.slice(0, 0))


# ---------------------------------------------------------------- the stream


def test_every_pass_is_a_permutation(index: PairIndex):
    count = len(index.source)
    stream = PairStream(index, np.empty(0, dtype=np.int64), 2 * count + 7, seed=5)
    assert len(stream) == 2 * count + 7
    first = [stream.order[k] for k in range(count)]
    second = [stream.order[k] for k in range(count, 2 * count)]
    assert sorted(first) == sorted(second) == list(range(count))
    assert first != second
    assert first != sorted(first)
    for k in (0, 13, 2 * count + 6):
        item = stream.order[k]
        assert stream[k] == (k, index.source[item], index.target[item])


def test_the_order_is_the_seeds(index: PairIndex):
    none = np.empty(0, dtype=np.int64)
    one, two, other = (PairStream(index, none, 50, seed) for seed in (1, 1, 2))
    longer = PairStream(index, none, 300, 1)
    assert one.order.tolist() == two.order.tolist() == longer.order[:50].tolist()
    assert one.order.tolist() != other.order.tolist()


def test_single_notes():
    stream = PairStream(None, np.array([4, 8, 9]), 6, seed=0)
    items = [stream[k] for k in range(6)]
    assert sorted(row for _, row, _ in items[:3]) == sorted(row for _, row, _ in items[3:]) == [4, 8, 9]
    assert {target for _, _, target in items} == {-1}


# ---------------------------------------------------------------- the collator


def test_the_same_items_give_the_same_batch_whatever_stands_beside_them(tiny: NoteLLM, notes: pa.Table):
    """A process that holds a part of the batch draws what one process with all of it draws."""
    items = [(k, 3 + k, 20 + k) for k in range(12)]
    whole = collator(tiny, notes)(items)
    again = collator(tiny, notes)(items)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    part = collator(tiny, notes)(items[4:7])
    for i in range(3):
        for row, other in ((i, 4 + i), (3 + i, 16 + i)):
            length = int(part["attention_mask"][row].sum())
            for name in ("input_ids", "labels"):
                assert part[name][row, :length].tolist() == whole[name][other, :length].tolist()
            assert length == int(whole["attention_mask"][other].sum())
            assert part["position"][row] == whole["position"][other]
    other_seed = collator(tiny, notes, seed=1)(items)
    assert other_seed["input_ids"].shape != whole["input_ids"].shape or not torch.equal(
        other_seed["input_ids"], whole["input_ids"]
    )


def test_the_parts_of_a_batch(tiny: NoteLLM, notes: pa.Table):
    batch = collator(tiny, notes)([(0, 5, 8), (1, 0, 57), (2, 5, 11)])
    assert batch["note"].tolist() == [5, 0, 5, 8, 57, 11]
    assert batch["partner"].tolist() == [3, 4, 5, 0, 1, 2]
    text = batch["text"].tolist()
    assert text[1] == text[4]  # n0 and n57 have the same text
    assert text[0] == text[2]
    assert len(set(text)) == 4
    for ids, mask, labels, position in zip(
        batch["input_ids"], batch["attention_mask"], batch["labels"], batch["position"], strict=True
    ):
        length = int(mask.sum())
        assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
        assert set(labels[length:].tolist()) <= {IGNORED}
        wanted = labels != IGNORED
        assert torch.equal(labels[wanted], ids[wanted])
        if length > position + 1:
            assert ids[position + 1] == tiny.prompt.emb_id
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) > 1


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_share_of_topics(tiny: NoteLLM, notes: pa.Table, share: float):
    rows = [
        row
        for row in range(60)
        if notes.column("topics")[row].as_py() and notes.column("category")[row].as_py()
    ]
    items = [(k, rows[k % len(rows)], rows[(k + 1) % len(rows)]) for k in range(600)]
    batch = collator(tiny, notes, topic_share=share)(items)
    found = np.mean([is_topics(tiny, ids) for ids in batch["input_ids"]])
    assert found == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 1200) + 1e-9)
    assert (batch["labels"] != IGNORED).any(dim=1).all()


def test_topics_are_a_random_part_of_the_notes_own(tiny: NoteLLM, notes: pa.Table):
    row = next(row for row in range(60) if len(notes.column("topics")[row].as_py()) == 3)
    own = set(notes.column("topics")[row].as_py())
    batch = collator(tiny, notes, topic_share=1.0)([(k, row, row) for k in range(200)])
    drawn = []
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        output = str(tiny.tokenizer.decode(labels[labels != IGNORED][:-1]))
        topics = tiny.prompt.parse_topics(output)
        assert set(topics) <= own
        drawn.append(tuple(topics))
        assert tiny.prompt.eos_id == ids[labels != IGNORED][-1]
    sizes = [len(topics) for topics in drawn]
    assert {1, 2, 3} == set(sizes)
    assert all(100 < sizes.count(size) < 170 for size in (1, 2, 3))
    assert len({topics for topics in drawn if len(topics) == 3}) == 6  # in any order


def test_the_guidance_names_as_many_topics_as_follow(checkpoints, notes: pa.Table):
    from tests.conftest import fresh

    model = fresh("llama", checkpoints, notes)
    row = next(row for row in range(60) if len(notes.column("topics")[row].as_py()) == 3)
    batch = collator(model, notes, topic_share=1.0)([(k, row, row) for k in range(10)])
    seen = set()
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        text = str(model.tokenizer.decode(ids))
        wanted = len(model.prompt.parse_topics(str(model.tokenizer.decode(labels[labels != IGNORED][:-1]))))
        assert f"generate {wanted} topics" in text
        assert f"The {wanted} topics are:" in text
        seen.add(wanted)
    assert len(seen) > 1


def test_without_topics_a_note_does_its_category(tiny: NoteLLM, notes: pa.Table):
    row = next(row for row in range(1, 60) if not notes.column("topics")[row].as_py())
    batch = collator(tiny, notes, topic_share=1.0)([(0, row, row)])
    assert not is_topics(tiny, batch["input_ids"][0])


def test_single_notes_have_no_partner_and_always_something_to_learn(tiny: NoteLLM, notes: pa.Table):
    rows = [
        row
        for row in range(60)
        if notes.column("topics")[row].as_py() and not notes.column("category")[row].as_py()
    ]
    assert rows
    batch = collator(tiny, notes, topic_share=0.0)([(k, row, -1) for k, row in enumerate(rows)])
    assert batch["partner"].tolist() == [-1] * len(rows)
    assert batch["note"].tolist() == rows
    assert (batch["labels"] != IGNORED).any(dim=1).all()
