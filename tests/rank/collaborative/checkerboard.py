"""Impressions whose right answer is known: users like the notes of their own colour, and no others."""

import numpy as np
import pyarrow as pa

USERS = [f"u{n}" for n in range(16)]
NOTES = [f"n{n}" for n in range(20)]


def checkerboard(seed=0):
    """Train, valid and test: 65 %, 20 % and 15 % of the cells of a board of 16 users and 20 notes.

    A history holds the liked notes of the train rows before; those of valid and test hold all of them.
    """
    draw = np.random.default_rng(seed)
    liked: dict[int, list[str]] = {user: [] for user in range(len(USERS))}
    rows: dict[str, list[tuple[str, str, bool, list[str]]]] = {"train": [], "valid": [], "test": []}
    cells = draw.permutation(len(USERS) * len(NOTES))
    bounds = [int(0.65 * len(cells)), int(0.85 * len(cells))]
    for part, chosen in zip(rows, np.split(cells, bounds), strict=True):
        for cell in chosen.tolist():
            user, note = divmod(cell, len(NOTES))
            label = (user + note) % 2 == 0
            rows[part].append((USERS[user], NOTES[note], label, list(liked[user])))
            if label and part == "train":
                liked[user].append(NOTES[note])
    return tuple(impressions(part) for part in rows.values())


def impressions(rows):
    """A table of (user, note, label, history)."""
    users, notes, labels, histories = zip(*rows, strict=True)
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "note_id": pa.array(notes, pa.string()),
            "label": pa.array(labels, pa.bool_()),
            "history": pa.array(histories, pa.list_(pa.string())),
        }
    )
