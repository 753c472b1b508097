"""`model.remat`: what the backward pass computes again changes nothing but memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i21k.interop.mxnet.convert import variables_from_mxnet
from i21k.interop.mxnet.graph import parameter_shapes
from i21k.models.inception_bn import MEAN, InceptionBN
from tests.golden.make_golden import images, parameter
from tests.helpers.arrays import relative

WIDTH = 0.25


def trained_once(remat: str):
    """Return loss, moving statistics and gradients of one small batch."""
    model = InceptionBN(
        num_classes=13, variant="standard", revision="symbol2016", width=WIDTH, remat=remat
    )
    arrays = {name: parameter(name, shape, 3) for name, shape in parameter_shapes(model).items()}
    variables = variables_from_mxnet(arrays, "standard", WIDTH)
    batch = jnp.asarray(images(4, 5)[:, :64, :64], jnp.float32) - np.float32(MEAN)

    def loss_of(params, batch_stats):
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch,
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.sum(jnp.square(logits)), updated["batch_stats"]

    (loss, statistics), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
        variables["params"], variables["batch_stats"]
    )
    return float(loss), statistics, gradients


@pytest.mark.usefixtures("few_blocks")
def test_recomputing_changes_no_gradient_and_updates_statistics_once():
    want_loss, want_statistics, want = trained_once("none")
    for remat in ("conv", "block"):
        loss, statistics, gradients = trained_once(remat)
        assert loss == pytest.approx(want_loss, rel=1e-6)
        # Per layer: the gradient of a convolution's bias alone is rounding error.
        for layer, leaves in want.items():
            got, wanted = (
                np.concatenate([np.ravel(leaf) for leaf in tree.values()])
                for tree in (gradients[layer], leaves)
            )
            assert relative(got, wanted) < 1e-4, (remat, layer)
        jax.tree.map(
            lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6),
            statistics,
            want_statistics,
        )
