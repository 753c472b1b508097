"""The format on disk: what is written reads back, also by TFDS, and what is damaged is named."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from array_record.python.array_record_module import ArrayRecordReader

from i21k.data.format import shards
from i21k.data.format.manifest import Manifest, SplitManifest, read_manifest
from i21k.data.format.records import decode_example, encode_example, file_name_of
from i21k.data.format.splits import open_split, split_names
from i21k.data.format.tfds import write_metadata
from i21k.files import remove_temporaries
from i21k.labels import ClassList

CLASSES = ClassList(("n00000001", "n00000002", "n00000003"))
RECORDS_PER_SHARD = (3, 0, 2)  # a shard may be empty


def jpeg(value: int) -> bytes:
    return simplejpeg.encode_jpeg(np.full((8, 8, 3), value, np.uint8))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A directory with the splits `train` and `val`."""
    tmp_path = tmp_path / "tiny"
    tmp_path.mkdir()
    made = {}
    for split in ("train", "val"):
        made[split] = tuple(
            shards.write_shard(
                tmp_path / shards.shard_name("tiny", split, k, len(RECORDS_PER_SHARD)),
                [
                    encode_example(jpeg(40 * k + i), i % 3, f"{split}/{k}_{i}")
                    for i in range(num_records)
                ],
            )
            for k, num_records in enumerate(RECORDS_PER_SHARD)
        )
    write_metadata(tmp_path, "tiny", CLASSES, made)
    Manifest(
        "tiny", CLASSES.hash, {s: SplitManifest(files, {}, {}) for s, files in made.items()}
    ).write(tmp_path)
    return tmp_path


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_example_round_trip() -> None:
    record = encode_example(b"\xff\xd8 bytes", 21_840, "n00000001/ä.JPEG")
    assert decode_example(record) == (b"\xff\xd8 bytes", 21_840)
    assert file_name_of(record) == "n00000001/ä.JPEG"
    assert record == encode_example(b"\xff\xd8 bytes", 21_840, "n00000001/ä.JPEG")


def test_example_with_other_features_decodes() -> None:
    """The wire format by hand: features in another order, one more of floats, an unpacked label, no
    file name."""

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    def entry(key: bytes, kind: int, content: bytes) -> bytes:
        return field(1, field(1, key) + field(2, field(kind, content)))

    record = field(
        1,
        entry(b"label", 3, b"\x08\x05")
        + entry(b"bbox", 2, field(1, b"\0" * 16))
        + entry(b"image", 1, field(1, b"jpeg")),
    )
    assert decode_example(record) == (b"jpeg", 5)
    assert file_name_of(record) == ""


@pytest.mark.parametrize("record", [b"", b"no example", encode_example(b"x", 1, "y")[:-3]])
def test_what_is_no_example_is_refused(record: bytes) -> None:
    with pytest.raises(
        ValueError,
        match=rf"a record of {len(record)} bytes is not a tf.train.Example with one image and "
        rf"one label",
    ):
        decode_example(record)


def test_shard_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / shards.shard_name("imagenet21k", "train", 0, 1024)
    assert path.name == "imagenet21k-train.array_record-00000-of-01024"
    shard = shards.write_shard(path, [b"one", b"two"])
    assert (shard.file, shard.num_records, shard.num_bytes) == (path.name, 2, path.stat().st_size)
    reader = ArrayRecordReader(str(path))
    assert (reader.num_records(), reader.read_all()) == (2, [b"one", b"two"])
    assert (
        "group_size:1" in reader.writer_options_string()
        and "uncompressed" in reader.writer_options_string()
    )


def test_failed_shard_leaves_nothing(tmp_path: Path) -> None:
    def records():  # type: ignore[no-untyped-def]
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_shard(tmp_path / "a.array_record", records())
    with pytest.raises(OSError):
        shards.write_shard(tmp_path / "missing" / "a.array_record", [b"one"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_records", [300, 1])
def test_disk_that_refuses_a_shard_is_an_error_of_the_system(
    tmp_path: Path, num_records: int
) -> None:
    """As a full one does: here a file may have so many bytes only. Many records fail while they are
    written, few when they are closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=r"write\(\) failed: File too large"):
            shards.write_shard(tmp_path / "shard", [bytes(20_000)] * num_records)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_temporaries_of_writers_that_were_killed_are_removed(tmp_path: Path) -> None:
    shards.write_shard(tmp_path / "shard", [b"record"])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Manifest("tiny", CLASSES.hash, {}).write(tmp_path)
    (tmp_path / ".i21k-abc_de12").mkdir()
    (tmp_path / ".i21k-abc_de12" / "features.json").touch()
    (tmp_path / ".i21k-mine").touch()
    assert len(list(tmp_path.iterdir())) == 4
    remove_temporaries(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"shard", ".i21k-mine"}


def test_open_split(dataset: Path) -> None:
    split = open_split(dataset, "train")
    assert split_names(dataset) == ("train", "val")
    assert (split.num_records, split.shard_counts, split.classes) == (5, RECORDS_PER_SHARD, CLASSES)
    assert [path.name for path in split.shard_paths] == [
        shards.shard_name("tiny", "train", k, 3) for k in range(3)
    ]


def test_fingerprint_is_of_the_content(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    train = open_split(dataset, "train").fingerprint
    moved = dataset.rename(tmp_path_factory.mktemp("elsewhere") / "d")
    assert open_split(moved, "train").fingerprint == train
    assert open_split(moved, "val").fingerprint != train
    manifest = read_manifest(moved)
    assert manifest is not None
    labels = ClassList((*CLASSES.ids[:2], "n00000009"))
    labels.write(moved / "label.labels.txt")
    edit_json(moved / "manifest.json", class_list_hash=labels.hash)
    assert open_split(moved, "train").fingerprint != train


def test_dataset_of_tfds_opens_without_manifest(dataset: Path) -> None:
    (dataset / "manifest.json").unlink()
    split = open_split(dataset, "val")
    assert (split.num_records, split.shard_counts, split.classes) == (5, RECORDS_PER_SHARD, CLASSES)
    assert split.fingerprint != open_split(dataset, "train").fingerprint
    (dataset / "label.labels.txt").unlink()
    assert open_split(dataset, "val").classes.ids == ("0", "1", "2")


def test_custom_file_template_opens(dataset: Path) -> None:
    (dataset / "manifest.json").unlink()
    info = json.loads((dataset / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["filepathTemplate"] = "{SPLIT}/data.{FILEFORMAT}-{SHARD_INDEX}"
        for k in range(3):
            (dataset / split["name"]).mkdir(exist_ok=True)
            (dataset / shards.shard_name("tiny", split["name"], k, 3)).rename(
                dataset / split["name"] / f"data.array_record-{k:05d}"
            )
    (dataset / "dataset_info.json").write_text(json.dumps(info))
    assert open_split(dataset, "val").num_records == 5


def test_tfds_reads_it_without_tensorflow(dataset: Path) -> None:
    code = """if True:
        import sys
        import tensorflow_datasets as tfds
        source = tfds.builder_from_directory(sys.argv[1]).as_data_source("train")
        assert len(source) == 5, len(source)
        names = [source[i]["file_name"].decode() for i in range(5)]
        assert names == [f"train/{n}" for n in ("0_0", "0_1", "0_2", "2_0", "2_1")]
        assert source[0]["image"].shape == (8, 8, 3) and source[1]["label"] == 1
        assert not {"tensorflow", "jax"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code, str(dataset)], check=True, timeout=60)


def damage_size(directory: Path) -> None:
    with (directory / shards.shard_name("tiny", "train", 2, 3)).open("r+b") as file:
        file.truncate(100)


def remove_feature(directory: Path) -> None:
    path = directory / "features.json"
    content = json.loads(path.read_text())
    del content["featuresDict"]["features"]["label"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: d.rename(d.with_name("gone")),
            r"data directory .* does not exist; expected a packed dataset. Make it with: i21k pack",
        ),
        (
            lambda d: (d / "dataset_info.json").unlink(),
            r"contains no dataset \(dataset_info.json is missing\).* Make one with: i21k pack",
        ),
        (
            lambda d: (d / "dataset_info.json").write_text("{"),
            r"dataset_info.json cannot be read as JSON",
        ),
        (
            lambda d: (d / "dataset_info.json").write_text("[]"),
            r"dataset_info.json contains a JSON list; expected an object",
        ),
        (
            lambda d: edit_json(d / "dataset_info.json", fileFormat="tfrecord"),
            r"file format 'tfrecord'; expected 'array_record'",
        ),
        (
            lambda d: edit_json(d / "dataset_info.json", splits=[{"x": 1}]),
            r"dataset_info.json is damaged \(KeyError\('name'\)\)",
        ),
        (
            lambda d: edit_json(d / "dataset_info.json", splits=[]),
            r"dataset_info.json names no shards",
        ),
        (
            lambda d: edit_json(
                d / "dataset_info.json", splits=[{"name": "x", "shardLengths": ["1"]}]
            ),
            r"no split 'train'; expected one of x",
        ),
        (
            lambda d: (d / shards.shard_name("tiny", "train", 1, 3)).unlink(),
            r"00001-of-00003 is missing: 2 of the 3 shards .*expected 3 shards",
        ),
        (damage_size, r"00002-of-00003 has 100 bytes; expected \d+ bytes\. It is damaged"),
        (
            remove_feature,
            r"features \['file_name', 'image'\]; expected `image` \(Image\) and `label` "
            r"\(ClassLabel\)",
        ),
        (
            lambda d: (d / "label.labels.txt").write_text("a\nb\n"),
            r"label.labels.txt has 2 classes; expected 3",
        ),
        (
            lambda d: (d / "label.labels.txt").write_text("a\nb\nc\n"),
            r"label.labels.txt has another class list than manifest.json",
        ),
        (
            lambda d: edit_json(d / "manifest.json", format="i21k-shards-9"),
            r"format 'i21k-shards-9'; expected 'i21k-shards-1'",
        ),
        (
            lambda d: edit_json(d / "manifest.json", splits={"train": {}}),
            r"manifest.json is damaged",
        ),
    ],
)
def test_damage_is_named(dataset: Path, damage: Any, message: str) -> None:
    damage(dataset)
    with pytest.raises(ValueError, match=message):
        open_split(dataset, "train")


def test_empty_shard_file_of_tfds_is_named(dataset: Path) -> None:
    (dataset / "manifest.json").unlink()
    (dataset / shards.shard_name("tiny", "train", 0, 3)).write_bytes(b"")
    with pytest.raises(ValueError, match=r"00000-of-00003 has 0 bytes; expected at least one byte"):
        open_split(dataset, "train")


def test_directory_above_a_dataset_is_hinted_at(dataset: Path) -> None:
    with pytest.raises(ValueError, match=rf"Did you mean {dataset}\?"):
        open_split(dataset.parent, "train")
