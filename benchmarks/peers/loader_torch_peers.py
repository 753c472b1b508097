"""The input pipelines of PyTorch's world, as `loader_peers.py` measures them. It has the versions.

Each reads the JPEGs unchanged from its own format. WebDataset, Streaming and LitData leave decoding
to the user. Here all three use torchvision, which decodes into uint8 tensors with libjpeg-turbo.
An epoch is longer than a measurement, so no reader is measured while it starts one. In LitData the
worker processes continue with the next epoch instead.
"""

import io
import math
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.loader_work import (
    BATCH,
    MAX_AREA,
    MAX_ASPECT,
    MIN_AREA,
    MIN_ASPECT,
    SIZE_PX,
)

REPEATS = 200  # of the files in an epoch: longer than a measurement
SHARDS = 8


def torch(files: list[Path], threads: int, crop: str, scratch: Path) -> Iterator[Any]:
    import numpy as np
    import torch.utils.data
    from PIL import Image

    class Images(torch.utils.data.Dataset):
        jpegs = [file.read_bytes() for file in files]  # noqa: RUF012

        def __len__(self) -> int:
            return len(self.jpegs)

        def __getitem__(self, i: int) -> tuple[Any, int]:
            image: Any = Image.open(io.BytesIO(self.jpegs[i])).convert("RGB")
            w, h = image.size
            if crop == "region":
                area, aspect = (
                    w * h * random.uniform(MIN_AREA, MAX_AREA),
                    math.exp(random.uniform(math.log(MIN_ASPECT), math.log(MAX_ASPECT))),
                )
                cw, ch = (
                    min(w, round((area * aspect) ** 0.5)),
                    min(h, round((area / aspect) ** 0.5)),
                )
            else:
                cw = ch = SIZE_PX
            x, y = random.randint(0, w - cw), random.randint(0, h - ch)
            image = image.resize(
                (SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR, box=(x, y, x + cw, y + ch)
            )
            if random.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)), i % 1000

    images = Images()
    yield from torch.utils.data.DataLoader(
        images,
        batch_size=BATCH,
        sampler=torch.utils.data.RandomSampler(images, num_samples=len(images) * REPEATS),
        num_workers=threads,
        drop_last=True,
    )


def decoder(crop: str) -> Callable[[bytes], Any]:
    """Return torchvision's decoding, cropping, resizing and mirroring of a JPEG."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    region = v2.RandomResizedCrop(
        SIZE_PX,
        scale=(MIN_AREA, MAX_AREA),
        ratio=(MIN_ASPECT, MAX_ASPECT),
        antialias=False,  # as tf.data and DALI; it takes less than half the time
    )
    cut = region if crop == "region" else v2.RandomCrop(SIZE_PX)
    change = v2.Compose([cut, v2.RandomHorizontalFlip()])

    def decode(jpeg: bytes) -> Any:
        encoded = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        return change(decode_jpeg(encoded, ImageReadMode.RGB))

    return decode


def webdataset(files: list[Path], threads: int, crop: str, scratch: Path) -> Iterator[Any]:
    import webdataset as wds

    decode = decoder(crop)
    for k in range(SHARDS):
        with tarfile.open(scratch / f"{k:06d}.tar", "w") as tar:
            for i in range(k, len(files), SHARDS):
                for suffix, data in (
                    ("jpg", files[i].read_bytes()),
                    ("cls", str(i % 1000).encode()),
                ):
                    member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    images = (
        wds.WebDataset(
            [str(scratch / f"{k:06d}.tar") for k in range(SHARDS)],
            resampled=True,
            shardshuffle=False,
        )
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(decode, int)
        .batched(BATCH, partial=False)
    )
    yield from wds.WebLoader(images, batch_size=None, num_workers=threads)


def streaming(files: list[Path], threads: int, crop: str, scratch: Path) -> Iterator[Any]:
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    decode = decoder(crop)
    with MDSWriter(out=str(scratch / "mds"), columns={"image": "bytes", "label": "int"}) as writer:
        for i, file in enumerate(files):
            writer.write({"image": file.read_bytes(), "label": i % 1000})

    class Images(StreamingDataset):
        def __getitem__(self, at: Any) -> tuple[Any, int]:
            record = super().__getitem__(at)
            return decode(record["image"]), record["label"]

    images = Images(
        local=str(scratch / "mds"),
        shuffle=True,
        batch_size=BATCH,
        epoch_size=len(files) * REPEATS,
    )
    yield from DataLoader(images, batch_size=BATCH, num_workers=threads, drop_last=True)


def litdata(files: list[Path], threads: int, crop: str, scratch: Path) -> Iterator[Any]:
    import litdata as ld

    decode = decoder(crop)

    def read(i: int) -> dict[str, Any]:
        return {"image": files[i].read_bytes(), "label": i % 1000}

    ld.optimize(
        fn=read,
        inputs=list(range(len(files))),
        output_dir=str(scratch / "litdata"),
        chunk_bytes="64MB",
        num_workers=threads,
        start_method="fork",
        verbose=False,
    )

    class Images(ld.StreamingDataset):
        def __getitem__(self, at: Any) -> tuple[Any, int]:
            record = super().__getitem__(at)
            return decode(record["image"]), record["label"]

    images = Images(str(scratch / "litdata"), shuffle=True, drop_last=True)
    loader = ld.StreamingDataLoader(
        images, batch_size=BATCH, num_workers=threads, drop_last=True, persistent_workers=True
    )
    while True:
        yield from loader


def ffcv(files: list[Path], threads: int, crop: str, scratch: Path) -> Iterator[Any]:
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class JpegField(RGBImageField):
        """FFCV's image field, but the JPEG is written unchanged and not encoded again."""

        def encode(self, destination: Any, image: bytes, malloc: Callable[[int], Any]) -> None:
            destination["width"], destination["height"] = Image.open(io.BytesIO(image)).size
            destination["mode"] = IMAGE_MODES["jpg"]
            destination["data_ptr"], storage = malloc(len(image))
            storage[:] = np.frombuffer(image, np.uint8)

    class Images:
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, i: int) -> tuple[bytes, int]:
            return files[i].read_bytes(), i % 1000

    def window(height: int, width: int, _scale: Any, _ratio: Any) -> tuple[int, int, int, int]:
        y = int(np.random.uniform(0, height - 224 + 1))
        x = int(np.random.uniform(0, width - 224 + 1))
        return y, x, 224, 224

    class RandomWindow(RandomResizedCropRGBImageDecoder):
        get_crop_generator = property(lambda _: window)

    fields = {"image": JpegField(), "label": IntField()}
    DatasetWriter(str(scratch / "a.beton"), fields, num_workers=threads).from_indexed_dataset(
        Images()
    )
    cut = RandomResizedCropRGBImageDecoder if crop == "region" else RandomWindow
    yield from Loader(
        str(scratch / "a.beton"),
        batch_size=BATCH,
        num_workers=threads,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=np.tile(np.arange(len(files), dtype="uint64"), REPEATS),
        custom_fields={"image": JpegField},
        pipelines={
            "image": [
                cut((SIZE_PX, SIZE_PX), (MIN_AREA, MAX_AREA), (MIN_ASPECT, MAX_ASPECT)),
                RandomHorizontalFlip(),
                ToTensor(),
            ],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
