"""Write a network as StableHLO, which any program with JAX can run without this project.

JAX reads such a file for six months after the version that wrote it, so keep the weights too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from i21k.errors import UserError
from i21k.models.network import Network

MODEL, WEIGHTS = "model.stablehlo", "weights.npz"
PLATFORMS = ("cpu", "cuda")

HOW_TO_RUN = """\
import jax, numpy as np
from jax import export

weights = dict(np.load("weights.npz"))
model = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
logits, features = model.call(weights, images)  # images: uint8 [batch, {size}, {size}, 3], RGB
"""


def write_stablehlo(
    folder: Path, network: Network, variables: Mapping[str, Any], image_size: int
) -> None:
    """Write `model.stablehlo` and `weights.npz` into a folder.

    The function takes (weights by path, uint8 RGB images [batch, S, S, 3]) and returns logits
    [batch, K] and features [batch, F], for any batch size, on a CPU and with CUDA.

    Args:
        folder: an existing folder.
        network: unfolded.
        variables: of the network.
        image_size: S in px.

    Raises:
        UserError: if the package flatbuffers, which JAX needs for this, is not installed.
    """
    folded, convert = network.for_inference("gpu")  # the plain form, without a CPU's arrangement
    flat = traverse_util.flatten_dict(dict(convert(variables)), sep="/")
    weights = {name: np.asarray(array) for name, array in flat.items()}

    def function(weights: Mapping[str, Any], images: Any) -> tuple[Any, Any]:
        tree = traverse_util.unflatten_dict(dict(weights), sep="/")
        output = folded.apply(tree, folded.prepare(images))
        return output.logits, output.features

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, image_size, image_size, 3), jnp.uint8)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    try:
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(shapes, images)
        (folder / MODEL).write_bytes(exported.serialize())
    except ImportError as error:
        raise UserError(f'{error}. Install it with: pip install "i21k[onnx]"') from error
    np.savez(folder / WEIGHTS, **weights)  # type: ignore[arg-type]
