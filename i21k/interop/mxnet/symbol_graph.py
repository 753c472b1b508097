"""Read the JSON of an MXNet graph of 2015 to 2018: operators, with the defaults of its version.

Sources: MXNet src/symbol/static_graph.cc at c39de26131 (2015) and dmlc/nnvm
src/pass/saveload_json.cc (since 2016).
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from i21k import files
from i21k.errors import UserError
from i21k.interop.mxnet.graph import WIDTH_KEY, Operator, our_name

_MAX_BYTES = 1 << 20  # our choice; MXNet 1.9.1 writes 149 KB

# The defaults of MXNet 1.x. Other attributes are refused.
DEFAULTS: dict[str, dict[str, Any]] = {
    "Convolution": {
        "kernel": (), "stride": (1, 1), "pad": (0, 0), "dilate": (1, 1),
        "num_filter": 0, "num_group": 1, "no_bias": False, "layout": "NCHW",
    },
    "BatchNorm": {
        "eps": 1e-3, "momentum": 0.9, "fix_gamma": True, "use_global_stats": False, "axis": 1,
    },
    "Activation": {"act_type": ""},
    "Pooling": {
        "kernel": (), "stride": (1, 1), "pad": (0, 0), "pool_type": "max",
        "global_pool": False, "pooling_convention": "valid", "count_include_pad": True,
    },
    "Concat": {"num_args": 0, "dim": 1},
    "Flatten": {},
    "FullyConnected": {"num_hidden": 0, "no_bias": False, "flatten": True},
    "SoftmaxOutput": {"multi_output": False, "preserve_shape": False},
}  # fmt: skip
# Until December 2015 BatchNorm had other defaults and no `fix_gamma`. Pools had no convention and
# no choice of whether padding counts (None: the file has no such attribute).
_DEFAULTS_2015: dict[str, dict[str, Any]] = {
    "BatchNorm": {"eps": 1e-10, "momentum": 0.1, "fix_gamma": False},
    "Pooling": {"pooling_convention": None, "count_include_pad": None},
}
_WITHOUT_EFFECT = {  # on the logits
    "workspace", "cudnn_tune", "cudnn_off", "cudnn_algo_verbose", "output_mean_var",
    "min_calib_range", "max_calib_range", "p_value", "grad_scale", "normalization",
    "ignore_label", "use_ignore", "out_grad", "smooth_alpha", "ctx_group", "lr_mult", "wd_mult",
    "force_mirroring", "mirror_stage",
}  # fmt: skip
_OPERATOR_ALIASES = {"Softmax": "SoftmaxOutput"}  # renamed on 2015-10-31


class Graph(NamedTuple):
    """The operators of a file."""

    found: dict[str, Operator]  # by our name, without `null` nodes
    parameters: dict[str, tuple[str, ...]]  # of each operator: our names of its variables
    spelled: dict[str, str]  # the file's own name of each operator
    head: str
    width: float


def parse_graph(path: Path) -> Graph:
    """Read a `symbol.json`.

    Raises:
        UserError: if it is not the graph of a network, or has an operator or attribute that none
            of our networks has.
    """
    try:
        with files.open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot be read ({error})") from error
    if len(data) > _MAX_BYTES:
        raise UserError(f"is longer than {_MAX_BYTES:,} bytes; expected MXNet's symbol.json")
    try:
        graph = json.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise UserError("is nested too deeply; expected MXNet's symbol.json") from error
    except ValueError as error:
        raise UserError(f"is not JSON ({error})") from error
    nodes = _field(graph, "nodes", list, "the graph")
    found: dict[str, Operator] = {}
    parameters: dict[str, tuple[str, ...]] = {}
    order: list[str] = []
    names: set[str] = set()  # those in `order`: a list of 28,000 names takes seconds to search
    spelled: dict[str, str] = {}
    width = 1.0
    for k, node in enumerate(nodes):
        op, name = (_field(node, key, str, f"node {k}") for key in ("op", "name"))
        ours = our_name(name)
        if ours in names:
            raise UserError(f"node {k}: name {_short(name)} occurs twice")
        where = f"node {k} ({_short(name)})"
        sources = tuple(
            _input(entry, order, where) for entry in _field(node, "inputs", list, where)
        )
        texts = _attributes(node, where)
        order.append(ours)
        names.add(ours)
        if op == "null":
            if WIDTH_KEY in texts:
                width = _value(texts[WIDTH_KEY], 1.0, where)
            continue
        op = _OPERATOR_ALIASES.get(op, op)
        if op not in DEFAULTS:
            raise UserError(f"{where}: operator {op!r} is in none of our networks")
        of_2015 = "param" in node and "backward_source_id" in node
        found[ours] = Operator(
            op,
            ours,
            _typed(op, texts, of_2015, where),
            tuple(x for x in sources if x in found or x == "data"),
        )
        parameters[ours] = tuple(x for x in sources if x not in found and x != "data")
        spelled[ours] = name
    heads = _field(graph, "heads", list, "the graph")
    if len(heads) != 1:
        raise UserError(f"the graph has {len(heads)} heads; expected one, the softmax")
    if not 0 < width <= 16:
        raise UserError(f"{WIDTH_KEY} is {width}; expected a number above 0, at most 16")
    return Graph(found, parameters, spelled, _input(heads[0], order, "the head"), width)


def _field(node: Any, key: str, kind: type, where: str) -> Any:
    value = node.get(key) if isinstance(node, dict) else None
    if not isinstance(value, kind):
        raise UserError(f"{where}: {key!r} is {_short(value)}; expected a {kind.__name__}")
    return value


def _input(entry: Any, before: list[str], where: str) -> str:
    """Return the name of the node of an entry `[node, output, version]`.

    It must be an earlier node, so that there is no cycle.
    """
    if not (
        isinstance(entry, list) and 2 <= len(entry) <= 3 and all(type(k) is int for k in entry)
    ):
        raise UserError(
            f"{where}: input {_short(entry)}; expected [node, output] or [node, output, version]"
        )
    if not 0 <= entry[0] < len(before) or entry[1] != 0:
        raise UserError(
            f"{where}: input {_short(entry)}; expected the first output of a node before it"
        )
    return before[entry[0]]


def _attributes(node: dict[str, Any], where: str) -> dict[str, str]:
    """Collect the attributes, which have had three keys."""
    merged: dict[str, str] = {}
    for key in ("param", "attr", "attrs"):
        if key in node:
            merged |= _field(node, key, dict, where)
    for key, text in merged.items():
        if not isinstance(text, str):
            raise UserError(f"{where}: {key} is {_short(text)}; expected a string")
    return merged


def _typed(op: str, texts: dict[str, str], of_2015: bool, where: str) -> dict[str, Any]:
    """Fill in the defaults and give every attribute its type."""
    typical = DEFAULTS[op]
    attrs = typical | (_DEFAULTS_2015.get(op, {}) if of_2015 else {})
    for key, text in texts.items():
        if key in _WITHOUT_EFFECT or key.startswith("__"):
            continue
        if key not in typical:
            raise UserError(f"{where}: {op} with {key}={_short(text)} is in none of our networks")
        if text != "None":
            attrs[key] = _value(text, typical[key], f"{where}: {key}")
    if op == "Pooling" and (
        attrs["global_pool"] or (attrs["kernel"] == (7, 7) and attrs["pad"] == (0, 0))
    ):
        return typical | {
            "kernel": (7, 7),
            "pool_type": attrs["pool_type"],
            "global_pool": True,
        }  # the same for images of 224 px
    return attrs


def _value(text: str, typical: Any, where: str) -> Any:
    try:
        if isinstance(typical, bool):
            return {
                "True": True,
                "true": True,
                "1": True,
                "False": False,
                "false": False,
                "0": False,
            }[text]
        if isinstance(typical, tuple) and re.fullmatch(
            r"[(\[] *\d{1,6}( *, *\d{1,6})*,? *[)\]]", text
        ):
            return tuple(int(number) for number in re.findall(r"\d+", text))
        if not isinstance(typical, tuple) and len(text) <= 64:
            return type(typical)(text)
    except (KeyError, ValueError):
        pass
    raise UserError(f"{where} is {_short(text)}; expected a {type(typical).__name__}")


def _short(value: Any) -> str:
    text = value[:80] if isinstance(value, str) else value
    return repr(text) if isinstance(text, str | int | float | None) else f"a {type(value).__name__}"
