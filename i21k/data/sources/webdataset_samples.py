"""The samples of a shard of a WebDataset, and their classes.

Neighbouring files with equal names are one sample: `000.jpg`, `000.cls` and `000.json` belong
together, because the name up to the first dot is the key. The class comes from the first of these
that is there: `class_name` in the JSON, a synset id that the key begins with, a folder named by a
synset id in the JSON's `filename` or in the key, `.cls`, a `label` in the JSON, `.txt`.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from i21k.data.sources.base import (
    IGNORED,
    MAX_NAME_BYTES,
    Member,
    SourceDamaged,
    counted,
    is_ignored,
)
from i21k.data.sources.label_values import is_number, label_number, label_text
from i21k.data.sources.rules import SYNSET
from i21k.data.sources.tar_reader import Window, headers, link_targets, read_tar_member, refusal
from i21k.files import parse_json

_IMAGE_EXTENSIONS = frozenset(
    "jpg jpeg png webp gif bmp tif tiff avif heic heif ppm jxl".split()  # noqa: SIM905
)
_LABEL_EXTENSIONS = frozenset({"cls", "json", "txt"})
_MAX_LABEL_BYTES = 1 << 20  # of a JSON or text file that is read; our choice
_LOOKED_AT_SAMPLES = 32  # to find where the classes are; our choice
_SECOND = "second image of a sample"
SEVERAL = "several samples with one key: a name has more than one dot"
_KEY = re.compile(r"(n\d{8})(?=[_-]|$)")
BY_NUMBER = ("numbers in .cls", "numbers in .json", "numbers in .txt")


class Sample(NamedTuple):
    """Neighbouring files of a shard with one key."""

    key: str  # path up to the first dot of the file's name
    first: str  # name of the first file
    image: Member | None
    ending: str  # of the image: what is behind the key
    labels: dict[str, bytes]  # by extension
    others: list[Member]  # that are skipped
    endings: set[str]  # of labels that are nothing but an extension, and _SECOND and SEVERAL


def class_of(sample: Sample) -> tuple[str, str]:
    """Return where a class is and what is there; nothing if there is none."""
    about = _json(sample.labels.get("json", b""))
    class_name = about.get("class_name")
    class_name = label_text(class_name) if isinstance(class_name, str) else ""
    if SYNSET.fullmatch(class_name):
        return "class_name", class_name
    if match := _KEY.match(PurePosixPath(sample.key).name):
        return "synset ids in names", match.group(1)
    folders = PurePosixPath(str(about.get("filename", ""))).parts[:-1]
    folders += PurePosixPath(sample.key).parts[:-1]
    if synsets := [folder for folder in folders if SYNSET.fullmatch(folder)]:
        return "folders named by synset ids", synsets[0]
    if class_name:
        return "class_name", class_name
    for extension in ("cls", "json", "txt"):
        if extension == "json":
            label = about.get("label", "")
            is_one = isinstance(label, str | int | float) and not isinstance(label, bool)
            text = label_text(label) if is_one else ""  # a list has several labels
        else:
            text = label_text(sample.labels.get(extension, b"").decode("utf-8", "replace"))
        if (number := label_number(text)) is not None:
            return f"numbers in .{extension}", str(number)
        if text and "\n" not in text and not is_number(text):
            return f".{extension}", text
    return "", ""


def _json(content: bytes) -> dict[str, Any]:
    try:
        about = parse_json(content)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def first_samples(shard: Path) -> list[Sample]:
    """Return the samples at the beginning of a shard.

    Raises:
        SourceDamaged: if the shard is no tar, or is damaged there.
    """
    with shard.open("rb") as file:
        window = Window(file, 0, shard.stat().st_size)
        return list(itertools.islice(samples_of(window, shard.name), _LOOKED_AT_SAMPLES))


def has_classes(shard: Path) -> bool:
    """Return whether the first samples of a shard have classes; a `test` split often has none."""
    try:
        return any(class_of(sample)[0] for sample in first_samples(shard) if sample.image)
    except SourceDamaged:  # reported when it is read
        return True


def samples_of(file: Any, container: str) -> Iterator[Sample]:
    """Yield the samples of a shard, in order.

    Args:
        file: the tar, open for reading.
        container: its name, for the members.

    Raises:
        SourceDamaged: if the tar cannot be read to its end.
    """
    sample: Sample | None = None
    targets: dict[str, tuple[int, int]] | None = None  # of hard links
    for tar, info in headers(file):
        if info.isdir():
            continue
        path = PurePosixPath(info.name)
        stem, _, ending = path.name.partition(".")
        ending = ending.lower()
        extension = ending.rpartition(".")[2]
        key = (path.parent / stem).as_posix()
        if sample is None or sample.key != key:
            if sample is not None:
                yield _one_image(sample, container)
            sample = Sample(key, info.name[:MAX_NAME_BYTES], None, "", {}, [], set())
        if info.islnk() and targets is None:
            can_seek = isinstance(file, Window) and isinstance(tar.fileobj, Window)
            targets = link_targets(file) if can_seek else {}
        if is_ignored(info.name) or ((reason := refusal(info)) and not info.islnk()):
            reason = IGNORED if is_ignored(info.name) else reason
            sample.others.append(Member(container, info.name[:MAX_NAME_BYTES], skipped=reason))
        elif extension in _IMAGE_EXTENSIONS and (
            sample.image is None or ("." in sample.ending and ending == extension)
        ):  # If a sample has `0.jpg` and `0.mask.png`, `0.jpg` is the image.
            image = read_tar_member(tar, info, container, "", targets)
            if image.skipped:
                sample.others.append(image)
            else:
                if sample.image is not None:
                    sample.others.append(Member(container, sample.image.name, skipped=_SECOND))
                sample = sample._replace(image=image, ending=ending)
        elif extension in _LABEL_EXTENSIONS and extension in sample.endings:
            pass  # If a sample has `0.json` and `0.boxes.json`, `0.json` is the label.
        elif extension in _LABEL_EXTENSIONS and info.size <= _MAX_LABEL_BYTES:
            if extension in sample.labels and ending != extension:
                sample.endings.add(SEVERAL)
            if ending == extension:
                sample.endings.add(extension)
            member = read_tar_member(tar, info, container, "", targets)
            if not member.skipped and member.num_bytes <= _MAX_LABEL_BYTES:
                sample.labels[extension] = member.content()
        elif extension in _IMAGE_EXTENSIONS:
            if "." in ending and "." in sample.ending:
                sample.endings.add(_SECOND)
            sample.others.append(Member(container, info.name[:MAX_NAME_BYTES], skipped=_SECOND))
        # Other files, such as texts and features, belong to the image and are no images.
    if sample is not None:
        yield _one_image(sample, container)


def _one_image(sample: Sample, container: str) -> Sample:
    """Return a sample; without its image if several samples have the same key.

    The key ends at the first dot of a name, so `a.1.jpg` and `a.2.jpg` have the key `a`.
    """
    if sample.image is None or not {_SECOND, SEVERAL} <= sample.endings:
        return sample
    skipped = [sample.image.name, *(other.name for other in sample.others)]
    others = [Member(container, name, skipped=SEVERAL) for name in skipped]
    return sample._replace(image=None, others=others)


def looks_like_webdataset(file: Any, name: str, num_files: int) -> str:
    """Return why a tar looks like a shard of a WebDataset; empty if it does not.

    It has images beside labels, or images of several synsets in no folder.
    """
    stem, synsets = name.partition(".")[0], set[str]()
    try:
        for sample in itertools.islice(samples_of(file, name), num_files):
            if sample.labels and any(other.skipped == SEVERAL for other in sample.others):
                return f"several images with the key {PurePosixPath(sample.key).name}"
            if sample.image is None:
                continue
            if sample.labels:
                label = f"{PurePosixPath(sample.key).name}.{next(iter(sample.labels))}"
                return f"{PurePosixPath(sample.image.name).name} beside {label}"
            match = _KEY.match(PurePosixPath(sample.key).name)
            if match and match.group(1) != stem and "/" not in sample.key:
                synsets.add(match.group(1))
    except (SourceDamaged, OSError):  # reported when it is read
        pass
    return f"images of {counted(len(synsets), 'synset')}" if len(synsets) > 1 else ""
