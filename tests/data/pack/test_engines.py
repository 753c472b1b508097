"""The engines: independent parts and Apache Beam give the same bytes."""

import gzip
import importlib.util
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i21k import cli
from i21k.data.pack import beam, output, read
from i21k.data.pack.pack import PackOptions, pack
from tests.helpers.packing import ALL_OPTIONS, content_of, encoded, records_of, run, tar_of

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None


@pytest.mark.skipif(not HAS_BEAM, reason="needs Apache Beam: pip install 'i21k[beam]'")
def test_beam_writes_the_same_bytes(whole_tar: Path, class_folders: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from i21k import cli
        from i21k.data.pack import read
        if __name__ == "__main__":
            read.PART_BYTES = 1  # a part for every synset
            sys.exit(cli.main(sys.argv[1:]))
    """
    options = ["--num-shards", "3", "--val-per-class", "2", "--json"]
    gzipped = tmp_path / "whole.tar.gz"
    gzipped.write_bytes(gzip.compress(whole_tar.read_bytes()))
    for source in (whole_tar, class_folders, gzipped):
        for runner, behind in (("local", []), ("beam", ["--", "--runner=DirectRunner"])):
            out = tmp_path / f"{source.name}-{runner}"
            command = [
                sys.executable,
                "-c",
                code,
                "pack",
                str(source),
                "--out",
                str(out),
                "--runner",
                runner,
                *options,
                *behind,
            ]
            subprocess.run(command, check=True, timeout=120, capture_output=True)
        assert content_of(tmp_path / f"{source.name}-beam") == content_of(
            tmp_path / f"{source.name}-local"
        )
    bad = subprocess.run(
        [*command[:4], str(tmp_path / "none"), *command[5:]],
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert bad.returncode == 2 and bad.stderr.startswith("error: Source ")


def test_parts_of_a_source_are_read_independently(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Beam does, without Beam: parts in any order, one of them twice, and a run of the first
    attempt left behind."""
    run(whole_tar, tmp_path / "expected", **ALL_OPTIONS)
    monkeypatch.setattr(read, "PART_BYTES", 1)
    monkeypatch.setattr(beam, "SPILL_BYTES", 3000)
    applied = []

    def backwards(name: str, function: Callable[[Any], Any], items: Any, beam_options: Any) -> None:
        assert beam_options == ["--some=option"]
        for item in [*items[::-1], items[0]]:
            pickle.loads(pickle.dumps(function))(item)
            applied.append(name)

    monkeypatch.setattr(beam, "run_pipeline", backwards)
    report = pack(
        whole_tar,
        tmp_path / "out",
        PackOptions(**ALL_OPTIONS),
        num_workers=1,
        beam_options=["--some=option"],
    )
    assert applied.count("read") == 4 and applied.count("write") == 4 + 2
    assert report.num_read == 18 and content_of(tmp_path / "out") == content_of(
        tmp_path / "expected"
    )


@pytest.mark.parametrize("layout", ["tar", "gzipped tar", "folder", "labelled"])
def test_beam_checks_the_room_before_it_begins(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (18, 120, 120, 3), np.uint8)
    files = {
        f"{i}.jpg": encoded(Image.fromarray(pixels), quality=95) for i, pixels in enumerate(noise)
    }
    source, table = tmp_path / "source", tmp_path / "table.tsv"
    table.write_text("".join(f"{name}\ta\n" for name in files))
    options = PackOptions(
        short_side=60,
        labels=str(table) if layout == "labelled" else None,
        layout="class-folders" if layout == "folder" else None,
    )
    if "tar" in layout:
        source.write_bytes(tar_of({"a.tar": tar_of(files)}, "w:gz" if "gz" in layout else "w"))
    else:
        (source / "a").mkdir(parents=True)
        for name, content in files.items():
            (source / "a" / name).write_bytes(content)
    needed = []
    monkeypatch.setattr(read, "BATCH_BYTES", 1)
    monkeypatch.setattr(read, "_SAMPLES", 8)
    monkeypatch.setattr(beam, "run_pipeline", lambda *arguments: pytest.fail("begun"))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000)
    )
    real = output.check_free_space
    monkeypatch.setattr(
        beam,
        "check_free_space",
        lambda directory, num_bytes: (needed.append(num_bytes), real(directory, num_bytes)),
    )
    with pytest.raises(
        ValueError,
        match=r"has 0\.0 MB free; packing needs about [\d.]+ MB more, twice the size of the "
        r"result. Free some space",
    ):
        pack(source, tmp_path / "new" / "out", options, beam_options=[])
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    pack(source, tmp_path / "out", options, num_workers=1)
    stored = sum(len(jpeg) for _, _, jpeg in records_of(tmp_path / "out"))
    assert needed == [pytest.approx(2 * stored, rel=0.15)]  # a tenth of the tar is no image


def test_beam_errors_are_explained(
    whole_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pack", str(whole_tar), "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--", "--runner=DirectRunner"]) == 2
    assert (
        "--runner=DirectRunner is given after --, which is for --runner beam"
        in capsys.readouterr().err
    )
    if not HAS_BEAM:
        assert cli.main([*arguments, "--runner", "beam"]) == 2
        assert (
            "Apache Beam cannot be imported (No module named 'apache_beam'). Install it with: "
            "pip install" in capsys.readouterr().err
        )
    assert not (tmp_path / "out").exists()
