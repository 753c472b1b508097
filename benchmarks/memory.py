"""Measure the GPU memory of the training step of `configs/i21k_*.py`, without a GPU.

    python benchmarks/memory.py --batch 32 --dtype float32 --remat block  # one JSON line
    python benchmarks/memory.py --table  # all modes at batch 32, 64 and 256
    python benchmarks/memory.py --devices 4 --collectives  # how gradients are sent
    python benchmarks/memory.py --modern  # `configs/i21k_modern.py` at each of its sizes

The step is compiled for the description of an H100. It needs JAX's CUDA wheels:
pip install -e ".[cuda]". The network is the full one with 21,841 classes at 224 px. `--batch` is
that of a device.

Figures are XLA's plan in MiB: `temp_mib` temporaries (activations, gradients), `argument_mib`
state and batch, `alias_mib` the part of them that is updated in place, `peak_mib` the highest sum.
They do not include cuDNN's workspaces (kernels are not tuned without a GPU) and the CUDA context.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # there is no driver
os.environ["JAX_PLATFORMS"] = "cpu,cuda"

from i21k import backend

backend.prepare(cache=False)

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from ml_collections import ConfigDict

from i21k.train import sizes, steps
from i21k.train.losses import make_loss
from i21k.train.optimizer import (
    make_optimizer,
    make_schedule,
)
from i21k.train.recipe import parse
from i21k.train.state import DeviceBatch, init_state, make_network

sys.path.insert(
    0, str(Path(__file__).parents[1])
)  # recipes are files of the checkout, not of the package

from benchmarks.hlo import DTYPE_BYTES
from benchmarks.timed_step import planned_mib
from configs import i21k_inception, i21k_modern

NUM_CLASSES = 21841
DESCRIPTION = Path(__file__).parent / "h100.txtpb"  # numbers of the data sheet
BATCHES = (32, 64, 256)
CARDS_GIB = (4, 8, 12, 24, 80)
RESERVED_GIB = 1.0  # of a card: CUDA context and cuDNN workspaces; our choice
# What may change how collectives are scheduled; each added to the defaults.
FLAGS: dict[str, dict[str, bool | int]] = {
    "defaults": {},
    "latency hiding": {"xla_gpu_enable_latency_hiding_scheduler": True},
    "combine up to 160 MB": {"xla_gpu_all_reduce_combine_threshold_bytes": 160 * 10**6},
    "combine up to 8 MB": {"xla_gpu_all_reduce_combine_threshold_bytes": 8 * 10**6},
    "latency hiding, combine up to 8 MB": {
        "xla_gpu_enable_latency_hiding_scheduler": True,
        "xla_gpu_all_reduce_combine_threshold_bytes": 8 * 10**6,
    },
}


def described_devices(num: int) -> list[Any]:
    """Return descriptions of `num` devices.

    Raises:
        SystemExit: where JAX's CUDA wheels are missing.
    """
    try:
        topology = topologies.get_topology_desc(
            "h100", "cuda", target_config=DESCRIPTION.read_text(), topology=f"1x1x{num}"
        )
    except Exception as error:  # JAX raises what its plugins happen to raise
        raise SystemExit(
            f"JAX cannot compile for a GPU here ({error}). "
            'Install its CUDA wheels: pip install -e ".[cuda]".'
        ) from error
    return list(topology.devices)


def compiled_step(
    batch: int,
    dtype: str,
    remat: str,
    devices: list[Any],
    options: dict[str, bool | int],
    accumulate_steps: int = 1,
    reduce_dtype: str = "float32",
    recipe: ConfigDict | None = None,
    freeze: str = "none",
) -> tuple[Any, float]:
    """Compile the train step for `batch` images per device. Return it and the seconds."""
    recipe = i21k_inception.get_config() if recipe is None else recipe
    recipe.batch_size, recipe.devices = batch * len(devices), len(devices)
    recipe.accumulate_steps, recipe.reduce_dtype = accumulate_steps, reduce_dtype
    recipe.model.dtype, recipe.model.remat, recipe.model.freeze = dtype, remat, freeze
    cfg = parse(recipe)
    model = make_network(cfg.model, NUM_CLASSES)
    schedule = make_schedule(cfg.optimizer, 1e4, 10**5)
    optimizer = make_optimizer(cfg.optimizer, schedule, model)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        size = sizes.largest(cfg.image_size)
        state = init_state(model, optimizer, size, cfg.model.init, 0, cfg.ema.decay > 0)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), state)
    front = (len(devices), batch)
    image = (size, size, 3)
    shape: Any = jax.ShapeDtypeStruct
    images = DeviceBatch(
        shape((*front, *image), jnp.uint8),
        shape(front, jnp.int32),
        shape(front, jnp.bool_),
        shape(front, jnp.float32),
    )
    start = time.perf_counter()
    step: Any = steps.make_train_step(
        model,
        optimizer,
        devices,
        cfg.accumulate_steps,
        cfg.reduce_dtype,
        make_loss(cfg.loss.name, cfg.loss.smoothing),
        ema_decay=cfg.ema.decay,
    )
    lowered = step.lower(shapes, images)
    compiled = lowered.compile(compiler_options={"xla_gpu_autotune_level": 0, **options})
    return compiled, time.perf_counter() - start


def collectives(hlo: str) -> dict[str, Any]:
    """Find out how the all-reduces of a scheduled module run.

    `behind` counts the convolutions and matrix products between the start and the end of each
    all-reduce (0: nothing runs at the same time). `after_first` counts those after the first start.
    """
    entry = hlo[hlo.index("\nENTRY ") :].splitlines()
    work = [
        bool(re.search(r"custom_call_target=\"(__cudnn|__cublas)|kind=kCustom|\bdot\(", line))
        for line in entry
    ]
    starts: dict[str, tuple[int, int]] = {}
    reduces = []
    blocking = 0
    for number, line in enumerate(entry):
        found = re.match(
            r"\s*(?:ROOT )?%?(\S+) = (.*?) (all-reduce(?:-start|-done)?)\((%?[\w.\-]+)", line
        )
        if not found:
            continue
        name, shape, op, operand = found.groups()
        size = sum(
            _elements(dims) * DTYPE_BYTES[kind]
            for kind, dims in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
        )
        if op == "all-reduce":
            blocking += 1
            reduces.append({"bytes": size, "behind": 0})
        elif op == "all-reduce-start":
            starts[name] = (number, size)
        else:
            begun, size = starts.pop(operand.removeprefix("%"))
            reduces.append({"bytes": size, "behind": sum(work[begun:number])})
    first = next((number for number, line in enumerate(entry) if "all-reduce" in line), len(entry))
    return {
        "all_reduces": len(reduces),
        "synchronous": blocking,
        "all_reduce_mb": [round(r["bytes"] / 1e6, 1) for r in reduces],
        "behind": [r["behind"] for r in reduces],
        "after_first": f"{sum(work[first:])} of {sum(work)}",
    }


def _elements(dims: str) -> int:
    count = 1
    for size in filter(None, dims.split(",")):
        count *= int(size)
    return count


def table() -> str:
    """Compile every mode at every batch.

    Returns:
        Two Markdown tables: memory, and the largest batch for each size of a card.
    """
    devices = described_devices(1)
    rows = [
        "| dtype | remat | batch | temp MiB | peak MiB | argument MiB | alias MiB | compile s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    fits = [
        f"| dtype | remat | MiB an image | {' | '.join(f'{card} GiB' for card in CARDS_GIB)} |",
        "|---|---|---|" + "---|" * len(CARDS_GIB),
    ]
    for dtype in ("float32", "bfloat16"):
        for remat in ("none", "conv", "block"):
            peaks = []
            for batch in BATCHES:
                compiled, seconds = compiled_step(batch, dtype, remat, devices, {})
                plan = planned_mib(compiled)
                peaks.append(plan["peak_mib"])
                cells = [
                    dtype,
                    remat,
                    batch,
                    plan["temp_mib"],
                    plan["peak_mib"],
                    plan["argument_mib"],
                    plan["alias_mib"],
                    round(seconds),
                ]
                rows.append(f"| {' | '.join(map(str, cells))} |")
                print(rows[-1], file=sys.stderr, flush=True)
            slope = (peaks[-1] - peaks[0]) / (BATCHES[-1] - BATCHES[0])
            free_mib = (
                1024 * (card - RESERVED_GIB) - peaks[-1] + slope * BATCHES[-1] for card in CARDS_GIB
            )
            batches = " | ".join(f"{int(mib / slope):,}" for mib in free_mib)
            fits.append(f"| {dtype} | {remat} | {slope:.1f} | {batches} |")
    return "\n".join([*rows, "", *fits])


def modern_table(num_gpus: int) -> str:
    """Compile `configs/i21k_modern.py` at each of its sizes.

    Returns:
        A Markdown table.
    """
    devices = described_devices(1)
    whole = parse(i21k_modern.get_config())
    batch = whole.batch_size // num_gpus
    rows = [
        "| px | images per GPU | peak MiB | temp MiB | argument MiB | compile s |",
        "|---|---|---|---|---|---|",
    ]
    for stage in sizes.read_sizes(whole.image_size):
        recipe = i21k_modern.get_config()
        recipe.image_size = stage.size
        dtype, remat = whole.model.dtype, whole.model.remat
        compiled, seconds = compiled_step(batch, dtype, remat, devices, {}, recipe=recipe)
        plan = planned_mib(compiled)
        cells = [stage.size, batch, plan["peak_mib"], plan["temp_mib"], plan["argument_mib"]]
        rows.append(f"| {' | '.join(map(str, [*cells, round(seconds)]))} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return "\n".join(rows)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--batch", type=int, default=32, help="images per device")
    cli.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    cli.add_argument("--remat", choices=("none", "conv", "block"), default="none")
    cli.add_argument("--freeze", default="none", help="parts that are frozen, as in model.freeze")
    cli.add_argument("--devices", type=int, default=1)
    cli.add_argument("--accumulate-steps", type=int, default=1, help="micro-batches of a device")
    cli.add_argument(
        "--reduce-dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of gradients between devices",
    )
    cli.add_argument(
        "--collectives",
        action="store_true",
        help="a line for each set of flags: its all-reduces and its memory",
    )
    cli.add_argument(
        "--table", action="store_true", help="Markdown tables over modes, dtypes and batches"
    )
    cli.add_argument(
        "--modern", type=int, metavar="N", nargs="?", const=8, help="the modern recipe on N GPUs"
    )
    args = cli.parse_args()
    if args.modern:
        print(modern_table(args.modern))
        return
    if args.table:
        print(table())
        return
    devices = described_devices(args.devices)
    how = {"accumulate_steps": args.accumulate_steps, "reduce_dtype": args.reduce_dtype}
    how |= {"freeze": args.freeze}
    what = {
        "batch": args.batch,
        "dtype": args.dtype,
        "remat": args.remat,
        "devices": args.devices,
    } | how
    for name, options in (FLAGS if args.collectives else {"defaults": {}}).items():
        compiled, seconds = compiled_step(
            args.batch, args.dtype, args.remat, devices, options, **how
        )
        line = (
            planned_mib(compiled)
            | {"compile_s": round(seconds, 1)}
            | what
            | {"device": devices[0].device_kind, "jax": jax.__version__}
        )
        if args.collectives:
            line |= {"flags": name} | collectives(compiled.as_text())
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
