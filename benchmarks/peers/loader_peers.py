"""Measure images per second of other systems' input pipelines. `benchmarks/loader.py` calls this.

    python benchmarks/peers/loader_peers.py tfdata --jpegs FOLDER --threads 2

The work: read a JPEG, cut a random region (8-100 % of the area, aspect 3/4-4/3), resize it to 224 x
224, mirror it half of the time, and return batches of 128. `--crop plain` instead cuts a random
224 x 224 window and mirrors it, the augmentation of 2015. This file imports nothing of the project,
because each peer has a virtual environment of its own:

    mxnet   python3.11 -m venv mx && mx/bin/pip install "numpy<1.24" mxnet==1.9.1
    tfdata  python -m venv tf && tf/bin/pip install tensorflow-cpu
    dali    python -m venv dali && dali/bin/pip install nvidia-dali-cuda120
    torch   python -m venv torch && torch/bin/pip install torch pillow numpy

With two cores MXNet decodes on one thread. DALI's CPU pipeline needs no GPU. PyTorch's is its
DataLoader with Pillow. Prints one JSON line. Compare peers only if they ran in turn on the same
machine within minutes, by the median of several rounds.
"""

import argparse
import io
import json
import math
import os
import random
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH, SIZE_PX, NUM_IMAGES = 128, 224, 5000


def rate(batches: Iterator[Any], seconds: float, warmup: int = 8) -> float:
    """Return images per second of a stream, after the first batches."""
    for _ in range(warmup):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - start)


def write_recordio(path: Path, files: list[Path]) -> None:
    """Write MXNet's RecordIO.

    A record is magic, length, IRHeader(flag, label, id, id2), the JPEG, and padding to four bytes.
    """
    with path.open("wb") as rec, path.with_suffix(".idx").open("w") as idx:
        for i, file in enumerate(files):
            payload = struct.pack("<IfQQ", 0, float(i % 1000), i, 0) + file.read_bytes()
            idx.write(f"{i}\t{rec.tell()}\n")
            rec.write(
                struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0" * (-len(payload) % 4)
            )


def mxnet(files: list[Path], threads: int, crop: str, scratch: Path) -> Iterator[Any]:
    import mxnet as mx

    write_recordio(scratch / "a.rec", files)
    region = {
        "random_resized_crop": True,
        "min_random_area": 0.08,
        "max_random_area": 1.0,
        "min_aspect_ratio": 3 / 4,
        "max_aspect_ratio": 4 / 3,
    }
    reader = mx.io.ImageRecordIter(
        path_imgrec=str(scratch / "a.rec"),
        path_imgidx=str(scratch / "a.idx"),
        shuffle=True,
        data_shape=(3, SIZE_PX, SIZE_PX),
        batch_size=BATCH,
        preprocess_threads=threads,
        rand_mirror=True,
        mean_r=117,
        mean_g=117,
        mean_b=117,
        **(region if crop == "region" else {"rand_crop": True}),
    )
    while True:
        reader.reset()
        for batch in reader:
            batch.data[0].wait_to_read()
            yield batch


def tfdata(files: list[Path], threads: int, crop: str, scratch: Path) -> Iterator[Any]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(scratch / "a.tfrecord")) as writer:
        for i, file in enumerate(files):
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.read_bytes()])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i % 1000])),
            }
            writer.write(
                tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
            )
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def one(record: Any) -> tuple[Any, Any]:
        example = tf.io.parse_single_example(record, features)
        shape = tf.image.extract_jpeg_shape(example["image"])
        if crop == "region":
            begin, size, _ = tf.image.sample_distorted_bounding_box(
                shape,
                tf.zeros([1, 0, 4]),
                area_range=(0.08, 1.0),
                aspect_ratio_range=(3 / 4, 4 / 3),
                min_object_covered=0,
                use_image_if_no_bounding_boxes=True,
            )
            window = tf.stack([begin[0], begin[1], size[0], size[1]])
        else:
            y = tf.random.uniform([], 0, shape[0] - SIZE_PX + 1, tf.int32)
            x = tf.random.uniform([], 0, shape[1] - SIZE_PX + 1, tf.int32)
            window = tf.stack([y, x, SIZE_PX, SIZE_PX])
        image = tf.image.decode_and_crop_jpeg(example["image"], window, channels=3)
        if crop == "region":
            image = tf.cast(tf.image.resize(image, (SIZE_PX, SIZE_PX)), tf.uint8)
        return tf.image.random_flip_left_right(image), example["label"]

    records = tf.data.TFRecordDataset(str(scratch / "a.tfrecord")).repeat().shuffle(1024)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    yield from (
        records.map(one, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH)
        .prefetch(2)
        .with_options(options)
        .as_numpy_iterator()
    )


def dali(files: list[Path], threads: int, crop: str, scratch: Path) -> Iterator[Any]:
    from nvidia.dali import fn, pipeline_def, types

    write_recordio(scratch / "a.rec", files)

    @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None)
    def pipe() -> tuple[Any, Any]:
        jpegs, labels = fn.readers.mxnet(
            path=[str(scratch / "a.rec")],
            index_path=[str(scratch / "a.idx")],
            random_shuffle=True,
            initial_fill=1024,
        )
        if crop == "region":
            images = fn.decoders.image_random_crop(
                jpegs,
                device="cpu",
                output_type=types.RGB,
                random_aspect_ratio=[3 / 4, 4 / 3],
                random_area=[0.08, 1.0],
            )
            images = fn.resize(
                images, size=(SIZE_PX, SIZE_PX), interp_type=types.INTERP_LINEAR, antialias=False
            )
        else:
            where = {
                "crop_pos_x": fn.random.uniform(range=(0, 1)),
                "crop_pos_y": fn.random.uniform(range=(0, 1)),
            }
            images = fn.decoders.image_crop(
                jpegs, device="cpu", output_type=types.RGB, crop=(SIZE_PX, SIZE_PX), **where
            )
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    running = pipe()
    running.build()
    while True:
        yield running.run()


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
                    w * h * random.uniform(0.08, 1),
                    math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3))),
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

    loader = torch.utils.data.DataLoader(
        Images(),
        batch_size=BATCH,
        shuffle=True,
        num_workers=threads,
        persistent_workers=True,
        drop_last=True,
    )
    while True:
        yield from loader


PEERS: dict[str, Callable[[list[Path], int, str, Path], Iterator[Any]]] = {
    "mxnet": mxnet,
    "tfdata": tfdata,
    "dali": dali,
    "torch": torch,
}


def find_jpegs(folder: str) -> list[Path]:
    """Return all files below a folder, repeated up to `NUM_IMAGES`."""
    files = sorted(
        path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")
    )
    if not files:
        raise SystemExit(f"{folder} holds no .jpg or .jpeg file")
    return (files * (NUM_IMAGES // len(files) + 1))[:NUM_IMAGES]


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("peer", choices=PEERS)
    cli.add_argument(
        "--jpegs",
        required=True,
        help=f"folder of .jpg/.jpeg/.JPEG files, repeated up to {NUM_IMAGES:,} images",
    )
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument("--crop", choices=("region", "plain"), default="region")
    cli.add_argument("--seconds", type=float, default=10.0)
    args = cli.parse_args()
    files = find_jpegs(args.jpegs)
    with tempfile.TemporaryDirectory() as scratch:
        images_per_s = rate(
            PEERS[args.peer](files, args.threads, args.crop, Path(scratch)), args.seconds
        )
    line = {
        "peer": args.peer,
        "images_per_s": round(images_per_s, 1),
        "threads": args.threads,
        "crop": args.crop,
        "images": len(files),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
