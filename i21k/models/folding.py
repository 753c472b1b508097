"""Inception-BN for inference: every BatchNorm is folded into the convolution before it.

With the moving statistics fixed, and with scale = gamma / sqrt(variance + epsilon),

    (w * x + b - mean) * scale + beta = (w scale) * x + ((b - mean) scale + beta).

Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 2.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from i21k.errors import UserError
from i21k.models.inception_bn import InceptionBN
from i21k.models.inception_tables import REVISIONS


class FoldedInceptionBN(InceptionBN):
    """Inception-BN without BatchNorm, for variables of `fold`. It cannot be trained."""

    def normalise(self, x: Array, bias: Array, name: str, train: bool) -> Array:
        assert not train, "a folded network cannot be trained"
        return x + bias.astype(self.dtype)


def folded(
    model: InceptionBN, platform: str, kind: type[FoldedInceptionBN] | None = None
) -> FoldedInceptionBN:
    """Return the network for variables of `fold`, arranged for a platform as JAX names it.

    A GPU needs the whole batch, and XLA has its own algorithms there.

    Args:
        model: the unfolded network.
        platform: "cpu", "gpu".
        kind: of the result. None: as the platform needs.
    """
    from i21k.models.cpu import CpuInceptionBN  # which imports this file

    kind = kind or (CpuInceptionBN if platform == "cpu" else FoldedInceptionBN)
    fields = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    return kind(**fields)


def fold(variables: Mapping[str, Any], revision: str) -> dict[str, Any]:
    """Fold moving statistics, gamma and beta into kernels and biases, in float64 on the host.

    A variance of 0 makes a scale of 1e5 with the epsilon of `released`. That is large, but the same
    function, so it stays. It occurs where a channel is constant, or where moving averages started
    at 0 as MXNet's did. A variance slightly below 0 is a rounding error and counts as 0.

    Args:
        variables: `params` and `batch_stats` of an unfolded network.
        revision: of the network, for epsilon and for whether gamma counts.

    Returns:
        Variables with `params` alone, float32.

    Raises:
        UserError: naming the layer whose folded parameters are not finite in float32.
    """
    settings = REVISIONS[revision]
    params: dict[str, Any] = {}
    for layer, leaves in variables["params"].items():
        if layer.startswith("bn_"):
            continue
        norm = layer.replace("conv_", "bn_", 1)
        params[layer] = dict(leaves)
        if norm not in variables["batch_stats"]:  # the classifier
            continue
        learned, moving = (
            _float64(variables[collection][norm]) for collection in ("params", "batch_stats")
        )
        convolution = _float64(leaves)
        scale = 1 / np.sqrt(np.maximum(moving["moving_var"], 0) + settings.epsilon)
        if not settings.fixed_gamma:
            scale = scale * learned["gamma"]
        kernel = convolution["kernel"] * scale
        bias = (convolution["bias"] - moving["moving_mean"]) * scale + learned["beta"]
        with np.errstate(over="ignore"):
            params[layer] = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
        if not all(np.isfinite(leaf).all() for leaf in params[layer].values()):
            raise UserError(
                f"{norm} cannot be folded into {layer}: the result is not finite in float32. "
                "Check moving_var and gamma of that layer."
            )
    return {"params": params}


def _float64(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {kind: np.asarray(leaf, np.float64) for kind, leaf in leaves.items()}
