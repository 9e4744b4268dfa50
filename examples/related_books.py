"""Related notes for a catalogue of books, also for a book that nobody has borrowed yet.

    python examples/related_books.py

`books.csv` has columns for the id, the text and the topics, with names of its own. The loans are drawn by
chance: each reader likes two shelves that go together. Replace both by your own files.
"""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from notellm import Note, RecallOptions, mine_pairs, read_clicks, read_notes, train_recall, validate
from notellm.vectors import search

CATALOGUE = Path(__file__).with_name("books.csv")
#: Readers who like one of these shelves like the other one, too.
TOGETHER = [("sea", "nature"), ("crime", "ghosts"), ("love", "thought"), ("children", "future")]
#: Our name of each column, and the file's.
COLUMNS = {"note_id": "isbn", "content": "description", "topics": "tags"}
NEW_BOOK = Note(
    title="In the South Seas, by Robert Louis Stevenson",
    content="A writer sails a schooner from island to island and meets captains and kings.",
)


def write_loans(books: pa.Table, path: Path) -> None:
    """Draw the loans of 200 readers."""
    rng = np.random.default_rng(0)
    shelves = [topics[0] for topics in books["topics"].to_pylist()]
    lines = ["reader,book,date"]
    for reader in range(200):
        liked = TOGETHER[rng.integers(len(TOGETHER))]
        known = [row for row, shelf in enumerate(shelves) if shelf in liked]
        loans = [*rng.choice(known, 6, replace=False), *rng.choice(len(shelves), 1)]
        for number, row in enumerate(rng.permutation(loans)):
            date = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=int(rng.integers(300)), hours=number)
            lines.append(f"r{reader},{books['note_id'][int(row)]},{date.isoformat()}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Read, mine, train, and look at neighbours."""
    books = read_notes(CATALOGUE, columns=COLUMNS).table
    with tempfile.TemporaryDirectory() as folder:
        write_loans(books, Path(folder) / "loans.csv")
        names = {"user_id": "reader", "note_id": "book", "timestamp": "date"}
        loans = read_clicks(Path(folder) / "loans.csv", columns=names).table
        books, loans, problems = validate(books, loans)
        print(problems)
        pairs = mine_pairs(loans, progress=False)
        options = RecallOptions(max_steps=15, batch_pairs=32)
        output = Path(folder) / "model"
        model = train_recall(books, pairs, output, clicks=loans, options=options, progress=False)
    vectors = model.encode(books)
    titles = books["title"].to_pylist()
    shown = [titles.index(title) for title in titles if title.startswith(("Moby-Dick", "Dracula"))]
    queries = np.concatenate([vectors[shown], model.encode([NEW_BOOK])])
    rows, cosines = search(vectors, queries, 5)
    asked = [*(titles[row] for row in shown), f"{NEW_BOOK.title} (nobody has borrowed it)"]
    for title, near, scores in zip(asked, rows, cosines, strict=True):
        print(f"\n{title}")
        for row, score in zip(near, scores, strict=True):
            if titles[row] != title:
                print(f"  {score:.2f}  {titles[row]}")


if __name__ == "__main__":
    main()
