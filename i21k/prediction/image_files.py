"""Find image files in folders."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from i21k.errors import UserError
from i21k.images.recode import FORMATS

_ENDINGS = frozenset([
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic",
    ".heif", ".avif", ".jp2", ".ppm",
])  # fmt: skip
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")


class Files(NamedTuple):
    """What files and folders hold."""

    images: list[Path]
    faults: list[str]  # folders that cannot be read
    num_others: int  # files of folders that are no images
    num_links: int = 0  # symbolic links that leave the folder that they are in, or to folders


def find_files(paths: Iterable[str | Path]) -> Files:
    """Return each file, and the images at and below each folder by name, without hidden ones.

    A file that is given is an image. A file in a folder is one if its ending or its content is that
    of an image. Symbolic links in a folder are followed to files in that folder only.

    Raises:
        UserError: if a folder can be read and has no images.
    """
    images: list[Path] = []
    faults: list[str] = []
    num_others = num_links = 0
    for path in map(Path, paths):
        if not path.is_dir():
            images.append(path)
            continue
        everything, unreadable = _files_below(path)
        below = [file for file in everything if not _leaves(file, path)]
        found = [file for file in below if _is_image(file)]
        if not found and not unreadable:
            num_out = len(everything) - len(below)
            links = f", and {num_out:,} links out of it" if num_out else ""
            raise UserError(
                f"folder {path} has no images, and {len(below):,} other files{links}; expected"
                f" {', '.join(FORMATS)} files"
            )
        num_links += len(everything) - len(below)
        images += found
        faults += unreadable
        num_others += len(below) - len(found)
    return Files(images, faults, num_others, num_links)


def _leaves(file: Path, folder: Path) -> bool:
    """Return whether a file is a symbolic link out of a folder, or to a folder."""
    return file.is_symlink() and (
        file.is_dir() or not file.resolve().is_relative_to(folder.resolve())
    )


def _files_below(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files below a folder, sorted, and what is wrong with folders in it."""
    found: list[Path] = []
    faults: list[str] = []

    def fail(error: OSError) -> None:
        faults.append(f"folder {error.filename} cannot be read ({error.strerror})")

    for directory, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = names + [name for name in folders if Path(directory, name).is_symlink()]
        found += [Path(directory, name) for name in names if not name.startswith(".")]
    return sorted(found), sorted(faults)


def _is_image(path: Path) -> bool:
    """Return whether a file is an image, perhaps a damaged one, or of a format that we lack."""
    if path.suffix.lower() in _ENDINGS:
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(4).startswith(_BEGINNINGS)
    except OSError:
        return False
