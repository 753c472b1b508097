"""Print the table of layouts in docs/packing.md: each is made, packed, and its first line shown.

    python docs/layouts.py [merge]

With `merge`, print the table about images that are in several classes instead.
"""

import collections
import contextlib
import io
import json
import os
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from i21k import cli
from i21k.data.format.manifest import read_manifest
from i21k.data.format.readers import RecordReader
from i21k.data.format.records import decode_example, labels_of
from i21k.data.format.splits import open_split

TENCH, GOLDFISH = "n01440764", "n01443537"
Files = dict[str, bytes]


def image(seed: int, file_format: str = "JPEG") -> bytes:
    colours = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((48, 32)).save(buffer, file_format)
    return buffer.getvalue()


def images(*names: str) -> Files:
    return {name: image(seed) for seed, name in enumerate(names)}


def tar(files: Files, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def samples(*keys: str, **labels: object) -> Files:
    """Return samples of a WebDataset with a `.cls` and a `.json`."""
    files: Files = {}
    for number, key in enumerate(keys):
        about = {"label": number} | {k: v[number] for k, v in labels.items()}  # type: ignore[index]
        files |= {f"{key}.jpg": image(number), f"{key}.cls": b"%d" % number}
        files[f"{key}.json"] = json.dumps(about).encode()
    return files


def parquet(labels: list[int], names: list[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = [{"bytes": image(k), "path": None} for k in range(len(labels))]
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    table = pyarrow.table({"image": rows, "label": labels})
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def records(*labels: int) -> bytes:
    """Return a RecordIO file of MXNet."""
    content = b""
    for number, label in enumerate(labels):
        header = np.array([(0, label, number, 0)], "<u4,<f4,<u8,<u8").tobytes()
        data = header + image(number)
        content += np.array([0xCED7230A, len(data)], "<u4").tobytes() + data
        content += bytes(-len(data) % 4)
    return content


_SPLITS = images("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "test/dog/4.jpg")
_FOLDERS = images("cat/1.jpg", "dog/2.jpg")
_SYNSETS = images(f"{TENCH}/1.JPEG", f"{GOLDFISH}/2.JPEG")
_TARS = {f"{TENCH}.tar": tar(images("1.JPEG")), f"{GOLDFISH}.tar": tar(images("2.JPEG"))}
_KAGGLE = images(
    f"ILSVRC/Data/CLS-LOC/train/{TENCH}/1.JPEG",
    f"ILSVRC/Data/CLS-LOC/train/{GOLDFISH}/2.JPEG",
    "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG",
    "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG",
) | {
    "LOC_val_solution.csv": f"ImageId,PredictionString\nILSVRC2012_val_00000001,{TENCH} 1 2 3 4\n"
    .encode()
}  # fmt: skip
_TINY = images(f"train/{TENCH}/images/1.JPEG", "val/images/2.JPEG", "test/images/3.JPEG") | {
    "val/val_annotations.txt": f"2.JPEG\t{TENCH}\t0\t0\t62\t62\n".encode()
}
_KEYS = (f"{TENCH}_1", f"{GOLDFISH}_2")
_TIMM = samples(*_KEYS, class_name=(TENCH, GOLDFISH))
_NUMBERS = samples("000", "001")
_WDS = {f"imagenet22k-{s}-000{n}.tar": tar(_TIMM) for s in ("train", "validation") for n in (0, 1)}
_TREES = images(*(f"imagenet21k_{s}/{TENCH}/1.JPEG" for s in ("train", "val", "small_classes")))
_LIST = f"0\t0\t{TENCH}/1.JPEG\n1\t1\t{GOLDFISH}/2.JPEG\n".encode()
_MAC = _FOLDERS | {"__MACOSX/cat/._1.jpg": b"x", "cat/._1.jpg": b"x", "bird/.DS_Store": b"x"}

# What it is, its files, and the command.
LAYOUTS: list[tuple[str, Files, str]] = [
    ("folders of splits", _SPLITS, "i21k pack ."),
    ("class folders", _FOLDERS, "i21k pack ."),
    ("class folders of a Mac, one without images", _MAC, "i21k pack ."),
    ("one class", images("cat/1.jpg", "cat/2.jpg"), "i21k pack ."),
    ("images at any depth", images("cat/2023/1.jpg", "dog/2.jpg"), "i21k pack ."),
    ("one folder around", {f"pets/{n}": d for n, d in _FOLDERS.items()}, "i21k pack ."),
    ("the same", {f"pets/{n}": d for n, d in _FOLDERS.items()}, "i21k pack . --class-level 2"),
    ("synset folders anywhere", {f"fish/{n}": d for n, d in _SYNSETS.items()}, "i21k pack ."),
    ("Kaggle's ImageNet", _KAGGLE, "i21k pack ."),
    ("the zip that Kaggle ships", {"kaggle.zip": zipped(_KAGGLE)}, "i21k pack kaggle.zip"),
    ("Tiny ImageNet", _TINY, "i21k pack . --splits train"),
    ("its validation images", _TINY,
     "i21k pack val --labels val/val_annotations.txt --split val"),
    ("splits beside other images", _SPLITS | images("more/5.jpg"), "i21k pack ."),
    ("zip of class folders", {"a.zip": zipped(_FOLDERS)}, "i21k pack a.zip"),
    ("tar of splits", {"a.tar": tar(_SPLITS)}, "i21k pack a.tar"),
    ("tar.gz of class folders", {"a.tar.gz": tar(_FOLDERS, "w:gz")}, "i21k pack a.tar.gz"),
    ("tar.xz of class folders", {"a.tar.xz": tar(_FOLDERS, "w:xz")}, "i21k pack a.tar.xz"),
    (
        "ImageNet-21K-P",
        {"imagenet21k_resized.tar.gz": tar(_TREES, "w:gz")},
        "i21k pack imagenet21k_resized.tar.gz",
    ),
    ("tar of synset tars", {"fall11_whole.tar": tar(_TARS)}, "i21k pack fall11_whole.tar"),
    (
        "the same, compressed",
        {"winter21_whole.tar.gz": tar({f"winter21/{n}": d for n, d in _TARS.items()}, "w:gz")},
        "i21k pack winter21_whole.tar.gz",
    ),
    ("folder of synset tars", _TARS, "i21k pack ."),
    ("validation tar of ILSVRC", {"val.tar": tar(images("ILSVRC2012_val_00000001.JPEG"))},
     "i21k pack val.tar"),
    ("the same", {"val.tar": tar(images("ILSVRC2012_val_00000001.JPEG"))},
     "i21k pack val.tar --labels ilsvrc2012-val --split val"),
    ("WebDataset of timm", _WDS, "i21k pack ."),
    ("a range of its shards", _WDS, "i21k pack 'imagenet22k-train-{0000..0001}.tar'"),
    ("WebDataset of numbers", {"a-000.tar": tar(_NUMBERS)}, "i21k pack ."),
    ("the same", {"a-000.tar": tar(_NUMBERS), "names.txt": b"cat\ndog\n"},
     "i21k pack . --classes names.txt"),
    ("Parquet of Hugging Face",
     {f"data/{s}-00000-of-00001.parquet": parquet([-1] if s == "test" else [0, 1], ["cat", "dog"])
      for s in ("train", "validation", "test")}, "i21k pack ."),
    ("RecordIO of MXNet", {"train.rec": records(0, 1), "train.lst": _LIST}, "i21k pack train.rec"),
    ("RecordIO without a list", {"train.rec": records(0, 1)},
     "i21k pack train.rec --classes ilsvrc2012"),
    ("table", images("1.jpg", "2.jpg") | {"t.csv": b"file,label\n./1.jpg,cat\n./2.jpg,dog\n"},
     "i21k pack t.csv"),
    ("table with splits",
     images("1.jpg", "2.jpg", "3.jpg")
     | {"t.csv": b"file,label,split\n1.jpg,cat,train\n2.jpg,dog,train\n3.jpg,cat,val\n"},
     "i21k pack t.csv"),
    ("images and a table beside",
     images("all/1.jpg", "all/2.jpg") | {"t.tsv": b"1.jpg\tcat\n2.jpg\tdog\n"},
     "i21k pack all --labels t.tsv"),
    ("list of files", _SPLITS, "find train val -name '*.jpg' | i21k pack -"),
    ("address", {}, "i21k pack s3://bucket/images"),
]  # fmt: skip


@contextlib.contextmanager
def scratch(files: Files) -> Iterator[Path]:
    """Give a folder with the files, as the working directory."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "source"
        root.mkdir()
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        os.chdir(root)
        try:
            yield root
        finally:
            os.chdir(before)


def first_line(command: str, files: Files) -> str:
    """Run a command and return its first line of output."""
    stdin, (*_, arguments) = sys.stdin, command.rpartition("i21k ")
    said = io.StringIO()
    with scratch(files):
        words = [word.strip("'") for word in arguments.split()]
        if "|" in command:
            listed = "".join(f"{name}\n" for name in files if name.startswith(("train", "val")))
            sys.stdin = io.TextIOWrapper(io.BytesIO(listed.encode()))
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                cli.main([*words, "--out", "../out", "--workers", "1"])
        finally:
            sys.stdin = stdin
    return said.getvalue().splitlines()[0]


def print_layouts() -> None:
    print("| you have | command | first line of output |\n|---|---|---|")
    for what, files, command in LAYOUTS:
        line = first_line(command, files).replace("|", "\\|")
        print(f"| {what} | `{command.replace('|', chr(92) + '|')}` | {line} |")


def print_merge() -> None:
    """Ten images of puppies are in the class `dog` too, five are nowhere else."""
    puppies, dogs = [image(n) for n in range(15)], [image(n) for n in range(100, 120)]
    files = {f"dog/{n}.jpg": data for n, data in enumerate([*dogs, *puppies[:10]])}
    files |= {f"puppy/{n}.jpg": data for n, data in enumerate(puppies)}
    print("| `--duplicates` | records | with several labels | dropped | best possible top-1 |")
    print("|---|---|---|---|---|")
    for policy in ("keep", "first", "drop", "merge"):
        with scratch(files), contextlib.redirect_stderr(io.StringIO()):
            arguments = ["pack", ".", "--out", "../out", "--workers", "1", "--duplicates", policy]
            with contextlib.redirect_stdout(io.StringIO()):
                cli.main(arguments)
            manifest = read_manifest(Path("../out"))
            assert manifest is not None
            split = open_split(Path("../out"), "train")
            reader = RecordReader(split)
            found = [reader[number] for number in range(split.num_records)]
        labels_by_image = collections.defaultdict[bytes, list[int]](list)
        for record in found:
            jpeg, label = decode_example(record)
            labels_by_image[jpeg].append(label)
        # One answer for each image, since equal images get equal answers.
        right = sum(max(map(labels.count, labels)) for labels in labels_by_image.values())
        several = sum(len(labels_of(record)) > 1 for record in found)
        dropped = sum(manifest.splits["train"].counts["dropped"].values())
        best = right / len(found)
        print(f"| {policy} | {len(found)} | {several} | {dropped} | {best:.1%} |")


def main() -> None:
    print_merge() if sys.argv[1:] == ["merge"] else print_layouts()


if __name__ == "__main__":
    main()
