"""The gallery as a person uses it: opened from the disk in a browser, with no network."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from equimood import gallery, tables
from equimood.trust import ABOUT
from PIL import Image
from playwright.sync_api import sync_playwright

PAGE = Path(__file__).parents[2] / "workflow/report/gallery"
HOSTILE = "<img src=x onerror=\"window.ran=1\"> 'É' \u2028 </script> ${1} &amp; \\"
CLASSES = ["calm", HOSTILE, "peur"]
REGIONS = ["ears", "eyes", "mouth", "background"]
N = 600
COMPARED = {"baseline": "neutral", "n": 16, "label": HOSTILE}
VERDICTS = {"deletion": "passed", "insertion": "doubtful", "baseline": "failed"}
TESTS = {"tests": [{"test": test, "verdict": verdict} for test, verdict in VERDICTS.items()]}


def entries(n):
    """Photographs of which each is known from its number; some are explained in two views."""
    rng = np.random.default_rng(1)
    for i in range(n):
        p = rng.dirichlet(np.ones(3)).round(4)
        predicted = int(p.argmax())
        views = [
            {
                "view": view, "image": f"{view}{i % 4}", "size": [80, 64],
                "place": [0.25, 0, 0.5, 1],
                "regions": [[name, float(e), 0.1, 1.0 - (k == 3)] for k, (name, e) in enumerate(
                    zip(REGIONS, rng.gamma(2, 1, 4).round(3), strict=True))],
            }
            for view in (["whole", "head"] if i % 3 else ["whole"])
        ]  # fmt: skip
        yield {
            "id": f"{i:032x}", "path": f"día{i % 9}/{i:05}.jpg", "session": None if i % 2 else "s1",
            "horse": HOSTILE if i == 7 else f"Éclair {i % 50}", "truth": i % 3,
            "predicted": predicted, "target": predicted,
            "against": None if i % 2 else (predicted + 1) % 3, "sure": bool(p.max() > 0.5),
            "unlike": i % 100 == 0, "p": p.tolist(), "gap": round(rng.gamma(1, 0.03), 5),
            "steps": 32, "views": views,
        }  # fmt: skip


PHOTOS = list(entries(N))


def write(folder, photos):
    """A gallery of these photographs; its address."""
    study = gallery.about(
        HOSTILE, CLASSES, tolerance=0.05, compared=COMPARED, tests=TESTS, drawn=True,
        colormap="PuOr", n_explained=20_000,
    )  # fmt: skip
    gallery.write_data(folder / "data.js", study, photos)
    for name in ("pictures", "maps"):
        (folder / name).mkdir()
    for view in ("whole", "head"):
        for i in range(4):
            red = np.full((64, 80, 3), (60 * i, 128, 200), np.uint8)
            Image.fromarray(red).save(folder / f"pictures/{view}{i}.jpg")
            orange = np.full((56, 56, 4), (230, 97, 1, 255), np.uint8)
            Image.fromarray(orange).save(folder / f"maps/{view}{i}.png")
    for part in PAGE.iterdir():
        shutil.copy(part, folder)
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gallery"), PHOTOS)


@pytest.fixture(scope="module")
def window(program):
    """A window of Chromium; what it asks for and complains of."""
    chromium = program("chromium", "Debian's package chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = browser.new_page(locale="en-GB", reduced_motion="reduce")
        window.complaints, window.asked = [], []
        window.on("pageerror", lambda error: window.complaints.append(str(error)))
        window.on("console", lambda line: window.complaints.append(line.text))
        window.on("dialog", lambda dialog: window.complaints.append(dialog.message))
        window.on("request", lambda request: window.asked.append(request.url))
        yield window
        browser.close()


@pytest.fixture
def page(window, address):
    """The gallery, just opened; it complains of nothing and asks for nothing but its files."""
    window.set_viewport_size({"width": 1280, "height": 720})
    window.goto("about:blank")
    window.asked.clear()
    window.goto(address)
    yield window
    assert window.complaints == []
    assert {url.split(":")[0] for url in window.asked} == {"file"}
    assert window.evaluate("window.ran") is None


def choose(page, **controls):
    for name, value in controls.items():
        page.evaluate(
            """([id, value]) => {
                const part = document.getElementById(id);
                part.value = value;
                part.dispatchEvent(new Event("input"));
            }""",
            [name, value],
        )


def first(page):
    """The photograph shown first: its panel says which file it is."""
    page.locator(".tile[aria-posinset='1'] button").click()
    path = page.locator("dialog dd").first.inner_text()
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "photo" not in url)
    return next(photo for photo in PHOTOS if photo["path"] == path)


def shown(photo):
    return photo["views"][-1]  # head, where there is one


def top(photo):
    return max(shown(photo)["regions"], key=lambda row: (row[3] > 0, row[1]))[0]


def outcome(photo):
    if not photo["sure"]:
        return "unsure"
    return "right" if photo["truth"] == photo["predicted"] else "wrong"


def test_ten_thousand_photographs_have_nodes_for_those_in_sight_alone(page, tmp_path):
    page.goto(write(tmp_path, entries(10_000)))
    assert page.locator("#count").inner_text() == "10,000 of 10,000 photographs"
    assert "20,000" in page.locator("#count").get_attribute("title")
    assert 10 <= page.locator(".tile").count() <= 60
    page.evaluate("document.getElementById('grid').scrollTop = 1e9")
    page.wait_for_selector(".tile[aria-posinset='10000']")
    assert page.locator(".tile").count() <= 60
    loaded = page.locator(".tile .picture").evaluate_all(
        "all => Promise.all(all.map(async i => (await i.decode(), i.naturalWidth)))"
    )
    assert set(loaded) == {80}


@pytest.mark.parametrize(
    ("filters", "keeps"),
    [
        ({"predicted": "1"}, lambda p: p["predicted"] == 1),
        ({"truth": "2"}, lambda p: p["truth"] == 2),
        ({"outcome": "wrong"}, lambda p: outcome(p) == "wrong"),
        ({"outcome": "unsure"}, lambda p: outcome(p) == "unsure"),
        ({"outcome": "unlike"}, lambda p: p["unlike"]),
        ({"horse": HOSTILE}, lambda p: p["horse"] == HOSTILE),
        ({"region": "mouth"}, lambda p: top(p) == "mouth"),
        ({"gap": "rough"}, lambda p: p["gap"] > 0.05),
        ({"gap": "exact"}, lambda p: p["gap"] <= 0.05),
        ({"from": "80"}, lambda p: max(p["p"]) >= 0.795),
        ({"to": "40"}, lambda p: max(p["p"]) <= 0.405),
        ({"text": "ECLAIR 7"}, lambda p: re.match("Éclair 7", p["horse"])),
        ({"text": "dia3/"}, lambda p: "día3/" in p["path"]),
        ({"truth": "0", "predicted": "1", "from": "60"},
         lambda p: p["truth"] == 0 and p["predicted"] == 1 and max(p["p"]) >= 0.595),
    ],
)  # fmt: skip
def test_a_filter_keeps_what_it_names_and_nothing_else(page, filters, keeps):
    choose(page, **filters)
    expected = sum(bool(keeps(photo)) for photo in PHOTOS)
    assert 0 < expected < N
    assert page.locator("#count").inner_text() == f"{expected} of 600 photographs"
    assert keeps(first(page))
    page.get_by_role("button", name="Show all again").click()
    assert page.locator("#count").inner_text() == "600 of 600 photographs"


@pytest.mark.parametrize(
    ("key", "value", "descending"),
    [
        ("confidence", lambda p: max(p["p"]), True),
        ("error", lambda p: 1 - p["p"][p["truth"]], True),
        ("gap", lambda p: p["gap"], True),
        ("predicted", lambda p: p["predicted"], False),
        ("truth", lambda p: p["truth"], False),
        ("region", top, False),
    ],
)
def test_photographs_are_sorted_either_way(page, key, value, descending):
    choose(page, sort=key)
    values = [value(photo) for photo in PHOTOS]
    ends = (max(values), min(values)) if descending else (min(values), max(values))
    assert value(first(page)) == ends[0]
    page.locator("#turn").click()
    assert value(first(page)) == ends[1]


def test_horses_are_sorted_as_people_count(page):
    choose(page, sort="horse", text="éclair")
    names = page.locator("#horse option").all_inner_texts()
    numbers = [int(m[1]) for name in names if (m := re.search(r"Éclair (\d+)", name))]
    assert numbers == sorted(numbers) and len(numbers) == 50
    assert first(page)["horse"] == "Éclair 0"


def test_the_keyboard_is_enough(page):
    def focused():
        return page.evaluate("document.activeElement.parentElement.ariaPosInSet")

    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("eclair")
    page.keyboard.press("Enter")
    assert focused() == "1"
    tops = page.locator(".tile").evaluate_all("all => all.map(t => t.getBoundingClientRect().y)")
    columns = tops.count(min(tops))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert focused() == str(2 + columns)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert focused() == "1"
    page.keyboard.press("End")
    assert focused() == str(sum("Éclair" in photo["horse"] for photo in PHOTOS))
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    heading = page.locator("dialog dd").first
    one = heading.inner_text()
    page.keyboard.press("ArrowRight")
    assert heading.inner_text() != one
    page.keyboard.press("ArrowLeft")
    assert heading.inner_text() == one
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    page.wait_for_url(lambda url: "photo" not in url)
    assert focused() == "2"
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    assert page.locator("#count").inner_text() == "600 of 600 photographs"


def test_whoever_is_on_a_tile_stays_on_it_when_the_window_changes(page):
    page.locator(".tile button").first.focus()
    page.keyboard.press("End")
    for width in (900, 1600):
        page.set_viewport_size({"width": width, "height": 700})
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        assert page.evaluate("document.activeElement.parentElement.ariaPosInSet") == str(N)
        assert page.locator(f".tile[aria-posinset='{N}']").is_visible()


def test_names_appear_as_written_and_run_nothing(page):
    choose(page, horse=HOSTILE)
    assert page.locator(".caption .horse").first.evaluate("part => part.textContent") == HOSTILE
    page.locator(".tile button").first.click()
    texts = "part => part.textContent"
    assert page.locator("#heading").evaluate(texts) == HOSTILE
    assert HOSTILE in page.locator(".side .name").all_text_contents()
    assert HOSTILE in page.locator("#study").evaluate(texts)
    assert page.locator("img[src=x]").count() == 0


def test_a_panel_shows_every_view_its_map_regions_and_gap(page):
    choose(page, text="00004.jpg")
    page.locator(".tile button").click()
    photo = PHOTOS[4]
    assert page.locator("dialog .view").count() == len(photo["views"]) == 2
    for view, told in zip(page.locator("dialog .view").all(), photo["views"], strict=True):
        assert view.locator("figure").count() == 2
        assert view.locator(".bars .name").all_inner_texts() == REGIONS
        assert view.locator(".map").get_attribute("src") == f"maps/{told['image']}.png"
        frame, map_ = (view.locator(part).last.bounding_box() for part in (".frame", ".map"))
        assert map_["x"] - frame["x"] == pytest.approx(0.25 * frame["width"], abs=1)
        assert map_["width"] == pytest.approx(0.5 * frame["width"], abs=1)
        assert frame["width"] / frame["height"] == pytest.approx(80 / 64, rel=0.02)
    text = page.locator("dialog").inner_text()
    assert f"{100 * photo['gap']:.1f}".removesuffix(".0") + "%" in text
    assert "32" in text and photo["path"] in text


def test_it_says_which_tests_the_maps_passed_and_with_what_they_compare(page):
    trust = page.locator("#trust")
    assert trust.inner_text() == (
        "1 of 3 tests of these maps passed; failed: another baseline; doubtful: showing only what "
        "the map marks. The horses are drawn: this shows the method, and nothing about horses."
    )
    assert trust.get_attribute("class") == "failed"
    for number, rather in (("00003.jpg", False), ("00004.jpg", True)):
        choose(page, text=number)
        page.locator(".tile button").click()
        text = page.locator("dialog").evaluate("part => part.textContent")
        assert f"Compared with16 photographs of {HOSTILE}" in text
        photo = PHOTOS[int(number.removesuffix(".jpg"))]
        asked = f"What speaks for {CLASSES[photo['target']]}"
        if rather:
            asked += f" rather than {CLASSES[photo['against']]}"
        heading = page.locator("dialog .view h3").nth(1).evaluate("part => part.textContent")
        assert heading == asked
        page.keyboard.press("Escape")
        page.wait_for_url(lambda url: "photo" not in url)
    page.get_by_role("button", name="FR").click()
    assert "échoués : une autre référence" in trust.inner_text()
    words = page.evaluate("window.words")
    for lang in ("en", "fr"):
        assert words[lang]["tests"].keys() == ABOUT.keys()


def test_the_map_can_be_weakened_and_hidden(page):
    def strength():
        return page.evaluate(
            "[...document.querySelectorAll('.tile .map')].map(m => getComputedStyle(m).opacity)[0]"
        )

    assert float(strength()) == pytest.approx(0.8)
    choose(page, strength="30")
    assert float(strength()) == pytest.approx(0.3)
    page.locator(".tile button").first.focus()
    page.keyboard.press("m")
    assert float(strength()) == 0
    page.keyboard.press("m")
    assert float(strength()) == pytest.approx(0.3)


def test_it_speaks_english_and_french(page, address):
    assert page.evaluate("document.documentElement.lang") == "en"
    page.get_by_role("button", name="FR").click()
    assert page.evaluate("document.documentElement.lang") == "fr"
    assert page.locator("#count").inner_text() == "600 photographies sur 600"
    assert "20\u202f000" in page.locator("#count").get_attribute("title")
    assert re.search(r"\d+\s%", page.locator(".caption").first.inner_text())
    page.locator(".tile button").first.click()
    assert {"oreilles", "yeux", "bouche"} <= set(page.locator(".bars .name").all_inner_texts())
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "photo" not in url)
    page.goto(f"{address}#lang=fr&sort=gap&truth=1")
    page.reload()
    assert page.evaluate("document.documentElement.lang") == "fr"
    assert page.locator("#sort").input_value() == "gap"
    assert page.locator("#truth").input_value() == "1"
    words = page.evaluate("window.words")
    assert words["en"].keys() == words["fr"].keys()
    for key, text in words["en"].items():
        if isinstance(text, str):
            fields = re.compile(r"\{\w+\}")
            assert sorted(fields.findall(text)) == sorted(fields.findall(words["fr"][key])), key
    named = {*tables.REGIONS, *tables.ROLLUPS, *tables.ROWS}
    assert named <= words["fr"]["regions"].keys()


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (800, 600)])
def test_it_fits_its_window_and_every_control_has_a_name(page, size):
    page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    page.locator(".tile button").first.click()
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= size[0]
    assert box["y"] >= 0 and box["y"] + box["height"] <= size[1]
    page.keyboard.press("Escape")
    over = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(over) <= 0
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, select, input")].filter((part) =>
            !(part.ariaLabel || part.textContent.trim() || part.labels?.[0]?.textContent.trim()))
            .map((part) => part.id)"""
    )
    assert unnamed == []


def test_text_has_contrast_enough_for_a_projector():
    css = (PAGE / "gallery.css").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w+)", css))

    def light(name):
        text = colours[name].removeprefix("#")
        text = "".join(2 * c for c in text) if len(text) == 3 else text
        rgb = np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    for ink in ("ink", "soft", "right", "wrong"):
        for paper in ("paper", "wash"):
            ratio = (light(paper) + 0.05) / (light(ink) + 0.05)
            assert ratio >= 4.5, (ink, paper)  # WCAG 2.2, level AA
