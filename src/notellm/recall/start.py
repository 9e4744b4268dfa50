"""Start the projection of a new model on a pretrained backbone; what the starts are says ``projection.py``.

model = NoteLLM.from_pretrained("owner/name")
start_projection(model, notes, "ridge", clicks=clicks)
"""

from typing import get_args

import pyarrow as pa
import torch

from notellm.data.note import notes_from_table
from notellm.errors import ConfigError, DataError
from notellm.recall.config import Projection
from notellm.recall.model import NoteLLM
from notellm.recall.projection import (
    LEAST_CLICKED,
    WHITENING,
    co_click_vectors,
    common_readers,
    drawn_rows,
    principal_components,
    ridge,
    write_start,
)


def start_projection(
    model: NoteLLM,
    notes: pa.Table,
    kind: Projection | None = None,
    *,
    clicks: pa.Table | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Projection:
    """Set the projection of a model to a start that is computed from notes.

    It depends on the backbone, the notes, the clicks (ridge alone) and the seed. The hidden states of at most
    ``projection.MOST_NOTES`` drawn notes are computed once.

    Args:
        model: the model; its projection is replaced, except by "random".
        notes: notes table.
        kind: "components", "ridge", or "random", which leaves the projection as it is; None takes ridge if
            there are clicks enough, else components.
        clicks: clicks table on the notes.
        seed: seed of the draw of notes, of the decomposition and of the notes that are held out.
        progress: show a progress bar.

    Returns:
        The kind.

    Raises:
        ConfigError: if there is no such kind.
        DataError: if ridge has no clicks, or too few notes have a reader in common with another note.
        ModelError: if a hidden state is not finite.
    """
    if kind is not None and kind not in get_args(Projection):
        raise ConfigError(f"projection is {kind!r}; it must be one of {', '.join(get_args(Projection))}")
    if kind == "random":
        return kind
    torch.manual_seed(seed)  # for dimensions beyond those of the start
    if kind != "components" and clicks is not None:
        rows, clicked = common_readers(notes["note_id"], clicks)
        if len(rows) >= LEAST_CLICKED:
            drawn = drawn_rows(len(rows), seed)
            targets = co_click_vectors(clicked[drawn], model.settings.dim, seed)
            states = model.prompt_states(_texts(model, notes.take(rows[drawn])), progress=progress)
            start, _ = ridge(states, torch.from_numpy(targets), seed)
            write_start(model.projection, start)
            return "ridge"
        if kind == "ridge":
            raise DataError(
                f"the projection ridge learns from users who clicked several notes, but only {len(rows)} of "
                f"{notes.num_rows} notes have such a user; it needs {LEAST_CLICKED} notes or more: give more "
                "clicks, or choose the projection components"
            )
    if kind == "ridge":
        raise DataError(
            "the projection ridge is fitted to clicks, and there are none; give clicks on the notes, or "
            "choose the projection components"
        )
    texts = _texts(model, notes.take(drawn_rows(notes.num_rows, seed)))
    if len(set(texts)) > 1:  # a single text has no principal components: the projection stays random
        states = model.prompt_states(texts, progress=progress)
        start = principal_components(states, model.settings.dim, whitening=WHITENING)
        write_start(model.projection, start)
    return "components"


def _texts(model: NoteLLM, notes: pa.Table) -> list[str]:
    return model.prompts(notes_from_table(notes))
