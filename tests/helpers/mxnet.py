"""Arrays and graphs as MXNet wrote them in 2015."""

import json
from pathlib import Path

import numpy as np

from i21k.interop.mxnet.graph import operators, parameter_shapes
from i21k.models.inception_bn import InceptionBN
from tests.golden.make_golden import parameter

LAYOUTS = ("2015", "V1", "V2", "V3")


def same(got, want) -> bool:
    return list(got) == list(want) and all(
        got[n].dtype == want[n].dtype
        and got[n].shape == want[n].shape
        and (got[n] == want[n]).all()
        for n in want
    )


WIDTH = 0.125


RELEASE_1K = {  # names of the 1,000-class release
    "conv_conv1": "conv_1", "bn_conv1": "bn_1", "relu_conv1": "relu_1", "pool1": "max_pool_1",
    "conv_conv2red": "conv_2_reduce", "bn_conv2red": "bn_2_1", "relu_conv2red": "relu_2_1",
    "conv_conv2": "conv_2", "bn_conv2": "bn_2", "relu_conv2": "relu_2", "pool2": "max_pool_2",
    "fc1": "fc",
}  # fmt: skip


def narrow(**fields) -> InceptionBN:
    return InceptionBN(**{"num_classes": 5, "width": WIDTH, **fields})


def arrays_of(model: InceptionBN, seed: int = 0) -> dict[str, np.ndarray]:
    return {name: parameter(name, shape, seed) for name, shape in parameter_shapes(model).items()}


def graph_of_2015(
    model: InceptionBN, names: dict[str, str] | None = None, loss: str = "SoftmaxOutput"
) -> dict:
    """Write a network as MXNet did in October 2015: every parameter explicit, no
    moving statistics, no version.
    """
    names = names or {}
    nodes: list[dict] = []
    index = {}

    def add(op, name, param, inputs):
        index[name] = len(nodes)
        nodes.append(
            {
                "op": op,
                "param": param,
                "name": names.get(name, name),
                "inputs": inputs,
                "backward_source_id": -1,
            }
        )

    add("null", "data", {}, [])
    for op, name, attrs, inputs in operators(model):
        param = {key: str(value) for key, value in attrs.items()}
        kinds = {
            "Convolution": "weight bias",
            "BatchNorm": "gamma beta",
            "FullyConnected": "weight bias",
            "SoftmaxOutput": "label",
        }.get(op, "")
        if op == "Convolution":
            param |= {"num_group": "1", "workspace": "512"}
        elif op == "BatchNorm":
            del param["fix_gamma"]
        elif op == "Pooling":
            param = {
                key: param.get(key, "(0, 0)" if key == "pad" else "(1, 1)")
                for key in ("kernel", "pad", "pool_type", "stride")
            }
        elif op == "SoftmaxOutput":
            op, param = loss, {"grad_scale": "1"}
        for kind in kinds.split():
            add("null", f"{name}_{kind}", {}, [])
            nodes[-1]["name"] = f"{names.get(name, name)}_{kind}"
        add(
            op,
            name,
            param,
            [[index[x], 0] for x in (*inputs, *(f"{name}_{kind}" for kind in kinds.split()))],
        )
    return {
        "nodes": nodes,
        "arg_nodes": [k for k, n in enumerate(nodes) if n["op"] == "null"],
        "heads": [[len(nodes) - 1, 0]],
    }


def write_graph(path: Path, graph) -> Path:
    path.write_text(json.dumps(graph), "utf-8")
    return path
