"""Compute the least time of the training step on an H100 from its compiled module, without a GPU.

    python benchmarks/roofline.py [--batch 256] [--dtype bfloat16] [--remat none] [--top 12]
    python benchmarks/roofline.py --hlo module.txt  # a module that `--save` wrote

The step is compiled as in `memory.py`, which needs JAX's CUDA wheels. Each kernel takes at least
the bytes of its operands and results over the memory bandwidth, and at least its multiply-adds over
the throughput of the tensor cores. The sum is a bound: caches, launches and kernels below full
speed are not in it. The numbers of the card are those of NVIDIA's H100 data sheet (SXM5): 3.35
TB/s, and 989 (bfloat16) or 495 (TF32) TFLOP/s without sparsity.

Prints Markdown tables: by part of the step, by block of the network, and the longest kernels.
"""

import argparse
import collections
import dataclasses
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.hlo import Computation, Instruction, Module, num_bytes, shapes_of

BYTES_PER_S = 3.35e12
FLOPS_PER_S = {"bfloat16": 989e12, "float32": 495e12}  # float32 as TF32
_FREE = {  # operations that move nothing
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id"),
}
_WITHOUT_KERNEL = ("AllocateBuffer",)
_LAYER = re.compile(
    r"\b(?:(?:conv|bn)_(?:conv\d|\d[a-e]_)[a-z0-9_]*|fc1|ch_concat_\d[a-e]_chconcat)\b"
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What a kernel moves and computes."""

    name: str
    part: str  # of the step
    block: str  # of the network
    layer: str
    bytes: float
    flops: float

    def seconds(self, flops_per_s: float) -> float:
        """Return the least time."""
        return max(self.bytes / BYTES_PER_S, self.flops / flops_per_s)


def kernels(module: Module) -> list[Kernel]:
    """Return all kernels of the entry computation."""
    found = []
    for one in module.entry.values():
        if one.op in _FREE or any(word in one.attributes for word in _WITHOUT_KERNEL):
            continue
        flops = _flops(module, one)
        layer = _layer(module, one)
        found.append(
            Kernel(one.name, _part(one, flops), _block(layer), layer, _moved(module, one), flops)
        )
    return found


def _moved(module: Module, one: Instruction) -> float:
    """Return the bytes that a kernel reads and writes: each operand once, as far as it is used."""
    computation = module.called(one)
    written = float(num_bytes(one.shape))
    if computation is None:
        operands = (module.entry[name].shape for name in dict.fromkeys(one.operands))
        return written + sum(num_bytes(shape) for shape in operands)
    root = next(i for i in computation.values() if i.is_root)
    results = root.operands if root.op == "tuple" else [root.name]
    for update in (computation[name] for name in results):
        if update.op == "dynamic-update-slice":  # writes only its part, in place
            whole = num_bytes(update.shape)
            written += num_bytes(computation[update.operands[1]].shape) - whole
    used = _used(computation, root)
    parameters = (i for i in computation.values() if i.op == "parameter")
    return written + sum(num_bytes(p.shape) * used[p.name] for p in parameters)


def _used(computation: Computation, root: Instruction) -> dict[str, float]:
    """Return which fraction of each value a kernel computes or reads: slices use a part."""
    used = dict.fromkeys(computation, 0.0)
    used[root.name] = 1.0
    for one in reversed(computation.values()):  # every value comes after its operands
        for number, name in enumerate(one.operands):
            share = used[one.name]
            if one.op in ("slice", "dynamic-slice") and number == 0:
                share *= num_bytes(one.shape) / max(num_bytes(computation[name].shape), 1)
                used[name] = min(1.0, used[name] + share)  # slices take different parts
            elif one.op == "dynamic-update-slice" and number == 0 and one is root:
                continue  # written in place
            else:
                used[name] = max(used[name], share)
    return used


def _flops(module: Module, one: Instruction) -> float:
    """Return twice the multiply-adds of convolutions and matrix products."""
    if "__cudnn$conv" in one.attributes:
        return _convolution_flops(module, one)
    if "__cublas" in one.attributes:
        return _product_flops(one, [module.entry[name] for name in one.operands])
    total = 0.0
    computation = module.called(one)
    for inner in (computation or {}).values():
        if inner.op == "dot":
            total += _product_flops(inner, [(computation or {})[name] for name in inner.operands])
        nested = module.called(inner)
        if nested is not None:
            total += sum(
                _product_flops(i, [nested[name] for name in i.operands])
                for i in nested.values()
                if i.op == "dot"
            )
    return total


def _convolution_flops(module: Module, one: Instruction) -> float:
    """Return 2 * pixels of the output * size of the kernel, for all three directions."""
    given = [shapes_of(module.entry[name].shape)[0][1] for name in one.operands]
    result = shapes_of(one.shape)[0][1]
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert labels is not None, one.attributes
    if "BackwardFilter" in one.attributes:  # (images, gradient of the output) -> kernel
        output, kernel, where = given[1], result, labels[3]
    elif "BackwardInput" in one.attributes:  # (gradient of the output, kernel) -> images
        output, kernel, where = given[0], given[1], labels[3]
    else:
        output, kernel, where = result, given[1], labels[3]
    pixels = 1
    for axis, size in zip(where, output, strict=True):
        pixels *= 1 if axis == "f" else size
    size = 1
    for extent in kernel:
        size *= extent
    return 2.0 * pixels * size


def _product_flops(one: Instruction, operands: list[Instruction]) -> float:
    outputs = shapes_of(one.shape)[0][1]
    numbers = re.search(r"lhs_contracting_dim(?:ension)?s\"?[=:][\[{]([\d,\"]*)", one.attributes)
    assert numbers is not None, one.attributes[:300]
    axes = [int(n) for n in re.findall(r"\d+", numbers[1])]
    left = shapes_of(operands[0].shape)[0][1]
    total = 2.0
    for size in [*outputs, *(left[axis] for axis in axes)]:
        total *= size
    return total


def _part(one: Instruction, flops: float) -> str:
    backward = "transpose(" in one.op_name
    if flops:
        if "BackwardFilter" in one.attributes:
            return "products, backward"
        return "products, backward" if backward else "products, forward"
    if backward:
        return "normalisation, ReLU, pools, backward"
    if "jvp(" in one.op_name:
        return "normalisation, ReLU, pools, forward"
    return "update and the rest"


def _layer(module: Module, one: Instruction) -> str:
    """Return the layer that JAX names, or the one most named inside of the kernel."""
    inside = [inner.op_name for inner in (module.called(one) or {}).values()]
    for names in ([one.op_name], inside):
        layers = [layer for name in names for layer in _LAYER.findall(name)[-1:]]
        if layers:
            return collections.Counter(layers).most_common(1)[0][0]
    return ""


def _block(layer: str) -> str:
    found = re.search(r"_(\d[a-e])_", layer)
    if found:
        return found[1]
    return {"": "rest", "fc1": "head"}.get(layer, "stem")


def read_again(module: Module) -> float:
    """Return the bytes that forward products read although another one has read them before.

    The gradients of their kernels read the same, and the gradients of their input are written and
    read once for each, so that computing them as one product saves four times this.
    """
    again = 0.0
    readers = collections.Counter(
        name
        for one in module.entry.values()
        if _flops(module, one) and "transpose(" not in one.op_name and "jvp(" in one.op_name
        for name in dict.fromkeys(one.operands)
    )
    for name, num in readers.items():
        again += (num - 1) * num_bytes(module.entry[name].shape)
    return again


def tables(found: list[Kernel], batch: int, dtype: str, num_longest: int) -> str:
    """Return the three tables and the bound."""
    speed = FLOPS_PER_S[dtype]
    total = sum(kernel.seconds(speed) for kernel in found)
    lines = [f"{batch / total:,.0f} images/s at most: {1e3 * total:.2f} ms a step", ""]
    for title in ("part", "block"):
        lines += [
            f"| {title} | kernels | GB | TFLOP | ms at least |",
            "|---|---|---|---|---|",
        ]
        groups: dict[str, list[Kernel]] = collections.defaultdict(list)
        for kernel in found:
            groups[getattr(kernel, title)].append(kernel)
        for name, group in sorted(groups.items()):
            lines.append(_row(name, len(group), group, speed))
        lines += [_row("all", len(found), found, speed), ""]
    lines += ["| kernel | layer | part | MB | GFLOP | ms at least |", "|---|---|---|---|---|---|"]
    longest = sorted(found, key=lambda kernel: -kernel.seconds(speed))[:num_longest]
    for kernel in longest:
        lines.append(
            f"| {kernel.name} | {kernel.layer} | {kernel.part} | {kernel.bytes / 1e6:,.0f} |"
            f" {kernel.flops / 1e9:,.0f} | {1e3 * kernel.seconds(speed):.3f} |"
        )
    return "\n".join(lines)


def _row(name: str, num: int, group: list[Kernel], speed: float) -> str:
    gigabytes = sum(kernel.bytes for kernel in group) / 1e9
    tera = sum(kernel.flops for kernel in group) / 1e12
    seconds = sum(kernel.seconds(speed) for kernel in group)
    return f"| {name} | {num} | {gigabytes:.2f} | {tera:.2f} | {1e3 * seconds:.2f} |"


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    cli.add_argument("--batch", type=int, default=256)
    cli.add_argument("--dtype", choices=tuple(FLOPS_PER_S), default="bfloat16")
    cli.add_argument("--remat", choices=("none", "conv", "block"), default="none")
    cli.add_argument("--top", type=int, default=12, help="kernels to list")
    cli.add_argument("--hlo", type=Path, help="read this module instead of compiling")
    cli.add_argument("--save", type=Path, help="write the compiled module to this file")
    args = cli.parse_args()
    if args.hlo is not None:
        text = args.hlo.read_text()
    else:
        from benchmarks import memory  # it sets what must be set before JAX is imported

        devices = memory.described_devices(1)
        compiled, _ = memory.compiled_step(args.batch, args.dtype, args.remat, devices, {})
        text = compiled.as_text()
    if args.save is not None:
        args.save.write_text(text)
    module = Module.read(text)
    print(tables(kernels(module), args.batch, args.dtype, args.top))
    print(f"\nread again by forward products: {read_again(module) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
