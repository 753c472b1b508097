"""A look into the tars of a folder: is each a class, a shard of a WebDataset, or something else?"""

import contextlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from i21k.data.sources.archives import first_look
from i21k.data.sources.base import SourceDamaged, is_ignored
from i21k.data.sources.rules import SYNSET, split_of
from i21k.data.sources.tar_reader import Window, headers, tar_stem
from i21k.data.sources.webdataset_samples import looks_like_webdataset
from i21k.errors import UserError

_NUM_HEADERS = 20_000  # that are read of one tar; our choice
NUM_TARS, _NUM_SAMPLES = 3, 32  # that are looked at; our choice: all tars of a source are alike


def why_webdataset(tars: Sequence[Path]) -> str:
    """Return why tars look like a WebDataset; empty if they do not."""
    for tar in itertools.islice((tar for tar in tars if not is_ignored(tar.name)), NUM_TARS):
        with tar.open("rb") as file, contextlib.suppress(UserError):
            window = Window(file, 0, tar.stat().st_size)
            if why := looks_like_webdataset(window, tar.name, _NUM_SAMPLES):
                return f"{tar.name} has {why}"
    return ""


def why_inside(path: Path) -> str:
    """Return why the tars in a tar look like a WebDataset."""
    num_tars = 0
    with path.open("rb") as file, contextlib.suppress(SourceDamaged):
        for tar, info in itertools.islice(
            headers(Window(file, 0, path.stat().st_size)), _NUM_SAMPLES
        ):
            if not info.isreg() or info.issparse() or not tar_stem(info.name):
                continue
            inner: Any = tar.extractfile(info)
            if isinstance(tar.fileobj, Window):
                inner = Window(file, info.offset_data, info.size)
            name = PurePosixPath(info.name).name
            if why := looks_like_webdataset(inner, name, _NUM_SAMPLES):
                return f"{name} has {why}"
            num_tars += 1
            if num_tars == NUM_TARS:  # what follows may be many GB behind in a compressed tar
                break
    return ""


def refuse_strange_tars(path: Path, tars: Sequence[Path]) -> None:
    """Refuse tars of a folder that are not one class each, although each has another name.

    Raises:
        UserError: if they are splits, hold tars or class folders, or are numbered.
    """
    named = [tar for tar in tars if not SYNSET.fullmatch(tar_stem(tar.name))]
    if split := next((tar for tar in named if split_of(tar_stem(tar.name))), None):
        raise UserError(
            f"Source {path} holds {split.name}, which is named as a split. Pack each archive by "
            f"itself: i21k pack {split} --split {split_of(tar_stem(split.name))}."
        )
    for tar in named[:NUM_TARS]:
        look = first_look(tar)
        folders = {PurePosixPath(folder).parts for folder in look.folders if folder}
        depth = next((k for k in range(9) if len({parts[: k + 1] for parts in folders}) > 1), 0)
        inner = sorted({parts[depth] for parts in folders if len(parts) > depth})
        if look.has_tars or len(inner) > 1:
            what = "tars" if look.has_tars else f"the folders {', '.join(inner[:3])}"
            raise UserError(
                f"Source {path} holds {tar.name}, which holds {what}. Pack each archive by itself, "
                "or give --as synset-tars if each is a class."
            )
    for tar in named[:NUM_TARS]:
        if label := _label_file(tar):
            raise UserError(
                f"Source {path} holds {tar.name}, in which {label} is not beside its image. A "
                "WebDataset has the files of a sample side by side: sort it with `tar "
                "--sort=name`, or give --as synset-tars if each tar is a class."
            )
    numbered = [tar for tar in named if re.search(r"(^|[-_])\d{3,}$", tar_stem(tar.name))]
    if len(numbered) > 1 and len(named) == len(tars):
        raise UserError(
            f"Source {path} holds numbered tars without labels, such as {numbered[0].name}. Give "
            "--as synset-tars if each is a class, or --labels FILE."
        )


def _label_file(path: Path) -> str:
    """Return the name of the first `.cls` in a tar; empty if there is none."""
    with path.open("rb") as file, contextlib.suppress(SourceDamaged):
        window = Window(file, 0, path.stat().st_size)
        for _, info in itertools.islice(headers(window), _NUM_HEADERS):
            if info.name.lower().endswith(".cls"):
                return str(info.name)
    return ""
