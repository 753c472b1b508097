"""Many skipped files: a warning, or an error; a changed source: what to do."""

import json
from pathlib import Path

import pytest
from PIL import Image

from i21k import cli
from i21k.errors import UserError
from tests.helpers.packing import encoded, photo, run


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
    for number in range(10):
        path = tmp_path / "phone" / ("cat" if number else "dog") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(seed=number)) if number < 8 else heic)
    return tmp_path / "phone"


def test_many_skipped_files_are_a_warning_and_can_be_an_error(
    phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i21k.images.formats._registered", lambda *_: False)
    out = tmp_path / "out"
    command = ["pack", str(phone), "--out", str(out), "--workers", "1"]
    assert cli.main([*command, "--max-skipped", "5%"]) == 2
    said = capsys.readouterr()
    assert "20.00% of the files were skipped (2 HEIC image" in said.err
    assert cli.main([*command, "--max-skipped", "0.2"]) == 0  # resumes
    said = capsys.readouterr()
    assert "skipped 2: HEIC image, needs pip install 'i21k[heif]'" in said.out
    assert f"20.0% of the files were skipped. {out}/skipped-train.tsv" in said.err


def test_mended_images_are_counted_and_can_be_skipped(
    phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, path in enumerate(sorted(phone.rglob("*.jpg"))):
        data = encoded(photo(seed=number))
        path.write_bytes(data[:-2] + b"\x12\x34" * 40 + data[-2:] if number < 3 else data)
    command = ["pack", str(phone), "--workers", "1", "--out"]
    assert cli.main([*command, str(tmp_path / "a")]) == 0
    assert "mended 3: stray bytes before the end marker" in capsys.readouterr().out
    assert cli.main([*command, str(tmp_path / "a"), "--json"]) == 0
    assert '"odd": {"stray bytes before the end marker": 3}' in capsys.readouterr().out
    assert cli.main([*command, str(tmp_path / "b"), "--strict"]) == 0
    assert "skipped 3: damaged image" in capsys.readouterr().out
    assert run(phone, tmp_path / "b", strict=True).already_complete


def test_files_that_nobody_misses_are_no_warning(
    phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("8.jpg", "9.jpg"):
        (phone / "cat" / name).rename(phone / "cat" / f"._{name}")
    assert cli.main(["pack", str(phone), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "were skipped." not in capsys.readouterr().err


def test_changed_source_says_what_to_do(phone: Path, tmp_path: Path) -> None:
    run(phone, tmp_path / "out")
    added = encoded(photo(seed=99))
    (phone / "cat" / "new.jpg").write_bytes(added)
    with pytest.raises(
        UserError,
        match=rf"it has {len(added)} bytes more now, .* another --out, or give --overwrite",
    ):
        run(phone, tmp_path / "out")
    command = ["pack", str(phone), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main([*command, "--overwrite"]) == 0
    assert run(phone, tmp_path / "out").num_written == 9
    (phone / "cat" / "new.jpg").rename(phone / "cat" / "newer.jpg")
    with pytest.raises(UserError, match=r"its files had other names or sizes. Pack it into a new"):
        run(phone, tmp_path / "out")
    (phone / "cat" / "newer.jpg").rename(phone / "cat" / "new.jpg")
    manifest = tmp_path / "out" / "manifest.json"
    content = json.loads(manifest.read_text())
    for entry in content["splits"].values():  # as an older version wrote it
        del entry["options"]["source_files"]
    manifest.write_text(json.dumps(content))
    assert run(phone, tmp_path / "out").already_complete
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert cli.main([*command, "--overwrite"]) == 2
    assert (tmp_path / "out" / "manifest.json").exists()


def test_raw_images_are_no_dataset_to_pack_into(
    phone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["info", str(phone)]) == 2
    assert f"i21k pack {phone} --out NEW_DIRECTORY" in capsys.readouterr().err


def test_contact_sheet_is_what_its_name_says(
    phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(phone, tmp_path / "out")
    for name, file_format in (("a.jpg", "JPEG"), ("a.png", "PNG"), ("a.webp", "WEBP")):
        sheet = tmp_path / name
        assert cli.main(["info", str(tmp_path / "out"), "--contact-sheet", str(sheet)]) == 0
        with Image.open(sheet) as opened:
            assert opened.format == file_format
    assert cli.main(["info", str(tmp_path / "out"), "--contact-sheet", "a.doc"]) == 2
    assert "ends in '.doc'; expected one of .png" in capsys.readouterr().err


def test_tables_escape_what_a_terminal_would_obey(phone: Path, tmp_path: Path) -> None:
    odd = phone / "cat" / "\x1b]0;title\a.jpg"
    odd.write_bytes(b"no image")
    (phone / "cat" / "\x1b[2J twin.jpg").write_bytes((phone / "cat" / "1.jpg").read_bytes())
    run(phone, tmp_path / "out")
    for name, expected in (("skipped", r"\x1b]0;title\x07.jpg"), ("duplicates", r"\x1b[2J twin")):
        text = (tmp_path / "out" / f"{name}-train.tsv").read_text()
        assert expected in text and not {"\x1b", "\a"} & set(text)
