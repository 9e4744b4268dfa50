"""A typed Python client of the service (`notellm serve`).

    with Client("http://127.0.0.1:8000", key="...") as client:
        client.publish("n1", title="Cold brew at the camp site", topics=["camping"])
        for note in client.related("n1", k=5):
            print(note.score, note.note_id, note.title)

A busy service (status 429 or 503) says how long to wait; the client waits and repeats the request a few
times. Repeating a call does no harm. The only dependency is httpx2: pip install 'notellm[client]'.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

from notellm.errors import MissingDependencyError, NotellmError

try:
    import httpx2
except ImportError as _missing:
    raise MissingDependencyError("the client needs httpx2: pip install 'notellm[client]'") from _missing

_LONGEST_WAIT = 30.0


class ServiceError(NotellmError, RuntimeError):
    """The service refused a request, or could not be reached.

    Attributes:
        status: the HTTP status of the answer; 0 if there was no answer.
        code: what kind of error it is, such as "not_found"; "unreachable" if there was no answer.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class FoundNote:
    """A note that was found, and the score by which it was ordered."""

    note_id: str
    score: float
    title: str
    category: str


@dataclass(frozen=True)
class RelatedNote(FoundNote):
    """A related note; its score is the weighted mean of its cosine and of BM25 (None without words)."""

    cosine: float
    lexical: float | None


@dataclass(frozen=True)
class RecommendedNote(FoundNote):
    """A recommended note; only differences between scores mean something.

    Attributes:
        position: the place in the list, from 1.
        source: "recall" for a note near an opened one, "popular" or "fresh".
        reason: the id of that opened note; None without one, or if it is hidden, expired or removed.
    """

    position: int
    source: str
    reason: str | None


@dataclass(frozen=True)
class Recommended:
    """Recommended notes, best first, what they are based on, and the id of the list, which clicks name."""

    notes: list[RecommendedNote]
    basis: str
    request_id: str


@dataclass(frozen=True)
class Ranked:
    """Candidates, best first, their P(enjoy), and what is known about the user.

    Attributes:
        left_out: candidates that are hidden or expired and therefore not ranked.
    """

    note_ids: list[str]
    scores: list[float]
    basis: str
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LikelyTag:
    """A topic or a category that a text may have.

    Attributes:
        name: the name.
        probability: how likely a person would give it to the text; None if the model writes freely.
        neighbours: of a topic, ids and titles of visible notes that carry it, the nearest first.
    """

    name: str
    probability: float | None
    neighbours: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WrittenTags:
    """The category and the topics of a text.

    Attributes:
        category: the category; None if none is likely enough, or none is known or learnt.
        topics: the topics to publish, likeliest first.
        not_learnt: which of "category" and "topics" the model has not learnt.
        category_probability: the probability of the category; None without one.
        categories: the likeliest categories, likeliest first.
        topic_details: the topics with their probabilities and neighbours.
        more_topics: further topics, which are less likely.
        reasons: for each entry of ``not_learnt``, a sentence that says why.
    """

    category: str | None
    topics: list[str]
    not_learnt: list[str] = field(default_factory=list)
    category_probability: float | None = None
    categories: list[LikelyTag] = field(default_factory=list)
    topic_details: list[LikelyTag] = field(default_factory=list)
    more_topics: list[LikelyTag] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


class Client:
    """A connection to a service. Threads may share it.

    Args:
        url: the address of the service, such as "http://127.0.0.1:8000".
        key: the API key; None if the service needs none.
        timeout: seconds that one request may take.
        retries: how often a request is repeated if the service is busy or cannot be reached.
        transport: sends the requests; for tests.
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

    def __exit__(self, *_: object) -> None:
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
        """Publish or replace a note. When this returns, the note is durable and the next search finds it.

        Returns:
            Whether the note is new.

        Raises:
            ServiceError: if the service refuses or cannot be reached; every method raises it.
        """
        body: dict[str, Any] = {"title": title, "content": content, "topics": list(topics)}
        body |= {"category": category, "hidden": hidden}
        body |= {"published_at": _time(published_at), "expires_at": _time(expires_at)}
        return bool(self._ask("PUT", _path(note_id), body)["created"])

    def publish_many(self, notes: Sequence[Mapping[str, Any]]) -> int:
        """Publish up to 256 notes together, all or none, and return how many of them are new.

        Args:
            notes: mappings with ``note_id`` and the fields of :meth:`publish`.
        """
        rows = [{n: _time(v) for n, v in note.items()} for note in notes]
        return int(self._ask("POST", "/v1/notes", {"notes": rows})["created"])

    def change(self, note_id: str, **fields: Any) -> None:
        """Change some fields of a note, named as in :meth:`publish`; the others stay as they are."""
        self._ask("PATCH", _path(note_id), {name: _time(value) for name, value in fields.items()})

    def remove(self, *note_ids: str) -> int:
        """Remove notes, and return how many of them existed."""
        return int(self._ask("POST", "/v1/notes/remove", {"note_ids": list(note_ids)})["removed"])

    def note(self, note_id: str) -> dict[str, Any]:
        """Return a note with the fields of :meth:`publish`; times are strings."""
        return self._ask("GET", _path(note_id))

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
        lexical: float | None = None,
    ) -> list[RelatedNote]:
        """Return the notes related to a stored note, or to a text.

        Args:
            note_id: the id of a stored note; leave it out to ask with a text.
            title: the title of the text.
            content: the content of the text.
            topics: the topics of the text.
            k: how many notes to return.
            where: what the notes must fulfil: ``categories``, ``topics``, ``published_after``,
                ``published_before``, ``allow``, ``deny``.
            near_duplicates: leave out notes whose cosine to a better result is at least this.
            diversity: 0 to below 1; the higher, the more the notes differ from each other.
            lexical: share of words in the score, 0 (vectors only) to 1; None takes the model's.
        """
        body: dict[str, Any] = {"k": k, "near_duplicates": near_duplicates, "diversity": diversity}
        body["lexical"] = lexical
        if note_id is not None:
            body["note_id"] = note_id
        body |= {n: v for n, v in (("title", title), ("content", content), ("topics", list(topics))) if v}
        if where is not None:
            body["filter"] = {n: _time(v) for n, v in where.items()}
        answer = self._ask("POST", "/v1/related", body)
        return [RelatedNote(**_known(RelatedNote, note)) for note in answer["related"]]

    def tags(
        self,
        *,
        title: str = "",
        content: str = "",
        topics: Sequence[str] = (),
        n: int | None = None,
        least: float | None = None,
        note_id: str | None = None,
    ) -> WrittenTags:
        """Return the category and the topics of a text, with what speaks for them.

        Args:
            title: the title of the text.
            content: the content of the text.
            topics: the topics that the text already has, which are read for its category only.
            n: number of topics; None lets the probabilities decide.
            least: least probability of a category, and of topics if ``n`` is None; None for the default.
            note_id: the id of the text if it is a stored note, which then does not speak for itself.
        """
        body: dict[str, Any] = {"title": title, "content": content, "topics": list(topics)}
        body |= {name: v for name, v in (("n", n), ("least", least), ("note_id", note_id)) if v is not None}
        answer = _known(WrittenTags, self._ask("POST", "/v1/tags", body))
        names = "categories", "topic_details", "more_topics"
        return WrittenTags(**answer | {name: _likely(answer.get(name, [])) for name in names})

    def rank(
        self, candidates: Sequence[str], *, user_id: str | None = None, history: Sequence[str] | None = None
    ) -> Ranked:
        """Order candidates for a user, or for a history of liked notes, oldest first."""
        body = {"user_id": user_id, "history": _list(history), "candidates": list(candidates)}
        answer = self._ask("POST", "/v1/rank", body)
        rows = answer["ranked"]
        ids, scores = [row["note_id"] for row in rows], [row["score"] for row in rows]
        return Ranked(ids, scores, answer["basis"], answer.get("left_out", []))

    def recommend(
        self,
        user_id: str | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 20,
        exclude: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        per_note: int | None = None,
        rerank: bool = True,
    ) -> Recommended:
        """Recommend notes for a user, or for a history; popular and fresh notes without either.

        Args:
            user_id: the user.
            history: the notes that the user opened, oldest first; None takes what the service knows.
            k: how many notes to recommend.
            exclude: ids of notes that are not recommended.
            where: what the notes must fulfil, as in :meth:`related`.
            per_note: the most candidates that one opened note may bring, so that no topic fills the list.
            rerank: order the candidates by the ranker; False is recall alone, in the order of similarity.
        """
        body: dict[str, Any] = {"user_id": user_id, "history": _list(history), "k": k}
        body |= {"exclude": list(exclude), "per_note": per_note, "rerank": rerank}
        if where is not None:
            body["filter"] = {n: _time(v) for n, v in where.items()}
        answer = self._ask("POST", "/v1/recommend", body)
        rows = [{**row, "reason": (row["reason"] or {}).get("note_id")} for row in answer["recommended"]]
        notes = [RecommendedNote(**_known(RecommendedNote, row)) for row in rows]
        return Recommended(notes, answer["basis"], answer["request_id"])

    def click(self, clicks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Tell what users did, and return how many clicks were "written" and "repeated", and "unknown_notes".

        Args:
            clicks: each with ``user_id``, ``note_id`` and, if wanted, ``event``, ``time``, ``click_id`` and
                ``request_id``. One with a ``click_id`` or a ``time`` is kept once, however often it is sent.
        """
        rows = [{name: _time(value) for name, value in click.items()} for click in clicks]
        return self._ask("POST", "/v1/clicks", {"clicks": rows})

    def forget_user(self, user_id: str) -> dict[str, Any]:
        """Remove a user: how many "clicks" and recommended "lists", and whether still "in_ranker"."""
        return self._ask("DELETE", "/v1/users/" + quote(user_id, safe=""))

    def state(self) -> dict[str, Any]:
        """Return readiness, model, index and traffic, which the page shows."""
        return self._ask("GET", "/v1/state")

    def reload(self) -> None:
        """Let the service load its model and ranker again; :meth:`state` says when it has."""
        self._ask("POST", "/v1/reload", {})

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
                after = answer.headers.get("Retry-After", "1")  # a proxy may give a date
                time.sleep(min(float(after) if after.isdecimal() else 1.0, _LONGEST_WAIT))
                continue
            break
        try:
            if answer.is_success:
                return dict(answer.json())
            problem = answer.json()["error"]
            code, message = str(problem["code"]), str(problem["message"])
        except (ValueError, KeyError, TypeError):
            told = answer.text[:200] or "nothing"
            code, message = "http", f"status {answer.status_code}, and no answer of notellm: {told}"
        raise ServiceError(answer.status_code, code, message)


def _known(kind: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    # A newer service has more.
    return {each.name: row[each.name] for each in fields(kind) if each.name in row}


def _likely(tags: Sequence[Mapping[str, Any]]) -> list[LikelyTag]:
    return [
        LikelyTag(t["name"], t["probability"], {n["note_id"]: n["title"] for n in t.get("neighbours", ())})
        for t in tags
    ]


def _path(note_id: str) -> str:
    return "/v1/notes/" + quote(note_id, safe="")


def _time(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _list(ids: Sequence[str] | None) -> list[str] | None:
    return None if ids is None else list(ids)
