"""WebDataset as a source: the shards of a split. The first samples decide where the classes are."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from i21k.data.sources.base import (
    NO_LABEL,
    ImageSource,
    Member,
    Position,
    SourceDamaged,
    check_class_ids,
    counted,
)
from i21k.data.sources.label_values import class_of_number
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_reader import Window
from i21k.data.sources.webdataset_info import ShardList
from i21k.data.sources.webdataset_samples import (
    BY_NUMBER,
    SEVERAL,
    Sample,
    class_of,
    first_samples,
    samples_of,
)
from i21k.errors import UserError
from i21k.labels import ClassList

_NUM_CAPTIONS = 8  # texts that are all different are captions and no classes; our choice
_CAPTION_WORDS = 4  # of a text, on average; our choice: names of classes are shorter


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
        if self._by in BY_NUMBER:
            assert names is not None
            self.described = {"classes_by": f"{self._by} {names.hash}"}

    def _look(self, shard: Path) -> str:
        """Return where the classes are, from the first samples.

        Raises:
            UserError: if there are none, or only integers without names.
        """
        samples = first_samples(shard)
        found = [class_of(sample) for sample in samples if sample.image]
        first = next((where for where, _ in found if where), "")
        others = [other for sample in samples for other in sample.others]
        if not first and (several := [one.name for one in others if one.skipped == SEVERAL]):
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
        if first in BY_NUMBER:
            class_of_number(int(values[0]), self._names, f"{self.path}, {shard.name}")
        return first

    def list_class_ids(self) -> tuple[str, ...] | None:
        return self._names.ids if self._by in BY_NUMBER and self._names else None

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
                for sample in samples_of(Window(file, 0, size), shard.name):
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

    def _of_sample(self, sample: Sample, container: str) -> Iterator[Member]:
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
        where, value = class_of(sample)
        if where != self._by and not (where and where not in BY_NUMBER and self._by != ".txt"):
            yield sample.image._replace(extent=None, data=b"", skipped=NO_LABEL)
            return
        if where in BY_NUMBER:
            value = class_of_number(int(value), self._names, f"{self.path}, {sample.key}")
        check_class_ids(self.path, (value,))
        name = sample.image.name.removeprefix(f"{value}/")
        yield sample.image._replace(class_id=value, name=name)


def _are_captions(texts: Sequence[str]) -> bool:
    """Return whether texts are captions: all different, or sentences."""
    is_all_different = len(texts) >= _NUM_CAPTIONS and len(set(texts)) == len(texts)
    num_words = sum(len(text.partition(",")[0].split()) for text in texts)
    return is_all_different or num_words >= _CAPTION_WORDS * len(texts)
