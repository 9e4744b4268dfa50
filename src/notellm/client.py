"""A client of the service (`notellm serve`), typed, for Python.

    with Client("http://127.0.0.1:8000", key="...") as client:
        client.publish("n1", title="Cold brew at the camp site", topics=["camping"])
        for note in client.related("n1", k=5):
            print(note.score, note.note_id, note.title)

A service that is busy (429, 503) says how long to wait: the client waits, and asks again a few times. Every
call may be repeated without harm. It needs httpx2 alone: pip install 'notellm[client]'.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from notellm.errors import MissingDependencyError, NotellmError

try:
    import httpx2
except ImportError as _missing:
    raise MissingDependencyError("the client needs httpx2: pip install 'notellm[client]'") from _missing

_LONGEST_WAIT = 30.0


class ServiceError(NotellmError, RuntimeError):
    """The service refused, or could not be reached.

    Attributes:
        status: of the answer, 0 where there was none.
        code: what kind of error it is, such as "not_found"; "unreachable" where there was no answer.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class FoundNote:
    """A related note, and its cosine to what was asked about."""

    note_id: str
    score: float
    title: str
    category: str


@dataclass(frozen=True)
class RecommendedNote(FoundNote):
    """A recommended note; of its scores only differences mean something.

    Attributes:
        reason: id of the opened note that led to it; None for a popular note, and where that note is hidden,
            expired or removed.
    """

    reason: str | None


@dataclass(frozen=True)
class Recommended:
    """Recommended notes, best first, and what the answer rests on."""

    notes: list[RecommendedNote]
    basis: str


@dataclass(frozen=True)
class Ranked:
    """Candidates, best first, their P(enjoy), and what is known of the user.

    Attributes:
        left_out: candidates that are hidden or expired, and so not ranked.
    """

    note_ids: list[str]
    scores: list[float]
    basis: str
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class WrittenTags:
    """Category and topics that the model writes; no category where it knows none."""

    category: str | None
    topics: list[str]


class Client:
    """A connection to a service; threads may share it.

    Args:
        url: where it is, such as "http://127.0.0.1:8000".
        key: the API key, None where the service asks for none.
        timeout: seconds of a request.
        retries: how often a busy or unreachable service is asked again.
        transport: how requests are sent, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    # ---------------------------------------------------------------- notes

    def publish(
        self,
        note_id: str,
        *,
        title: str = "",
        content: str = "",
        topics: Sequence[str] = (),
        category: str = "",
        published_at: datetime | None = None,
        hidden: bool = False,
        expires_at: datetime | None = None,
    ) -> bool:
        """Publish a note, or replace it. When this returns it is durable, and the next search finds it.

        Returns:
            Whether it is new.

        Raises:
            ServiceError: as every method.
        """
        body = {
            "title": title,
            "content": content,
            "topics": list(topics),
            "category": category,
            "published_at": _time(published_at),
            "hidden": hidden,
            "expires_at": _time(expires_at),
        }
        return bool(self._ask("PUT", _at(note_id), body)["created"])

    def publish_many(self, notes: Sequence[Mapping[str, Any]]) -> int:
        """Publish up to 256 notes together, or none: mappings of ``note_id`` and what :meth:`publish` takes.

        Returns:
            How many are new.
        """
        rows = [{n: _time(v) for n, v in note.items()} for note in notes]
        return int(self._ask("POST", "/v1/notes", {"notes": rows})["created"])

    def change(self, note_id: str, **fields: Any) -> None:
        """Change fields of a note, named as in :meth:`publish`; the others stay."""
        given = {name: _time(value) for name, value in fields.items()}
        self._ask("PATCH", _at(note_id), given)

    def remove(self, *note_ids: str) -> int:
        """Remove notes; ids that are not there are passed over.

        Returns:
            How many were there.
        """
        return int(self._ask("POST", "/v1/notes/remove", {"note_ids": list(note_ids)})["removed"])

    def note(self, note_id: str) -> dict[str, Any]:
        """A note, with the fields of :meth:`publish`; times are texts."""
        return self._ask("GET", _at(note_id))

    # ---------------------------------------------------------------- recall and rank

    def related(
        self,
        note_id: str | None = None,
        *,
        title: str = "",
        content: str = "",
        topics: Sequence[str] = (),
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        near_duplicates: float | None = None,
        diversity: float = 0.0,
    ) -> list[FoundNote]:
        """Notes related to a known one, or to a text.

        Args:
            note_id: of a known note; or
            title: of a text that need not be a note,
            content: its content,
            topics: its topics.
            k: how many.
            where: what they must fulfil: ``categories``, ``topics``, ``published_after``,
                ``published_before``, ``allow``, ``deny``.
            near_duplicates: leave out notes whose cosine to one shown is at least this.
            diversity: 0 to below 1; the higher, the more the notes differ from each other.
        """
        body: dict[str, Any] = {"k": k, "near_duplicates": near_duplicates, "diversity": diversity}
        if note_id is not None:
            body["note_id"] = note_id
        body |= {n: v for n, v in (("title", title), ("content", content), ("topics", list(topics))) if v}
        if where is not None:
            body["filter"] = {n: _time(v) for n, v in where.items()}
        found = self._ask("POST", "/v1/related", body)["related"]
        return [FoundNote(**note) for note in found]

    def tags(self, *, title: str = "", content: str = "", n: int | None = None) -> WrittenTags:
        """The category and topics that the model writes of a text; n topics at most."""
        return WrittenTags(**self._ask("POST", "/v1/tags", {"title": title, "content": content, "n": n}))

    def rank(
        self, candidates: Sequence[str], *, user_id: str | None = None, history: Sequence[str] | None = None
    ) -> Ranked:
        """Order candidates for a user, or for a history of liked notes, oldest first."""
        body = {"user_id": user_id, "history": _list(history), "candidates": list(candidates)}
        found = self._ask("POST", "/v1/rank", body)
        rows = found["ranked"]
        ids, scores = [row["note_id"] for row in rows], [row["score"] for row in rows]
        return Ranked(ids, scores, found["basis"], found.get("left_out", []))

    def recommend(
        self,
        user_id: str | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 20,
        exclude: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        rerank: bool = True,
    ) -> Recommended:
        """Notes for a user, or for a history of opened notes, oldest first; for neither, popular notes."""
        body: dict[str, Any] = {"user_id": user_id, "history": _list(history), "k": k}
        body |= {"exclude": list(exclude), "rerank": rerank}
        if where is not None:
            body["filter"] = {n: _time(v) for n, v in where.items()}
        found = self._ask("POST", "/v1/recommend", body)
        notes = [
            RecommendedNote(**{**row, "reason": None if row["reason"] is None else row["reason"]["note_id"]})
            for row in found["recommended"]
        ]
        return Recommended(notes, found["basis"])

    def state(self) -> dict[str, Any]:
        """Model, index and traffic, as the page shows them."""
        return self._ask("GET", "/v1/state")

    # ---------------------------------------------------------------- asking

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        for left in range(self._retries, -1, -1):
            try:
                answer = self._http.request(method, path, json=body)
            except httpx2.TransportError as error:
                if not left:
                    where = self._http.base_url
                    raise ServiceError(0, "unreachable", f"no answer from {where}: {error}") from error
                time.sleep(0.5 * 2 ** (self._retries - left))
                continue
            if answer.status_code in (429, 503) and left:
                time.sleep(min(float(answer.headers.get("Retry-After", 1)), _LONGEST_WAIT))
                continue
            if answer.is_success:
                found: dict[str, Any] = answer.json()
                return found
            break
        try:
            said = answer.json()["error"]
            code, message = str(said["code"]), str(said["message"])
        except (ValueError, KeyError, TypeError):
            code, message = "http", answer.text[:200] or f"status {answer.status_code}"
        raise ServiceError(answer.status_code, code, message)


def _at(note_id: str) -> str:
    return "/v1/notes/" + quote(note_id, safe="")


def _time(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _list(ids: Sequence[str] | None) -> list[str] | None:
    return None if ids is None else list(ids)
