"""Run a training step of the same network in MXNet or PyTorch, for `benchmarks/train_step.py`.

    mxnet  python3.11 -m venv mx && mx/bin/pip install "numpy<1.24" mxnet==1.9.1  (float32, CPU)
    torch  python3.11 -m venv pt && pt/bin/pip install torch  (GPU, or CPU as its guides advise)

Both build the network from the graph that `write_symbol` writes, so that even the padding is the
same. The step is SGD with momentum 0.9 on random images. It runs once for every line of its input
and prints the seconds. At the end it prints its peak memory.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

SIZE_PX = 224


def mxnet_step(symbol: str, batch_size: int, num_classes: int) -> Callable[[], Any]:
    import mxnet as mx
    import numpy as np

    def initial(name: str, shape: tuple[int, ...]) -> Any:
        if name.endswith("_weight"):
            return mx.nd.array(np.random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape))
        return mx.nd.full(shape, name.endswith(("_gamma", "_moving_var")))

    loss = mx.sym.load(symbol)
    label = next(name for name in loss.list_arguments() if name.endswith("label"))
    module = mx.mod.Module(loss, label_names=[label], context=mx.cpu())
    module.bind([("data", (batch_size, 3, SIZE_PX, SIZE_PX))], [(label, (batch_size,))])
    args, _, auxiliary = loss.infer_shape(data=(batch_size, 3, SIZE_PX, SIZE_PX))
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
        [mx.nd.random.uniform(-100, 100, (batch_size, 3, SIZE_PX, SIZE_PX))], [labels]
    )

    def step() -> None:
        module.forward(batch, is_train=True)
        module.backward()
        module.update()
        mx.nd.waitall()

    return step


def torch_step(symbol: str, batch_size: int, num_classes: int, dtype: str) -> Callable[[], Any]:
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Graph(nn.Module):
        """MXNet's graph, operator by operator."""

        def __init__(self, path: str) -> None:
            super().__init__()
            with open(path) as file:  # noqa: PTH123
                nodes = json.load(file)["nodes"]
            self.plan: list[tuple[str, str, list[str], dict[str, Any]]] = []
            channels = {"data": 3}
            for node in nodes:
                name, op, attrs = node["name"], node["op"], node.get("attrs", {})
                inputs = [
                    nodes[i[0]]["name"]
                    for i in node["inputs"]
                    if nodes[i[0]]["op"] != "null" or nodes[i[0]]["name"] == "data"
                ]
                if op in ("null", "SoftmaxOutput"):
                    continue
                channels[name] = sum(channels[i] for i in inputs)
                if op == "Convolution":
                    defaults = (("kernel", ""), ("stride", "(1,1)"), ("pad", "(0,0)"))
                    kernel, stride, pad = (
                        json.loads(attrs.get(key, default).replace("(", "[").replace(")", "]"))[0]
                        for key, default in defaults
                    )
                    self.add_module(
                        name,
                        nn.Conv2d(channels[name], int(attrs["num_filter"]), kernel, stride, pad),
                    )
                    channels[name] = int(attrs["num_filter"])
                elif op == "BatchNorm":  # PyTorch's momentum is the weight of the new statistics
                    self.add_module(
                        name,
                        nn.BatchNorm2d(
                            channels[name],
                            float(attrs.get("eps", 1e-3)),
                            1 - float(attrs.get("momentum", 0.9)),
                        ),
                    )
                elif op == "FullyConnected":
                    self.add_module(name, nn.Linear(channels[name], int(attrs["num_hidden"])))
                self.plan.append((op, name, inputs, attrs))

        def forward(self, x: Any) -> Any:
            values = {"data": x}
            for op, name, inputs, attrs in self.plan:
                first = values[inputs[0]]
                if op in ("Convolution", "BatchNorm", "FullyConnected"):
                    x = getattr(self, name)(first)
                elif op == "Activation":
                    x = F.relu(first, inplace=True)
                elif op == "Concat":
                    x = torch.cat([values[i] for i in inputs], 1)
                elif op == "Flatten":
                    x = first.flatten(1)
                elif attrs.get("global_pool") in ("True", "1"):
                    x = F.adaptive_avg_pool2d(first, 1)
                else:
                    stride = 2 if "2" in attrs.get("stride", "") else 1
                    pad = 1 if "1" in attrs.get("pad", "") else 0
                    ceil = attrs.get("pooling_convention") == "full"
                    if attrs["pool_type"] == "max":
                        x = F.max_pool2d(first, 3, stride, pad, ceil_mode=ceil)
                    else:
                        count = attrs.get("count_include_pad", "True") in ("True", "1")
                        x = F.avg_pool2d(
                            first, 3, stride, pad, ceil_mode=ceil, count_include_pad=count
                        )
                values[name] = x
            return x

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    net = Graph(symbol).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-5, fused=device == "cuda"
    )
    forward = (
        torch.compile(net, mode="max-autotune-no-cudagraphs") if device == "cuda" else net
    )  # compiling gains nothing on a CPU
    images = torch.randn(batch_size, 3, SIZE_PX, SIZE_PX, device=device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.randint(0, num_classes, (batch_size,), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32"):
            loss = F.cross_entropy(forward(images).float(), labels)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


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
    args = cli.parse_args()
    common = (args.symbol, args.batch, args.num_classes)
    step = mxnet_step(*common) if args.peer == "mxnet" else torch_step(*common, args.dtype)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)
    print(peak_mib(args.peer), flush=True)
