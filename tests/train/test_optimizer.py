import dataclasses

import jax
import numpy as np
import pytest

from i21k.models.network import build
from i21k.train.optimizer import make_optimizer, make_schedule
from i21k.train.recipe import parse


@pytest.fixture
def cfg(recipe):
    return parse(recipe).optimizer


def test_constant(cfg):
    schedule = make_schedule(cfg, 100, 900)
    assert [float(schedule(s)) for s in (0, 450, 899)] == pytest.approx([0.01] * 3)


def test_cosine_with_warmup(cfg):
    cfg = dataclasses.replace(cfg, learning_rate=0.4, schedule="cosine", warmup_epochs=1)
    schedule = make_schedule(cfg, 100, 900)
    assert float(schedule(0)) == pytest.approx(0.004)
    assert float(schedule(99)) == pytest.approx(0.4)
    assert float(schedule(500)) == pytest.approx(0.2)
    assert float(schedule(900)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize(
    ("decay", "revision", "expected"),
    [("all", "released", "kbg"), ("all", "symbol2016", "kb"), ("kernels", "released", "k")],
)
def test_what_decays(cfg, decay, revision, expected):
    cfg = dataclasses.replace(cfg, decay=decay, weight_decay=0.1, momentum=0.0, learning_rate=1.0)
    optimizer = make_optimizer(cfg, make_schedule(cfg, 1, 1), build({"revision": revision}, 4))
    params = {
        "conv_x": {"kernel": np.ones(2, np.float32)},
        "bn_x": {"beta": np.ones(2, np.float32), "gamma": np.ones(2, np.float32)},
    }
    updates, _ = optimizer.update(
        jax.tree.map(np.zeros_like, params), optimizer.init(params), params
    )
    decayed = "".join(
        sorted(
            p[-1].key[0]
            for p, u in jax.tree_util.tree_leaves_with_path(updates)
            if np.allclose(u, -0.1)
        )
    )
    assert decayed == "".join(sorted(expected))


def test_momentum_is_that_of_mxnet(cfg):
    cfg = dataclasses.replace(cfg, decay="all", weight_decay=0.01, learning_rate=0.05)
    optimizer = make_optimizer(cfg, make_schedule(cfg, 1, 1), build({}, 4))
    params = {"a": {"kernel": np.array(2.0, np.float32)}}
    state, weight, momentum = optimizer.init(params), 2.0, 0.0
    for gradient in (0.3, -0.2, 0.5):
        updates, state = optimizer.update(
            {"a": {"kernel": np.array(gradient, np.float32)}}, state, params
        )
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        momentum = 0.9 * momentum - 0.05 * (
            gradient + 0.01 * weight
        )  # SGD of MXNet: mom = m * mom - lr * (grad + wd * w)
        weight += momentum
    assert float(params["a"]["kernel"]) == pytest.approx(weight, rel=1e-6)
