"""Small rankers of every architecture, and impressions whose label is the agreement of two codes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from notellm.data.schema import IMPRESSIONS
from notellm.rank.batch import NoteTexts, RankRows, impression_codes, questions
from notellm.rank.codes.codes import Codes
from notellm.rank.collaborative.rows import IdIndex
from notellm.rank.model import BinLLM
from notellm.rank.tiny import TinyRankOptions
from tests.conftest import Checkpoint

BITS = 16
USERS = [f"u{i}" for i in range(24)]
SIZE = TinyRankOptions(vocabulary=900, width=30, heads=4, head=32, intermediate=64)

#: The tokenizers of the small checkpoints know few words, so the answers are two that they do know.
TEMPLATE: dict[str, Any] = {
    "name": "small",
    "history_item": '"{title}"',
    "history_separator": ", ",
    "with_codes": {
        "shared": "my {history} {user_code} how",
        "candidate": ' "{title}" {content} {item_code} to:',
    },
    "text_only": {"shared": "my {history} how", "candidate": ' "{title}" {content} to:'},
    "codes_only": {"shared": "my {user_code} how", "candidate": " {item_code} to:"},
    "yes": " good",
    "no": " best",
}


def ranking_model(
    name: str, checkpoints: dict[str, Checkpoint], notes: pa.Table, folder: Path, **options
) -> BinLLM:
    """A new BinLLM with answers that differ; the same at every call."""
    torch.manual_seed(3)
    if name == "tiny":
        model = BinLLM.from_corpus(notes, bits=BITS, tiny=SIZE, **options)
        head = model.backbone.get_output_embeddings().weight
        head.data[model.prompt.yes_id] = 0.3 * torch.randn(head.shape[1])
        return model
    template = folder / "small.json"
    template.write_text(json.dumps(TEMPLATE))
    return BinLLM.from_pretrained(
        checkpoints[name].path, **{"template": str(template), "max_length": 500, **options}
    )


def random_codes(note_ids: list[str], *, unknown: str = "average", seed: int = 0, known: int = 20) -> Codes:
    """Random codes; of the users and of the notes only the first ``known`` have training rows."""
    draw = np.random.default_rng(seed)

    def bits(*shape: int) -> np.ndarray:
        return draw.random((*shape, BITS)) < 0.5

    return Codes(
        users=IdIndex(pa.chunked_array([pa.array(USERS)])),
        items=IdIndex(pa.chunked_array([pa.array(note_ids)])),
        user_codes=bits(len(USERS)),
        item_codes=bits(len(note_ids)),
        known_users=np.arange(len(USERS)) < known,
        known_items=np.arange(len(note_ids)) < known,
        maps={
            "average_user": bits(),
            "average_item": bits(),
            "weight": draw.standard_normal((BITS, BITS)).astype(np.float32),
            "offset": draw.standard_normal(BITS).astype(np.float32),
            "background": np.zeros(BITS, np.float32),
        },
        scale=1.0,
        unknown=unknown,  # type: ignore[arg-type]
        description={"options": {"collaborative": "mf"}},
    )


def agreeing(codes: Codes, count: int, seed: int = 0) -> pa.Table:
    """Impressions of known users and notes that are enjoyed where most bits of the two codes agree."""
    draw = np.random.default_rng(seed)
    ids = codes.items.ids.to_pylist()
    rows = []
    for number in range(count):
        user, note, *past = (USERS[draw.integers(20)], *(ids[i] for i in draw.integers(20, size=4)))
        score = codes.scores([user], [note])[0]
        rows.append(
            {
                "user_id": user,
                "note_id": note,
                "label": bool(score > 0),
                "timestamp": number,
                "history": past[: number % 4],
            }
        )
    return pa.Table.from_pylist(rows, schema=IMPRESSIONS)


def rows_of(model: BinLLM, notes: pa.Table, codes: Codes, count: int, seed: int) -> RankRows:
    """Prompts of agreeing impressions."""
    table = agreeing(codes, count, seed)
    asked = questions(model, NoteTexts(model, notes), table, impression_codes(table, codes))
    return RankRows(model.tokenize(asked), table["label"].to_numpy(zero_copy_only=False).astype(np.float32))


@dataclass(frozen=True)
class Case:
    """A model, the codes it writes and the notes."""

    model: BinLLM
    codes: Codes
    notes: pa.Table
