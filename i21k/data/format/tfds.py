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
    """Write the JSON files of a dataset with these `splits`, each of them complete or absent."""
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
            # TFDS looks which splits have files.
            (Path(temporary) / shard_name(name, split, 0, len(shards))).touch()
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
            description=f"Images of {len(classes)} classes, packed by i21k.",
        )
        for file in METADATA:
            (Path(temporary) / file).replace(directory / file)


@dataclasses.dataclass(frozen=True)
class _SplitInfo:
    shard_counts: tuple[int, ...]
    template: str


@dataclasses.dataclass(frozen=True)
class _Info:
    """The content of `dataset_info.json`.

    Read without TFDS, which imports any module that the JSON names.
    """

    name: str
    splits: dict[str, _SplitInfo]

    def shard_files(self, split: str) -> list[str]:
        """Return the file names of the shards, by the rules of TFDS."""
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
            f"data directory {directory} does not exist; expected a packed dataset. "
            f"Make it with: i21k pack SOURCE --out {directory}"
        )
    path = directory / INFO
    if not path.exists():
        below = sorted(
            p.parent for pattern in ("*", "*/*") for p in directory.glob(f"{pattern}/{INFO}")
        )
        hint = (
            f"Did you mean {below[-1]}?"
            if below
            else f"Make one with: i21k pack {directory} --out NEW_DIRECTORY"
            if any(directory.iterdir())
            else f"Make one with: i21k pack SOURCE --out {directory}"
        )
        raise UserError(
            f"{directory} contains no dataset ({INFO} is missing); "
            f"expected a TFDS dataset in ArrayRecord files. {hint}"
        )
    content = read_json(path)
    try:
        if content.get("fileFormat") != _FILE_FORMAT:
            raise UserError(
                f"{path} has file format {content.get('fileFormat')!r}; "
                f"expected {_FILE_FORMAT!r}. Convert it with TFDS."
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
            f"{path} is damaged ({error!r}); expected the dataset_info.json of a TFDS dataset."
            " Restore it or pack again."
        ) from error
    if not any(sum(info.shard_counts) for info in named.values()):
        raise UserError(
            f"{path} names no shards; expected at least one split with records. Pack again."
        )
    return _Info(name, named)


def read_features(directory: Path) -> tuple[ClassList, Any]:
    """Return the classes and the JSON of all features; refuse a dataset without labelled images."""
    path = directory / _FEATURES
    features = read_json(path).get("featuresDict")
    features = features.get("features") if isinstance(features, dict) else None
    if not isinstance(features, dict) or any(
        not isinstance(feature, dict) for feature in features.values()
    ):
        raise UserError(
            f"{path} describes no dictionary of features; "
            "expected `image` (Image) and `label` (ClassLabel)"
        )
    for key, kind in (("image", "image"), ("label", "classLabel")):
        if kind not in features.get(key, {}):
            raise UserError(
                f"{path} has features {sorted(features)}; "
                "expected `image` (Image) and `label` (ClassLabel)"
            )
    labels = directory / LABELS
    num_classes = str(features["label"]["classLabel"].get("numClasses", ""))
    if labels.exists():
        lines = map(str.strip, read_text(labels).split("\n"))  # as TFDS reads it
        classes = ClassList(tuple(line for line in lines if line))
    elif num_classes.isdecimal() and 0 < int(num_classes) < 1 << 24:
        # TFDS allows labels without names.
        classes = ClassList(tuple(str(k) for k in range(int(num_classes))))
    else:
        raise UserError(
            f"{directory} has no class names ({LABELS} is missing) and {path} no number of "
            "classes. Restore the file."
        )
    if num_classes != str(len(classes)):
        raise UserError(
            f"{labels} has {len(classes)} classes; expected {num_classes} as {path} says. "
            "Restore the file."
        )
    return classes, features


@dataclasses.dataclass(frozen=True)
class Listing:
    """The shards that `dataset_info.json` names. They may be missing."""

    name: str
    splits: dict[str, tuple[tuple[str, int], ...]]  # file and number of records of each shard


def list_shards(directory: str | Path) -> Listing:
    """Return the shards that a directory should have, by `dataset_info.json`.

    Raises:
        UserError: if it is not a TFDS dataset in ArrayRecord files.
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
    """Return the class list of a dataset directory, without comparing it with the manifest.

    Raises:
        UserError: if its files are damaged or contradict each other, or the images have no labels.
    """
    return read_features(Path(directory))[0]
