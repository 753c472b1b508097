"""The format on disk: shards of records and the JSON that describes them. One room, so that no other knows a file name or a byte.

A packed directory is a TFDS dataset in ArrayRecord files (https://www.tensorflow.org/datasets/external_tfrecord), so TFDS reads what
is written here and datasets that TFDS made open here:

    imagenet21k-train.array_record-00000-of-01024   records: serialized tf.train.Example with `image`, `label`, `file_name`
    dataset_info.json, features.json, label.labels.txt   what TFDS needs
    manifest.json   ours: count, bytes and SHA-256 of every shard, hash of the class list, options, what became of every picture
"""

import bisect
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
import resource
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_generated_pb2, tf_feature_generated_pb2

from i21k.labels import ClassList

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "i21k-shards-1"
SPARE_FILES = 1024  # for everything else: libraries, devices, sockets, a second set of readers that is just being closed; chosen here
_INFO, _FEATURES, _LABELS = "dataset_info.json", "features.json", "label.labels.txt"
METADATA = (_LABELS, _FEATURES, _INFO)
_FILE_FORMAT = "array_record"
_WRITER_OPTIONS = "group_size:1,uncompressed"  # JPEGs do not compress, and a read costs one record
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # one record at a time, in this thread
_TEMPORARY = ".i21k-"  # how the names of files begin that are not complete yet
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # the default of TFDS

_Example = tf_example_generated_pb2.Example
_Features = tf_feature_generated_pb2.Features
_Feature = tf_feature_generated_pb2.Feature
_BytesList = tf_feature_generated_pb2.BytesList
_Int64List = tf_feature_generated_pb2.Int64List


# ---------------------------------------------------------------------------------------------------------------- records
# The C protobuf library parses a record of 30 KB in 2 us; a parser of the wire format in Python took 5 us.


def encode_example(jpeg: bytes, label: int, file_name: str) -> bytes:
    """Serialize one picture as `tf.train.Example`. Equal arguments give equal bytes."""
    feature = {
        "image": _Feature(bytes_list=_BytesList(value=[jpeg])),
        "label": _Feature(int64_list=_Int64List(value=[label])),
        "file_name": _Feature(bytes_list=_BytesList(value=[file_name.encode("utf-8", "surrogateescape")])),
    }
    return _Example(features=_Features(feature=feature)).SerializeToString(deterministic=True)


def decode_example(record: bytes) -> tuple[bytes, int]:
    """Return the bytes of the image file and the label of a serialized `tf.train.Example`; other features are passed over.

    Raises:
        ValueError: if the record is no Example, or has not one `image` and one `label`.
    """
    try:
        feature = _Example.FromString(record).features.feature
        (image,), (label,) = feature["image"].bytes_list.value, feature["label"].int64_list.value
    except (DecodeError, ValueError) as error:
        raise ValueError(f"a record of {len(record)} bytes is not a tf.train.Example with one image and one label ({error})") from error
    return image, label


def file_name_of(record: bytes) -> str:
    """Return the `file_name` a record carries, or an empty string: to name the record in an error message, whatever it holds."""
    try:
        names = _Example.FromString(record).features.feature["file_name"].bytes_list.value
    except DecodeError:
        return ""
    return names[0].decode("utf-8", "replace") if names else ""


# ----------------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give another name beside `path` to write under, and move what was written into its place if nothing goes wrong.

    No two writers have the same one, so that several may write the same file: the last to end leaves it whole.
    """
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Say whether a name is one of those that writers write under."""
    return re.fullmatch(rf"{re.escape(_TEMPORARY)}([0-9a-f]{{16}}-.+|[a-z0-9_]{{8}})", path.name) is not None


def remove_temporaries(directory: Path) -> None:
    """Remove what writers left behind that were killed. None may be at work."""
    for path in filter(is_temporary, list(directory.iterdir())):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@dataclasses.dataclass(frozen=True)
class Shard:
    """One complete file of records."""

    file: str
    num_records: int
    num_bytes: int
    sha256: str


def shard_name(name: str, split: str, index: int, num_shards: int) -> str:
    """Return `imagenet21k-train.array_record-00000-of-01024`."""
    return f"{name}-{split}.array_record-{index:05d}-of-{num_shards:05d}"


def write_shard(path: Path, records: Iterable[bytes]) -> Shard:
    """Write `records` in the given order. The file appears as `path` only when it is complete, counted and on the disk.

    Raises:
        OSError: if the disk refuses it; nothing is left behind then, nor after any other exception.
    """
    with replaced(path) as temporary:
        num_records = _write_records(temporary, records)
        sha256 = hash_file(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        num_bytes = temporary.stat().st_size
    return Shard(path.name, num_records, num_bytes, sha256)


def hash_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_records(path: Path, records: Iterable[bytes]) -> int:
    """Write, close, open again and count: a writer that is not closed, or a full disk, leaves a file that reads as empty."""
    path.touch()  # the writer reports a directory that cannot be written only as a status; this raises OSError
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    num_records = 0
    try:
        for record in records:
            try:
                writer.write(record)
            except RuntimeError as error:  # what the library makes of a full disk
                raise OSError(str(error)) from error
            num_records += 1
    finally:
        try:
            writer.close()
        except RuntimeError as error:
            raise OSError(str(error)) from error
    reader = ArrayRecordReader(str(path))
    num_counted = reader.num_records() if reader.ok() else None
    if num_counted != num_records:
        raise OSError(f"{path} holds {num_counted} records after {num_records} were written; is the disk full?")
    reader.close()
    return num_records


def write_metadata(directory: Path, name: str, classes: ClassList, splits: Mapping[str, tuple[Shard, ...]]) -> None:
    """Write what TFDS needs to read the dataset, of which `splits` are all. Each file is replaced as a whole, never seen half-written."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=list(classes.ids)),
            "file_name": tfds.features.Text(),
        }
    )
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=directory) as temporary:
        infos = []
        for split, shards in sorted(splits.items()):
            (Path(temporary) / shard_name(name, split, 0, len(shards))).touch()  # TFDS looks which splits have files
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[shard.num_records for shard in shards],
                    num_bytes=sum(shard.num_bytes for shard in shards),
                    filename_template=tfds.core.ShardedFileTemplate(Path(temporary), _TEMPLATE, name, split, _FILE_FORMAT),
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


# ---------------------------------------------------------------------------------------------------------------- manifest


@dataclasses.dataclass(frozen=True)
class SplitManifest:
    """What the manifest says of one split: its shards, how it was made, and what became of every picture that was read."""

    shards: tuple[Shard, ...]
    options: dict[str, Any]
    counts: dict[str, Any]

    @property
    def num_records(self) -> int:
        """Number of records in all shards."""
        return sum(shard.num_records for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """`manifest.json`: what was packed into a directory, in enough detail to tell whether it is still there."""

    name: str
    class_list_hash: str
    splits: dict[str, SplitManifest]
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # SHA-256 (hex) of what lies beside shards and manifest

    def write(self, directory: Path) -> None:
        """Replace the directory's manifest as a whole."""
        with replaced(directory / MANIFEST) as temporary, temporary.open("w", encoding="utf-8") as file:
            json.dump({"format": MANIFEST_FORMAT, **dataclasses.asdict(self)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a packed directory, or None if it has none (then TFDS, not we, made the directory).

    Raises:
        ValueError: if `manifest.json` is damaged or of another format.
    """
    path = directory / MANIFEST
    if not path.exists():
        return None
    content = _read_json(path)
    if content.get("format") != MANIFEST_FORMAT:
        raise ValueError(
            f"{path} has format {content.get('format')!r}; expected {MANIFEST_FORMAT!r}; pack again or use another version of i21k"
        )
    try:
        splits = {
            str(split): SplitManifest(tuple(Shard(**shard) for shard in entry["shards"]), dict(entry["options"]), dict(entry["counts"]))
            for split, entry in content["splits"].items()
        }
        for shard in (shard for entry in splits.values() for shard in entry.shards):
            if Path(shard.file).name != shard.file or not isinstance(shard.num_records, int) or not isinstance(shard.num_bytes, int):
                raise ValueError(f"shard {shard}")
        files = {str(file): str(sha256) for file, sha256 in content.get("files", {}).items()}
        if any(Path(file).name != file for file in files):
            raise ValueError(f"files {', '.join(files)}")
        return Manifest(str(content["name"]), str(content["class_list_hash"]), splits, files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); restore it or pack the directory again") from error


# ----------------------------------------------------------------------------------------------------------------- opening


@dataclasses.dataclass(frozen=True)
class Split:
    """One split on disk, checked as far as that is possible without opening its shards."""

    directory: Path
    split: str
    shard_paths: tuple[Path, ...]
    shard_counts: tuple[int, ...]  # records in each shard; may be 0
    num_records: int
    num_bytes: int  # of all shards
    classes: ClassList
    fingerprint: str  # SHA-256 (hex) of the content; the same wherever the directory lies


def splits(directory: str | Path) -> tuple[str, ...]:
    """Return the names of the splits in a dataset directory, sorted.

    Raises:
        ValueError: if it is not a TFDS dataset in ArrayRecord files.
    """
    return tuple(sorted(_read_info(Path(directory)).splits))


def open_split(directory: str | Path, split: str) -> Split:
    """Find the shards of `split` in a directory that `i21k pack` or TFDS made, with features `image` and `label`.

    Raises:
        ValueError: if there is no such dataset or split, a shard is missing or has another size than the manifest says, or the
            features are not those of labelled pictures.
    """
    directory = Path(directory)
    info = _read_info(directory)
    if split not in info.splits:
        raise ValueError(
            f"{directory} has no split {split!r}; expected one of {', '.join(sorted(info.splits))}, or pack it with --split {split}"
        )
    classes, features = _read_features(directory)
    manifest = read_manifest(directory)
    if manifest is not None and split in manifest.splits:
        if manifest.class_list_hash != classes.hash:
            raise ValueError(
                f"{directory / _LABELS} has another class list than {MANIFEST} beside it; restore it or pack the directory again"
            )
        shards = manifest.splits[split].shards
        files, counts = [shard.file for shard in shards], [shard.num_records for shard in shards]
        num_bytes = _check_files(directory, split, files, [shard.num_bytes for shard in shards])
        content = {"counts": counts, "sha256": [shard.sha256 for shard in shards], "classes": classes.hash}
    else:
        files, counts = info.shard_files(split), list(info.splits[split].shard_counts)
        num_bytes = _check_files(directory, split, files, None)
        content = {"split": split, "counts": counts, "bytes": num_bytes, "features": features, "classes": classes.hash}
    return Split(
        directory=directory,
        split=split,
        shard_paths=tuple(directory / file for file in files),
        shard_counts=tuple(counts),
        num_records=sum(counts),
        num_bytes=sum(num_bytes),
        classes=classes,
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    )


def allow_open_files(num_shards: int) -> None:
    """Raise this process's limit on open files so far that it, and the workers it starts, can hold every shard open.

    Raises:
        ValueError: if the system does not allow so many.
    """
    needed = num_shards + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ValueError(
            f"{num_shards:,} shards need {needed:,} open files, but this process may open {hard:,}; raise the hard limit"
            " (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of Docker), or pack with a smaller --num-shards"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class RecordReader:
    """Reads single records by number, from shards that are opened when one of their records is asked for. For any number of threads."""

    def __init__(self, split: Split) -> None:
        self._split, self._ends = split, list(itertools.accumulate(split.shard_counts))
        self._readers: list[ArrayRecordReader | None] = [None] * len(self._ends)
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordReader, (self._split,)  # in another process nothing is open yet

    def __getitem__(self, number: int) -> bytes:
        """Return a record of the split.

        Raises:
            ValueError: if it cannot be read.
        """
        shard, place = self.find(number)
        try:
            record = self._reader(shard).read([place])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"it cannot be read ({error})") from error
        if not record:  # what ArrayRecord makes of a shard that was cut off
            raise ValueError("it cannot be read (nothing is there: the shard is damaged or was replaced)")
        return record

    def find(self, number: int) -> tuple[int, int]:
        """Return in which shard a record of the split lies, and the how many-th of it."""
        shard = bisect.bisect_right(self._ends, number)
        return shard, number - (self._ends[shard - 1] if shard else 0)

    def _reader(self, shard: int) -> ArrayRecordReader:
        if (reader := self._readers[shard]) is None:
            with self._opening:
                if (reader := self._readers[shard]) is None:
                    path = str(self._split.shard_paths[shard])
                    reader = self._readers[shard] = ArrayRecordReader(path, _READER_OPTIONS, file_reader_buffer_size=2**15)
        return reader


class RunReader:
    """Reads neighbouring records with one request to the disk for each shard they lie in. For one thread.

    By their numbers, as a source of single records reads, they would be fetched by many threads at once, and from a cold disk in three
    times their bytes.
    """

    def __init__(self, split: Split, max_request_bytes: int) -> None:
        self._paths, self._ends = split.shard_paths, list(itertools.accumulate(split.shard_counts))
        self._options = f"readahead_buffer_size:{max_request_bytes},max_parallelism:1"
        self._readers: dict[int, ArrayRecordReader] = {}

    def read(self, first: int, end: int) -> list[bytes]:
        """Return the records `first` to `end - 1` of the split.

        Raises:
            ValueError: if one of them cannot be read.
        """
        records: list[bytes] = []
        while first < end:
            shard = bisect.bisect_right(self._ends, first)
            start, stop = self._ends[shard - 1] if shard else 0, min(end, self._ends[shard])
            try:
                if shard not in self._readers:
                    self._readers[shard] = ArrayRecordReader(str(self._paths[shard]), self._options, file_reader_buffer_size=2**15)
                records += self._readers[shard].read(first - start, stop - start)
            except (RuntimeError, ValueError, IndexError) as error:
                self._readers.pop(shard, None)  # a reader that failed stays so
                raise ValueError(
                    f"records {first - start} to {stop - start - 1} of {self._paths[shard]} cannot be read ({error})"
                ) from error
            first = stop
        return records


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


def _read_info(directory: Path) -> _Info:
    if not directory.is_dir():
        raise ValueError(
            f"data directory {directory} does not exist; expected a packed dataset; make it with: i21k pack SOURCE --out {directory}"
        )
    path = directory / _INFO
    if not path.exists():
        below = sorted(p.parent for pattern in ("*", "*/*") for p in directory.glob(f"{pattern}/{_INFO}"))
        hint = f"did you mean {below[-1]}?" if below else f"make one with: i21k pack SOURCE --out {directory}"
        raise ValueError(f"{directory} holds no dataset ({_INFO} is missing); expected a TFDS dataset in ArrayRecord files; {hint}")
    content = _read_json(path)
    try:
        if content.get("fileFormat") != _FILE_FORMAT:
            raise ValueError(f"{path} has file format {content.get('fileFormat')!r}; expected {_FILE_FORMAT!r}; convert it with TFDS")
        named = {
            str(s["name"]): _SplitInfo(tuple(int(n) for n in s.get("shardLengths", ())), str(s.get("filepathTemplate", _TEMPLATE)))
            for s in content.get("splits", ())
        }
        name = str(content["name"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); expected the dataset_info.json of a TFDS dataset") from error
    if not any(sum(info.shard_counts) for info in named.values()):
        raise ValueError(f"{path} names no shards; expected at least one split with records; pack again")
    return _Info(name, named)


def _read_features(directory: Path) -> tuple[ClassList, Any]:
    """Return the classes and the JSON of all features, after a look that there are pictures with labels."""
    path = directory / _FEATURES
    features = _read_json(path).get("featuresDict")
    features = features.get("features") if isinstance(features, dict) else None
    if not isinstance(features, dict) or any(not isinstance(feature, dict) for feature in features.values()):
        raise ValueError(f"{path} describes no dictionary of features; expected `image` (Image) and `label` (ClassLabel)")
    for key, kind in (("image", "image"), ("label", "classLabel")):
        if kind not in features.get(key, {}):
            raise ValueError(f"{path} has features {sorted(features)}; expected `image` (Image) and `label` (ClassLabel)")
    labels = directory / _LABELS
    num_classes = str(features["label"]["classLabel"].get("numClasses", ""))
    if labels.exists():
        classes = ClassList(tuple(line.strip() for line in _read_text(labels).split("\n") if line.strip()))  # as TFDS reads it
    elif num_classes.isdecimal() and 0 < int(num_classes) < 1 << 24:
        classes = ClassList(tuple(str(k) for k in range(int(num_classes))))  # TFDS allows labels without names
    else:
        raise ValueError(f"{directory} has no class names ({_LABELS} is missing) and {path} no number of classes; restore the file")
    if num_classes != str(len(classes)):
        raise ValueError(f"{labels} has {len(classes)} classes; expected {num_classes} as {path} says; restore the file")
    return classes, features


def _check_files(directory: Path, split: str, files: list[str], expected_bytes: list[int] | None) -> list[int]:
    """Return the size of each file; ArrayRecord opens missing, empty and truncated files as if they had no records."""
    sizes = []
    for k, file in enumerate(files):
        try:
            sizes.append((directory / file).stat().st_size)
        except OSError as error:
            num_there = sum((directory / f).is_file() for f in files)
            raise ValueError(
                f"{directory / file} is missing: {num_there} of the {len(files)} shards of split {split!r} are there; expected "
                f"{len(files)} shards as {MANIFEST if expected_bytes else _INFO} says; copy it again or pack the split again"
            ) from error
        expected = f"{expected_bytes[k]} bytes" if expected_bytes else "at least one byte"
        if sizes[k] != expected_bytes[k] if expected_bytes else sizes[k] == 0:
            raise ValueError(
                f"{directory / file} has {sizes[k]} bytes; expected {expected}; it is damaged: copy it again or pack the split again"
            )
    return sizes


# ----------------------------------------------------------------------------------------------------------------- looking
# What the loader need not know, for those who look into a directory that may be damaged.


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
    info = _read_info(Path(directory))
    return Listing(
        info.name, {split: tuple(zip(info.shard_files(split), entry.shard_counts, strict=True)) for split, entry in info.splits.items()}
    )


def read_classes(directory: str | Path) -> ClassList:
    """Return the class list of a dataset directory, not compared with the manifest.

    Raises:
        ValueError: if its files are damaged, contradict each other or are not those of labelled pictures.
    """
    return _read_features(Path(directory))[0]


def count_records(path: Path) -> int | None:
    """Return how many records a file has, or None if it is missing, truncated or else no ArrayRecord file."""
    reader = ArrayRecordReader(str(path), _READER_OPTIONS)
    return reader.num_records() if reader.ok() else None


def read_records(path: Path, indices: Iterable[int]) -> Iterator[tuple[int, bytes | ValueError]]:
    """Yield the records at `indices` of a file that `count_records` could count; in the place of a damaged one, what is wrong with it.

    Every byte of a record is covered by a hash in the file, so a damaged one cannot pass for whole.
    """
    reader, at = ArrayRecordReader(str(path), _READER_OPTIONS), 0
    for index in indices:
        try:
            if index != at:
                reader.seek(index)
            record, at = reader.read(), index + 1  # one after the other takes 2 us, by number 130 us in a file of 100,000
        except (RuntimeError, IndexError) as error:  # RuntimeError is what the library raises for a damaged file
            yield index, ValueError(str(error))
            reader, at = ArrayRecordReader(str(path), _READER_OPTIONS), 0  # a reader that failed stays so
        else:
            yield index, record


def file_names(split: Split) -> Iterator[str]:
    """Yield the `file_name` of each record of a split, in their order; empty where it has none. Reads the whole split.

    Raises:
        ValueError: if a record is damaged.
    """
    return map(file_name_of, _all_records(split))


def labels(split: Split) -> Iterator[int]:
    """Yield the label of each record of a split, in their order. Reads the whole split.

    Raises:
        ValueError: if a record is damaged.
    """
    return (decode_example(record)[1] for record in _all_records(split))


def _all_records(split: Split) -> Iterator[bytes]:
    for path, num_records in zip(split.shard_paths, split.shard_counts, strict=True):
        for index, record in read_records(path, range(num_records)):
            if isinstance(record, ValueError):
                raise ValueError(f"record {index} of {path} cannot be read ({record}); copy it again or pack the split again")
            yield record


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it or pack the directory again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); restore it or pack the directory again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; expected an object; restore it or pack the directory again")
    return content
