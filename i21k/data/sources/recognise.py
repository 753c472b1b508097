"""Recognise what a source is by looking at it, before anything is read."""

import itertools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from i21k.data.sources.base import EXPECTED, ImageSource, SourceDamaged, is_ignored
from i21k.data.sources.folders import FolderSource, LabelledFolder
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_reader import Window, headers, tar_stem
from i21k.data.sources.tars import TarSource
from i21k.errors import UserError

_NUM_TARS, _NUM_MEMBERS = 3, 32  # that are looked at; our choice: all tars of a source are alike
_IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm"})
_LABEL_EXTENSIONS = frozenset({"cls", "cls2", "id", "index", "json", "label", "txt"})


def open_source(path: str | Path, labels: Labels | None = None) -> ImageSource:
    """Recognise the layout of `path`, and find its size and (where that is cheap) its classes.

    `ImageSource.layout` of the result says what was recognised.

    Args:
        path: a tar or a folder.
        labels: of the files, for a tar or folder of images without class folders.

    Raises:
        UserError: if it does not exist, is empty or damaged, or has a layout that cannot be packed.
    """
    path = Path(path)
    try:
        if path.is_dir():
            if labels is not None:
                return LabelledFolder(path, labels)
            _refuse_webdataset(path, sorted(path.iterdir()))
            return FolderSource(path)
        if path.is_file():
            if labels is None:
                _refuse_webdataset(path, [path])
            return TarSource(path, labels)
    except OSError as error:
        raise UserError(f"Source {path} cannot be read ({error}). {EXPECTED}") from error
    state = "is not a file or folder" if path.exists() else "does not exist"
    raise UserError(f"Source {path} {state}. {EXPECTED}")


def _refuse_webdataset(source: Path, files: list[Path]) -> None:
    """Refuse WebDataset tars, each of which would otherwise become one class.

    Raises:
        UserError: naming the first such tar.
    """
    tars = (file for file in files if file == source or (tar_stem(file.name) and file.is_file()))
    for path in itertools.islice((tar for tar in tars if not is_ignored(tar.name)), _NUM_TARS):
        with path.open("rb") as file:
            found = _webdataset_tar(Window(file, 0, path.stat().st_size), path.name)
        if found:
            name, pair = found
            raise UserError(
                f"Source {source} holds WebDataset tars: {name} has {pair}. They cannot be packed "
                "yet; unpack them into one folder or one tar per class."
            )


def _webdataset_tar(file: Any, name: str, is_inside: bool = False) -> tuple[str, str] | None:
    """Return the name of a WebDataset tar, this one or one inside, and two files that show it.

    In a WebDataset, files with the same name up to the first dot belong together: `000.jpg` and
    `000.cls`.
    """
    extensions: dict[str, dict[str, str]] = {}
    num_tars = 0
    for tar, info in _first_headers(file):
        if not info.isreg() or is_ignored(info.name):
            continue
        if tar_stem(info.name) and not info.issparse() and not is_inside:
            inner: Any = tar.extractfile(info)
            if isinstance(tar.fileobj, Window):
                inner = Window(tar.fileobj, info.offset_data, info.size)  # type: ignore[arg-type]
            if found := _webdataset_tar(inner, PurePosixPath(info.name).name, is_inside=True):
                return found
            num_tars += 1
            if num_tars == _NUM_TARS:  # what follows may be many GB behind in a compressed tar
                return None
        member = PurePosixPath(info.name)
        stem, _, extension = member.name.partition(".")
        of_key = extensions.setdefault(f"{member.parent}/{stem}", {})
        of_key[extension.lower().rpartition(".")[2]] = member.name
        image = next((of_key[e] for e in sorted(_IMAGE_EXTENSIONS & of_key.keys())), None)
        label = next((of_key[e] for e in sorted(_LABEL_EXTENSIONS & of_key.keys())), None)
        if image and label:
            return name, f"{image} beside {label}"
    return None


def _first_headers(file: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the first headers of a tar; none of a file that is no tar, which is refused later."""
    try:
        yield from itertools.islice(headers(file), _NUM_MEMBERS)
    except SourceDamaged:
        return
