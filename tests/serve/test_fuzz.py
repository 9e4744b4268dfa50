"""Random requests drawn from the API's description: none fails, and all answers fit the description.

POST /v1/reload is left out: whether it answers 202 or 409 depends on the reload before it, and each reload
rebuilds the index, which takes as long as all other requests; test_api.py tests it.
"""

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from notellm.serve.app import create_app
from tests.serve.small import NOTES

#: What an answer must be. That pydantic reads "10" as 10 and 0 as a time is meant, so that a description is
#: stricter than what it describes is no fault.
MUST = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
CONFIG = SchemathesisConfig.from_dict({"seed": 1})


@pytest.fixture(scope="module")
def engine(places, tmp_path_factory):
    engine = places.copied(tmp_path_factory.mktemp("fuzz")).engine()
    yield engine
    engine.close()


@pytest.fixture
def operations(engine):
    """Operations of an application that only one test uses, since schemathesis ends it with the test."""
    app = create_app(engine, close=False)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=CONFIG)
    described = schema.exclude(path="/v1/reload").get_all_operations()
    return [found.ok() for found in described if isinstance(found, Ok)]


def sensible(case):
    """Return the case with existing notes and users and with a text, which random cases hardly ever have."""
    known = [f"n{i:07}" for i in range(1_000) if i < NOTES]
    if "note_id" in case.path_parameters:
        case.path_parameters["note_id"] = known[0] if case.method == "DELETE" else known[1]
    if "user_id" in case.path_parameters:
        case.path_parameters["user_id"] = "u0000003"
    if "note_id" in case.query:
        case.query["note_id"] = known[1]
    body = case.body if isinstance(case.body, dict) else {}
    for name in ("candidates", "history"):
        if body.get(name):
            body[name] = known[2 : 2 + len(body[name])]
    if body.get("user_id"):
        body["user_id"] = "u0000003"
    if case.path == "/v1/related" and body.get("note_id"):
        for name in ("title", "content", "topics"):
            body.pop(name, None)
        body["note_id"] = known[1]
    elif case.path in ("/v1/notes", "/v1/notes/{note_id}", "/v1/related", "/v1/tags"):
        for note in body.get("notes", [body] if body else []):
            note["title"] = note.get("title") or "a"
    return case


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["as described", "sensible", "against the description"])
def test_no_request_makes_it_fail(operations, kind):
    assert len(operations) > 15
    mode = GenerationMode.NEGATIVE if kind == "against the description" else GenerationMode.POSITIVE
    answered: Counter[int] = Counter()
    done: set[tuple[str, str]] = set()

    def check(case):
        answer = case.call_and_validate(checks=MUST)
        answered[answer.status_code] += 1
        if kind == "sensible" and answer.status_code == 200:
            done.add((case.method, case.path))

    for operation in operations:
        strategy = operation.as_strategy(generation_mode=mode)
        run = settings(
            max_examples=12 if mode is GenerationMode.NEGATIVE else 20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(given(case=strategy.map(sensible) if kind == "sensible" else strategy)(check))
        try:
            run()
        except Unsatisfiable:  # nothing can be against a description without parameters and body
            assert mode is GenerationMode.NEGATIVE
    # A body that holds too much is refused before it is read.
    assert set(answered) <= {200, 400, 404, 422} | ({413} if mode is GenerationMode.NEGATIVE else set())
    if kind == "sensible":
        assert done == {(operation.method.upper(), operation.path) for operation in operations}
