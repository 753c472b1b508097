"""The JSON files that make a directory a TFDS dataset: written by TFDS, read without it."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from i21k.data.format.shards import Shard, shard_name
from i21k.errors import UserError
from i21k.files import TEMPORARY, read_json, read_text
from i21k.labels import ClassList

INFO, _FEATURES, LABELS = "dataset_info.json", "features.json", "label.labels.txt"
METADATA = (LABELS, _FEATURES, INFO)
_FILE_FORMAT = "array_record"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # the default of TFDS


def write_metadata(
    directory: Path, name: str, classes: ClassList, splits: Mapping[str, tuple[Shard, ...]]
) -> None:
    """Write what TFDS needs to read the dataset, of which `splits` are all. Each file is replaced as a whole, never seen half-written."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=list(classes.ids)),
            "file_name": tfds.features.Text(),
        }
    )
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=directory) as temporary:
        infos = []
        for split, shards in sorted(splits.items()):
            (
                Path(temporary) / shard_name(name, split, 0, len(shards))
            ).touch()  # TFDS looks which splits have files
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[shard.num_records for shard in shards],
                    num_bytes=sum(shard.num_bytes for shard in shards),
                    filename_template=tfds.core.ShardedFileTemplate(
                        Path(temporary), _TEMPLATE, name, split, _FILE_FORMAT
                    ),
                )
            )
        tfds.folder_dataset.write_metadata(
            data_dir=temporary,
            features=features,
            split_infos=infos,
            version="1.0.0",
            check_data=False,  # the check needs TensorFlow
            description=f"Pictures of {len(classes)} classes, packed by i21k.",
        )
        for file in METADATA:
            (Path(temporary) / file).replace(directory / file)


@dataclasses.dataclass(frozen=True)
class _SplitInfo:
    shard_counts: tuple[int, ...]
    template: str


@dataclasses.dataclass(frozen=True)
class _Info:
    """What `dataset_info.json` says. Read without TFDS, which would import whatever module the JSON names."""

    name: str
    splits: dict[str, _SplitInfo]

    def shard_files(self, split: str) -> list[str]:
        """File names of the shards, by the rules of TFDS."""
        num_shards = len(self.splits[split].shard_counts)
        files = []
        for index in range(num_shards):
            file = self.splits[split].template
            for key, value in (
                ("SHARD_X_OF_Y", "{SHARD_INDEX}-of-{NUM_SHARDS}"),
                ("DATASET", self.name),
                ("SPLIT", split),
                ("FILEFORMAT", _FILE_FORMAT),
                ("SHARD_INDEX", f"{index:05d}"),
                ("NUM_SHARDS", f"{num_shards:05d}"),
            ):
                file = file.replace(f"{{{key}}}", value)
            files.append(file)
        return files


def read_info(directory: Path) -> _Info:
    if not directory.is_dir():
        raise UserError(
            f"data directory {directory} does not exist; expected a packed dataset; make it with: i21k pack SOURCE --out {directory}"
        )
    path = directory / INFO
    if not path.exists():
        below = sorted(
            p.parent for pattern in ("*", "*/*") for p in directory.glob(f"{pattern}/{INFO}")
        )
        hint = (
            f"did you mean {below[-1]}?"
            if below
            else f"make one with: i21k pack SOURCE --out {directory}"
        )
        raise UserError(
            f"{directory} holds no dataset ({INFO} is missing); expected a TFDS dataset in ArrayRecord files; {hint}"
        )
    content = read_json(path)
    try:
        if content.get("fileFormat") != _FILE_FORMAT:
            raise UserError(
                f"{path} has file format {content.get('fileFormat')!r}; expected {_FILE_FORMAT!r}; convert it with TFDS"
            )
        named = {
            str(s["name"]): _SplitInfo(
                tuple(int(n) for n in s.get("shardLengths", ())),
                str(s.get("filepathTemplate", _TEMPLATE)),
            )
            for s in content.get("splits", ())
        }
        name = str(content["name"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); expected the dataset_info.json of a TFDS dataset"
        ) from error
    if not any(sum(info.shard_counts) for info in named.values()):
        raise UserError(
            f"{path} names no shards; expected at least one split with records; pack again"
        )
    return _Info(name, named)


def read_features(directory: Path) -> tuple[ClassList, Any]:
    """Return the classes and the JSON of all features, after a look that there are pictures with labels."""
    path = directory / _FEATURES
    features = read_json(path).get("featuresDict")
    features = features.get("features") if isinstance(features, dict) else None
    if not isinstance(features, dict) or any(
        not isinstance(feature, dict) for feature in features.values()
    ):
        raise UserError(
            f"{path} describes no dictionary of features; expected `image` (Image) and `label` (ClassLabel)"
        )
    for key, kind in (("image", "image"), ("label", "classLabel")):
        if kind not in features.get(key, {}):
            raise UserError(
                f"{path} has features {sorted(features)}; expected `image` (Image) and `label` (ClassLabel)"
            )
    labels = directory / LABELS
    num_classes = str(features["label"]["classLabel"].get("numClasses", ""))
    if labels.exists():
        classes = ClassList(
            tuple(line.strip() for line in read_text(labels).split("\n") if line.strip())
        )  # as TFDS reads it
    elif num_classes.isdecimal() and 0 < int(num_classes) < 1 << 24:
        classes = ClassList(
            tuple(str(k) for k in range(int(num_classes)))
        )  # TFDS allows labels without names
    else:
        raise UserError(
            f"{directory} has no class names ({LABELS} is missing) and {path} no number of classes; restore the file"
        )
    if num_classes != str(len(classes)):
        raise UserError(
            f"{labels} has {len(classes)} classes; expected {num_classes} as {path} says; restore the file"
        )
    return classes, features


@dataclasses.dataclass(frozen=True)
class Listing:
    """What `dataset_info.json` says of a dataset; whether the files are there has not been looked at."""

    name: str
    splits: dict[str, tuple[tuple[str, int], ...]]  # file and number of records of each shard


def list_shards(directory: str | Path) -> Listing:
    """Return what a directory should hold, by `dataset_info.json`.

    Raises:
        ValueError: if it is not a TFDS dataset in ArrayRecord files.
    """
    info = read_info(Path(directory))
    return Listing(
        info.name,
        {
            split: tuple(zip(info.shard_files(split), entry.shard_counts, strict=True))
            for split, entry in info.splits.items()
        },
    )


def read_classes(directory: str | Path) -> ClassList:
    """Return the class list of a dataset directory, not compared with the manifest.

    Raises:
        ValueError: if its files are damaged, contradict each other or are not those of labelled pictures.
    """
    return read_features(Path(directory))[0]
