"""The network as it is run and not trained: every BatchNorm folded into the convolution before it.

A room of its own because it is arithmetic on variables, in float64 on the host, and not a layer. With the moving statistics fixed,

    (w * x + b - mean) * scale + beta = (w scale) * x + ((b - mean) scale + beta),    scale = gamma / sqrt(variance + epsilon)

Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 2.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from i21k.errors import UserError
from i21k.models.inception_bn import REVISIONS, InceptionBN


def folded(model: InceptionBN, platform: str) -> InceptionBN:
    """Return the network for variables of `fold`, arranged for a platform as JAX names it.

    On a CPU it takes a few pictures at a time, pools by slices and computes conv2 by Winograd's algorithm: 1.3 times as fast as
    unfolded, where folding alone gains nothing (`benchmarks/inference.py`). A GPU wants the whole batch, and XLA has its own
    algorithms there.
    """
    return model.clone(folded=True, for_cpu=platform == "cpu")


def fold(variables: Mapping[str, Any], revision: str) -> dict[str, Any]:
    """Fold moving statistics, gamma and beta into kernels and biases, for the network that `folded` returns.

    A variance of 0 (a channel that was constant, or moving averages that started at 0 as MXNet's did) makes a scale of
    1e5 with the epsilon of `released`: large, but the same function, so it stays. A variance a rounding error below 0 counts as 0.

    Args:
        variables: `params` and `batch_stats` of an unfolded network.
        revision: of the network, for epsilon and for whether gamma counts.

    Returns:
        Variables with `params` alone, float32.

    Raises:
        ValueError: naming the layer whose folded parameters are not finite in float32.
    """
    settings = REVISIONS[revision]
    params: dict[str, Any] = {}
    for layer, leaves in variables["params"].items():
        if layer.startswith("bn_"):
            continue
        norm = layer.replace("conv_", "bn_", 1)
        params[layer] = dict(leaves)
        if norm not in variables["batch_stats"]:  # fc1
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
                f"{norm} cannot be folded into {layer}: the result is not finite in float32; see its moving_var and gamma"
            )
    return {"params": params}


def _float64(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {kind: np.asarray(leaf, np.float64) for kind, leaf in leaves.items()}
