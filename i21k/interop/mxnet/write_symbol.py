"""Write a network as the `symbol.json` of MXNet 1.x.

Source: dmlc/nnvm src/pass/saveload_json.cc (since 2016).
"""

import json
from pathlib import Path
from typing import Any

from i21k.interop.mxnet.graph import WIDTH_KEY, operators, variables_of
from i21k.models.inception_bn import InceptionBN

_MXNET_VERSION = 10901  # as 1.9.1 writes it, so that no upgrade pass changes the graph


def write_symbol(path: str | Path, model: InceptionBN) -> None:
    """Write `model` as MXNet 1.9.1 would. Attributes whose defaults have changed are explicit."""
    nodes: list[dict[str, Any]] = []
    index: dict[str, int] = {}

    def add(op: str, name: str, attrs: dict[str, Any], inputs: list[list[int]]) -> None:
        index[name] = len(nodes)
        text = {
            key: value if isinstance(value, str) else repr(value) for key, value in attrs.items()
        }
        nodes.append(
            {"op": op, "name": name, **({"attrs": text} if text else {}), "inputs": inputs}
        )

    add("null", "data", {} if model.width == 1 else {WIDTH_KEY: model.width}, [])
    for op, name, attrs, inputs in operators(model):
        variables, auxiliary = variables_of(op, name)
        for variable in variables + auxiliary:
            add("null", variable, {}, [])
        entries = [[index[x], 0, 0] for x in (*inputs, *variables)] + [
            [index[x], 0, 1] for x in auxiliary
        ]
        add(op, name, attrs, entries)
    graph = {
        "nodes": nodes,
        "arg_nodes": [k for k, node in enumerate(nodes) if node["op"] == "null"],
        "node_row_ptr": _row_pointers(nodes),
        "heads": [[index["softmax"], 0, 0]],
        "attrs": {"mxnet_version": ["int", _MXNET_VERSION]},
    }
    Path(path).write_text(json.dumps(graph, indent=1) + "\n", "utf-8")


def _row_pointers(nodes: list[dict[str, Any]]) -> list[int]:
    """Number the graph's entries: BatchNorm has three outputs, every other node one."""
    rows = [0]
    for node in nodes:
        rows.append(rows[-1] + (3 if node["op"] == "BatchNorm" else 1))
    return rows
