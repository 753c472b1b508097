"""The scripts of the static page, run by Node: the same answers and the same pixels as Python's."""

import base64
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from i21k.images.boxes import window_boxes
from i21k.images.decode import crop_into
from i21k.labels import ClassList
from i21k.prediction.predictor import Predictor
from i21k.serve import page_files, site_data
from i21k.serve.models import ServedModel
from i21k.trained import Origin, Preprocessing
from i21k.wordnet import class_lists
from tests.helpers.profiles import gamma, parametric, profile, table
from tests.helpers.sites import NODE, calibrate_by_hand

pytestmark = pytest.mark.skipif(NODE is None, reason="no node is installed")
NUM_CLASSES, NUM_IMAGES = 1500, 8

ANSWER = """
import { Answering } from "./answering.js";
import { readFileSync } from "node:fs";
const { model, wordnet, images, questions } = JSON.parse(readFileSync(0, "utf-8"));
const answering = new Answering(model, wordnet);
const said = (question) => {
  if (question.choose) return answering.choose(question.choose);
  if (question.tree) return answering.tree();
  try {
    return images.map((image) => answering.answers(Float32Array.from(image), question));
  } catch (error) {
    if (error.code === undefined) throw error;
    return { error: { code: error.code, message: error.message, position: error.position } };
  }
};
console.log(JSON.stringify(questions.map(said)));
"""
PIXELS = """
import { readFileSync } from "node:fs";
import { convert, readProfile } from "./colours.js";
import { cropped, resizeBicubic, storedSize } from "./resize.js";
import { roundTrip } from "./jpeg.js";
const made = JSON.parse(readFileSync(0, "utf-8")).map((one) => {
  const { width, height, data, profile, quality, crops } = one;
  const rgb = Buffer.from(data, "base64");
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let at = 0; at < rgba.length; at++) if (at % 4 < 3) rgba[at] = rgb[(at >> 2) * 3 + (at % 4)];
  const from = { width, height };
  const read = (top, rows) => rgba.subarray(top * width * 4, (top + rows) * width * 4);
  const small = resizeBicubic(read, from, storedSize(from, 64));
  if (profile) convert(small.data, readProfile(new Uint8Array(Buffer.from(profile, "base64"))));
  const image = roundTrip(small, quality);
  const text = (bytes) => Buffer.from(bytes).toString("base64");
  const squares = crops.map(([fraction, size]) => text(cropped(image, fraction, size)));
  return { stored: text(image.data), crops: squares };
});
console.log(JSON.stringify(made));
"""


def run(script: str, given: Any, folder: Path) -> Any:
    """Run a script beside the page's, with JSON in and out."""
    assert NODE is not None
    for name, text in (page_files.page_files() | page_files.browser_files()).items():
        (folder / name).write_text(text)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "run.js").write_text(script)
    text = json.dumps(given)
    done = subprocess.run([NODE, folder / "run.js"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Known:
    """A trained model that is never run: its classes, and where its calibration is."""

    batch_size, probability, class_counts, train_fingerprint = 1, "softmax", None, None
    preprocessing = Preprocessing(32, 0.875)

    def __init__(self, classes: ClassList, folder: Path) -> None:
        self.classes, self.origin = classes, Origin(str(folder), 0, "digest")

    def prepare(self, image: Any) -> Any:
        raise AssertionError("never run")

    probabilities = features = prepare


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """Classes of which some are above others, in any order, and some have several parents."""
    ids = np.random.default_rng(0).permutation(class_lists.named("fall11").ids)[:NUM_CLASSES]
    model: Any = Known(ClassList((*ids, "n00017222", "n07749582")), tmp_path_factory.mktemp("m"))
    calibrate_by_hand(model)
    return ServedModel("m", Predictor(model), 1)


@pytest.fixture(scope="module")
def synsets() -> Any:
    return site_data.wordnet_json()


def probabilities() -> np.ndarray:
    """Return rows that are sure, unsure, and full of equal values."""
    rng = np.random.default_rng(1)
    num = NUM_CLASSES + 2
    rows = [rng.dirichlet(np.full(num, alpha)) for alpha in (0.003, 0.01, 0.05, 1.0)]
    counts = [rng.multinomial(256, rng.dirichlet(np.full(num, alpha))) for alpha in (0.01, 0.1)]
    one = np.eye(num)[7]
    return np.array([*rows, *(count / 256 for count in counts), one, np.full(num, 1 / num)], "f4")


EXPRESSIONS = (
    "leaf & !under(person)",
    "under(animal) | n00017222",
    "basic",
    "!(ic>=6) & internal",
    "size<=5 & rank<4000",
    "cut(ic=5)",
    "partition(size=40)",
    "above(n07749582) | ilsvrc2012",
    'in12k & !"n07749582"',
)
FOLDED = (None, "partition(size=900)", "size>40 & !under(artifact)")
WRONG = ("", "leaf &", "under(animal", "dog dog", "crane", '"leaf', "ic>x", "cut(rank=3)", "!")
WRONG += (
    "leaf ) ",
    "under()",
    "ic",
    "entity",
    "size<1",
    "(" * 60,
    "leaf | n99999999",
    "leaf | plant",
)


@pytest.mark.parametrize("temperature", ["calibrated", 1.0])
def test_every_view_answers_as_pythons(
    temperature: Any,
    served: ServedModel,
    synsets: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if temperature == 1.0:
        monkeypatch.setattr(served.predictor.calibration, "temperature", lambda: 1.0)
        served._view.cache_clear()
    questions: list[dict[str, Any]] = [
        {"view": view, "k": k} for view in ("top", "basic", "diverse") for k in (1, 5, 12)
    ]
    questions += [{"view": "hedge", "accuracy": wanted} for wanted in (0.5, 0.62, 0.9)]
    questions += [{"view": "subset", "among": text, "k": 6} for text in EXPRESSIONS]
    if temperature == 1.0:
        questions += [{"view": "fold", "among": text} for text in FOLDED]
    images = probabilities()
    given = {
        "model": site_data.answering_json(served), "wordnet": synsets,
        "images": images.tolist(), "questions": questions,
    }  # fmt: skip
    found = run(ANSWER, given, tmp_path)
    # The temperature is applied in float32 here, and in float64 there.
    near = pytest.approx if temperature == 1.0 else lambda p: pytest.approx(p, rel=2e-5, abs=1e-9)
    for question, answers in zip(questions, found, strict=True):
        for image, answer in zip(images, answers, strict=True):
            expected = served.answers(image, **question)
            for part in ("answers", "tree"):
                ours, theirs = expected[part], answer[part]
                assert [row["id"] for row in theirs] == [row["id"] for row in ours], question
                assert [row["name"] for row in theirs] == [row["name"] for row in ours]
                for row, other in zip(ours, theirs, strict=True):
                    assert row.get("depth") == other.get("depth")
                    if row["probability"] is None:
                        assert other["probability"] is None
                    else:
                        assert other["probability"] == near(row["probability"])


def known_part(message: str) -> str:
    """Return a message without the words that are offered for an unknown one."""
    return re.split(r"\. (?:Did|Write)", message)[0]


def test_expressions_choose_the_same_and_are_wrong_at_the_same_place(
    served: ServedModel, synsets: Any, tmp_path: Path
) -> None:
    texts = [{"among": text, "view": "subset"} for text in EXPRESSIONS + WRONG]
    texts += [{"among": text, "view": "fold"} for text in FOLDED if text]
    given = {
        "model": site_data.answering_json(served), "wordnet": synsets,
        "images": probabilities()[:1].tolist(),
        "questions": [
            *({"choose": text} for text in texts),
            {"view": "hedge", "accuracy": 0.99},
            {"tree": True},
        ],
    }  # fmt: skip
    *found, hedged, tree = run(ANSWER, given, tmp_path)
    assert hedged["error"]["code"] == "accuracy_not_calibrated"
    for text, theirs in zip(texts, found, strict=True):
        ours = served.choose(**text)
        assert (theirs["error"] is None) == (ours["error"] is None), text
        if ours["error"]:
            wanted, given = ours["error"], theirs["error"]
            assert given["code"] == wanted["code"], text
            assert given.get("position") == wanted.get("position"), text
            assert known_part(given["message"]) == known_part(wanted["message"])
        else:
            assert theirs == ours
    predictor = served.predictor
    assert tree["ids"] == list(predictor.hierarchy.ids)
    labels = predictor.classes.label_of
    assert tree["labels"] == [labels.get(node, -1) for node in tree["ids"]]


PROFILES = [profile(curve) for curve in (gamma(2.2), table(), parametric(), gamma(1.0))]


def test_pixels_are_those_of_python_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    crops = ((0.875, 56), (0.875, 40), (1.0, 96), (0.9, 16), (0.5, 13), (1.0, 32), (1.0, 17))
    sizes = ((130, 97), (97, 130), (64, 64), (63, 40), (65, 64), (3, 5), (300, 70), (700, 129))
    cases = []
    expected: list[tuple[np.ndarray, list[np.ndarray]]] = []
    for number, (width, height) in enumerate(sizes):
        quality = (90, 75, 100, 30)[number % 4]
        coarse = rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height))).astype(int)
        noisy = smooth + rng.integers(-60, 61, smooth.shape)
        original = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        icc = None if number < 3 else PROFILES[number % len(PROFILES)]
        cases.append(
            {
                "profile": icc and base64.b64encode(icc).decode(),
                "width": width, "height": height, "quality": quality, "crops": crops,
                "data": base64.b64encode(original.tobytes()).decode(),
            }
        )  # fmt: skip
        file = io.BytesIO()
        # Not `prepare`: this must be of pixels, for a JPEG would be stored as it is.
        original.save(file, "PNG", icc_profile=icc)
        stored = Preprocessing(1, 1.0, 64, quality).recoded(file.getvalue())
        pixels = simplejpeg.decode_jpeg(stored, "RGB").copy()
        squares = []
        for fraction, size in crops:
            (box,) = window_boxes(np.array([pixels.shape[:2]]), fraction, 0.5).tolist()
            squares.append(np.empty((size, size, 3), np.uint8))
            crop_into(squares[-1], pixels, tuple(box))
        expected.append((pixels, squares))
    found = run(PIXELS, cases, tmp_path)
    for made, (pixels, squares) in zip(found, expected, strict=True):
        for text, array in zip([made["stored"], *made["crops"]], [pixels, *squares], strict=True):
            theirs = np.frombuffer(base64.b64decode(text), np.uint8)
            np.testing.assert_array_equal(theirs.reshape(array.shape), array)
