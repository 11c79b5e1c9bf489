"""The page in a real browser."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api as playwright

from harness.report.html import EMBEDDED
from tests.pages import DEMO, HOSTILE, hostile, images, many, page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium: none is on the path", allow_module_level=True)

FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SECONDS = 3

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as door:
        browser = door.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page(tmp_path_factory.mktemp("page") / "report.html", hostile(), images(EMBEDDED + 2))


@pytest.fixture
def show(chromium: Any) -> Iterator[Open]:
    """Open a page; at the end it must have said nothing on the console and asked nobody but its own folder."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(path: Path, anchor: str = "", **options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append((context, path.parent.as_uri()))
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri() + anchor)
        return tab

    yield open_page
    for context, _ in contexts:
        context.close()
    assert not said
    own = ("data:", *(folder for _, folder in contexts))
    assert asked
    assert [url for url in asked if not url.startswith(own)] == []


def column(tab: Any, number: int) -> list[str]:
    return [
        text.strip()
        for text in tab.locator(
            f"section.table >> nth=0 >> tbody:not(.bounds) td:nth-child({number})"
        ).all_inner_texts()
    ]


def heading(tab: Any, name: str) -> Any:
    return tab.locator("section.table").first.get_by_role("button", name=name)


def test_a_heading_sorts_by_number_with_mouse_and_keyboard(show: Open, report: Path) -> None:
    tab = show(report)
    score = heading(tab, "train mIoU")
    place = tab.locator("section.table").first.locator("thead th").all_inner_texts().index("train mIoU") + 1

    def numbers() -> list[float]:
        return [float(text.split()[0]) for text in column(tab, place)]

    before = numbers()
    score.press("Enter")
    score.press("Enter")
    assert numbers() == sorted(before) != before
    score.click()
    assert numbers() == sorted(before, reverse=True)
    bounds = tab.locator("section.table >> nth=0 >> tbody.bounds tr").all_inner_texts()
    assert bounds[0] == "floors and ceilings"
    assert bounds[1].startswith("sanity-oracle")
    assert tab.locator("th[aria-sort=descending]").inner_text() == "train mIoU"
    score.press("Enter")
    assert numbers() == sorted(before)
    assert tab.locator("th[aria-sort]").count() == 1
    refined = heading(tab, "val +crf:vitpcm")
    for _ in range(2):
        refined.click()
        texts = column(
            tab, tab.locator("section.table").first.locator("thead th").all_inner_texts().index("val +crf:vitpcm") + 1
        )
        assert texts[:2] != ["not run", "not run"]
        assert set(texts[2:]) == {"not run"}


def test_the_filter_keeps_rows_with_every_word(show: Open, report: Path) -> None:
    tab = show(report)
    tab.get_by_label("Filter rows").fill("CAM epochs=8")
    rows = tab.locator("section.table tbody tr:visible")
    assert rows.count() == 1
    assert rows.first.inner_text().startswith("cam")
    assert tab.locator(".filter output").inner_text().startswith("1 of ")
    assert tab.locator("section.table").last.get_by_text("No row of this table matches").is_visible()
    assert not tab.locator("section.table").first.get_by_text("No row of this table matches").is_visible()
    tab.get_by_label("Filter rows").fill("")
    assert tab.locator("section.table tbody tr:visible").count() > 5


def test_a_score_opens_the_record_that_it_comes_from(show: Open, report: Path) -> None:
    tab = show(report)
    row = tab.locator("section.table tbody tr", has_text="vitpcm").first
    link = row.locator("td.n a").first
    key = link.get_attribute("href").partition("=")[2]
    link.focus()
    link.press("Enter")
    drawer = tab.get_by_role("dialog")
    text = drawer.inner_text()
    assert key in text
    for expected in (
        "harness run --experiment demo",
        "torch",
        "Stages",
        "evaluate",
        "seed",
        "augreg_in21k",
        "fixed:0.4",
    ):
        assert expected in text
    drawer.get_by_text("IoU per class").click()
    assert drawer.locator(".bar").count() == 2 * 5
    drawer.evaluate("one => one.scrollTo(0, 500)")
    tab.keyboard.press("Escape")
    assert not drawer.is_visible()
    assert tab.evaluate("document.activeElement.getAttribute('href')") == link.get_attribute("href")
    assert "#" not in tab.url
    link.click()
    assert drawer.is_visible()
    assert drawer.evaluate("one => one.scrollTop") == 0


def test_a_row_of_several_records_offers_each_and_an_address_opens_one(show: Open, report: Path) -> None:
    tab = show(report)
    tab.locator("section.table tbody tr", has_text="epochs=8").first.locator("th a").click()
    others = tab.get_by_role("dialog").get_by_role("group").get_by_role("button")
    assert others.all_inner_texts() == ["seed 0, BPM", "seed 0, crf:vitpcm"]
    others.nth(1).click()
    assert others.nth(1).get_attribute("aria-pressed") == "true"
    assert "crf:vitpcm" in tab.get_by_role("dialog").locator("h2").inner_text()
    key = sorted(path.stem for path in (DEMO / "records").iterdir())[0]
    direct = show(report, f"#record={key}")
    assert key in direct.get_by_role("dialog").inner_text()
    assert not show(report, "#record=%zz&record=__proto__").get_by_role("dialog").is_visible()


def test_a_failure_tells_its_reason_and_what_was_printed(show: Open, report: Path) -> None:
    tab = show(report)
    row = tab.locator("section.table tbody tr", has_text="ValueError")
    assert "failed" in row.inner_text()
    row.locator("td a").click()
    assert f"ValueError: {HOSTILE}" in tab.get_by_role("dialog").inner_text()
    assert tab.get_by_role("dialog").locator("pre").first.inner_text() == f"</script>{HOSTILE}<!--"


def test_a_name_with_markup_in_it_stays_text(show: Open, report: Path) -> None:
    tab = show(report)
    row = tab.locator("section.table tbody tr", has_text=HOSTILE)
    assert row.count() >= 1
    row.first.locator("th a").click()
    tab.locator("details.classes").first.evaluate("details => { details.open = true }")
    assert tab.get_by_role("dialog").locator("h2").inner_text() == f"{HOSTILE}/toy"
    assert tab.locator("body b, body i").count() == 0
    assert tab.locator("script").count() == 2


def test_badges_say_what_they_mean_when_pointed_at_or_reached(show: Open, report: Path) -> None:
    tab = show(report)
    protocol = tab.locator("section.table .badge.protocol").first
    protocol.hover()
    tip = tab.locator(".tip:visible")
    assert "no threshold chosen on pixels" in tip.inner_text()
    tab.mouse.move(0, 0)
    tip.wait_for(state="hidden")
    warning = tab.locator("tr", has_text="sanity-oracle").locator(".badge.warning")
    tab.keyboard.press("Tab")
    warning.focus()
    assert "pixels of train and val, for the scores themselves" in tab.locator(".tip:visible").inner_text()
    tab.keyboard.press("Escape")
    assert tab.locator(".tip:visible").count() == 0


def test_per_class_scores_are_drawn_on_demand_for_the_rows_that_are_shown(show: Open, report: Path) -> None:
    tab = show(report)
    details = tab.locator("details.classes").first
    assert details.locator(".bar").count() == 0
    tab.get_by_label("Filter rows").fill("cam epochs=8")
    details.locator("summary").click()
    playwright.expect(details.locator("tbody tr")).to_have_count(2)
    assert details.locator("thead th").all_inner_texts()[1:4] == ["mean", "background", "beetle"]
    details.locator("select").select_option("train")
    assert details.locator("tbody td").first.inner_text() == "42.5"


def test_the_slider_fades_the_overlay_that_was_chosen(show: Open, report: Path) -> None:
    tab = show(report)
    gallery = tab.locator(".gallery")
    overlay = gallery.locator("figure").first.locator(".overlay:visible")
    assert overlay.get_attribute("data-name") == "cam BPM"
    gallery.get_by_label("Overlay").select_option("ground truth")
    assert overlay.get_attribute("data-name") == "ground truth"
    slider = gallery.get_by_label("Opacity")
    slider.focus()
    slider.press("Home")
    assert overlay.evaluate("one => getComputedStyle(one).opacity") == "0"
    slider.fill("40")
    assert overlay.evaluate("one => getComputedStyle(one).opacity") == "0.4"
    assert gallery.locator("output").inner_text() == "40 %"
    last = gallery.locator("figure").last.locator("img:visible")
    last.first.scroll_into_view_if_needed()
    widths = "all => Promise.all(all.map(one => one.decode().then(() => one.naturalWidth)))"
    assert last.evaluate_all(widths) == [60, 60]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(show: Open, report: Path, scheme: str) -> None:
    tab = show(report, color_scheme=scheme)
    colours = tab.evaluate(
        """() => Object.fromEntries(['paper', 'raised', 'shade', 'ink', 'soft', 'accent', 'bar', 'good', 'good-ink',
        'bad', 'bad-ink', 'warn', 'warn-ink'].map(name =>
        [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"""
    )
    pairs = [(ink, back) for ink in ("ink", "soft") for back in ("paper", "raised", "shade")]
    pairs += [("accent", "paper"), ("accent", "raised"), ("accent", "shade"), ("ink", "bar")]
    pairs += [(f"{kind}-ink", kind) for kind in ("good", "bad", "warn")]
    for ink, back in pairs:
        assert _contrast(colours[ink], colours[back]) >= 4.5, f"{ink} on {back}"
    background = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 3 * 128) == (scheme == "dark")


def _contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        shares = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_a_phone_scrolls_tables_and_not_the_page(show: Open, report: Path) -> None:
    tab = show(report, viewport={"width": 390, "height": 844}, has_touch=True)
    wide = "document.documentElement.scrollWidth"
    assert tab.evaluate(wide) == 390
    assert tab.locator(".box").first.evaluate("box => box.scrollWidth > box.clientWidth")
    tab.locator("section.table tbody th a").first.tap()
    assert tab.get_by_role("dialog").bounding_box()["width"] <= 390
    assert tab.get_by_role("dialog").evaluate("one => one.scrollWidth <= one.clientWidth")
    assert tab.evaluate(wide) == 390


def test_without_javascript_there_are_plain_tables(show: Open, report: Path) -> None:
    tab = show(report, java_script_enabled=False)
    assert tab.locator("section.table tbody tr").count() > 5
    assert not tab.locator(".filter").is_visible()
    assert not tab.locator("details.classes").first.is_visible()
    assert tab.locator(".overlay:visible").first.get_attribute("data-name") == "cam BPM"
    tab.locator("section.table .badge.protocol").first.click()
    assert "no threshold chosen on pixels" in tab.locator(".tip:visible").inner_text()


def test_print_has_the_tables_without_the_controls(show: Open, report: Path) -> None:
    tab = show(report, color_scheme="dark")
    tab.emulate_media(media="print")
    assert not tab.locator(".filter").is_visible()
    assert tab.locator("section.table tbody tr").first.is_visible()
    assert tab.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')").strip() == "#1d2125"


def test_two_thousand_records_open_in_time(show: Open, tmp_path: Path) -> None:
    path = page(tmp_path / "report.html", many(2000))
    start = time.monotonic()
    tab = show(path)
    tab.locator(".filter output", has_text="rows").wait_for()
    assert time.monotonic() - start < SECONDS
    start = time.monotonic()
    tab.get_by_label("Filter rows").fill("vitpcm variant=3")
    heading(tab, "val mIoU").click()
    assert time.monotonic() - start < SECONDS
    assert tab.locator("section.table tbody tr:visible").count() > 0
