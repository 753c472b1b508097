"""Find which of our networks a `symbol.json` of MXNet is (`symbol_graph` reads the file)."""

import math
from pathlib import Path
from typing import Any

from i21k.errors import UserError
from i21k.interop.mxnet.graph import operators, variables_of
from i21k.interop.mxnet.symbol_graph import DEFAULTS, Graph, parse_graph
from i21k.models.inception_bn import InceptionBN
from i21k.models.inception_tables import REVISIONS, WIDTHS, Revision


def read_symbol(path: str | Path) -> InceptionBN:
    """Recognise the network in a `symbol.json`.

    Attributes that are absent have the defaults of the version that wrote the file: in 2015 these
    were eps 1e-10, momentum 0.1, a learned gamma and ceil pools.

    Raises:
        UserError: naming the file and the first difference, if it is none of our networks.
    """
    path = Path(path)
    try:
        return _recognise(parse_graph(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _recognise(graph: Graph) -> InceptionBN:
    """Find the network that is most like the graph, then compare every operator."""
    variant = max(WIDTHS, key=lambda variant: _likeness(graph, variant))
    revision = _revision_of(graph)
    momentum, num_classes = _attr(graph, "bn_conv1", "momentum"), _attr(graph, "fc1", "num_hidden")
    if not 0 <= momentum <= 1:
        raise UserError(f"bn_conv1: momentum is {momentum}; expected 0 to 1")
    if not 1 <= num_classes < 2**31:
        raise UserError(f"fc1: num_hidden is {num_classes}; expected the number of classes")
    own = REVISIONS[revision]
    counted = _attr(graph, "avg_pool_3a_pool", "count_include_pad")
    if counted is None and revision == "modern":
        counted = True  # the default of the versions of MXNet that could have such a graph
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


def _attr(graph: Graph, name: str, key: str) -> Any:
    if name not in graph.found or key not in graph.found[name].attrs:
        raise UserError(
            f"there is no layer {name!r} with {key!r}; expected the layers of an Inception-BN"
        )
    return graph.found[name].attrs[key]


def _likeness(graph: Graph, variant: Any) -> int:
    """Return how many convolutions of a variant the graph has, as wide as the variant has them."""
    network = InceptionBN(variant=variant, width=graph.width)
    convolutions = (o for o in operators(network) if o.op == "Convolution")
    return sum(
        o.name in graph.found
        and graph.found[o.name].attrs.get("num_filter") == o.attrs["num_filter"]
        for o in convolutions
    )


def _revision_of(graph: Graph) -> str:
    """Return the name of the revision that has the settings of the graph.

    Raises:
        UserError: with the settings of all revisions, if there is none.
    """
    padding = _attr(graph, "max_pool_3c_pool", "pad")
    # A file without a convention: the pool of 3c must give the size of the stride-2 convolutions
    # beside it. Without padding only ceil does, and with padding only floor.
    ceil = {"full": True, "valid": False, None: padding == (0, 0)}.get(
        _attr(graph, "pool1", "pooling_convention")
    )
    epsilon, fixed_gamma = (_attr(graph, "bn_conv1", key) for key in ("eps", "fix_gamma"))
    for name, revision in REVISIONS.items():
        if _settings(revision) == (ceil, padding, _rounded(epsilon), fixed_gamma):
            return name
    known = "; ".join(f"{name!r} has {_describe(*_settings(r))}" for name, r in REVISIONS.items())
    raise UserError(
        f"a mix of settings that no revision has: "
        f"{_describe(ceil, padding, epsilon, fixed_gamma)}. {known}"
    )


def _settings(revision: Revision) -> tuple[Any, ...]:
    padding = revision.reduction_pool_padding
    return revision.ceil_pools, (padding, padding), revision.epsilon, revision.fixed_gamma


def _rounded(epsilon: float) -> float:
    return float(f"{epsilon:.6g}")  # some versions printed float32's nearest, 1.00000001e-10


def _describe(
    ceil: bool | None, padding: tuple[int, ...], epsilon: float, fixed_gamma: bool
) -> str:
    pools = {True: "ceil", False: "floor", None: "unknown"}[ceil]
    gamma = "fixed" if fixed_gamma else "learned"
    return f"{pools} pools with padding {padding} in 3c, eps {epsilon:g}, gamma {gamma}"


def _first_difference(graph: Graph, model: InceptionBN) -> str:
    """Describe the first difference between the graph and `model`; empty if there is none."""
    expected = operators(model)
    for wanted in expected:
        if wanted.name not in graph.found:
            return f"{wanted.op} {wanted.name!r} is missing"
        got = graph.found[wanted.name]
        where = f"{wanted.op} {graph.spelled[wanted.name]!r}"
        if got.op != wanted.op:
            return f"{where} is a {got.op}"
        if got.inputs != wanted.inputs:
            inputs = ", ".join(got.inputs) or "nothing"
            return f"{where} takes {inputs}; expected {', '.join(wanted.inputs)}"
        variables, auxiliary = variables_of(wanted.op, wanted.name)
        if graph.parameters[wanted.name] not in (variables, variables + auxiliary):
            names = ", ".join(graph.parameters[wanted.name]) or "none"
            return f"{where} has parameters {names}; expected {', '.join(variables)}"
        for key, default in DEFAULTS[wanted.op].items():
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
