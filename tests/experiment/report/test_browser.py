"""The report in a headless Chromium; skipped if Chromium is not installed.

SCREENSHOTS=folder in the environment keeps screenshots.
"""

import os
import shutil
from pathlib import Path

import pytest

from notellm.experiment.report.write import write_report
from tests.experiment.results import HOSTILE, realistic

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install it, or name it in CHROMIUM"
)

sync_api = pytest.importorskip("playwright.sync_api")
SECONDS = 30_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / "report"
    write_report(realistic(HOSTILE * 3, leak=True), folder)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, address):
    """A function that opens the report; errors, and requests of anything else, fail the test."""
    problems, contexts = [], []

    def opened(width, scheme):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text))
        page.on("request", lambda asked: problems.append(asked.url) if asked.url != address else None)
        page.set_default_timeout(SECONDS)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_the_report_fits_its_window_and_wide_tables_scroll_in_their_own_box(open_page, width, scheme):
    page = open_page(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.title().startswith("MicroLens")
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) > 382) == (scheme == "light")
    # Nothing reaches beyond the window but what a box around it cuts off.
    assert (
        page.evaluate(
            """() => [...document.querySelectorAll("main *")].filter(element => {
            if (element.closest(".scroll, svg")) return false;
            return element.getBoundingClientRect().right > innerWidth + 1;
        }).map(element => element.outerHTML.slice(0, 80))"""
        )
        == []
    )
    boxes = page.locator("#rank .scroll")
    if width == 360:
        assert boxes.first.evaluate("box => box.scrollWidth > box.clientWidth")
        before, after = boxes.first.evaluate(
            """box => {
                const name = box.querySelector("tbody th");
                const left = () => name.getBoundingClientRect().left;
                const before = left();
                box.scrollLeft = 150;
                return [before, left()];
            }"""
        )
        assert abs(before - after) < 2  # the names of the methods stay in sight
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"report-{width}-{scheme}.png", full_page=True)


def test_texts_of_plots_can_be_read_on_a_narrow_screen(open_page):
    page = open_page(360, "light")
    heights = page.evaluate(
        """() => [...document.querySelectorAll("svg text")]
            .filter(text => text.checkVisibility())
            .map(text => Math.max(text.getBoundingClientRect().height, text.getBoundingClientRect().width))"""
    )
    assert len(heights) > 100
    assert min(heights) > 8  # pixels


def test_no_text_of_a_plot_is_cut_off(open_page):
    for width in (360, 1600):
        assert (
            open_page(width, "light").evaluate(
                """() => [...document.querySelectorAll("svg text")].filter(text => {
                if (!text.checkVisibility()) return false;
                const [inner, outer] = [text, text.closest("figure")].map(e => e.getBoundingClientRect());
                return inner.left < outer.left - 2 || inner.right > outer.right + 2;
            }).map(text => text.textContent)"""
            )
            == []
        )


def test_the_contents_lead_to_their_sections(open_page):
    page = open_page(1600, "light")
    page.locator("nav a", has_text="Glossary").click()
    sync_api.expect(page.locator("#glossary-title")).to_be_in_viewport(timeout=SECONDS)
