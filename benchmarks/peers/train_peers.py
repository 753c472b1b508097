"""A training step of the same network in MXNet or PyTorch: `benchmarks/train_step.py` starts it.

    mxnet   python3.11 -m venv mx && mx/bin/pip install "numpy<1.24" mxnet==1.9.1   (float32, CPU)
    torch   python3.11 -m venv pt && pt/bin/pip install torch   (GPU or CPU, as its guides advise)

Both build the network from the graph that `write_symbol` writes, so it is the same to the padding.
The step is SGD with momentum 0.9 on random images. For every line of its input it runs the steps of
a turn and prints the seconds of one step. At the end it prints its peak memory in MiB. On a GPU,
PyTorch runs in channels-last layout with automatic mixed precision (or TF32), compiled or eager.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def mxnet_step(
    symbol: str, batch_size: int, num_classes: int, size_px: int
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a function that does a step, and one that waits for it."""
    import mxnet as mx
    import numpy as np

    def initial(name: str, shape: tuple[int, ...]) -> Any:
        if name.endswith("_weight"):
            return mx.nd.array(np.random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape))
        return mx.nd.full(shape, name.endswith(("_gamma", "_moving_var")))

    loss = mx.sym.load(symbol)
    label = next(name for name in loss.list_arguments() if name.endswith("label"))
    module = mx.mod.Module(loss, label_names=[label], context=mx.cpu())
    module.bind([("data", (batch_size, 3, size_px, size_px))], [(label, (batch_size,))])
    args, _, auxiliary = loss.infer_shape(data=(batch_size, 3, size_px, size_px))
    shapes = dict(
        zip(loss.list_arguments() + loss.list_auxiliary_states(), args + auxiliary, strict=True)
    )
    values = {
        name: initial(name, shape) for name, shape in shapes.items() if name not in ("data", label)
    }
    split = [
        {name: values[name] for name in names if name in values}
        for names in (loss.list_arguments(), loss.list_auxiliary_states())
    ]
    module.init_params(None, *split)
    module.init_optimizer(
        optimizer="sgd",
        optimizer_params={
            "learning_rate": 0.01,
            "momentum": 0.9,
            "wd": 1e-5,
            "rescale_grad": 1 / batch_size,
        },
    )
    labels = mx.nd.array(np.random.randint(0, num_classes, batch_size))
    batch = mx.io.DataBatch(
        [mx.nd.random.uniform(-100, 100, (batch_size, 3, size_px, size_px))], [labels]
    )

    def step() -> None:
        module.forward(batch, is_train=True)
        module.backward()
        module.update()

    return step, mx.nd.waitall


def torch_step(
    symbol: str, batch_size: int, num_classes: int, size_px: int, dtype: str, mode: str
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a function that does a step, and one that waits for it."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def first_number(attrs: dict[str, Any], key: str, default: str) -> int:
        return int(attrs.get(key, default).strip("()").split(",")[0])

    class Graph(nn.Module):
        """MXNet's graph, operator by operator.

        The plan holds functions and numbers only, so that `torch.compile` has nothing to parse.
        """

        def __init__(self, path: str) -> None:
            super().__init__()
            with open(path) as file:  # noqa: PTH123
                nodes = json.load(file)["nodes"]
            self.plan: list[tuple[str, dict[str, Any], str, tuple[str, ...]]] = []
            channels = {"data": 3}
            for node in nodes:
                name, op, attrs = node["name"], node["op"], node.get("attrs", {})
                inputs = tuple(
                    nodes[i[0]]["name"]
                    for i in node["inputs"]
                    if nodes[i[0]]["op"] != "null" or nodes[i[0]]["name"] == "data"
                )
                if op in ("null", "SoftmaxOutput"):
                    continue
                channels[name] = sum(channels[i] for i in inputs)
                self.plan.append((*self.planned(op, name, attrs, channels), name, inputs))

        def planned(
            self, op: str, name: str, attrs: dict[str, Any], channels: dict[str, int]
        ) -> tuple[str, dict[str, Any]]:
            """Return what `forward` does for an operator, and with which arguments."""
            window = [
                first_number(attrs, key, default)
                for key, default in (("kernel", "1"), ("stride", "1"), ("pad", "0"))
            ]
            if op == "Convolution":
                filters = int(attrs["num_filter"])
                self.add_module(name, nn.Conv2d(channels[name], filters, *window))
                channels[name] = filters
                return "module", {}
            if op == "BatchNorm":  # PyTorch's momentum is the weight of the new statistics
                epsilon, momentum = float(attrs.get("eps", 1e-3)), float(attrs.get("momentum", 0.9))
                self.add_module(name, nn.BatchNorm2d(channels[name], epsilon, 1 - momentum))
                return "module", {}
            if op == "FullyConnected":
                self.add_module(name, nn.Linear(channels[name], int(attrs["num_hidden"])))
                return "module", {}
            if op in ("Activation", "Concat", "Flatten"):
                return op, {}
            assert op == "Pooling", op
            if attrs.get("global_pool") in ("True", "1"):
                return "global", {}
            kernel, stride, padding = window
            sizes: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "padding": padding}
            sizes["ceil_mode"] = attrs.get("pooling_convention") == "full"
            if attrs["pool_type"] == "max":
                return "max", sizes
            return "avg", sizes | {
                "count_include_pad": attrs.get("count_include_pad", "True") in ("True", "1")
            }

        def forward(self, x: Any) -> Any:
            values = {"data": x}
            for op, arguments, name, inputs in self.plan:
                first = values[inputs[0]]
                if op == "module":
                    x = getattr(self, name)(first)
                elif op == "Activation":
                    x = F.relu(first, inplace=True)
                elif op == "Concat":
                    x = torch.cat([values[i] for i in inputs], 1)
                elif op == "Flatten":
                    x = first.flatten(1)
                elif op == "global":
                    x = F.adaptive_avg_pool2d(first, 1)
                elif op == "max":
                    x = F.max_pool2d(first, **arguments)
                else:
                    x = F.avg_pool2d(first, **arguments)
                values[name] = x
            return x

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    net = Graph(symbol).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-5, fused=device == "cuda"
    )
    # Compiling gains nothing on a CPU.
    compiled = device == "cuda" and mode != "none"
    forward = torch.compile(net, mode=mode, fullgraph=True) if compiled else net
    images = torch.randn(batch_size, 3, size_px, size_px, device=device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.randint(0, num_classes, (batch_size,), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32"):
            loss = F.cross_entropy(forward(images).float(), labels)
        loss.backward()
        optimizer.step()

    return step, torch.cuda.synchronize if device == "cuda" else lambda: None


def peak_mib(peer: str) -> float:
    """Return the peak of the GPU's memory if the peer used one, else of the process."""
    if peer == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("peer", choices=("mxnet", "torch"))
    cli.add_argument("symbol", help="symbol.json with its loss")
    cli.add_argument("--batch", type=int, required=True)
    cli.add_argument("--num-classes", type=int, required=True)
    cli.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    cli.add_argument("--size-px", type=int, default=224)
    cli.add_argument("--steps", type=int, default=1, help="steps of a turn")
    cli.add_argument("--compile", default="default", help="mode of torch.compile; none: eager")
    args = cli.parse_args()
    common = (args.symbol, args.batch, args.num_classes, args.size_px)
    step, wait = (
        mxnet_step(*common)
        if args.peer == "mxnet"
        else torch_step(*common, args.dtype, args.compile)
    )
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(args.steps):
            step()
        wait()
        print((time.perf_counter() - start) / args.steps, flush=True)
    print(peak_mib(args.peer), flush=True)
