"""Measure images per second of other systems' input pipelines. `benchmarks/loader.py` calls this.

    python benchmarks/peers/loader_peers.py tfdata --jpegs FOLDER --threads 2

The work: read a JPEG, cut a random region (8-100 % of the area, aspect 3/4-4/3), resize it to 224 x
224, mirror it half of the time, and return batches of 128. `--crop plain` instead cuts a random
224 x 224 window and mirrors it, the augmentation of 2015. Each peer reads the same JPEGs from local
files in its own format. They are written unchanged. This file imports no package of the project,
because each peer has a virtual environment of its own (`python3.11 -m venv NAME`). These are the
packages of each, with the versions that were used:

    mxnet       pip install "numpy<1.24" mxnet==1.9.1
    tfdata      pip install tensorflow-cpu                                        (2.21)
    dali        pip install nvidia-dali-cuda120                                   (2.4)
    torch       pip install torch pillow numpy                                    (2.13)
    webdataset  pip install torch==2.14.1 torchvision==0.29.1 webdataset==1.0.2
    streaming   pip install torch==2.14.1 torchvision==0.29.1 mosaicml-streaming==0.13.0
    litdata     pip install torch==2.14.1 torchvision==0.29.1 litdata==0.2.76
    ffcv        apt-get install g++ pkg-config python3-dev libopencv-dev libturbojpeg0-dev
                pip install torch==2.11.0 "numpy<2" numba==0.68.1 "opencv-python-headless<4.12"
                pip install pillow terminaltables fastargs assertpy pytorch_pfn_extras tqdm psutil
                pip install setuptools wheel
                pip install --no-deps --no-build-isolation ffcv==1.0.2

With two cores MXNet decodes on one thread. DALI's CPU pipeline needs no GPU. PyTorch's is its
DataLoader with Pillow. WebDataset, Streaming and LitData use torchvision's transforms (version 2).
FFCV decodes by libjpeg-turbo (2.1.5 of Debian 12) and resizes by OpenCV's area method (4.6.0). It
compiles its pipeline first, so the first batch takes a minute or more.

Prints one JSON line. Compare peers only if they ran in turn on the same machine within minutes, by
the median of several rounds.
"""

import argparse
import json
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.peers import loader_torch_peers
from benchmarks.peers.loader_work import (
    BATCH,
    MAX_AREA,
    MAX_ASPECT,
    MIN_AREA,
    MIN_ASPECT,
    NUM_IMAGES,
    SIZE_PX,
    Peer,
    find_jpegs,
    rate,
)


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
        "min_random_area": MIN_AREA,
        "max_random_area": MAX_AREA,
        "min_aspect_ratio": MIN_ASPECT,
        "max_aspect_ratio": MAX_ASPECT,
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
                area_range=(MIN_AREA, MAX_AREA),
                aspect_ratio_range=(MIN_ASPECT, MAX_ASPECT),
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
                random_aspect_ratio=[MIN_ASPECT, MAX_ASPECT],
                random_area=[MIN_AREA, MAX_AREA],
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


PEERS: dict[str, Peer] = {
    "mxnet": mxnet,
    "tfdata": tfdata,
    "dali": dali,
    "torch": loader_torch_peers.torch,
    "webdataset": loader_torch_peers.webdataset,
    "streaming": loader_torch_peers.streaming,
    "litdata": loader_torch_peers.litdata,
    "ffcv": loader_torch_peers.ffcv,
}


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
