"""Hashtags and a category for Chinese captions, with the similar notes that speak for each.

    python examples/chinese_hashtags.py
    python examples/chinese_hashtags.py --notes captions.csv    # your own: note_id, content, topics, category

Without a file it takes the Chinese notes of the sample world. Training needs no clicks: the model learns what
to write from the topics and the categories of the notes.
"""

import argparse
import tempfile
from pathlib import Path

from notellm import Note, RecallOptions, read_notes, sample_world, train_recall, validate
from notellm.data.schema import CLICKS

CAPTIONS = (
    "周末第一次去露营，帐篷搭了半天，晚上一起看篝火",
    "新手烤面包：揉面和发酵到底要多久？",
    "健身房深蹲和硬拉的一个月心得",
)


def main() -> None:
    """Train, and tag captions that the model has not seen."""
    parser = argparse.ArgumentParser(description="Hashtags for Chinese captions.")
    parser.add_argument("--notes", type=Path, help="a file of notes; else those of the sample world")
    parser.add_argument("--steps", type=int, default=60, help="steps of the training")
    chosen = parser.parse_args()
    if chosen.notes is None:
        notes = sample_world(notes=1_500, users=100, clicks=0, bots=0, chinese=1.0).notes
    else:
        read = read_notes(chosen.notes, hashtags=True).table  # hashtags in the text become topics
        notes, _, problems = validate(read, CLICKS.empty_table())
        print(problems)
    with tempfile.TemporaryDirectory() as folder:
        options = RecallOptions(max_steps=chosen.steps, batch_pairs=32)
        model = train_recall(notes, None, Path(folder) / "model", options=options, progress=False)
    contents = dict(zip(notes["note_id"].to_pylist(), notes["title"].to_pylist(), strict=True))
    for caption, tags in zip(CAPTIONS, model.tag([Note(content=each) for each in CAPTIONS]), strict=True):
        print(f"\n{caption}")
        if tags.category is not None:
            print(f"  {tags.category.name} ({tags.category.probability:.0%})")
        for topic in tags.topics:
            because = "；".join(contents[note_id] for note_id in topic.neighbours)
            print(f"  #{topic.name} ({topic.probability:.0%})  {because}")


if __name__ == "__main__":
    main()
