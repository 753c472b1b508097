"""Features of many images: from files or a packed split, by several workers, restartable.

While features are computed, finished blocks are in a folder `OUT.parts` beside the output. The same
command continues after the last block. The folder is removed when the output is complete.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from i21k import files, log
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.evaluation import features as feature_files
from i21k.evaluation.features import Features
from i21k.prediction.embed_blocks import LISTS, Kept, blocks_in, resume
from i21k.prediction.embed_images import FileImages, Images, Part, SplitImages
from i21k.trained import TrainedModel, in_batches_of, load_if_path

BATCH_SIZE = 32  # our choice: images that the network takes at a time
_BLOCK_S, _BLOCK_IMAGES = 10.0, 1 << 15  # our choice: when a block is written
DType = Literal["float16", "float32"]


class Embedded(NamedTuple):
    """What became of the images."""

    num_images: int  # with features
    num_features: int
    num_restored: int  # that an earlier call has done
    faults: list[str]  # of images that could not be read; they are skipped


def embed(
    model: str | Path | TrainedModel,
    images: str | Path | Sequence[str | Path],
    split: str | None = None,
    *,
    dtype: DType = "float32",
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> Features:
    """Return the features of images: what the classifier head of a model takes.

    >>> import i21k
    >>> found = i21k.embed("runs/quickstart", "data/quickstart", "val")
    >>> found.array.shape
    (21, 136)

    Args:
        model: a working directory, an ONNX file with features, or what `i21k.trained.load` gave.
        images: files and folders; or a packed directory, if `split` is given. A folder whose images
            are all in folders of their own gives these as classes.
        split: of a packed directory.
        dtype: of the features.
        batch_size: images that the network takes at a time; changes speed and memory only.
        workers: processes that read images; 0: threads of this process.

    Raises:
        UserError: if the model or the images cannot be used, or an image cannot be read.
    """
    trained, source = _opened(model, images, split, batch_size)
    kept = Kept()
    with log.progress("embed", source.num) as bar:
        for part in source.parts(trained.preprocessing, 0, workers):
            if part.faults:
                raise UserError(part.faults[0])
            kept.add(part, _features(trained, part, dtype, batch_size))
            bar.update(part.stop)
    about = _about(trained, source)
    labels = np.array(kept.labels, np.int32)
    return Features(np.concatenate(kept.blocks), tuple(kept.names), labels, source.classes, about)


def embed_to_file(
    model: str | Path | TrainedModel,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    split: str | None = None,
    *,
    dtype: DType = "float16",
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
    say: Callable[[str], None] = log.note,
) -> Embedded:
    """Write the features of images to a file. The same call continues where an earlier one ended.

    Args:
        model: as in `embed`.
        images: as in `embed`.
        out: a name that ends in .npz or .parquet, which does not exist.
        split: as in `embed`.
        dtype: of the features. float16 keeps 3 digits.
        batch_size: as in `embed`.
        workers: as in `embed`.
        say: called with a line when an earlier call has done a part.

    Raises:
        UserError: if the model or the images cannot be used, the file exists, or the folder of
            parts belongs to other images or another model.
    """
    out = Path(out)
    feature_files.check_suffix(out)
    if out.exists():
        raise UserError(f"{out} exists. Choose another --out, or remove it.")
    trained, source = _opened(model, images, split, batch_size)
    folder = out.with_name(f"{out.name}.parts")
    plan = {
        "model": trained.origin.digest,
        "preprocessing": trained.preprocessing.to_json(),
        "images": source.fingerprint(),
        "num": source.num,
        "dtype": dtype,
    }
    with files.locked(folder, "folder of parts", "--out"):
        first = num_restored = resume(folder, plan)
        if first:
            say(f"{first:,} of {source.num:,} images were done before; continuing after them")
        kept, began = Kept(), time.monotonic()
        with log.progress("embed", source.num) as bar:
            bar.update(first)
            for part in source.parts(trained.preprocessing, first, workers):
                kept.add(part, _features(trained, part, dtype, batch_size))
                bar.update(part.stop)
                is_due = time.monotonic() - began >= _BLOCK_S or len(kept.names) >= _BLOCK_IMAGES
                if is_due or part.stop == source.num:
                    kept.save(folder, first, part.stop)
                    kept, began, first = Kept(), time.monotonic(), part.stop
        done = [files.read_json(path) for path in blocks_in(folder)]
        names, labels, faults = ([x for block in done for x in block[key]] for key in LISTS)
        num_features = max((block["num_features"] for block in done), default=0)
        if not names:
            shutil.rmtree(folder)
            raise UserError(f"none of {source.num:,} images could be read: {faults[0]}")
        feature_files.write(
            out,
            (
                block
                for path in blocks_in(folder)
                if len(block := np.load(path.with_suffix(".npy")))
            ),
            (len(names), num_features),
            dtype,
            names,
            np.array(labels, np.int32),
            source.classes,
            _about(trained, source),
        )
        for path in folder.iterdir():
            path.unlink()  # the lock too; its holder removes the folder
    shutil.rmtree(folder, ignore_errors=True)
    return Embedded(len(names), num_features, num_restored, faults)


def _features(model: TrainedModel, part: Part, dtype: DType, batch_size: int) -> np.ndarray:
    if not len(part.images):
        return np.empty((0, 0), dtype)
    with in_batches_of(model, batch_size):
        found = model.features(part.images)
    if not np.isfinite(found.astype(dtype)).all():
        raise UserError(
            f"a feature of {part.names[0]} or a neighbour is not finite as {dtype}. Use --dtype"
            " float32, or check the model."
        )
    return found.astype(dtype)


def _about(model: TrainedModel, source: Images) -> dict[str, Any]:
    origin = model.origin._asdict()
    return {"model": origin, "preprocessing": model.preprocessing.to_json(), **source.about}


def _opened(
    model: str | Path | TrainedModel,
    images: str | Path | Sequence[str | Path],
    split: str | None,
    batch_size: int,
) -> tuple[TrainedModel, Images]:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}. Use at least 1.")
    trained = load_if_path(model)
    if split is None:
        given = [images] if isinstance(images, (str, Path)) else list(images)
        return trained, FileImages(given)
    if not isinstance(images, (str, Path)):
        raise UserError("several directories are given with a split. Give one packed directory.")
    return trained, SplitImages(open_split(images, split))
