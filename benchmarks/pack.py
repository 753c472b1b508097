"""Measure images per second of packing, compared with processes that only recode the same images.

    python benchmarks/pack.py --source imagenet_sample_whole.tar [--layout webdataset]
    [--images 12000] [--workers 2]

The images of a tar of synset tars are repeated under new names to a source of at least `--images`:
a tar of synset tars, shards of a WebDataset, or Parquet files. It is packed from the first byte
read to the manifest written. The comparison is the same number
of processes that recode their share of the images from memory. Both take turns; the result is the
median. Prints one JSON line.
"""

import argparse
import contextlib
import importlib.metadata
import io
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

# The packer itself is imported in `main`: every process that is started imports this file.
from i21k.data.sources.base import Member
from i21k.data.sources.recognise import open_source
from i21k.images import recode

Images = dict[str, list[Member]]  # by class id


def repeated(source: Path, out: Path, num_images: int, layout: str) -> int:
    """Write the images of a tar of synset tars, repeated, in a layout; return their number."""
    of_class: Images = {}
    for member in open_source(source).members():
        if not member.skipped:
            of_class.setdefault(member.class_id, []).append(member)
    num_repeats = -(-num_images // sum(map(len, of_class.values())))
    LAYOUTS[layout](of_class, out, num_repeats)
    return num_repeats * sum(map(len, of_class.values()))


def write_synset_tars(of_class: Images, out: Path, num_repeats: int) -> None:
    with tarfile.open(out, "w") as whole:
        for class_id, members in of_class.items():
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as tar:
                for repeat, member in itertools.product(range(num_repeats), members):
                    _add(tar, f"{repeat:04d}_{Path(member.name).name}", member.content())
            _add(whole, f"{class_id}.tar", content.getvalue())


def write_webdataset(of_class: Images, out: Path, num_repeats: int) -> None:
    """As timm's: 1,000 samples a shard, with `.cls` and `.json`."""
    out.mkdir()
    samples = _samples(of_class, num_repeats)
    for number in itertools.count():
        if not (of_shard := list(itertools.islice(samples, 1000))):
            return
        with tarfile.open(out / f"a-{number:04d}.tar", "w") as tar:
            for key, label, class_id, member in of_shard:
                about = {"label": label, "class_name": class_id}
                _add(tar, f"{key}.cls", str(label).encode())
                _add(tar, f"{key}.jpg", member.content())
                _add(tar, f"{key}.json", json.dumps(about).encode())


def write_parquet(of_class: Images, out: Path, num_repeats: int) -> None:
    """As `datasets` does: row groups of 100."""
    import pyarrow
    import pyarrow.parquet

    out.mkdir()
    names = {"info": {"features": {"label": {"names": list(of_class), "_type": "ClassLabel"}}}}
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [("image", image), ("label", pyarrow.int64())], {"huggingface": json.dumps(names)}
    )
    samples = _samples(of_class, num_repeats)
    with pyarrow.parquet.ParquetWriter(out / "a.parquet", schema) as writer:
        while rows := list(itertools.islice(samples, 100)):
            images = [{"bytes": m.content(), "path": f"{key}.jpg"} for key, _, _, m in rows]
            labels = [label for _, label, _, _ in rows]
            writer.write_table(pyarrow.table([images, labels], schema=schema))


def _samples(of_class: Images, num_repeats: int) -> Iterator[tuple[str, int, str, Member]]:
    for repeat in range(num_repeats):
        for label, (class_id, members) in enumerate(of_class.items()):
            for number, member in enumerate(members):
                yield f"{class_id}_{repeat:04d}{number:04d}", label, class_id, member


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


LAYOUTS: dict[str, Callable[[Images, Path, int], None]] = {
    "synset-tars": write_synset_tars,
    "webdataset": write_webdataset,
    "parquet": write_parquet,
}


def bare(source: Path, num_workers: int, short_side_px: int, quality: int) -> float:
    """Return the seconds that `num_workers` processes need for the images of a source in memory."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num_workers + 1)
    processes = [
        context.Process(
            target=_bare, args=(source, k, num_workers, short_side_px, quality, barrier)
        )
        for k in range(num_workers)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    started = time.perf_counter()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return time.perf_counter() - started


def _bare(
    source: Path, k: int, num_workers: int, short_side_px: int, quality: int, barrier: Barrier
) -> None:
    data = [
        member.content()
        for member in itertools.islice(open_source(source).members(), k, None, num_workers)
    ]
    barrier.wait()
    for content in data:
        with contextlib.suppress(recode.Unreadable):
            recode.recode(content, short_side_px, quality)
    os._exit(0)  # do not time how the memory is freed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="tar of synset tars")
    parser.add_argument("--layout", choices=LAYOUTS, default="synset-tars")
    parser.add_argument("--images", type=int, default=15_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--directory",
        type=Path,
        help="for the repeated tar and the packed dataset, which are deleted",
    )
    args = parser.parse_args()
    from i21k.data.pack.pack import PackOptions, pack

    options = PackOptions()
    rates: dict[str, list[float]] = {"pack": [], "bare": []}
    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        source = Path(scratch) / "repeated"
        num_images = repeated(args.source, source, args.images, args.layout)
        for number in range(args.rounds):
            rates["bare"].append(
                num_images / bare(source, args.workers, options.short_side, options.quality)
            )
            report = pack(source, Path(scratch) / str(number), options, num_workers=args.workers)
            rates["pack"].append(num_images / report.seconds)
        source_bytes, packed_bytes = report.source_bytes, report.splits["train"].num_bytes
    medians = {key: statistics.median(values) for key, values in rates.items()}
    print(
        json.dumps(
            {
                "ratio": round(medians["pack"] / medians["bare"], 3),
                "pack_images_per_s": round(medians["pack"], 1),
                "bare_images_per_s": round(medians["bare"], 1),
                "rounds": {
                    key: [round(rate, 1) for rate in values] for key, values in rates.items()
                },
                "layout": args.layout,
                "images": num_images,
                "source_bytes_per_image": source_bytes // num_images,
                "packed_bytes_per_image": packed_bytes // num_images,
                "workers": args.workers,
                "cpu": platform.processor() or platform.machine(),
                "versions": {
                    name: importlib.metadata.version(name)
                    for name in ("simplejpeg", "pillow", "array-record")
                },
            }
        )
    )


if __name__ == "__main__":
    main()
