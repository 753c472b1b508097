"""`--duplicates merge`: one record with all the labels of byte-identical images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordReader

from i21k.data.format.class_counts import class_counts
from i21k.data.format.records import decode_example, file_name_of, labels_of
from i21k.data.format.splits import open_split
from i21k.data.load import loader
from i21k.data.load.loader import LoaderOptions
from i21k.errors import UserError
from tests.helpers.packing import run


def labels_by_name(out: Path, split: str = "train") -> dict[str, tuple[int, ...]]:
    found = {}
    for path in open_split(out, split).shard_paths:
        for record in ArrayRecordReader(str(path)).read_all():
            assert decode_example(record)[1] == labels_of(record)[0]
            found[file_name_of(record)] = labels_of(record)
    return found


def test_one_record_with_all_labels(duplicated: Path, tmp_path: Path) -> None:
    """Eight images become five, of which one has two labels."""
    report = run(duplicated, tmp_path / "out", duplicates="merge", num_shards=2)
    assert labels_by_name(tmp_path / "out") == {
        "a/1.jpg": (0,),
        "a/3.jpg": (0, 1),
        "a/5.jpg": (0,),
        "b/6.jpg": (1,),
        "b/9.jpg": (1,),
    }
    assert report.dropped == {"duplicate of another image": 3}
    with pytest.raises(UserError, match=r"packed with duplicates 'merge'; got 'keep'. All splits"):
        run(duplicated, tmp_path / "out", split="other")


def test_tfds_reads_it(duplicated: Path, tmp_path: Path) -> None:
    run(duplicated, tmp_path / "out", duplicates="merge")
    code = """if True:
        import sys
        import tensorflow_datasets as tfds
        source = tfds.builder_from_directory(sys.argv[1]).as_data_source("train")
        labels = sorted(tuple(map(int, e["labels"])) for e in source)
        assert labels == [(0,), (0,), (0, 1), (1,), (1,)]
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=True, timeout=120)


def test_the_manifest_counts_an_image_for_each_of_its_classes(
    duplicated: Path, tmp_path: Path
) -> None:
    run(duplicated, tmp_path / "out", duplicates="merge", num_shards=2)
    split = open_split(tmp_path / "out", "train")
    assert split.has_labels and class_counts(split).tolist() == [3, 3]
    manifest = tmp_path / "out" / "manifest.json"
    content = json.loads(manifest.read_text())
    assert content["splits"]["train"].pop("class_counts") == [3, 3]
    manifest.write_text(json.dumps(content))
    assert class_counts(split).tolist() == [3, 3]  # of the records, as for older datasets


def test_batches_have_all_labels(duplicated: Path, tmp_path: Path) -> None:
    run(duplicated, tmp_path / "out", duplicates="merge")
    options = LoaderOptions(5, 32, crop="centre", mirror=False, order="stored", threads=1)
    with loader.batches(open_split(tmp_path / "out", "train"), options) as batches:
        (batch,) = batches
    found = zip(batch.labels.tolist(), batch.others.tolist(), strict=True)
    none = (-1, -1, -1)
    assert sorted((label, *others) for label, others in found) == [
        (0, *none), (0, *none), (0, 1, -1, -1), (1, *none), (1, *none),
    ]  # fmt: skip
