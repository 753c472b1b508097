"""The graph that MXNet computes for Inception-BN: its operators, and the arrays they keep.

Both directions use this list: a file is read by finding which of our networks it is, and comparing
every operator with the list. So a graph that differs anywhere is refused, and never runs as another
network.
"""

from typing import Any, NamedTuple

from i21k.models.inception_bn import InceptionBN
from i21k.models.inception_tables import REVISIONS, WIDTHS, Mixed, Reduction, scaled

# The 1,000-class network of the same release names its stem and its last layer differently.
_ALIASES = {
    "conv_1": "conv_conv1", "bn_1": "bn_conv1", "relu_1": "relu_conv1", "max_pool_1": "pool1",
    "conv_2_reduce": "conv_conv2red", "bn_2_1": "bn_conv2red", "relu_2_1": "relu_conv2red",
    "conv_2": "conv_conv2", "bn_2": "bn_conv2", "relu_2": "relu_conv2", "max_pool_2": "pool2",
    "fc": "fc1",
}  # fmt: skip
_PARAMETERS = {
    "Convolution": ("weight", "bias"),
    "BatchNorm": ("gamma", "beta"),
    "FullyConnected": ("weight", "bias"),
}
# Inputs of the operator since 2017. Before, the graph did not name them.
_AUXILIARY = {"BatchNorm": ("moving_mean", "moving_var")}
# An attribute of `data` in networks whose width is not 1. MXNet ignores such keys.
WIDTH_KEY = "__i21k_width__"


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
    count_padding = model.counts_padding
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
    """Return the shape of every array that MXNet keeps for `model`, moving statistics included.

    Names have no prefix. Shapes are in MXNet's layout.
    """
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
    """Translate a name of the 1,000-class release into that of the 21,841-class one."""
    for kind in (*_PARAMETERS["Convolution"], *_PARAMETERS["BatchNorm"], *_AUXILIARY["BatchNorm"]):
        if name.endswith(f"_{kind}"):
            operator = name.removesuffix(f"_{kind}")
            return f"{_ALIASES.get(operator, operator)}_{kind}"
    return _ALIASES.get(name, name)


def variables_of(op: str, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of an operator's variables, and those of its moving statistics."""
    kinds = ("label",) if op == "SoftmaxOutput" else _PARAMETERS.get(op, ())
    return tuple(f"{name}_{kind}" for kind in kinds), tuple(
        f"{name}_{kind}" for kind in _AUXILIARY.get(op, ())
    )
