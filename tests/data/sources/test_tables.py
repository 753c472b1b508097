"""Labels that are given beside the images."""

from pathlib import Path

import pytest

from i21k.data.sources.tables import parse_labels
from i21k.labels import ClassList
from tests.helpers.packing import encoded, photo, records_of, run, tar_of


def test_images_without_classes_take_them_from_a_table(tmp_path: Path) -> None:
    files = {f"ILSVRC2012_val_{n:08d}.JPEG": encoded(photo(seed=n)) for n in (1, 2, 3)} | {
        "ILSVRC2012_val_00060000.JPEG": encoded(photo())
    }
    (tmp_path / "val.tar").write_bytes(tar_of(files))
    report = run(tmp_path / "val.tar", tmp_path / "a", split="val", labels="ilsvrc2012-val")
    assert report.num_written == 3 and report.skipped == {"no label": 1}
    names = {name for name, _, _ in records_of(tmp_path / "a", "val")}
    # The first three ids of the ground truth that ILSVRC published.
    expected = {1: "n01751748", 2: "n09193705", 3: "n02105855"}
    assert names == {f"{class_id}/ILSVRC2012_val_{n:08d}.JPEG" for n, class_id in expected.items()}

    (tmp_path / "flat").mkdir()
    for name, content in files.items():
        (tmp_path / "flat" / name).write_bytes(content)
    (tmp_path / "labels.tsv").write_text(
        "".join(f"ILSVRC2012_val_{n:08d}.JPEG\t{class_id}\n" for n, class_id in expected.items())
    )
    run(tmp_path / "flat", tmp_path / "b", split="val", labels=str(tmp_path / "labels.tsv"))
    assert records_of(tmp_path / "b", "val") == records_of(tmp_path / "a", "val")

    # A table may begin with a byte order mark and name files with their folders; files that are
    # not there are ignored.
    (tmp_path / "flat" / "deeper").mkdir()
    (tmp_path / "flat" / "deeper" / "ILSVRC2012_val_00000001.JPEG").write_bytes(
        encoded(photo(seed=9))
    )
    (tmp_path / "flat" / "broken.JPEG").symlink_to("nowhere")
    lines = [
        "ILSVRC2012_val_00000001.JPEG\tcat",
        "deeper/ILSVRC2012_val_00000001.JPEG\tdog",
        "broken.JPEG\tcat",
    ]
    (tmp_path / "labels.tsv").write_text("\r\n".join(lines), "utf-8-sig")
    report = run(tmp_path / "flat", tmp_path / "d", labels=str(tmp_path / "labels.tsv"))
    names = {name for name, _, _ in records_of(tmp_path / "d")}
    assert names == {"cat/ILSVRC2012_val_00000001.JPEG", "dog/deeper/ILSVRC2012_val_00000001.JPEG"}
    assert report.skipped == {"no label": 3, "unreadable file": 1}

    (tmp_path / "labels.tsv").write_text("a.JPEG\tcat\n\tdog\tanimal\n")
    with pytest.raises(
        ValueError, match=r"Line 2 of .*labels.tsv is '\\tdog\\tanimal'; expected FILE<TAB>CLASS"
    ):
        run(tmp_path / "flat", tmp_path / "c", labels=str(tmp_path / "labels.tsv"))
    (tmp_path / "labels.tsv").write_text("a.JPEG\tcat\tanimal\n")
    with pytest.raises(
        ValueError,
        match=r"Line 1 of .*labels.tsv is 'a.JPEG\\tcat\\tanimal'; expected FILE<TAB>CLASS",
    ):
        run(tmp_path / "flat", tmp_path / "c", labels=str(tmp_path / "labels.tsv"))
    (tmp_path / "labels.tsv").write_text("a.JPEG cat\n")
    with pytest.raises(
        ValueError, match=r"Line 1 of .*labels.tsv is 'a.JPEG cat'; expected FILE<TAB>CLASS"
    ):
        run(tmp_path / "flat", tmp_path / "c", labels=str(tmp_path / "labels.tsv"))
    with pytest.raises(
        ValueError,
        match=r"Table of labels gone cannot be read .* Give --labels ilsvrc2012-val, or a file",
    ):
        run(tmp_path / "flat", tmp_path / "c", labels="gone")
    assert not (tmp_path / "c").exists()


COLUMNS = [
    # The column of classes has no text in the first row, or there is a coordinate `y`.
    "filename,label,x,y,w,h\n1.jpg,0,10.5,20.5,5,5\n2.jpg,1,9.5,20.5,5,5\n",
    "filename,y,x,target\n1.jpg,20.5,1.5,0\n2.jpg,1.25,3.5,1\n",
    "file,label,species\n1.jpg,3,\n3.jpg,3,nan\n1.jpg,3,cat\n2.jpg,4,dog\n",
    "file,label,species\n1.jpg,0,\n2.jpg,1,\n",
    "file,y,label\n1.jpg,1e-05,cat\n2.jpg,.5,dog\n",
    "file,species,label\n1.jpg,cat,7\n2.jpg,dog,8\n",
    "1.jpg\tcat\t-1\t0.5\t1e-5\n2.jpg\tdog\t1\t2\t3\n",
    "1.jpg 0\n2.jpg 1\n",
    "3.jpg -1\n1.jpg 0\n2.jpg 1\n",
]


@pytest.mark.parametrize("text", COLUMNS)
def test_column_of_classes_is_found_by_its_values(text: str) -> None:
    lines = text.replace("1.jpg,3,\n", "0.jpg,3,\n").splitlines()
    found = parse_labels("t.csv", lines, ClassList(("cat", "dog")))
    assert {file: found[file] for file in ("1.jpg", "2.jpg")} == {"1.jpg": "cat", "2.jpg": "dog"}
    assert not any(found[file] for file in found.keys() - {"1.jpg", "2.jpg"})


def test_integers_and_texts_in_one_column_are_texts_in_every_split() -> None:
    lines = ["file,label,split", "1.jpg,a,train", "2.jpg,7,train", "3.jpg,7,val", "4.jpg,1.5,val"]
    assert parse_labels("t.csv", lines, split="val") == {"3.jpg": "7", "4.jpg": "1.5"}
