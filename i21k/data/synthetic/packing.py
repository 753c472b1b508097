"""Write drawn images as a source of the packer, or as a packed dataset."""

import tempfile
from pathlib import Path

import simplejpeg

from i21k import log
from i21k.data.format.manifest import MANIFEST
from i21k.data.pack.pack import PackOptions, pack
from i21k.data.synthetic.classes import SYNSETS
from i21k.data.synthetic.drawing import draw


def write_source(folder: Path, per_class: int, *, size_px: int = 72, seed: int = 0) -> None:
    """Write `per_class` JPEGs of each class as `folder/<wnid>/<wnid>_<i>.JPEG`."""
    for class_index, wnid in enumerate(SYNSETS):
        (folder / wnid).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            image = draw(class_index, (seed << 32) + i, size_px)
            (folder / wnid / f"{wnid}_{i}.JPEG").write_bytes(
                simplejpeg.encode_jpeg(image, quality=92, colorsubsampling="420")
            )


def pack_if_missing(directory: Path, per_class: int, seed: int) -> None:
    """Draw and pack images, unless `directory` has a dataset.

    Args:
        directory: of the packed dataset.
        per_class: training images of each class. There are a fifth as many validation images.
        seed: of the images.
    """
    # The manifest is written last. The packer removes what an interrupted packing has left.
    if (directory / MANIFEST).exists():
        return
    val_per_class = max(1, per_class // 5)
    log.info(
        f"drawing {per_class} + {val_per_class} images of each of {len(SYNSETS)} classes into"
        f" {directory}"
    )
    options = PackOptions(name="synthetic", short_side=0, val_per_class=val_per_class)
    with tempfile.TemporaryDirectory() as source:
        write_source(Path(source), per_class + val_per_class, seed=seed)
        pack(source, directory, options, num_workers=1)
