"""The network as MXNet's `symbol.json`: read from files of 2015 to 2018, written for MXNet 1.x.

A room of its own because the file says more than it spells out. Both ways go through one list of operators (`operators`), made
from the same table of widths as the network: a file is read by finding which of our networks it is and then comparing every
operator with that list, so that a graph that differs anywhere is refused and never silently run as another one.

Sources: MXNet src/symbol/static_graph.cc at c39de26131 (2015) and dmlc/nnvm src/pass/saveload_json.cc (since 2016).
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from i21k.errors import UserError
from i21k.models.inception_bn import InceptionBN
from i21k.models.inception_tables import REVISIONS, WIDTHS, Mixed, Reduction, Revision, scaled

_MAX_BYTES = 1 << 20  # chosen here; MXNet 1.9.1 writes 149 KB
_MXNET_VERSION = (
    10901  # the graph is written as 1.9.1 writes it, so that no upgrade pass changes it
)

# What an operator does where the file is silent, as of MXNet 1.x. Other attributes are refused, these left aside:
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Convolution": {
        "kernel": (), "stride": (1, 1), "pad": (0, 0), "dilate": (1, 1),
        "num_filter": 0, "num_group": 1, "no_bias": False, "layout": "NCHW",
    },
    "BatchNorm": {"eps": 1e-3, "momentum": 0.9, "fix_gamma": True, "use_global_stats": False, "axis": 1},
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
# Until December 2015 BatchNorm had other defaults and no `fix_gamma`, pools neither convention nor choice of count (None: unsaid).
_DEFAULTS_2015: dict[str, dict[str, Any]] = {
    "BatchNorm": {"eps": 1e-10, "momentum": 0.1, "fix_gamma": False},
    "Pooling": {"pooling_convention": None, "count_include_pad": None},
}
_WITHOUT_EFFECT = {  # on the logits
    "workspace", "cudnn_tune", "cudnn_off", "cudnn_algo_verbose", "output_mean_var", "min_calib_range", "max_calib_range", "p_value",
    "grad_scale", "normalization", "ignore_label", "use_ignore", "out_grad", "smooth_alpha",
    "ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage",
}  # fmt: skip
_OPERATOR_ALIASES = {"Softmax": "SoftmaxOutput"}  # renamed on 2015-10-31
# The 1,000-class network of the same release names its stem and its last layer differently.
_ALIASES = {
    "conv_1": "conv_conv1", "bn_1": "bn_conv1", "relu_1": "relu_conv1", "max_pool_1": "pool1",
    "conv_2_reduce": "conv_conv2red", "bn_2_1": "bn_conv2red", "relu_2_1": "relu_conv2red",
    "conv_2": "conv_conv2", "bn_2": "bn_conv2", "relu_2": "relu_conv2", "max_pool_2": "pool2", "fc": "fc1",
}  # fmt: skip
_PARAMETERS = {
    "Convolution": ("weight", "bias"),
    "BatchNorm": ("gamma", "beta"),
    "FullyConnected": ("weight", "bias"),
}
_AUXILIARY = {
    "BatchNorm": ("moving_mean", "moving_var")
}  # inputs of the operator since 2017, before that known to it alone
_WIDTH_KEY = "__i21k_width__"  # on `data`, where our network is not 1 times as wide; MXNet lets such keys pass


class Operator(NamedTuple):
    """A node of the graph that computes something."""

    op: str
    name: str
    attrs: dict[str, Any]
    inputs: tuple[str, ...]  # names of operators, or `data`


def operators(model: InceptionBN) -> list[Operator]:
    """List what MXNet computes for `model`, each operator after its inputs."""
    revision = REVISIONS[model.revision]
    momentum = revision.momentum if model.bn_momentum is None else model.bn_momentum
    count_padding = revision.count_padding if model.count_padding is None else model.count_padding
    listed: list[Operator] = []

    def add(op: str, name: str, *inputs: str, **attrs: Any) -> str:
        listed.append(Operator(op, name, attrs, inputs))
        return name

    def unit(x: str, filters: int, name: str, kernel: int = 1, stride: int = 1) -> str:
        window = {
            "kernel": (kernel, kernel),
            "stride": (stride, stride),
            "pad": (kernel // 2, kernel // 2),
        }
        x = add(
            "Convolution",
            f"conv_{name}",
            x,
            num_filter=scaled(filters, model.width),
            no_bias=False,
            **window,
        )
        x = add(
            "BatchNorm",
            f"bn_{name}",
            x,
            eps=revision.epsilon,
            momentum=momentum,
            fix_gamma=revision.fixed_gamma,
        )
        return add("Activation", f"relu_{name}", x, act_type="relu")

    def pool(x: str, kind: str, name: str, stride: int = 1, padding: int = 0) -> str:
        window = {"kernel": (3, 3), "stride": (stride, stride), "pad": (padding, padding)}
        convention = "full" if revision.ceil_pools else "valid"
        counting = {"count_include_pad": count_padding} if kind == "avg" else {}
        return add(
            "Pooling", name, x, pool_type=kind, pooling_convention=convention, **window, **counting
        )

    def mixed(x: str, name: str, f: Mixed) -> str:
        one = unit(x, f.one, f"{name}_1x1")
        three = unit(unit(x, f.three_reduce, f"{name}_3x3_reduce"), f.three, f"{name}_3x3", 3)
        double = unit(
            unit(x, f.double_reduce, f"{name}_double_3x3_reduce"),
            f.double,
            f"{name}_double_3x3_0",
            3,
        )
        double = unit(double, f.double, f"{name}_double_3x3_1", 3)
        projection = unit(
            pool(x, f.pool, f"{f.pool}_pool_{name}_pool", padding=1), f.projection, f"{name}_proj"
        )
        return add(
            "Concat", f"ch_concat_{name}_chconcat", one, three, double, projection, num_args=4
        )

    def reduction(x: str, name: str, f: Reduction) -> str:
        three = unit(unit(x, f.three_reduce, f"{name}_3x3_reduce"), f.three, f"{name}_3x3", 3, 2)
        double = unit(
            unit(x, f.double_reduce, f"{name}_double_3x3_reduce"),
            f.double,
            f"{name}_double_3x3_0",
            3,
        )
        double = unit(double, f.double, f"{name}_double_3x3_1", 3, 2)
        pooled = pool(x, "max", f"max_pool_{name}_pool", 2, revision.reduction_pool_padding)
        return add("Concat", f"ch_concat_{name}_chconcat", three, double, pooled, num_args=3)

    widths = WIDTHS[model.variant]
    x = pool(unit("data", widths.stem[0], "conv1", 7, 2), "max", "pool1", 2)
    x = pool(
        unit(unit(x, widths.stem[1], "conv2red"), widths.stem[2], "conv2", 3), "max", "pool2", 2
    )
    for name, filters in widths.blocks.items():
        x = mixed(x, name, filters) if isinstance(filters, Mixed) else reduction(x, name, filters)
    x = add("Pooling", "global_pool", x, pool_type="avg", kernel=(7, 7), global_pool=True)
    x = add(
        "FullyConnected",
        "fc1",
        add("Flatten", "flatten", x),
        num_hidden=model.num_classes,
        no_bias=False,
    )
    add("SoftmaxOutput", "softmax", x)
    return listed


def parameter_shapes(model: InceptionBN) -> dict[str, tuple[int, ...]]:
    """Give the shape of every array MXNet keeps for `model`, moving statistics included, by plain name and in MXNet's layout."""
    channels = {"data": 3}
    shapes: dict[str, tuple[int, ...]] = {}
    for op, name, attrs, inputs in operators(model):
        before = sum(channels[x] for x in inputs)
        channels[name] = attrs.get("num_filter", attrs.get("num_hidden", before))
        for kind in _PARAMETERS.get(op, ()) + _AUXILIARY.get(op, ()):
            shapes[f"{name}_{kind}"] = (
                (channels[name], before, *attrs.get("kernel", ()))
                if kind == "weight"
                else (channels[name],)
            )
    return shapes


def our_name(name: str) -> str:
    """Translate an operator's or parameter's name of the 1,000-class release into the one of the 21,841-class one."""
    for kind in (*_PARAMETERS["Convolution"], *_PARAMETERS["BatchNorm"], *_AUXILIARY["BatchNorm"]):
        if name.endswith(f"_{kind}"):
            operator = name.removesuffix(f"_{kind}")
            return f"{_ALIASES.get(operator, operator)}_{kind}"
    return _ALIASES.get(name, name)


def write_symbol(path: str | Path, model: InceptionBN) -> None:
    """Write `model` as MXNet 1.9.1 would, every choice spelled out that differed between its versions."""
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

    add("null", "data", {} if model.width == 1 else {_WIDTH_KEY: model.width}, [])
    for op, name, attrs, inputs in operators(model):
        variables, auxiliary = _variables(op, name)
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


def _variables(op: str, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name what an operator takes beside other operators' outputs: variables, and its moving statistics."""
    kinds = ("label",) if op == "SoftmaxOutput" else _PARAMETERS.get(op, ())
    return tuple(f"{name}_{kind}" for kind in kinds), tuple(
        f"{name}_{kind}" for kind in _AUXILIARY.get(op, ())
    )


def _row_pointers(nodes: list[dict[str, Any]]) -> list[int]:
    """Number the graph's entries: BatchNorm has three outputs, every other node one."""
    rows = [0]
    for node in nodes:
        rows.append(rows[-1] + (3 if node["op"] == "BatchNorm" else 1))
    return rows


def read_symbol(path: str | Path) -> InceptionBN:
    """Recognise the network in a `symbol.json`; momentum and the pools' count are fields of the result where they are special.

    What the file leaves unsaid follows from its generation: 2015 had eps 1e-10, momentum 0.1, a learned gamma and ceil pools.

    Raises:
        ValueError: naming the file and the first difference, if it is none of our networks.
    """
    path = Path(path)
    try:
        return _recognise(_parse(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


class _Graph(NamedTuple):
    found: dict[str, Operator]  # by our name; `null` nodes are left out
    parameters: dict[
        str, tuple[str, ...]
    ]  # of each operator: our names of its inputs that are variables
    spelled: dict[str, str]  # the file's own name of each operator
    head: str
    width: float


def _parse(path: Path) -> _Graph:
    try:
        with path.open("rb") as file:
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
    names: set[str] = set()
    spelled: dict[str, str] = {}
    width = 1.0
    for k, node in enumerate(nodes):
        op, name = (_field(node, key, str, f"node {k}") for key in ("op", "name"))
        ours = our_name(name)
        if ours in names:
            raise UserError(f"node {k}: name {_short(name)} stands twice")
        where = f"node {k} ({_short(name)})"
        sources = tuple(
            _input(entry, order, where) for entry in _field(node, "inputs", list, where)
        )
        texts = _attributes(node, where)
        names.add(ours)
        order.append(ours)
        if op == "null":
            if _WIDTH_KEY in texts:
                width = _value(texts[_WIDTH_KEY], 1.0, where)
            continue
        op = _OPERATOR_ALIASES.get(op, op)
        if op not in _DEFAULTS:
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
        raise UserError(f"{_WIDTH_KEY} is {width}; expected a number above 0, at most 16")
    return _Graph(found, parameters, spelled, _input(heads[0], order, "the head"), width)


def _field(node: Any, key: str, kind: type, where: str) -> Any:
    value = node.get(key) if isinstance(node, dict) else None
    if not isinstance(value, kind):
        raise UserError(f"{where}: {key!r} is {_short(value)}; expected a {kind.__name__}")
    return value


def _input(entry: Any, before: list[str], where: str) -> str:
    """Give the name that an entry `[node, output, version]` points to; only nodes before it, so that there is no cycle."""
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
    """Collect the attributes, which every generation put under another key."""
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
    typical = _DEFAULTS[op]
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
        }  # the same for pictures of 224 px
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


def _recognise(graph: _Graph) -> InceptionBN:
    """Find which network the graph means to be, then hold every operator against it."""

    def attr(name: str, key: str) -> Any:
        if name not in graph.found or key not in graph.found[name].attrs:
            raise UserError(
                f"there is no layer {name!r} with {key!r}; expected the layers of an Inception-BN"
            )
        return graph.found[name].attrs[key]

    def likeness(variant: str) -> int:
        convolutions = (
            o
            for o in operators(InceptionBN(variant=variant, width=graph.width))  # type: ignore[arg-type]
            if o.op == "Convolution"
        )
        return sum(
            o.name in graph.found
            and graph.found[o.name].attrs.get("num_filter") == o.attrs["num_filter"]
            for o in convolutions
        )

    variant = max(WIDTHS, key=likeness)
    padding = attr("max_pool_3c_pool", "pad")
    # Unsaid, the size decides: 3c's pool beside a stride-2 convolution fits without padding under ceil only, with padding under floor.
    ceil = {"full": True, "valid": False, None: padding == (0, 0)}.get(
        attr("pool1", "pooling_convention")
    )
    epsilon, momentum, fixed_gamma = (
        attr("bn_conv1", key) for key in ("eps", "momentum", "fix_gamma")
    )
    revision = next(
        (
            name
            for name, r in REVISIONS.items()
            if _settings(r) == (ceil, padding, _rounded(epsilon), fixed_gamma)
        ),
        None,
    )
    num_classes = attr("fc1", "num_hidden")
    if revision is None:
        known = "; ".join(
            f"{name!r} has {_describe(*_settings(r))}" for name, r in REVISIONS.items()
        )
        raise UserError(
            f"a mix of settings that no revision has: {_describe(ceil, padding, epsilon, fixed_gamma)}. {known}"
        )
    if not 0 <= momentum <= 1:
        raise UserError(f"bn_conv1: momentum is {momentum}; expected 0 to 1")
    if not 1 <= num_classes < 2**31:
        raise UserError(f"fc1: num_hidden is {num_classes}; expected the number of classes")
    own = REVISIONS[revision]
    counted = attr("avg_pool_3a_pool", "count_include_pad")
    model = InceptionBN(
        num_classes=num_classes,
        variant=variant,  # type: ignore[arg-type]
        revision=revision,  # type: ignore[arg-type]
        width=graph.width,
        bn_momentum=None if math.isclose(momentum, own.momentum, rel_tol=1e-6) else momentum,
        count_padding=None if counted in (None, own.count_padding) else counted,
    )
    difference = _first_difference(graph, model)
    if difference:
        raise UserError(f"{difference} (closest to variant {variant!r}, revision {revision!r})")
    return model


def _settings(revision: Revision) -> tuple[Any, ...]:
    padding = revision.reduction_pool_padding
    return revision.ceil_pools, (padding, padding), revision.epsilon, revision.fixed_gamma


def _rounded(epsilon: float) -> float:
    return float(f"{epsilon:.6g}")  # some versions printed float32's nearest, 1.00000001e-10


def _describe(
    ceil: bool | None, padding: tuple[int, ...], epsilon: float, fixed_gamma: bool
) -> str:
    pools = {True: "ceil", False: "floor", None: "unknown"}[ceil]
    return f"{pools} pools with padding {padding} in 3c, eps {epsilon:g}, gamma {'fixed' if fixed_gamma else 'learned'}"


def _first_difference(graph: _Graph, model: InceptionBN) -> str:
    """Say in which operator, and how, the graph first differs from `model`; empty if it does not."""
    expected = operators(model)
    for wanted in expected:
        if wanted.name not in graph.found:
            return f"{wanted.op} {wanted.name!r} is missing"
        got = graph.found[wanted.name]
        where = f"{wanted.op} {graph.spelled[wanted.name]!r}"
        if got.op != wanted.op:
            return f"{where} is a {got.op}"
        if got.inputs != wanted.inputs:
            return f"{where} takes {', '.join(got.inputs) or 'nothing'}; expected {', '.join(wanted.inputs)}"
        variables, auxiliary = _variables(wanted.op, wanted.name)
        if graph.parameters[wanted.name] not in (variables, variables + auxiliary):
            return f"{where} has parameters {', '.join(graph.parameters[wanted.name]) or 'none'}; expected {', '.join(variables)}"
        for key, default in _DEFAULTS[wanted.op].items():
            value, want = got.attrs[key], wanted.attrs.get(key, default)
            if value != want and not _same(key, value, want, got.attrs):
                return f"{where}: {key} is {value}; expected {want}"
    extra = [graph.spelled[name] for name in graph.found if name not in {o.name for o in expected}]
    if extra:
        return f"operator {extra[0]!r} is one too many"
    return "" if graph.head == "softmax" else f"the head is {graph.head!r}; expected the softmax"


def _same(key: str, value: Any, wanted: Any, attrs: dict[str, Any]) -> bool:
    """Tell whether two unequal attributes still mean the same function."""
    if value is None or isinstance(wanted, float):
        return value is None or math.isclose(value, wanted, rel_tol=1e-6)
    if key == "pooling_convention":
        return attrs["stride"] == (1, 1)
    return key == "count_include_pad" and attrs["pool_type"] == "max"
