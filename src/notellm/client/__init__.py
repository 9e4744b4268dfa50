"""A typed Python client of the service (`notellm serve`).

    with Client("http://127.0.0.1:8000", key="...") as client:
        client.publish("n1", title="Cold brew at the camp site", topics=["camping"])
        for note in client.related("n1", k=5):
            print(note.score, note.note_id, note.title)

A busy service (status 429 or 503) says how long to wait; the client waits and repeats the request a few
times. Repeating a call does no harm. The only dependency is httpx2: pip install 'notellm[client]'.
"""

from notellm.client.answers import (
    FoundNote,
    LikelyTag,
    Ranked,
    Recommended,
    RecommendedNote,
    RelatedNote,
    WrittenTags,
)
from notellm.client.http import Client, ServiceError

__all__ = [
    "Client",
    "FoundNote",
    "LikelyTag",
    "Ranked",
    "Recommended",
    "RecommendedNote",
    "RelatedNote",
    "ServiceError",
    "WrittenTags",
]
