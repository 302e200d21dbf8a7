"""The page in a real browser: Chromium, from disk, wide and narrow, light and dark."""

import shutil

import pytest
from results import make_results

from prunus.studies.report import write_report

playwright = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(BROWSERS)} is on the PATH")

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    results = make_results(networks=("lenet-300-100", "conv-2"), rounds=3, trials=2)
    return write_report(results, tmp_path_factory.mktemp("report")).html


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as engines:
        browser = engines.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, report):
    """A function that opens the page; what the page must not do fails the test when it ends."""
    faults, contexts = [], []

    def open_page(viewport=WIDE, scheme="light", **options):
        context = chromium.new_context(viewport=viewport, color_scheme=scheme, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: faults.append(str(e)))
        tab.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url))
        tab.goto(report.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def sizes(tab, selector):
    return [found.bounding_box() for found in tab.locator(selector).all()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_figure_is_there_and_nothing_overflows(opened, viewport, scheme):
    tab = opened(viewport, scheme)
    boxes = sizes(tab, ".panel svg")
    assert len(boxes) == 6
    assert all(box["width"] > 250 and box["height"] > 150 for box in boxes)
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"] for box in boxes)
    assert tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    side_by_side = boxes[0]["y"] == boxes[1]["y"]
    assert side_by_side == (viewport is WIDE)


def luminance(tab, selector, style):
    colour = tab.locator(selector).first.evaluate(f"e => getComputedStyle(e).{style}")
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_the_systems_until_the_button_is_pressed(opened, scheme):
    tab = opened(scheme=scheme)
    for is_dark in (scheme == "dark", scheme != "dark"):
        background, text = luminance(tab, "body", "backgroundColor"), luminance(tab, "body", "color")
        letters = luminance(tab, ".panel svg text", "fill")
        assert (background < 60) == is_dark
        assert abs(text - background) > 150
        assert abs(letters - background) > 80
        tab.locator("#theme").click()


def test_the_legend_hides_and_shows_an_arm(opened):
    tab = opened()
    button = tab.get_by_role("button", name="random re-initialisation")
    curve, other = tab.locator('.panel [data-arm="reinit"]'), tab.locator('.panel [data-arm="ticket"]')
    assert curve.first.is_visible()
    button.focus()
    tab.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert not any(part.is_visible() for part in curve.all())
    assert other.first.is_visible()
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert curve.first.is_visible()


def test_pointing_at_a_panel_tells_its_values(opened):
    tab = opened()
    tip, panel = tab.locator("#tip"), tab.locator(".panel").nth(2)
    assert not tip.is_visible()
    panel.hover()
    assert "Test accuracy at end of training" in tip.inner_text()
    assert "n = 2" in tip.inner_text()
    tab.mouse.move(2, 2)
    assert not tip.is_visible()
    panel.focus()
    tab.keyboard.press("ArrowRight")
    assert "100 % of the weights" in tip.inner_text()
    assert "dense network" in tip.inner_text()
    tab.keyboard.press("ArrowRight")
    told = tip.inner_text()
    row = tab.locator("table.numbers").first.locator("tbody tr").nth(1)
    assert row.locator("th").inner_text() in told
    assert row.locator("td").nth(3).inner_text().split()[0] in told


def test_the_tooltip_stays_inside_a_phones_screen(opened):
    tab = opened(PHONE, has_touch=True)
    panel = tab.locator(".panel").nth(1)
    panel.scroll_into_view_if_needed()
    for part in (0.2, 0.9):
        box = panel.bounding_box()
        tab.touchscreen.tap(box["x"] + part * box["width"], box["y"] + box["height"] / 2)
        tip = tab.locator("#tip").bounding_box()
        assert tip["x"] >= 0
        assert tip["x"] + tip["width"] <= PHONE["width"]


def test_the_explorer_draws_what_is_chosen(opened):
    tab = opened()
    lines = tab.locator("#explorer .mean")
    assert lines.count() == 5  # four arms and the dense network
    before = lines.first.get_attribute("d")
    tab.locator("select[name=measure]").select_option("Validation loss")
    assert lines.first.get_attribute("d") != before
    tab.locator("select[name=arm]").select_option("layerwise-shuffled mask")
    assert {line.get_attribute("data-arm") for line in lines.all()} == {"dense", "shuffle"}
    tab.locator("select[name=round]").select_option("100 % (dense)")
    assert [line.get_attribute("data-arm") for line in lines.all()] == ["dense"]
    tab.locator("select[name=network]").select_option("Conv-2")
    assert lines.count() == 1
    tab.locator(".chart").hover()
    assert "Iteration" in tab.locator("#tip").inner_text()


def test_the_figure_is_there_without_scripts(opened):
    tab = opened(java_script_enabled=False)
    assert len([box for box in sizes(tab, ".panel svg") if box["height"] > 150]) == 6
    assert not tab.locator("#explorer").is_visible()
    assert not tab.locator("#theme").is_visible()


def test_a_kind_that_only_computes_has_a_page_without_training_curves(chromium, tmp_path, monkeypatch):
    from toy_kinds import kinds

    from prunus.studies.kinds import KINDS
    from prunus.studies.resolve import resolve
    from small_study import finished

    for name, kind in kinds(tmp_path / "presets").items():
        monkeypatch.setitem(KINDS._rows, name, kind)
    plan = finished(resolve("toy-count", [("arms", ["largest"])]), tmp_path)
    page = write_report(plan.store.results("toy-count-quick"), tmp_path / "report").html
    faults = []
    context = chromium.new_context(viewport=WIDE)
    tab = context.new_page()
    tab.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda e: faults.append(str(e)))
    tab.goto(page.as_uri())
    assert len(sizes(tab, ".panel svg")) == 2
    assert tab.locator("#explorer").count() == 0
    tab.locator(".panel").nth(1).focus()
    tab.keyboard.press("ArrowRight")
    assert "layer of 100" in tab.locator("#tip").inner_text()
    assert "fc3.weight" in tab.locator("#tip").inner_text()
    line = tab.locator('.panel [data-arm="slope"]').first
    assert line.count() == 1
    tab.get_by_role("button", name="1 / n").click()
    assert "off" in line.get_attribute("class")
    context.close()
    assert faults == []
