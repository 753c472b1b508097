"""WebDataset as a source: tars whose neighbouring files with equal names are one sample.

`000.jpg`, `000.cls` and `000.json` belong together: the name up to the first dot is the key. The
class comes from the first of these that is there: `class_name` in the JSON, a synset id that the
key begins with, a folder named by a synset id in the JSON's `filename` or in the key, `.cls`, a
`label` in the JSON, `.txt`. Integers need a class list.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from i21k.data.sources.base import (
    IGNORED,
    MAX_NAME_BYTES,
    NO_LABEL,
    ImageSource,
    Member,
    Position,
    SourceDamaged,
    check_class_ids,
    counted,
    is_ignored,
)
from i21k.data.sources.label_values import (
    class_of_number,
    is_number,
    label_number,
    label_text,
)
from i21k.data.sources.rules import SPLITS, SYNSET
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_reader import Window, headers, link_targets, read_tar_member, refusal
from i21k.data.sources.webdataset_info import ShardList
from i21k.errors import UserError
from i21k.files import parse_json
from i21k.labels import ClassList

IMAGE_EXTENSIONS = frozenset(
    "jpg jpeg png webp gif bmp tif tiff avif heic heif ppm jxl".split()  # noqa: SIM905
)
LABEL_EXTENSIONS = frozenset({"cls", "json", "txt"})
_MAX_LABEL_BYTES = 1 << 20  # of a JSON or text file that is read; our choice
_LOOKED_AT_SAMPLES = 32  # to find where the classes are; our choice
_NUM_CAPTIONS = 8  # texts that are all different are captions and no classes; our choice
_CAPTION_WORDS = 4  # of a text, on average; our choice: names of classes are shorter
_SECOND = "second image of a sample"
_SEVERAL = "several samples with one key: a name has more than one dot"
_KEY = re.compile(r"(n\d{8})(?=[_-]|$)")
_SPLIT = re.compile(r"(?:^|[-_./])(train|training|val|valid|validation|test)(?=[-_.\d])", re.I)


class _Sample(NamedTuple):
    key: str  # path up to the first dot of the file's name
    first: str  # name of the first file
    image: Member | None
    ending: str  # of the image: what is behind the key
    labels: dict[str, bytes]  # by extension
    others: list[Member]  # that are skipped
    endings: set[str]  # of labels that are nothing but an extension, and _SECOND and _SEVERAL


class WebDataset(ImageSource):
    """Shards of a WebDataset. An entry is a shard.

    Args:
        path: what the user gave, for messages.
        shards: in order.
        names: class ids by label, where shards have only integers.
        labels: of the images by name; then the classes in the shards are ignored.
        listed: number of samples of each shard, if there is such a list.
        is_given: whether the user has named the layout; then a text is a class, not a caption.
    """

    def __init__(
        self,
        path: Path,
        shards: Sequence[Path],
        names: ClassList | None,
        labels: Labels | None = None,
        listed: ShardList | None = None,
        *,
        is_given: bool = False,
    ) -> None:
        self._shards, self._names, self._labels = list(shards), names, labels
        digest, num_bytes = hashlib.blake2b(digest_size=16), 0
        for shard in shards:
            digest.update(f"{shard.name!a} {shard.stat().st_size}\n".encode())
            num_bytes += shard.stat().st_size
        self._is_given = is_given
        self._lengths = {} if listed is None else listed.lengths
        layout = f"WebDataset of {counted(len(shards), 'tar')}"
        if listed is not None and all(shard.name in self._lengths for shard in shards):
            num_images = sum(self._lengths[shard.name] for shard in shards)
            layout += f" with {counted(num_images, 'image')} by {listed.file.name}"
        super().__init__(path, layout, num_bytes, digest.hexdigest())
        self._by = f"labels from {labels.table}" if labels else self._look(shards[0])
        self.layout = f"{layout}, classes by {self._by}"
        self.described = {"labels": labels.hash} if labels else {"classes_by": self._by}
        if self._by in _BY_NUMBER:
            assert names is not None
            self.described = {"classes_by": f"{self._by} {names.hash}"}

    def _look(self, shard: Path) -> str:
        """Return where the classes are, from the first samples.

        Raises:
            UserError: if there are none, or only integers without names.
        """
        samples = _first_samples(shard)
        found = [_class_of(sample) for sample in samples if sample.image]
        first = next((where for where, _ in found if where), "")
        others = [other for sample in samples for other in sample.others]
        if not first and (several := [one.name for one in others if one.skipped == _SEVERAL]):
            raise UserError(
                f"Source {self.path} is a WebDataset with several samples of one key, which ends "
                f"at the first dot: {several[0]}. Write it with other keys."
            )
        if not first:
            raise UserError(
                f"Source {self.path} is a WebDataset without classes: {shard.name} has no synset "
                f"ids and no .cls or .json with a label. Give --labels FILE with lines of "
                "FILE<TAB>CLASS."
            )
        values = [value for where, value in found if where == first]
        if first == ".txt" and not self._is_given and _are_captions(values):
            raise UserError(
                f"Source {self.path} is a WebDataset with captions ({values[0]!r}) and without "
                "classes. Give --labels FILE with lines of FILE<TAB>CLASS, or --as webdataset if "
                "each text is a class."
            )
        if first in _BY_NUMBER:
            class_of_number(int(values[0]), self._names, f"{self.path}, {shard.name}")
        return first

    def list_class_ids(self) -> tuple[str, ...] | None:
        return self._names.ids if self._by in _BY_NUMBER and self._names else None

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(len(self._shards))]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        for number, shard in list(enumerate(self._shards))[first.entry : stop_entry]:
            yield 0, number, self._of_shard(shard)

    def _of_shard(self, shard: Path) -> Iterator[Member]:
        num_bytes_before, size = self.num_bytes_read, shard.stat().st_size
        num_samples, expected = 0, self._lengths.get(shard.name)
        with shard.open("rb") as file:
            try:
                for sample in _samples(Window(file, 0, size), shard.name):
                    yield from self._of_sample(sample, shard.name)
                    num_samples += sample.image is not None
                    self.num_bytes_read = num_bytes_before + file.tell()
            except SourceDamaged as error:
                yield Member(shard.name, "", skipped=f"damaged tar: {error}")
            else:
                if expected is not None and num_samples < expected:
                    few = f"fewer samples than listed: {num_samples:,} of {expected:,}"
                    yield Member(shard.name, "", skipped=few)
        self.num_bytes_read = num_bytes_before + size

    def _of_sample(self, sample: _Sample, container: str) -> Iterator[Member]:
        yield from sample.others
        if sample.image is None:
            if not sample.others:  # such as a file about the whole shard
                yield Member(container, sample.first, skipped="no image beside it")
            return
        if self._labels is not None:
            class_id = self._labels.of(sample.image.name)
            if class_id:
                yield sample.image._replace(class_id=class_id)
            else:
                yield sample.image._replace(extent=None, data=b"", skipped=NO_LABEL)
            return
        where, value = _class_of(sample)
        if where != self._by and not (where and where not in _BY_NUMBER and self._by != ".txt"):
            yield sample.image._replace(extent=None, data=b"", skipped=NO_LABEL)
            return
        if where in _BY_NUMBER:
            value = class_of_number(int(value), self._names, f"{self.path}, {sample.key}")
        check_class_ids(self.path, (value,))
        name = sample.image.name.removeprefix(f"{value}/")
        yield sample.image._replace(class_id=value, name=name)


def _are_captions(texts: Sequence[str]) -> bool:
    """Return whether texts are captions: all different, or sentences."""
    is_all_different = len(texts) >= _NUM_CAPTIONS and len(set(texts)) == len(texts)
    num_words = sum(len(text.partition(",")[0].split()) for text in texts)
    return is_all_different or num_words >= _CAPTION_WORDS * len(texts)


_BY_NUMBER = ("numbers in .cls", "numbers in .json", "numbers in .txt")


def _class_of(sample: _Sample) -> tuple[str, str]:
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


def _first_samples(shard: Path) -> list[_Sample]:
    with shard.open("rb") as file:
        window = Window(file, 0, shard.stat().st_size)
        return list(itertools.islice(_samples(window, shard.name), _LOOKED_AT_SAMPLES))


def has_classes(shard: Path) -> bool:
    """Return whether the first samples of a shard have classes; a `test` split often has none."""
    try:
        return any(_class_of(sample)[0] for sample in _first_samples(shard) if sample.image)
    except SourceDamaged:  # reported when it is read
        return True


def _samples(file: Any, container: str) -> Iterator[_Sample]:
    """Group neighbouring files with the same key."""
    sample: _Sample | None = None
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
            sample = _Sample(key, info.name[:MAX_NAME_BYTES], None, "", {}, [], set())
        if info.islnk() and targets is None:
            can_seek = isinstance(file, Window) and isinstance(tar.fileobj, Window)
            targets = link_targets(file) if can_seek else {}
        if is_ignored(info.name) or ((reason := refusal(info)) and not info.islnk()):
            reason = IGNORED if is_ignored(info.name) else reason
            sample.others.append(Member(container, info.name[:MAX_NAME_BYTES], skipped=reason))
        elif extension in IMAGE_EXTENSIONS and (
            sample.image is None or ("." in sample.ending and ending == extension)
        ):  # If a sample has `0.jpg` and `0.mask.png`, `0.jpg` is the image.
            image = read_tar_member(tar, info, container, "", targets)
            if image.skipped:
                sample.others.append(image)
            else:
                if sample.image is not None:
                    sample.others.append(Member(container, sample.image.name, skipped=_SECOND))
                sample = sample._replace(image=image, ending=ending)
        elif extension in LABEL_EXTENSIONS and extension in sample.endings:
            pass  # If a sample has `0.json` and `0.boxes.json`, `0.json` is the label.
        elif extension in LABEL_EXTENSIONS and info.size <= _MAX_LABEL_BYTES:
            if extension in sample.labels and ending != extension:
                sample.endings.add(_SEVERAL)
            if ending == extension:
                sample.endings.add(extension)
            member = read_tar_member(tar, info, container, "", targets)
            if not member.skipped and member.num_bytes <= _MAX_LABEL_BYTES:
                sample.labels[extension] = member.content()
        elif extension in IMAGE_EXTENSIONS:
            if "." in ending and "." in sample.ending:
                sample.endings.add(_SECOND)
            sample.others.append(Member(container, info.name, skipped=_SECOND))
        # Other files, such as texts and features, belong to the image and are no images.
    if sample is not None:
        yield _one_image(sample, container)


def _one_image(sample: _Sample, container: str) -> _Sample:
    """Return a sample; without its image if several samples have the same key.

    The key ends at the first dot of a name, so `a.1.jpg` and `a.2.jpg` have the key `a`.
    """
    if sample.image is None or not {_SECOND, _SEVERAL} <= sample.endings:
        return sample
    skipped = [sample.image.name, *(other.name for other in sample.others)]
    others = [Member(container, name, skipped=_SEVERAL) for name in skipped]
    return sample._replace(image=None, others=others)


def looks_like_webdataset(file: Any, name: str, num_files: int) -> str:
    """Return why a tar looks like a shard of a WebDataset; empty if it does not.

    It has images beside labels, or images of several synsets in no folder.
    """
    stem, synsets = name.partition(".")[0], set[str]()
    try:
        for sample in itertools.islice(_samples(file, name), num_files):
            if sample.labels and any(other.skipped == _SEVERAL for other in sample.others):
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


def shards_by_split(shards: Sequence[Path]) -> dict[str, list[Path]]:
    """Sort shards into splits by their names; the split is empty if no name has one.

    Raises:
        UserError: if only some names have one.
    """
    found: dict[str, list[Path]] = {}
    for shard in shards:
        match = _SPLIT.search(shard.name)
        split = match.group(1).lower() if match else shard.parent.name.lower()
        found.setdefault(SPLITS.get(split, ""), []).append(shard)
    if "" in found and len(found) > 1:
        raise UserError(
            f"{found[''][0].name} is in no split, and other files beside it are in the splits "
            f"{', '.join(sorted(found.keys() - {''}))}. Give the files of one split as SOURCE."
        )
    order = ("", "train", "val", "test")
    return {split: found[split] for split in order if split in found}
