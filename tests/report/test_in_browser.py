"""The pages in a real browser: Chromium or Chrome, found on the PATH.

Skipped where there is none, unless BROWSER_REQUIRED is set: then they fail.
"""

import dataclasses
import os
import shutil

import numpy as np
import pytest

from compressor.report.page import write_report
from compressor.report.search_page import Answer, Neighbour, write_search_page
from compressor.verbs import report as model_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCHEMES, WIDTHS = ("light", "dark"), (360, 1280)
# WCAG 2.2, 1.4.3: contrast of every text that is shown with what is behind it; the worst of them.
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return rgb(getComputedStyle(document.documentElement).backgroundColor);
  };
  const found = [...document.querySelectorAll("body *")]
    .filter((e) => e.getClientRects().length
      && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((e) => {
      const [a, b] = [rgb(getComputedStyle(e).color), behind(e)].map(light).sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.textContent.trim().slice(0, 40)];
    });
  return found.sort((x, y) => x[0] - y[0])[0];
}"""
# Pairs of labels of one chart that cover each other.
OVERLAPS = """() => [...document.querySelectorAll(".chart, .ticks")].flatMap((chart) => {
  const spans = [...chart.querySelectorAll("span")].filter((s) => s.getClientRects().length);
  return spans.flatMap((a, n) => spans.slice(n + 1).filter((b) => {
    const [p, q] = [a.getBoundingClientRect(), b.getBoundingClientRect()];
    return p.left < q.right && q.left < p.right && p.top < q.bottom && q.top < p.bottom;
  }).map((b) => [a.textContent, b.textContent]));
})"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing = pytest.fail if os.environ.get("BROWSER_REQUIRED") else pytest.skip
        missing(f"no browser on the PATH: {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, report, model, clothes):
    """The page of a job, with everything on it, and that of a model."""
    folder = tmp_path_factory.mktemp("pages")
    counts = np.zeros(41, np.int64)
    counts[[0, *range(40)]] = 1
    full = dataclasses.replace(
        report, p_value_counts=counts, calibration_scores=np.sort(report.calibration_scores),
        drift=0.4, drift_limit=0.2,
    )  # fmt: skip
    write_report(folder / "job.html", full, force=False)
    model_report(model, clothes, folder / "model.html")
    answers = [
        Answer(
            f"{n}/{'long' * 20}.png",
            clothes[n],
            [
                Neighbour(f"clothes/{m:05d}.png", m / 100, clothes[m] if m % 7 else None)
                for m in range(n, n + 12)
            ],
        )
        for n in range(3)
    ]
    facts = [("queries", "a/" * 99)]
    write_search_page(folder / "search.html", "Nearest", facts, answers, "cosine", force=False)
    return {name: folder / f"{name}.html" for name in ("job", "model", "search")}


@pytest.fixture
def opened(browser, pages):
    """Opens a page; what it complains of, and what it asks the network for, fails the test."""
    contexts, told = [], []

    def opened(name="job", width=1280, scheme="light", javascript=True):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=javascript,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        address = pages[name].as_uri()
        page.on(
            "request",
            lambda request: (
                None
                if request.url == address or request.url.startswith("data:")
                else told.append(request.url)
            ),
        )
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert told == []


def paths(page):
    """Of the cards that can be seen, from first to last."""
    cards = page.locator("article").all()
    return [card.get_attribute("data-path") for card in cards if card.is_visible()]


@pytest.mark.parametrize("name", ["job", "model", "search"])
def test_a_page_loads_whole_without_complaints_or_network(opened, name):
    page = opened(name)
    images = "[...document.images]"
    assert page.evaluate(f"{images}.length") > 0
    assert page.evaluate(f"{images}.every((i) => i.complete && i.naturalWidth > 0 && i.alt)")
    assert page.evaluate("document.querySelectorAll('svg:not([aria-label])').length") == 0


def test_sorting_changes_the_order_that_is_seen(opened, report):
    page = opened()
    by_score = [image.path for image in sorted(report.worst, key=lambda image: -image.score)]
    assert paths(page) == by_score
    page.get_by_label("sort by").select_option("path")
    assert paths(page) == sorted(by_score)
    page.get_by_role("button", name="reverse").click()
    assert paths(page) == sorted(by_score, reverse=True)
    page.get_by_label("sort by").select_option("p-value")
    p_values = {image.path: image.p_value for image in report.worst}
    shown = [p_values[path] for path in paths(page)]
    assert shown == sorted(shown, reverse=True)


def test_filters_leave_what_they_name(opened, report):
    page = opened()
    flagged = {image.path for image in report.worst if image.is_anomaly}
    assert 0 < len(flagged) < len(report.worst)
    page.get_by_label("show").select_option("anomalies")
    assert set(paths(page)) == flagged
    page.get_by_label("show").select_option("not flagged")
    assert set(paths(page)) == {image.path for image in report.worst} - flagged
    page.get_by_label("show").select_option("all")
    page.get_by_role("searchbox", name="filter by path").fill("LETTERS/")
    assert len(paths(page)) == 10 and all(path.startswith("letters/") for path in paths(page))
    assert page.get_by_text("10 of 20 shown").is_visible()


def test_the_keyboard_alone_filters_and_sorts(opened):
    page = opened()
    page.get_by_role("searchbox").focus()
    page.keyboard.type("clothes")
    page.keyboard.press("Enter")  # sends nothing
    assert len(paths(page)) == 10
    before = paths(page)
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert paths(page) == before[::-1]


def test_without_javascript_the_page_is_a_ranked_list(opened, report):
    page = opened(javascript=False)
    by_score = [image.path for image in sorted(report.worst, key=lambda image: -image.score)]
    assert paths(page) == by_score
    assert not page.locator("#controls").is_visible()


@pytest.mark.parametrize("name", ["job", "model", "search"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_and_no_labels_overlap(opened, name, width):
    page = opened(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(OVERLAPS) == []


@pytest.mark.parametrize("name", ["job", "model", "search"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_stands_out_from_its_background(opened, name, scheme):
    contrast, text = opened(name, scheme=scheme).evaluate(CONTRAST)
    assert contrast >= 4.5, text


def test_light_and_dark_follow_the_reader(opened):
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(scheme=scheme).evaluate(colour) for scheme in SCHEMES)
    assert light != dark
