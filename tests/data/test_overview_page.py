"""`i21k info`: class sizes, and the page about a dataset."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from i21k import cli
from i21k.data import contents
from i21k.labels import ClassList
from tests.helpers.datasets import CLASSES, write_dataset
from tests.helpers.packing import encoded, photo, run
from tests.helpers.pages import opened_page

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with names of three scripts, a duplicate and a file that was skipped."""
    source, out = (tmp_path_factory.mktemp("info") / name for name in ("source", "out"))
    for number, name in enumerate(("猫", "Käfer", HOSTILE)):
        (source / name).mkdir(parents=True)
        for k in range(2 * number + 1):
            image = encoded(photo(48 + 8 * k, 32, seed=10 * number + k))
            (source / name / f"{k}.jpg").write_bytes(image)
    (source / "猫" / "again.jpg").write_bytes((source / "猫" / "0.jpg").read_bytes())
    (source / "猫" / "broken <b>.jpg").write_bytes(b"\xff\xd8\xff no image")
    run(source, out)
    return out


def test_classes_and_sizes_are_counted(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(packed), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["contents"]["train"]
    assert found["class_counts"] == {"猫": 2, "Käfer": 3, HOSTILE: 5}
    assert found["read"] == 10 and found["damaged"] == 0 and found["median_size_px"][1] == 32
    assert cli.main(["info", str(packed)]) == 0
    out = capsys.readouterr().out
    assert "images per class: 2 (猫) to 5" in out and "short side 32 to 32 px" in out


def test_a_large_dataset_is_sampled(
    packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contents, "MOST_READ_BYTES", 0)
    monkeypatch.setattr(contents, "NUM_SAMPLED", 5)
    sampled = contents.read_contents(packed)["train"]
    assert sampled.counts is None and sampled.num_read == 5
    assert cli.main(["info", str(packed)]) == 0
    assert "--all reads all" in capsys.readouterr().out
    assert contents.read_contents(packed, everything=True)["train"].num_read == 10


def test_bins_hold_every_class_once() -> None:
    rng = np.random.default_rng(0)
    for counts in ([5, 5, 5], [0, 1, 3], [0, 0], rng.integers(0, 3000, 500), [900, 1000]):
        bins = contents.histogram(np.array(counts))
        assert sum(b.num_classes for b in bins) == len(counts)
        assert all(a.high < b.low for a, b in itertools.pairwise(bins))
    assert [tuple(b) for b in contents.histogram([1, 1, 30])] == [
        (1, 1, 2), (2, 4, 0), (5, 9, 0), (10, 19, 0), (20, 30, 1),
    ]  # fmt: skip


def test_the_page_shows_images_duplicates_and_skipped_files(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert cli.main(["info", str(packed), "--html", str(path)]) == 0
    text = path.read_text("utf-8")
    assert text.count("<img ") == 10 and HOSTILE not in text
    assert "猫" in text and "Käfer" in text
    assert "2 files are duplicates, in 1 groups" in text and "猫/again.jpg" in text
    assert "猫/broken &lt;b&gt;.jpg" in text
    with opened_page(path, viewport={"width": 375, "height": 800}) as (page, errors):
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert page.locator("#images li").count() == 10 and errors == []


def test_a_dataset_without_manifest_has_a_page(tmp_path: Path) -> None:
    directory = write_dataset(tmp_path / "d", {"train": 8}, classes=ClassList(CLASSES.ids))
    (directory / "manifest.json").unlink()
    assert cli.main(["info", str(directory), "--html", str(tmp_path / "p.html")]) == 0
    assert "not packed by i21k" in (tmp_path / "p.html").read_text()
