"""Small packed datasets."""

from pathlib import Path

import numpy as np
import simplejpeg

from i21k.data.format import shards
from i21k.data.format.manifest import Manifest, SplitManifest
from i21k.data.format.records import encode_example
from i21k.data.format.tfds import write_metadata
from i21k.labels import ClassList

CLASSES = ClassList(("n01440764", "n01443537", "n01484850", "n01491361"))
NUM_TRAIN, NUM_VAL = 44, 21


def make_image(label: int, seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """Return RGB noise in a colour of its class: a few steps can learn it."""
    rng = np.random.default_rng([label, seed])
    colour = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]])[label]
    coarse = rng.integers(-60, 60, (height // 8, width // 8, 3))
    return np.clip(colour + np.kron(coarse, np.ones((8, 8, 1), int)), 0, 255).astype(np.uint8)


def write_dataset(
    directory: Path, sizes: dict[str, int], num_shards: int = 3, classes: ClassList = CLASSES
) -> Path:
    """Write a dataset as the packer would, of `sizes[split]` images."""
    directory.mkdir(parents=True, exist_ok=True)
    written, manifest = {}, {}
    for number, (split, size) in enumerate(sizes.items()):
        records = [
            encode_example(
                simplejpeg.encode_jpeg(
                    make_image(i % 4, i + 1000 * number), quality=90, colorsubsampling="420"
                ),
                i % 4,
                f"{split}/{i}.JPEG",
            )
            for i in range(size)
        ]
        written[split] = tuple(
            shards.write_shard(
                directory / shards.shard_name("tiny", split, k, num_shards), records[k::num_shards]
            )
            for k in range(num_shards)
        )
        manifest[split] = SplitManifest(written[split], {}, {})
    write_metadata(directory, "tiny", classes, written)
    Manifest("tiny", classes.hash, manifest).write(directory)
    return directory
