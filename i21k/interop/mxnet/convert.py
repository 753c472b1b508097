"""Convert a model from and to MXNet: names, layouts and the order of classes.

A release is three files: the graph, the arrays, and `synset.txt`, whose order is that of the rows
of `fc1`. Our class lists are sorted. Convolutions are OIHW in MXNet and HWIO here, and the fully
connected layer is [classes, features] in MXNet and [features, classes] here.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from i21k.errors import UserError
from i21k.interop.mxnet.graph import our_name, parameter_shapes
from i21k.interop.mxnet.params import Layout, read_params, write_params
from i21k.interop.mxnet.read_symbol import read_symbol
from i21k.interop.mxnet.write_symbol import write_symbol
from i21k.labels import ClassList
from i21k.models.inception_bn import REVISIONS, WIDTHS, InceptionBN

_STATISTICS = ("moving_mean", "moving_var")
_MAX_SYNSET_BYTES = 16 << 20  # our choice; the one of 2015 has 741 KB


class Imported(NamedTuple):
    """A release, converted."""

    model: InceptionBN
    variables: dict[str, Any]  # `fc1` in the order of `classes`
    classes: ClassList  # sorted
    provenance: dict[str, Any]  # JSON: the files, their hashes and their order of classes


def variables_from_mxnet(
    arrays: Mapping[str, np.ndarray], variant: str | None = None, width: float = 1.0
) -> dict[str, Any]:
    """Turn MXNet's arrays into Flax variables (float32) of `InceptionBN`.

    Args:
        arrays: by MXNet's name of either release, with or without `arg:` or `aux:` in front.
        variant: `full` or `standard`; None takes the one whose shapes fit better.
        width: of the network, as in `InceptionBN`.

    Raises:
        UserError: naming arrays that are missing, extra, of another shape, not finite, or
            variances below 0.
    """
    plain: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        prefix, _, rest = name.rpartition(":")
        ours = our_name(rest)
        if prefix not in ("", "aux" if ours.endswith(_STATISTICS) else "arg"):
            raise UserError(
                f"array {name!r} has the prefix {prefix!r}; "
                "expected 'aux' for moving statistics and 'arg' for all others"
            )
        if ours in plain:
            raise UserError(f"array {name!r} occurs twice under different names")
        plain[ours] = array
    if variant is None:
        variant = max(
            WIDTHS,
            key=lambda v: sum(
                plain[n].shape == s for n, s in _shapes(v, plain, width).items() if n in plain
            ),
        )
    expected = _shapes(variant, plain, width)
    _check_shapes(
        {name: array.shape for name, array in plain.items()}, expected, f"variant {variant!r}"
    )
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name in expected:
        layer, kind = _split(name)
        collection = variables["batch_stats" if kind in _STATISTICS else "params"]
        collection.setdefault(layer, {})["kernel" if kind == "weight" else kind] = _from_mxnet(
            name, plain[name]
        )
    return variables


def _from_mxnet(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.asarray(array).astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"array {name!r} holds values that are not finite in float32")
    if name.endswith("_moving_var") and array.min() < 0:
        raise UserError(f"array {name!r} holds a negative variance ({array.min()})")
    if array.ndim > 1:
        array = array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(array)


def mxnet_from_variables(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turn Flax variables of `InceptionBN` into MXNet's arrays by name without prefix."""
    arrays: dict[str, np.ndarray] = {}
    for collection in ("params", "batch_stats"):
        for layer, leaves in variables[collection].items():
            for kind, leaf in leaves.items():
                array = np.asarray(leaf, np.float32)
                if kind == "kernel":
                    array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
                arrays[f"{layer}_{'weight' if kind == 'kernel' else kind}"] = np.ascontiguousarray(
                    array
                )
    return arrays


def _split(name: str) -> tuple[str, str]:
    kind = next((kind for kind in _STATISTICS if name.endswith(kind)), name.rpartition("_")[2])
    return name.removesuffix(f"_{kind}"), kind


def _shapes(
    variant: str, arrays: Mapping[str, np.ndarray], width: float
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a variant with as many classes as `arrays` have."""
    bias = arrays.get("fc1_bias")
    num_classes = bias.shape[0] if bias is not None and bias.ndim == 1 else 1
    kind: Any = variant
    model = InceptionBN(num_classes=num_classes, variant=kind, width=width)
    return parameter_shapes(model)


def _check_shapes(
    got: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    missing, extra = [n for n in expected if n not in got], [n for n in got if n not in expected]
    misshapen = [
        f"{n} {got[n]}, expected {expected[n]}"
        for n in expected
        if n in got and got[n] != expected[n]
    ]
    problems = [
        f"{len(names)} {problem}: {'; '.join(names[:5])}{'; ...' if len(names) > 5 else ''}"
        for problem, names in (
            ("missing", missing),
            ("extra", extra),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise UserError(f"the arrays are not those of {what}: {'. '.join(problems)}")


def read_model(
    symbol: str | Path, params: str | Path, synset: str | Path, count_padding: bool | None = None
) -> Imported:
    """Read a released model and put its classes in sorted order.

    Args:
        symbol: `Inception-symbol.json`.
        params: `Inception-0009.params`.
        synset: `synset.txt`, one class a line in the order of the network's outputs.
        count_padding: whether average pools divide by 9 at the border too. None: as the graph
            has it, or else as its revision does.

    Raises:
        UserError: naming the file and what is wrong in it.
    """
    model = read_symbol(symbol)
    if count_padding is not None:
        model = model.clone(
            count_padding=None
            if count_padding == REVISIONS[model.revision].count_padding
            else count_padding
        )
    order = _read_synset(Path(synset))
    if len(order) != model.num_classes:
        raise UserError(
            f"{synset} has {len(order):,} classes and {symbol} {model.num_classes:,}. "
            "Give the files of one model."
        )
    arrays = read_params(params)
    try:
        variables = variables_from_mxnet(arrays, model.variant, model.width)
    except UserError as error:
        raise UserError(f"{params}: {error}") from error
    num_classes = variables["params"]["fc1"]["bias"].size
    if num_classes != model.num_classes:
        raise UserError(
            f"{params}: fc1 has {num_classes:,} classes, {symbol} {model.num_classes:,}. "
            "Give the files of one model."
        )
    if REVISIONS[model.revision].fixed_gamma:  # MXNet uses 1, whatever the file has
        for leaves in variables["params"].values():
            leaves.update(
                {kind: np.ones_like(leaf) for kind, leaf in leaves.items() if kind == "gamma"}
            )
    classes = ClassList.sorted(order.ids)
    variables["params"]["fc1"] = _reorder(variables["params"]["fc1"], order, classes)
    provenance = {
        "source": "MXNet",
        "files": {
            role: _describe(Path(path))
            for role, path in (("symbol", symbol), ("params", params), ("synset", synset))
        },
        "label_order": {"sha256": order.hash, "sorted": order == classes},
    }
    return Imported(model, variables, classes, provenance)


def write_model(
    directory: str | Path,
    model: InceptionBN,
    variables: Mapping[str, Any],
    classes: ClassList,
    *,
    order: ClassList | None = None,
    prefix: str = "Inception",
    epoch: int = 0,
    layout: Layout = "V2",
) -> tuple[Path, Path, Path]:
    """Write three files for `mx.model.load_checkpoint(directory/prefix, epoch)` and `read_model`.

    Args:
        directory: for the files. It is made if it is missing.
        model: the network.
        variables: parameters and statistics, `fc1` in the order of `classes`.
        classes: of the model.
        order: the same classes in the order for the files, such as the `synset.txt` of 2015. None:
            the order of `classes`.
        prefix: of the names of the files.
        epoch: in the name of the `.params`.
        layout: of the `.params`.

    Returns:
        The paths of the symbol, the parameters and the class list.

    Raises:
        UserError: if variables or classes do not belong to `model`, or the two class lists differ
            in more than order.
    """
    order = order or classes
    if sorted(order.ids) != sorted(classes.ids):
        raise UserError(
            f"the order is of other classes than the model: {order.difference(classes)}"
        )
    params = {**variables["params"], "fc1": _reorder(variables["params"]["fc1"], classes, order)}
    arrays = mxnet_from_variables({"params": params, "batch_stats": variables["batch_stats"]})
    _check_shapes(
        {name: array.shape for name, array in arrays.items()},
        parameter_shapes(model),
        f"{model.variant!r} with these settings",
    )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = (
        directory / f"{prefix}-symbol.json",
        directory / f"{prefix}-{epoch:04d}.params",
        directory / "synset.txt",
    )
    prefixed = {
        f"{'aux' if name.endswith(_STATISTICS) else 'arg'}:{name}": array
        for name, array in arrays.items()
    }
    write_symbol(paths[0], model)
    write_params(paths[1], prefixed, layout)
    order.write(paths[2])
    return paths


def _reorder(
    dense: Mapping[str, Any], order: ClassList, wanted: ClassList
) -> dict[str, np.ndarray]:
    """Put the outputs of the last layer from the order of the first list in that of the second."""
    if len(order) != np.shape(dense["bias"])[0]:
        raise UserError(
            f"fc1 has {np.shape(dense['bias'])[0]:,} outputs, the class list {len(order):,}; "
            "expected one each"
        )
    rows = np.array([order.label_of[class_id] for class_id in wanted.ids])
    return {kind: np.ascontiguousarray(np.asarray(leaf)[..., rows]) for kind, leaf in dense.items()}


def _read_synset(path: Path) -> ClassList:
    if path.is_file() and path.stat().st_size > _MAX_SYNSET_BYTES:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes; "
            f"expected a list of classes of at most {_MAX_SYNSET_BYTES:,}"
        )
    return ClassList.read(path)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "name": path.name,
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
