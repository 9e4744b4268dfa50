"""The web page in a headless Chromium with a real service; skipped if Chromium is not installed.

SCREENSHOTS=folder in the environment keeps screenshots.
"""

import os
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from notellm.engine.renewals import Renewals
from notellm.evaluate.bootstrap import Interval
from notellm.renew.comparison import Figures
from notellm.renew.decision import Decision
from notellm.renew.work import WorkFolder
from tests.serve.small import served

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install it, or name it in CHROMIUM"
)

expect = pytest.importorskip("playwright.sync_api").expect
SECONDS = 30_000
QUARTER, HALF = ({"NDCG@20": Interval(share, share, share)} for share in (0.25, 0.5))
FIGURES = Figures(QUARTER, HALF, QUARTER)
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 375, "height": 740}


@pytest.fixture(scope="module")
def engine(places, tmp_path_factory):
    """An engine with its own store, which the service closes."""
    return places.copied(tmp_path_factory.mktemp("browser")).engine()


@pytest.fixture(scope="module")
def address(engine):
    """The address of a running service of this engine."""
    with served(engine) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """A page in English, light theme. Script errors and violations of the content policy fail the test."""
    context = browser.new_context(viewport=WIDE, locale="en-GB", color_scheme="light")
    opened = context.new_page()
    problems = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "console",
        # The page asks whether an id is taken; "no" is a 404.
        lambda said: (
            problems.append(said.text) if said.type == "error" and " 404 " not in said.text else None
        ),
    )
    opened.on(
        "request",
        lambda asked: None if asked.url.startswith(address) else problems.append(f"asked {asked.url}"),
    )
    opened.set_default_timeout(SECONDS)
    opened.goto(address)
    yield opened
    context.close()
    assert not problems


def shoot(page, name):
    """Save a screenshot if SCREENSHOTS is set."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def overflows(page):
    """Return whether the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def test_search_a_note_and_go_to_a_related_one(page):
    page.locator("#search").fill("a")
    first = page.locator("#search-results [data-note-id]").first
    first.wait_for()
    chosen = first.get_attribute("data-note-id")
    first.locator("a, button").first.click()
    expect(page.locator("#related [data-note-id]")).to_have_count(10, timeout=SECONDS)
    shown = [item.get_attribute("data-note-id") for item in page.locator("#related [data-note-id]").all()]
    assert chosen not in shown
    shoot(page, "note")
    page.locator("#related [data-note-id]").first.locator("a, button").first.click()
    expect(page).to_have_url(re.compile(re.escape(shown[0])), timeout=SECONDS)
    page.go_back()
    expect(page).to_have_url(re.compile(re.escape(chosen)), timeout=SECONDS)


def test_write_a_note_see_tags_and_related_publish_it_and_find_it_among_the_related(page, address):
    page.goto(f"{address}/#/write")
    # Words of a note that is there already, so that the new one has a near neighbour.
    source = page.request.get(f"{address}/v1/notes?limit=1").json()["notes"][0]
    page.locator("#write-title").fill(source["title"])
    page.locator("#write-content").fill(source["content"])
    expect(page.locator("#related [data-note-id]").first).to_be_visible(timeout=SECONDS)
    expect(page.locator("#tags-category")).not_to_be_empty(timeout=SECONDS)
    expect(page.locator("#tags-topics")).to_be_visible(timeout=SECONDS)
    shoot(page, "write")
    page.locator("details:has(#write-id) summary").click()
    page.locator("#write-id").fill("from/the page?")
    page.locator("#publish").click()
    expect(page).to_have_url(re.compile(r"#/notes/from"), timeout=SECONDS)
    expect(page.locator("#related [data-note-id]")).to_have_count(10, timeout=SECONDS)
    shoot(page, "published")
    page.goto(f"{address}/#/notes/{source['note_id']}")
    found = page.locator('#related [data-note-id="from/the page?"]')
    expect(found).to_be_visible(timeout=SECONDS)
    # Out of sight, and gone.
    page.goto(f"{address}/#/notes/from%2Fthe%20page%3F")
    page.locator("#note-hide").click()
    expect(page.locator("#note .badge")).to_be_visible(timeout=SECONDS)
    page.goto(f"{address}/#/notes/{source['note_id']}")
    expect(page.locator("#related [data-note-id]")).to_have_count(10, timeout=SECONDS)
    expect(found).to_have_count(0, timeout=SECONDS)


def write_about_a_stored_note(page, address):
    """Write a draft whose words a stored note has, and wait for its tags; return that note."""
    notes = page.request.get(f"{address}/v1/notes?limit=100").json()["notes"]
    ids = [note["note_id"] for note in notes if note["note_id"].startswith("n0")]
    full = [page.request.get(f"{address}/v1/notes/{note_id}").json() for note_id in ids[:20]]
    source = next(note for note in full if len(note["topics"]) >= 2)
    page.goto(f"{address}/#/write")
    page.locator("#write-title").fill(source["title"])
    page.locator("#write-content").fill(source["content"])
    expect(page.locator("#tags-topics .chip").first).to_be_visible(timeout=SECONDS)
    expect(page.locator("#tags-more .chip").first).to_be_visible(timeout=SECONDS)
    return source


def names(page, place):
    return page.locator(f"{place} .chip .name").all_inner_texts()


def published(page, address, note_id):
    page.locator("details:has(#write-id) summary").click()
    page.locator("#write-id").fill(note_id)
    page.locator("#publish").click()
    expect(page).to_have_url(re.compile(f"#/notes/{note_id}"), timeout=SECONDS)
    return page.request.get(f"{address}/v1/notes/{note_id}").json()


def test_what_is_accepted_of_the_tags_is_published(page, address):
    write_about_a_stored_note(page, address)
    suggested, further = names(page, "#tags-topics"), names(page, "#tags-more")
    assert not set(suggested) & set(further)
    for share in page.locator("#tags .chip .share").all_inner_texts():
        assert re.fullmatch(r"(< )?\d{1,3}%", share)
    page.locator(f"#tags-more .chip:has-text('{further[0]}') button").first.click()
    expect(page.locator("#tags-said")).to_have_text(f"The topic {further[0]} was added.")
    page.locator("#tags-topics .chip button").first.click()
    expect(page.locator("#tags-said")).to_have_text(f"The topic {suggested[0]} was removed.")
    wanted = [*suggested[1:], further[0]]
    assert names(page, "#tags-topics") == wanted
    assert suggested[0] in names(page, "#tags-more")  # it can be added again
    choice = page.locator("#category-choice")
    assert choice.locator("option").count() > 2
    other = choice.locator("option").nth(1).get_attribute("value")
    choice.select_option(other)
    shoot(page, "tags-chosen")
    # What was decided stays while the text changes.
    with page.expect_response("**/v1/tags"):
        page.locator("#write-content").press_sequentially(" more")
    expect(choice).to_have_value(other)
    assert further[0] in names(page, "#tags-topics")
    assert suggested[0] not in names(page, "#tags-topics")
    wanted = names(page, "#tags-topics")
    note = published(page, address, "chosen-tags")
    assert (note["topics"], note["category"]) == (wanted, other)
    page.goto(f"{address}/#/write")  # the next draft starts afresh
    assert page.locator("#tags .chip").count() == 0


def test_no_category_and_no_topics_can_be_chosen(page, address):
    write_about_a_stored_note(page, address)
    page.locator("#category-choice").select_option(label="none of them")
    while page.locator("#tags-topics .chip button").count():
        page.locator("#tags-topics .chip button").first.click()
    expect(page.locator("#tags-topics")).to_have_text("No topic is likely enough.")
    note = published(page, address, "no-tags")
    assert (note["topics"], note["category"]) == ([], "")


def test_neighbours_are_shown_to_the_pointer_and_to_the_keyboard(page, address):
    source = write_about_a_stored_note(page, address)
    chip = page.locator("#tags .chip", has_text=source["topics"][0]).first
    tip = chip.locator("[role=tooltip]")
    expect(tip).to_be_hidden()
    chip.hover()
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("Similar notes with this topic:")
    expect(tip).to_contain_text(source["title"][:20])
    tip.hover()  # the pointer can move onto it
    expect(tip).to_be_visible()
    shoot(page, "tags-neighbours")
    page.mouse.move(1, 1)
    expect(tip).to_be_hidden()
    button = chip.locator("button")
    assert button.get_attribute("aria-describedby") == tip.get_attribute("id")
    page.locator("#category-choice").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if button.evaluate("node => node === document.activeElement"):
            break
    expect(tip).to_be_visible()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    # The keyboard stays among the chips when one is removed or added.
    before = names(page, "#tags-topics") + names(page, "#tags-more")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('#tags .chip') !== null")
    assert sorted(names(page, "#tags-topics") + names(page, "#tags-more")) == sorted(before)


def test_tags_that_are_not_learnt_say_why(page, address):
    reasons = {"category": "this model has not learnt to write categories: ...", "topics": "..."}
    empty: dict[str, Any] = {"category": None, "category_probability": None, "categories": [], "topics": []}
    empty |= {
        "topic_details": [],
        "more_topics": [],
        "not_learnt": ["category", "topics"],
        "reasons": reasons,
    }
    page.route("**/v1/tags", lambda route: route.fulfill(json=empty))
    page.goto(f"{address}/#/write")
    page.locator("#write-title").fill("something")
    expect(page.locator("#tags-category")).to_contain_text("has not learnt categories", timeout=SECONDS)
    expect(page.locator("#tags-topics")).to_contain_text("has not learnt topics")
    expect(page.locator("#tags-more")).to_be_hidden()
    page.locator("#language").click()
    expect(page.locator("#tags-topics")).to_contain_text("没有学过话题")


def test_tags_fit_a_narrow_screen_in_the_dark(page, address):
    page.set_viewport_size({"width": 320, "height": 640})
    page.locator("#theme").click()
    write_about_a_stored_note(page, address)
    page.locator("#tags-topics .chip button").last.focus()
    expect(page.locator("#tags-topics .chip").last.locator("[role=tooltip]")).to_be_visible()
    assert not overflows(page)
    shoot(page, "tags-narrow-dark")
    page.set_viewport_size(WIDE)
    shoot(page, "tags-dark")


def test_a_title_with_markup_is_shown_as_text(page, address):
    title = "<img src=x onerror=document.title='broken'> <script>document.title='broken'</script> soup"
    page.request.put(f"{address}/v1/notes/markup", data={"title": title})
    page.goto(f"{address}/#/notes/markup")
    expect(page.locator("#note-heading")).to_have_text(title, timeout=SECONDS)
    assert "broken" not in page.title().split(" ")[0]
    assert page.locator("#note-heading img, #note-heading script").count() == 0


def test_recommendations_have_reasons(page, address):
    user = page.request.get(f"{address}/v1/users?limit=1").json()["users"][0]["user_id"]
    page.locator("#tab-users").click()
    page.locator("#users-search").fill(user)
    page.locator("#users-results a, #users-results button").first.click()
    items = page.locator("#recommendations [data-note-id]")
    items.first.wait_for()
    assert items.count() >= 5
    expect(page.locator("#recommendations")).to_contain_text(re.compile("because of|popular", re.IGNORECASE))
    expect(page.locator("#recent [data-note-id]").first).to_be_visible()
    shoot(page, "users")


def test_map_and_state(page):
    page.locator("#tab-map").click()
    page.locator("#map-legend button, #map-legend input").first.wait_for()
    assert page.locator("#map-canvas").bounding_box()["width"] > 300
    shoot(page, "map")
    page.locator("#tab-state").click()
    expect(page.locator("#state")).to_contain_text(re.compile("exact", re.IGNORECASE), timeout=SECONDS)
    expect(page.locator("#state")).to_contain_text(re.compile(r"[0-9a-f]{16}"))
    shoot(page, "state")


def test_the_state_says_which_recommendations_were_opened(page, address):
    card = page.locator("#state-click-through")
    found = page.request.post(f"{address}/v1/recommend", data={"user_id": "opens", "k": 12}).json()
    note = found["recommended"][1]["note_id"]
    click = {"user_id": "opens", "note_id": note, "request_id": found["request_id"]}
    page.request.post(f"{address}/v1/clicks", data={"clicks": [click]})
    page.locator("#tab-state").click()
    sources = card.get_by_role("table").first
    expect(sources.get_by_role("columnheader")).to_have_text(["Source", "Shown", "Opened", "Share"])
    # Notes that other tests of this service have published are fresh.
    popular = sum(each["source"] == "popular" for each in found["recommended"])
    row = sources.get_by_role("row", name=re.compile(f"^Popular {popular} 1 "))
    expect(row).to_be_visible(timeout=SECONDS)
    positions = card.get_by_role("table").nth(1)
    expect(positions.get_by_role("row", name=re.compile("^2 1 1 100"))).to_be_visible()
    expect(positions.get_by_role("row", name=re.compile("^11 and later 2 0 0"))).to_be_visible()
    days = card.get_by_role("table").last
    expect(days.get_by_role("row", name=re.compile(r"^\w+ \d+ 12 1 8.3"))).to_be_visible()
    shoot(page, "click-through")
    page.goto(f"{address}/#/users/opens")  # what the page shows of a user is recommended to nobody
    page.locator("#recommendations [data-note-id]").first.wait_for()
    state = page.request.get(f"{address}/v1/state").json()
    assert sum(row["shown"] for row in state["click_through"]["by_source"]) == 12


def test_the_state_says_how_far_the_models_are_behind(page, address, engine, monkeypatch, tmp_path):
    notes = list(engine.notes)
    near = engine.recommend(history=notes[:1], k=1, record=False, rerank=False).note_ids[0]
    for clicked in (notes[0], near):
        click = {"user_id": "drifts", "note_id": clicked}
        page.request.post(f"{address}/v1/clicks", data={"clicks": [click]})
    engine._state.latest_recall.measure()
    work = WorkFolder(tmp_path / "model.renewal")
    work.path.mkdir()
    decision = Decision(True, ["NDCG@20 of recall is not worse"], {"recall": FIGURES})
    work.begin({})
    work.decide(decision, {"at": "2026-11-30T04:00:00+00:00"})
    work.finish(decision)
    monkeypatch.setattr(engine._state, "renewals", Renewals(tmp_path / "model"))
    written = datetime.now(UTC) - timedelta(days=3, hours=2, minutes=1)
    monkeypatch.setattr(engine._state, "live", replace(engine._state.live, written_at=written))
    page.locator("#tab-state").click()
    drift = page.locator("#state-drift")
    expect(drift).to_contain_text("Age of the model3 days 2 hours", timeout=SECONDS)
    expect(drift).to_contain_text("Serving for")
    visible = engine.drift().visible_notes
    expect(drift).to_contain_text(
        re.compile(rf"Notes it was not trained on.*\(\d+ of {visible}\)", re.DOTALL)
    )
    expect(drift).to_contain_text(
        re.compile(r"Unknown users of the last 7 days100% \(\d+ of \d+\)", re.DOTALL)
    )
    elsewhere = page.locator("#state-latest-recall").get_by_role("table", name="Clicks that name no list")
    expect(elsewhere.get_by_role("columnheader")).to_have_text(["Day", "Clicks", "Found", "Recall"])
    expect(elsewhere.get_by_role("row", name=re.compile(r"^\w+ \d+ 1 1 100%"))).to_be_visible()
    renewal = page.locator("#state-renewal")
    expect(renewal).to_contain_text("The new models took over")
    expect(renewal).to_contain_text("NDCG@20 of recall is not worse")
    expect(renewal.get_by_role("row", name="NDCG@20 (recall) 25% 50%")).to_be_visible()
    shoot(page, "drift")
    for size in (WIDE, NARROW, {"width": 320, "height": 640}):
        page.set_viewport_size(size)
        assert not overflows(page)
        lines = drift.locator("dd").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect().height)"
        )
        assert max(lines) < 100, "a figure is broken into many lines"
    shoot(page, "drift-narrow")
    page.locator("#language").click()
    expect(page.locator("#state-drift h2")).to_have_text("漂移")
    assert not overflows(page)


def test_the_map_is_moved_and_its_notes_are_opened(page):
    page.locator("#tab-map").click()
    page.locator("#map-legend button").first.wait_for()
    canvas = page.locator("#map-canvas")
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", "+", "Shift+ArrowLeft", "0"):
        page.keyboard.press(key)
    here = page.locator("#map-here .title")
    expect(here).to_be_visible()
    title = here.inner_text()
    frame = canvas.bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -200)
    page.mouse.down()
    page.mouse.move(x + 60, y + 40, steps=3)
    page.mouse.up()  # the map was moved, so no note is opened
    for button in ("#map-in", "#map-out", "#map-fit"):
        page.locator(button).click()
    page.locator("#map-legend button").first.click()
    page.locator("#map-legend button").first.click()
    page.locator("#map-list-box summary").click()
    expect(page.locator("#map-list [data-note-id]").first).to_be_visible(timeout=SECONDS)
    canvas.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#note-heading")).to_have_text(title, timeout=SECONDS)
    expect(page.locator("#related [data-note-id]")).to_have_count(10, timeout=SECONDS)
    page.locator("#tab-map").click()  # the note and its related notes are drawn in full colour now
    expect(canvas).to_be_visible()
    shoot(page, "map-chosen")


def test_chinese_and_dark_stay_chosen(page):
    english = page.locator("#tab-notes").inner_text()
    page.locator("#language").click()
    expect(page.locator("#tab-notes")).to_have_text(re.compile("[\u4e00-\u9fff]"))
    assert page.locator("html").get_attribute("lang").startswith("zh")
    page.locator("#theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    shoot(page, "chinese-dark")
    page.reload()
    expect(page.locator("#tab-notes")).not_to_have_text(english)
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_everything_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.locator("#tab-notes").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel-users")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.locator("#search").focus()
    page.keyboard.type("a")
    page.locator("#search-results [data-note-id]").first.wait_for()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#search-results') !== null"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#note-heading")).to_be_visible(timeout=SECONDS)


@pytest.mark.parametrize("tab", ["notes", "users", "map", "state"])
def test_a_narrow_screen_is_not_wider_than_itself(page, tab):
    for size in (NARROW, {"width": 320, "height": 640}):
        page.set_viewport_size(size)
        page.locator(f"#tab-{tab}").click()
        expect(page.locator(f"#panel-{tab}")).to_be_visible()
        assert not overflows(page)
    page.set_viewport_size(NARROW)
    shoot(page, f"narrow-{tab}")
