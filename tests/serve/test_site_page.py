"""The folder of static files in a real browser, with onnxruntime-web where it is installed."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx", reason="needs the extra onnx")

from i21k import cli, trained
from i21k.prediction.predictor import Predictor
from i21k.serve.site import POLICY, write_site
from i21k.trained.onnx_model import OnnxModel
from tests.helpers import browser, sites
from tests.helpers.onnx_models import classifier
from tests.helpers.profiles import gamma, parametric, profile

LACKING = browser.LACKING or sites.LACKING
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(LACKING), reason=LACKING or "all is there"),
]
P3, GREY = profile(parametric()), profile(gamma(2.2), b"GRAY")
WAIT_MS = 90_000  # reached only if it hangs


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium() as started:
        yield started


@pytest.fixture(scope="module")
def site(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sites.calibrate_by_hand(trained.load(workdir), temperature=1.0)
    folder = tmp_path_factory.mktemp("site") / "page"
    write_site(trained.load(workdir), folder, sites.RUNTIME)
    return folder


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    """Open a folder in a new window; fail if there was an error or a request to another site."""
    faults: list[str] = []
    contexts = []

    def opened(address: str, **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        context.on("console", lambda said: faults.append(said.text))
        context.on("weberror", lambda error: faults.append(str(error.error)))
        context.on("response", lambda r: faults.append(f"{r.status} {r.url}") if not r.ok else None)
        context.on(
            "request",
            lambda r: None if r.url.startswith((address, "blob:")) else faults.append(r.url),
        )
        tab = context.new_page()
        tab.set_default_timeout(WAIT_MS)
        tab.goto(address)
        tab.wait_for_selector("[role=tab]")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def drop(tab: Any, content: bytes, name: str = "dropped.png") -> None:
    """Drop a file on the page, and wait for the answers."""
    tab.evaluate(
        """([text, name]) => {
            document.querySelector("#facts").textContent = "";
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name));
            const options = { dataTransfer: carried, bubbles: true, cancelable: true };
            document.querySelector("#drop").dispatchEvent(new DragEvent("drop", options));
        }""",
        [base64.b64encode(content).decode(), name],
    )
    tab.wait_for_function(
        """() => document.querySelector("#facts").textContent.includes("answered")
            || document.querySelector("#problem").textContent"""
    )


def shown(tab: Any) -> list[tuple[str, str]]:
    """Return name and probability of each answer on the page."""
    rows = tab.locator(".answers .row:not(.above)")
    numbers = rows.locator(".number").all_inner_texts()
    return list(zip(rows.locator(".name").all_inner_texts(), numbers, strict=True))


def probabilities(tab: Any, number: int = 1) -> np.ndarray:
    """Return what the page has computed for its first image, or a later one."""
    return np.array(
        tab.evaluate(
            """async (number) => {
                const { numbers } = await import("./assets/api.js");
                return [...(await numbers(`/results/${number}/probabilities`))];
            }""",
            number,
        )
    )


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def images() -> dict[str, bytes]:
    """Return files that are prepared in different ways, and how they are drawn."""
    transparent = picture(300, 280, 5).convert("RGBA")
    transparent.putalpha(picture(300, 280, 6).convert("L"))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "large.png": encoded(picture(400, 310), "PNG"),
        "small.png": encoded(picture(80, 60, 1), "PNG"),
        "stored.jpg": encoded(picture(300, 256, 2), "JPEG", quality=60),
        "progressive.jpg": encoded(picture(300, 256, 3), "JPEG", progressive=True),
        "photo.jpg": encoded(picture(640, 480, 4), "JPEG", quality=95),
        "transparent.png": encoded(transparent, "PNG"),
        "turned.jpg": encoded(picture(400, 300, 7), "JPEG", exif=turned),
        "grey.png": encoded(picture(333, 270, 8).convert("L"), "PNG"),
        "image.webp": encoded(picture(300, 270, 9), "WEBP", lossless=True, icc_profile=P3),
        "colours.png": encoded(picture(300, 270, 10), "PNG", icc_profile=P3),
        "colours.jpg": encoded(picture(300, 256, 11), "JPEG", icc_profile=P3),
        "grey.jpg": encoded(picture(300, 270, 12).convert("L"), "JPEG", icc_profile=GREY),
        "camera.jpg": encoded(picture(1400, 1040, 13), "JPEG", quality=95),
    }


def test_a_dropped_image_is_answered_as_by_predict(site: Path, visit: Any, tmp_path: Path, capsys):
    (tmp_path / "image.png").write_bytes(images()["large.png"])
    command = ["predict", "--checkpoint", str(site), "--format", "jsonl"]
    assert cli.main([*command, str(tmp_path / "image.png")]) == 0
    expected = json.loads(capsys.readouterr().out)["answers"]
    with sites.hosted(site, Content_Security_Policy=POLICY) as address:
        tab = visit(address)
        drop(tab, images()["large.png"])
        found = sorted(shown(tab))
        assert tab.inner_text("#loading").startswith("The model runs on this device")
        assert tab.locator(".cell").count() > 2
    assert found == sorted((a["name"], f"{100 * a['probability']:.1f} %") for a in expected)


def test_every_kind_of_image_has_the_probabilities_of_python(site: Path, visit: Any) -> None:
    model = trained.load(site)
    with sites.hosted(site) as address:
        tab = visit(address)
        for number, (name, content) in enumerate(images().items(), 1):
            drop(tab, content, name)
            assert tab.inner_text("#problem") == ""
            (expected,) = model.probabilities(model.prepare(content)[None])
            # Python turns after resizing, decodes large files at a part of their size, and rounds
            # grey differently: by one or two of 255 levels.
            most = 0.02 if name in ("turned.jpg", "camera.jpg", "grey.jpg") else 1e-5
            found = probabilities(tab, number)
            np.testing.assert_allclose(found, expected, atol=most, err_msg=name)


def test_all_views_and_an_expression_work(site: Path, visit: Any, workdir: Path) -> None:
    model = Predictor(site)
    content = images()["photo.jpg"]
    with sites.hosted(site) as address:
        tab = visit(address)
        drop(tab, content)
        titles = tab.locator("[role=tab]").all_inner_texts()
        assert titles == ["Top", "Subset", "Fold", "Diverse", "Basic", "Hedge"]
        for view in ("diverse", "basic"):
            tab.click(f"#tab-{view}")
            expected = {model.name(answer.id) for answer in model.predict(content, view)}
            tab.wait_for_function(
                "n => document.querySelectorAll('.row:not(.above)').length === n",
                arg=len(expected),
            )
            assert {name for name, _ in shown(tab)} == expected
        tab.click("#tab-hedge")
        tab.wait_for_function("() => document.querySelectorAll('.row:not(.above)').length === 1")
        tab.click("#tab-subset")
        tab.fill("#among", "leaf & under(sahrk)")
        tab.wait_for_selector("#verdict mark")
        assert tab.inner_text("#verdict mark") == "sahrk"
        assert "Did you mean 'shark'" in tab.inner_text("#verdict")
        tab.fill("#among", "under(shark)")
        tab.wait_for_function("() => document.querySelectorAll('.row:not(.above)').length === 2")
        assert {name for name, _ in shown(tab)} == {"great white shark", "tiger shark"}
        tab.hover(".cell >> nth=0")
        tab.wait_for_selector(".about .soft")  # the meaning of the synset


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"not an image", "is not an image"), (images()["large.png"][:3000], "is not an image")],
    ids=["text", "half a file"],
)
def test_what_is_no_image_is_refused_and_the_page_goes_on(site, visit, content, said) -> None:
    with sites.hosted(site) as address:
        tab = visit(address)
        drop(tab, content)
        assert said in tab.inner_text("#problem")
        drop(tab, images()["small.png"])
        assert tab.inner_text("#problem") == ""


def test_a_phone_in_the_dark(site: Path, visit: Any) -> None:
    with sites.hosted(site) as address:
        tab = visit(address, viewport={"width": 375, "height": 740}, color_scheme="dark")
        drop(tab, images()["small.png"])
        tab.wait_for_selector(".cell")
        assert tab.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [375, 375]


def test_an_onnx_model_of_others_has_the_views_that_it_can(tmp_path: Path, visit: Any) -> None:
    path = classifier(tmp_path / "other.onnx", channels_first=True, last="Softmax", batch=2)
    words = tmp_path / "words.txt"
    words.write_text("<img src=x onerror=alert(1)>\n犬\nكلب\ncat\n")
    model = OnnxModel(path, cli.arguments.class_list(str(words)))
    write_site(model, tmp_path / "page", sites.RUNTIME)
    with sites.hosted(tmp_path / "page") as address:
        tab = visit(address)
        drop(tab, images()["large.png"])
        assert tab.locator("[role=tab]").all_inner_texts() == ["Top"]
        assert {name for name, _ in shown(tab)} == set(model.classes.ids)
        (expected,) = model.probabilities(model.prepare(images()["large.png"])[None])
        np.testing.assert_allclose(probabilities(tab), expected, atol=1e-5)


def test_a_model_that_is_not_whole_is_named(site: Path, chromium: Any, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "page")
    whole = (site / "model.onnx").read_bytes()
    (tmp_path / "page" / "model.onnx").write_bytes(whole[:-1000])
    with sites.hosted(tmp_path / "page") as address:
        tab = chromium.new_page()
        tab.set_default_timeout(WAIT_MS)
        tab.goto(address)
        tab.wait_for_selector("#loading[role=alert]")
        said = tab.inner_text("#loading")
        assert re.search(rf"{len(whole) - 1000} of {len(whole)} bytes arrived", said)
        drop(tab, images()["small.png"])
        assert "The model cannot be loaded" in tab.inner_text("#problem")
        tab.close()
