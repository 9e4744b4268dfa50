"""The alert rules and the dashboard in deploy/ parse, and name metrics that a service has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.serve.small import served

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BRACKETS = {")": "(", "]": "[", "}": "{"}


@pytest.fixture(scope="module")
def metrics(places, tmp_path_factory):
    """The metrics of a service by name, with the names of their labels, after a request of every kind."""
    with served(places.copied(tmp_path_factory.mktemp("deploy")).engine()) as http:
        first = http.post("/v1/recommend", json={"user_id": "u", "k": 3}).json()
        click = {
            "user_id": "u",
            "note_id": first["recommended"][0]["note_id"],
            "request_id": first["request_id"],
        }
        http.post("/v1/clicks", json={"clicks": [click]})
        http.get("/v1/notes/none-of-this-id")
        http.post("/v1/related", json=[])
        text = http.get("/metrics").text
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(notellm_\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    for name in re.findall(r"^# TYPE (notellm_\w+) ", text, re.MULTILINE):
        found.setdefault(name, set())
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "notellm-alerts.yml").read_text(encoding="utf-8"))[
        "groups"
    ]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    board = json.loads((DEPLOY / "grafana" / "notellm.json").read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [
        each["expr"] for panel in panels() for each in panel["targets"]
    ]


#: Labels that Prometheus itself adds, and those of a histogram's buckets.
ADDED = {"job", "instance", "le"}
#: Metrics that are there only after a model directory got a decision, or that have samples only later.
BESIDE = {"notellm_renewal_decided_timestamp_seconds", "notellm_renewal_took_over", "notellm_refused_total"}


def test_every_metric_exists_with_the_labels_that_are_asked_for(metrics):
    assert len(expressions()) > 30
    for text in expressions():
        names = re.findall(r"\bnotellm_\w+", text)
        assert names or text.startswith("up{"), text
        assert not [name for name in names if name not in metrics], text
        labels = {
            label
            for inner in re.findall(r"\{(.*?)\}", text)
            for label in re.findall(r"(\w+)\s*(?:=~|!=|=)", inner)
        }
        for inner in re.findall(r"\bby \((.*?)\)", text):
            labels |= {label.strip() for label in inner.split(",")}
        if not set(names) & BESIDE:
            there = ADDED.union(*(metrics[name] for name in names))
            assert labels <= there, (text, labels - there)


def test_expressions_are_whole():
    for text in expressions():
        bare = re.sub(r'"[^"]*"', "", text)
        stack = []
        for letter in bare:
            if letter in BRACKETS.values():
                stack.append(letter)
            elif letter in BRACKETS:
                assert stack.pop() == BRACKETS[letter], text
        assert not stack, text


def test_alerts_have_distinct_names_and_say_what_is_wrong_and_how_bad_it_is():
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) >= 11
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}


def test_the_dashboard_s_panels_say_what_they_show_and_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_the_document_names_every_alert_s_metric_and_both_files():
    text = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    for file in ("deploy/prometheus/notellm-alerts.yml", "deploy/grafana/notellm.json"):
        assert file in text
    for name in (
        "notellm_unseen_notes",
        "notellm_unknown_users",
        "notellm_recall_samples_total",
        "notellm_model_written_timestamp_seconds",
        "notellm_renewal_took_over",
    ):
        assert f"`{name}`" in text
