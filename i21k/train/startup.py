"""The lines that a run prints before its first step. Each comes before the slow phase it names."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from flax.traverse_util import flatten_dict

from i21k.data.format.splits import Split
from i21k.data.load import loader, order
from i21k.models.network import Network
from i21k.models.summary import forward_gflops
from i21k.train import feed, sizes, workdir
from i21k.train.devices import why_no_gpu
from i21k.train.recipe import Recipe
from i21k.train.state import TrainState

Say = Callable[[str], None]

_PACKAGES = ("i21k", "commit", "jax", "flax", "grain", "orbax-checkpoint")


def say_run(
    say: Say,
    cfg: Recipe,
    directory: Path,
    devices: Sequence[jax.Device],
    train: Split,
    sets: Mapping[str, Split],
) -> None:
    """Print versions, devices, data and steps."""
    versions = workdir.versions()
    say(" | ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions))
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    options = loader.choose_workers(feed.train_options(cfg), train.num_records)
    workers = loader.describe_workers(options)
    say(f"{len(devices)} x {devices[0].device_kind}{processes} | {workers} | workdir {directory}")
    if devices[0].platform == "cpu" and (reason := why_no_gpu()):
        say(f"warning: {reason}")
    mib = sum(path.stat().st_size for path in train.shard_paths) / 2**20
    evaluated = ", ".join(f"{split.num_records:,} {name} images" for name, split in sets.items())
    say(
        f"{train.num_records:,} train images of {len(train.classes):,} classes in"
        f" {len(train.shard_paths):,} shards ({mib:,.0f} MiB) | {evaluated or 'no evaluation'}"
    )
    per_device = str(cfg.batch_size // len(devices) // cfg.accumulate_steps)
    if cfg.accumulate_steps > 1:
        per_device += f" x {cfg.accumulate_steps}"
    num_steps = order.epoch_end(cfg.epochs - 1, train.num_records, cfg.batch_size)
    say(
        f"{cfg.epochs} epochs of {train.num_records / cfg.batch_size:,.1f} steps |"
        f" batch {cfg.batch_size} = {len(devices)} x {per_device} |"
        f" {sizes.describe(cfg.image_size, num_steps)}, crop {cfg.data.crop}"
    )


def say_model(say: Say, network: Network, state: TrainState, cfg: Recipe) -> None:
    """Print the number of parameters and of floating-point operations."""
    num_parameters = sum(x.size for x in jax.tree.leaves(state.params))
    gflops = forward_gflops(network, sizes.largest(cfg.image_size))
    say(
        f"{network.title}: {num_parameters:,} parameters,"
        f" {gflops:.2f} GFLOPs forward an image | {network.dtype}, remat {cfg.model.remat}"
    )


def say_frozen(say: Say, network: Network, state: TrainState, cfg: Recipe) -> None:
    """Print what is frozen, and warn if that never learned anything."""
    if cfg.model.freeze == "none":
        return
    flat = flatten_dict(state.params)
    frozen = sum(x.size for path, x in flat.items() if network.is_frozen("params", path))
    total = sum(x.size for x in flat.values())
    say(f"frozen up to {cfg.model.freeze}: {frozen:,} of {total:,} parameters")
    if cfg.init_from == "none":
        say(
            f"warning: config.model.freeze is {cfg.model.freeze!r} and config.init_from is none."
            " The frozen parameters are random: give a trained model."
        )


def say_first_batch(say: Say, batch: loader.Batch) -> None:
    """Print the range of the values: the quickest way to see that they are images."""
    images, labels = batch.images, batch.labels
    say(
        f"first batch {images.dtype} {list(images.shape)}, {images.min()} to {images.max()},"
        f" mean {images.mean():.1f}, labels {labels.min()} to {labels.max()} |"
        " compiling the train step"
    )
