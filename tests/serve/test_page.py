"""The page in a real browser: what a visitor does, and what must not happen on the console."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from i21k.labels import ClassList
from i21k.prediction.embed import embed
from i21k.prediction.predictor import Predictor
from i21k.serve.models import served
from tests.helpers import browser
from tests.helpers.models import save_random_model
from tests.helpers.pngs import bomb
from tests.helpers.serving import Running, serving
from tests.serve.conftest import png

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(browser.LACKING), reason=browser.LACKING or "there is one"),
]
PHONE = {"width": 375, "height": 740}
# Chromium itself writes a line for every response that is an error, as the tests want some to be.
REFUSED = "Failed to load resource: the server responded with a status of 4"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium() as started:
        yield started


@pytest.fixture
def visit(chromium: Any, page: Running) -> Iterator[Any]:
    """Open the page in a new window, and check the console and the requests at the end."""
    faults: list[str] = []
    strangers: list[str] = []
    contexts = []

    def console(message: Any) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(REFUSED):
            faults.append(message.text)

    def opened(**options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(90_000)  # reached only if it hangs
        tab.on("console", console)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda r: strangers.append(r.url) if not own(r.url) else None)
        tab.goto(page.address)
        tab.wait_for_selector("[role=tab]")
        return tab

    def own(url: str) -> bool:
        return url.startswith((page.address, "blob:"))

    yield opened
    for context in contexts:
        context.close()
    assert faults == [] and strangers == []


def choose(tab: Any, name: str, content: bytes) -> None:
    tab.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})


def drop(tab: Any, content: bytes) -> None:
    """Drop a file on the page as a mouse does."""
    tab.evaluate(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
            const options = { dataTransfer: carried, bubbles: true, cancelable: true };
            for (const kind of ["dragover", "drop"])
                document.querySelector("#drop").dispatchEvent(new DragEvent(kind, options));
        }""",
        base64.b64encode(content).decode(),
    )


def names(tab: Any) -> list[str]:
    return tab.locator(".answers .row:not(.above) .name").all_inner_texts()


def test_a_dropped_image_is_answered_in_every_view(visit, models):
    tab = visit()
    drop(tab, png(1))
    tab.wait_for_selector(".answers")
    model = models["small"].predictor
    for view in ("top", "diverse", "basic"):
        tab.click(f"#tab-{view}")
        expected = {model.name(answer.id) for answer in model.predict(png(1), view)}
        tab.wait_for_function(
            "n => document.querySelectorAll('.row:not(.above)').length === n", arg=len(expected)
        )
        assert set(names(tab)) == expected
    tab.wait_for_function("() => document.querySelector('#shown').naturalWidth === 48")
    assert "48 × 40 px" in tab.inner_text("#facts")
    assert tab.locator(".cell").count() > 2
    assert tab.get_attribute(".cell >> nth=0", "aria-label").endswith("%")


def test_the_slider_makes_the_answer_more_general(visit):
    tab = visit()
    choose(tab, "a.png", png(2))
    tab.wait_for_selector(".answers")
    tab.click("#tab-hedge")
    tab.wait_for_function("() => document.querySelectorAll('.row:not(.above)').length === 1")
    slider = tab.locator("#accuracy")
    seen = []
    for key in ("Home", "End"):
        with tab.expect_response(lambda reply: "view=hedge" in reply.url) as reply:
            slider.focus()
            slider.press("ArrowRight" if key == "Home" else "ArrowLeft")
            slider.press(key)
        asked = reply.value.url
        tab.wait_for_timeout(300)
        seen.append((tab.inner_text("#wanted"), names(tab), asked))
    (low, _, _), (high, most_general, _) = seen
    assert int(low.split()[0]) < int(high.split()[0]) == 99
    assert len(most_general) == 1


def test_a_wrong_expression_is_marked_and_a_completion_mends_it(visit):
    tab = visit()
    choose(tab, "a.png", png(0))
    tab.wait_for_selector(".answers")
    tab.click("#tab-subset")
    tab.fill("#among", "leaf & under(sahrk)")
    tab.wait_for_selector("#verdict mark")
    assert tab.inner_text("#verdict mark") == "sahrk"
    assert "no synset is called 'sahrk'" in tab.inner_text("#verdict")
    assert tab.get_attribute("#among", "aria-invalid") == "true"
    tab.fill("#among", "")
    tab.type("#among", "leaf & under(shar")
    tab.wait_for_selector("#offers:not([hidden]) [role=option]")
    assert tab.get_attribute("#among", "aria-expanded") == "true"
    tab.press("#among", "ArrowDown")
    tab.press("#among", "Enter")
    assert tab.input_value("#among") == "leaf & under(shark)"
    tab.wait_for_function(
        "() => document.querySelector('#verdict').textContent.startsWith('2 classes')"
    )
    tab.wait_for_function("() => document.querySelectorAll('.row:not(.above)').length === 2")
    assert set(names(tab)) == {"great white shark", "tiger shark"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.txt", b"not an image at all", "not an image"),
        ("bomb.png", bomb(60_000), "more than 67,108,864 pixels"),
        ("film.mp4", bytes(50_000_000), "film.mp4 has 50.0 MB"),
        ("half.png", png(0)[:200], "damaged image"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_what_is_no_image_is_refused_and_the_page_goes_on(visit, tmp_path, name, content, said):
    tab = visit()
    (tmp_path / name).write_bytes(content)
    tab.set_input_files("#file", tmp_path / name)
    tab.wait_for_selector("#problem:not(:empty)")
    assert said in tab.inner_text("#problem")
    assert not tab.is_visible("#shown")
    choose(tab, "a.png", png(3))
    tab.wait_for_selector(".answers")
    assert tab.inner_text("#problem") == ""


def test_everything_is_reached_with_the_keyboard_on_a_phone_in_the_dark(visit):
    tab = visit(viewport=PHONE, color_scheme="dark")
    choose(tab, "a.png", png(1))
    tab.wait_for_selector(".answers")
    tab.wait_for_selector(".cell")
    widths = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths == [375, 375]
    tab.focus("#tab-top")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("document.activeElement.id") == "tab-subset"
    tab.keyboard.press("End")
    assert tab.get_attribute("#tab-hedge", "aria-selected") == "true"
    tab.keyboard.press("Home")
    tab.focus(".cell >> nth=0")
    before = tab.evaluate("document.activeElement.getAttribute('aria-label')")
    tab.keyboard.press("ArrowRight")
    inside = tab.evaluate("document.activeElement.getAttribute('aria-label')")
    assert inside and inside != before
    for _ in range(tab.locator(".way button").count()):
        tab.keyboard.press("Escape")
    assert tab.locator(".way button").all_inner_texts() == ["fish"]  # all classes are below it
    light, dark = visit(), tab
    colours = [
        one.evaluate("getComputedStyle(document.body).backgroundColor") for one in (light, dark)
    ]
    assert colours[0] != colours[1]


def test_two_models_answer_side_by_side_with_the_nearest_images(
    chromium: Any, models: Any, dataset: Path
) -> None:
    predictor = models["small"].predictor
    features = embed(predictor.trained, dataset, "val")
    with serving(served([predictor, predictor], 1, [features])) as running:
        context = chromium.new_context(viewport={"width": 1200, "height": 900})
        tab = context.new_page()
        tab.set_default_timeout(90_000)
        tab.goto(running.address)
        tab.wait_for_selector("[role=tab]")
        choose(tab, "a.png", png(0))
        tab.wait_for_function("() => document.querySelectorAll('.answers').length === 2")
        left, right = (one.bounding_box() for one in tab.locator(".answers").all())
        assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
        assert tab.locator("#answers h3").all_inner_texts() == ["small", "small (2)"]
        tab.wait_for_selector("#nearest img")
        assert tab.locator("#nearest img").count() == 8
        tab.wait_for_function(
            "() => [...document.querySelectorAll('#nearest img')].every((i) => i.naturalWidth)"
        )
        assert tab.locator(".icicle").count() == 2
        context.close()


def test_a_pasted_image_is_answered(visit):
    tab = visit()
    tab.evaluate(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "image.png", { type: "image/png" }));
            dispatchEvent(new ClipboardEvent("paste", { clipboardData: carried }));
        }""",
        base64.b64encode(png(2)).decode(),
    )
    tab.wait_for_selector(".answers")
    assert tab.inner_text("#problem") == ""


def test_names_of_any_script_are_text_and_nothing_else(
    chromium: Any, few_blocks: None, tmp_path: Path
) -> None:
    classes = ClassList(("<img src=x onerror=alert(1)>", "犬", "كلب", "a\u202eb"))
    path = save_random_model(tmp_path / "スクリプト<b>", classes=classes)
    predictor = Predictor(path)
    with serving(served([predictor], 1)) as running:
        context = chromium.new_context()
        tab = context.new_page()
        tab.set_default_timeout(90_000)
        faults: list[str] = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("dialog", lambda dialog: faults.append(dialog.message))
        tab.goto(running.address)
        tab.wait_for_selector("[role=tab]")
        choose(tab, "a.png", png(0))
        tab.wait_for_selector(".answers")
        assert set(names(tab)) == {"<img src=x onerror=alert(1)>", "犬", "كلب", "a\ufffdb"}
        assert "スクリプト<b>" in tab.inner_text("#models")
        tab.click("#tab-diverse")
        tab.wait_for_selector(".notice")
        assert "not in WordNet" in tab.inner_text(".notice")
        context.close()
        assert faults == []
