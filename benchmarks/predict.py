"""Measure milliseconds from an image file to answers, for one image and for many.

    python benchmarks/predict.py IMAGE... [--checkpoint runs/quickstart] [--rounds 7]

Without a checkpoint, the network is Inception-BN of 2015 with random parameters, 21,841 classes and
224 px. It is saved and loaded like any other. Prints one JSON line. Views take turns, and numbers
are medians of rounds:

    load_s      loading and checking
    first_s     the first image, which compiles (or finds the compiled program in JAX's cache)
    image_ms    one image in a batch of 1
    padded_ms   one image in a batch of 8
    batched_ms  one of 32 images in batches of 8 (the images given, repeated)
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import logging

from i21k import backend

backend.prepare()

import optax

from i21k.checkpoints import Checkpoints
from i21k.models.inception_bn import InceptionBN
from i21k.models.inception_network import InceptionNetwork
from i21k.prediction.predicted_images import predict_files
from i21k.prediction.predictor import Predictor
from i21k.train.state import init_state
from i21k.wordnet import class_lists

MANY = 32


@contextlib.contextmanager
def full_network() -> Iterator[Path]:
    """Return the working directory of a checkpoint with random parameters."""
    classes = class_lists.named("fall11")
    model = InceptionBN(num_classes=len(classes))
    state = init_state(InceptionNetwork(model), optax.sgd(0.1), 224, "he_normal", 0)
    meta = {
        "epoch_done": True,
        "model": InceptionNetwork(model).describe(),
        "classes": list(classes.ids),
    }
    meta["input"] = {"image_size": 224, "crop_fraction": 0.875}
    with tempfile.TemporaryDirectory() as workdir:
        Checkpoints(Path(workdir) / "checkpoints").save(
            0, {"params": state.params, "batch_stats": state.batch_stats}, meta
        )
        yield Path(workdir)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main() -> None:
    """Measure all cases in turn, after loading."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    logging.set_verbosity(logging.ERROR)  # Orbax
    with contextlib.nullcontext(args.checkpoint) if args.checkpoint else full_network() as workdir:
        load_s, single = seconds(lambda: Predictor(workdir, batch_size=1))
        model = Predictor(workdir)
    views = ("top", "diverse", "basic")
    one, many = args.images[:1], (args.images * MANY)[:MANY]
    cases = {"image_ms": (single, one), "padded_ms": (model, one), "batched_ms": (model, many)}

    def once(case: str, view: str) -> float:
        """Return the milliseconds of an image."""
        predictor, paths = cases[case]
        return (
            seconds(lambda: list(predict_files(predictor, paths, predictor.view(view))))[0]
            * 1e3
            / len(paths)
        )

    first_s = once("image_ms", "top") / 1e3
    for case, view in itertools.product(cases, views):
        once(case, view)
    rounds = [
        {key: once(*key) for key in itertools.product(cases, views)} for _ in range(args.rounds)
    ]
    result = {
        "classes": len(model.classes),
        "image_size": model.image_size,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_s": round(load_s, 2),
        "first_s": round(first_s, 2),
        **{
            case: {
                view: round(statistics.median(r[case, view] for r in rounds), 1) for view in views
            }
            for case in cases
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
