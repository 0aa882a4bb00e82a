"""The report as a person opens it: unpacked, in a browser, with no network."""

import re
import zipfile

import pytest
from playwright.sync_api import sync_playwright

FIGURES = {
    ("1. The data",): ["evaluation/catalogue.png"],
    ("2. How good it is",): ["evaluation/[!c]*.png", "evaluation/c[!a]*.png"],
    ("3. Which architecture",): ["comparison/candidates.png"],
    ("4. What it looks at", "Over all images"): [
        "explanation/regions/*.png",
        "explanation/mean_maps/*.png",
        "explanation/sheets/*.jpg",
    ],
    ("4. What it looks at", "Image by image"): ["explanation/panels/*.png"],
    ("4. What it looks at", "Can it be trusted?"): ["explanation/tests.png"],
}
"""Pictures under each category of the report."""


@pytest.fixture(scope="module")
def page(first_run, program, tmp_path_factory):
    """The report of the tiny study in headless Chromium; what it asks for and complains of."""
    chromium = program("chromium", "Debian's package chromium")
    clone, _ = first_run
    folder = tmp_path_factory.mktemp("report")
    zipfile.ZipFile(clone.folder / "results/tiny/report.zip").extractall(folder)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.errors, page.asked = [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto((folder / "report/report.html").as_uri())
        yield page
        browser.close()


def test_the_first_page_is_seen_from_its_beginning(page):
    page.reload()
    page.locator("h1", has_text="How it was done").wait_for()
    first = page.locator(".document h1").first.bounding_box()
    assert page.locator(".document").bounding_box()["height"] > 800  # taller than the window
    assert first["y"] >= 0


@pytest.mark.parametrize("path", FIGURES)
def test_every_figure_opens(page, first_run, path):
    results = first_run[0].folder / "results/tiny"
    expected = [file for pattern in FIGURES[path] for file in results.glob(pattern)]
    page.reload()
    for name in path:
        page.get_by_role("link", name=name, exact=True).click()
    rows = page.locator("tr:has(a[iconname=eye])")
    shown = 0
    for row in rows.all():
        name = row.locator("td").first.inner_text()
        if name.startswith("Audit") or "table" in name:  # no picture
            continue
        row.locator("a[iconname=eye]").click()
        picture = page.locator("img").last
        picture.wait_for()
        assert picture.evaluate("async image => (await image.decode(), image.naturalWidth)") > 300
        shown += 1
    assert shown == len(expected) > 0


def test_the_gallery_opens_from_the_report_with_every_explained_photograph(page, first_run):
    page.reload()
    for name in ("4. What it looks at", "Gallery"):
        page.get_by_role("link", name=name, exact=True).click()
    page.locator("tr", has_text="Gallery:").locator("a[iconname=eye]").click()
    gallery = page.frame_locator("iframe")
    gallery.locator(".tile").first.wait_for()
    shown = re.fullmatch(r"(\d+) of \1 photographs", gallery.locator("#count").inner_text())
    assert shown and int(shown[1]) > 4
    pictures = gallery.locator(".tile img")
    widths = pictures.evaluate_all(
        "all => Promise.all(all.map(async i => (await i.decode(), i.naturalWidth)))"
    )
    assert len(widths) >= int(shown[1]) and min(widths) >= 56
    gallery.locator(".tile button").first.click()
    assert gallery.locator("dialog .bars .name").count() > 4
    page.keyboard.press("Escape")
    with page.expect_popup() as opened:
        gallery.get_by_role("link", name="Open in a window of its own").click()
    opened.value.locator(".tile").first.wait_for()
    opened.value.close()


def test_a_caption_says_how_to_read_a_figure(page):
    page.reload()
    page.get_by_role("link", name="2. How good it is", exact=True).click()
    row = page.locator("tr", has_text="Which emotion is taken for which")
    row.locator("a[iconname=information-circle]").click()
    assert page.get_by_text("Rows are what the raters saw").is_visible()


def test_the_report_needs_no_network_and_has_no_errors(page):
    assert {url.split(":")[0] for url in page.asked} <= {"file", "data", "blob"}
    assert page.errors == []
