import dataclasses

import jax
import numpy as np
import pytest

from i21k.models.network import build
from i21k.train.optimizer import Factors, make_optimizer, make_schedule
from i21k.train.optimizer.make import trained_by_muon
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


# ---------------------------------------------------------------------------------------- schedules


def test_linear_falls_to_zero_after_the_warm_up(cfg):
    cfg = dataclasses.replace(cfg, learning_rate=0.4, schedule="linear", warmup_epochs=0.5)
    schedule = make_schedule(cfg, 100, 1050)
    rates = [float(schedule(step)) for step in (0, 49, 50, 550, 1049, 1050)]
    assert rates == pytest.approx([0.008, 0.4, 0.4, 0.2, 0.0004, 0.0], abs=1e-8)


def test_trapezoid_is_flat_between_its_ramps(cfg):
    cfg = dataclasses.replace(
        cfg, learning_rate=0.4, schedule="trapezoid", warmup_epochs=0.5, decay_epochs=2.5
    )
    schedule = make_schedule(cfg, 100, 1000)
    rates = [float(schedule(step)) for step in (24, 49, 50, 749, 750, 875, 999, 1000)]
    assert rates == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.4, 0.2, 0.0016, 0.0], abs=1e-8)


def test_a_schedule_that_starts_anew_is_shorter(cfg):
    cfg = dataclasses.replace(cfg, learning_rate=1.0, schedule="linear", warmup_epochs=0.0)
    moved = dataclasses.replace(cfg, schedule_from_step=400)
    one, other = make_schedule(cfg, 100, 600), make_schedule(moved, 100, 1000)
    assert float(other(400)) == pytest.approx(1.0)
    assert float(other(700)) == pytest.approx(float(one(300)))


# --------------------------------------------------------------------------------------- optimizers

PARAMS = {
    "conv_a": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "bn_a": {"gamma": (4,), "beta": (4,)},
    "fc1": {"kernel": (4, 5), "bias": (5,)},
}
STEPS = 4


def drawn(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        layer: {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
        for layer, arrays in PARAMS.items()
    }


def trained(cfg, more_factors=None) -> dict:
    """Return the parameters after a few updates with gradients drawn by their number."""
    optimizer = make_optimizer(cfg, make_schedule(cfg, 1, 10), build({}, 5), more_factors)
    params = drawn(0)
    state = optimizer.init(params)
    for step in range(STEPS):
        updates, state = jax.jit(optimizer.update)(drawn(step + 1), state, params)
        params = jax.device_get(jax.tree.map(lambda p, u: p + u, params, updates))
    return params


def by_formula(update, layer: str, name: str, **fields) -> np.ndarray:
    """Return what `update(weight, gradient, step, memory)` makes of one array in float64."""
    weight, memory = drawn(0)[layer][name].astype(np.float64), {}
    for step in range(STEPS):
        gradient = drawn(step + 1)[layer][name].astype(np.float64)
        weight = update(weight, gradient, step, memory, **fields)
    return weight


def adam(weight, gradient, step, memory, epsilon):
    """Kingma and Ba 2015, algorithm 1, without the learning rate."""
    memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * gradient
    memory["v"] = 0.99 * memory.get("v", 0) + 0.01 * gradient**2
    m, v = memory["m"] / (1 - 0.9 ** (step + 1)), memory["v"] / (1 - 0.99 ** (step + 1))
    return m / (np.sqrt(v) + epsilon)


def adamw(weight, gradient, step, memory, decay):
    return weight - 0.05 * (adam(weight, gradient, step, memory, 1e-8) + decay * weight)


def lamb(weight, gradient, step, memory, decay):
    """You et al. 2020, algorithm 2."""
    update = adam(weight, gradient, step, memory, 1e-6) + decay * weight
    return weight - 0.05 * update * np.linalg.norm(weight) / np.linalg.norm(update)


def sgd(weight, gradient, step, memory, decay, rate=0.05):
    gradient = gradient + decay * weight
    memory["m"] = 0.9 * memory.get("m", 0) + gradient
    return weight - rate * (gradient + 0.9 * memory["m"])  # Nesterov


def muon(weight, gradient, step, memory, decay):
    """Jordan 2024: five quintic steps towards the nearest orthogonal matrix."""
    memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * gradient
    # Optax corrects the bias of the momentum and of the gradient that Nesterov adds.
    momentum = 0.9 * memory["m"] / (1 - 0.9 ** (step + 2)) + 0.1 * gradient / (
        1 - 0.9 ** (step + 1)
    )
    matrix = momentum.reshape(-1, weight.shape[-1])  # inputs by outputs
    x = matrix / (np.linalg.norm(matrix) + 1e-8)
    for _ in range(5):
        a = x.T @ x
        x = 3.4445 * x + x @ (-4.775 * a + 2.0315 * a @ a)
    x *= np.sqrt(max(1, matrix.shape[1] / matrix.shape[0]))
    return weight - 0.02 * (x.reshape(weight.shape) + decay * weight)


@pytest.fixture
def modern(cfg):
    return dataclasses.replace(
        cfg, learning_rate=0.05, schedule="constant", warmup_epochs=0.0, nesterov=True, beta2=0.99,
        weight_decay=0.1, decay="kernels", muon_learning_rate=0.02, muon_weight_decay=0.3,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "formula"), [("adamw", adamw), ("lamb", lamb), ("sgd", sgd)])
def test_each_optimizer_is_its_formula(modern, name, formula):
    params = trained(dataclasses.replace(modern, name=name))
    for layer, arrays in PARAMS.items():
        for array in arrays:
            wanted = by_formula(formula, layer, array, decay=0.1 * (array == "kernel"))
            np.testing.assert_allclose(params[layer][array], wanted, rtol=2e-5, atol=1e-6)


def test_muon_is_for_convolutions_and_sgd_for_all_others(modern):
    params = trained(dataclasses.replace(modern, name="muon"))
    wanted = by_formula(muon, "conv_a", "kernel", decay=0.3)
    np.testing.assert_allclose(params["conv_a"]["kernel"], wanted, rtol=1e-4, atol=1e-5)
    for layer, array in (("fc1", "kernel"), ("fc1", "bias"), ("bn_a", "gamma"), ("conv_a", "bias")):
        wanted = by_formula(sgd, layer, array, decay=0.1 * (array == "kernel"))
        np.testing.assert_allclose(params[layer][array], wanted, rtol=2e-5, atol=1e-6)


def test_a_kernel_of_one_row_is_not_for_muon():
    network = build({}, 5)
    assert trained_by_muon(network, ("conv_a", "kernel"), np.ones((3, 3, 2, 4)))
    assert not trained_by_muon(network, ("conv_a", "kernel"), np.ones((3, 3, 2, 1)))
    assert not trained_by_muon(network, ("conv_a", "kernel"), np.ones((1, 1, 1, 4)))
    assert not trained_by_muon(network, ("fc1", "kernel"), np.ones((4, 5)))


def test_groups_have_their_factors(modern):
    cfg = dataclasses.replace(
        modern, decay="all", learning_rate_head=10.0, weight_decay_head=0.5,
        learning_rate_norm=0.2, weight_decay_norm=0.0,
    )  # fmt: skip
    params = trained(cfg)
    for layer, array, rate, decay in (
        ("fc1", "kernel", 0.5, 0.05),
        ("fc1", "bias", 0.5, 0.05),
        ("bn_a", "gamma", 0.01, 0.0),
        ("conv_a", "bias", 0.01, 0.0),
        ("conv_a", "kernel", 0.05, 0.1),
    ):
        wanted = by_formula(sgd, layer, array, decay=decay, rate=rate)
        np.testing.assert_allclose(params[layer][array], wanted, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "muon"])
def test_more_factors_multiply_and_zero_keeps_a_parameter(modern, name):
    def frozen(path):
        return Factors(0.0 if path[0] in ("conv_a", "bn_a") else 1.0)

    cfg = dataclasses.replace(modern, name=name, learning_rate_head=2.0)
    params, whole = trained(cfg, frozen), trained(cfg)
    for layer, array in (("conv_a", "kernel"), ("bn_a", "gamma")):
        assert np.array_equal(params[layer][array], drawn(0)[layer][array])
    assert np.array_equal(params["fc1"]["kernel"], whole["fc1"]["kernel"])
    assert not np.array_equal(whole["conv_a"]["kernel"], drawn(0)["conv_a"]["kernel"])


def test_gradients_are_clipped_by_the_norm_of_all(modern):
    optimizer = make_optimizer(
        dataclasses.replace(modern, clip_norm=1.5, momentum=0.0, weight_decay=0.0),
        make_schedule(modern, 1, 10),
        build({}, 5),
    )
    params, gradients = drawn(0), drawn(1)
    updates, state = optimizer.update(gradients, optimizer.init(params), params)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradients)))
    for got, gradient in zip(jax.tree.leaves(updates), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(got, -0.05 * gradient * 1.5 / norm, rtol=1e-5)
    unclipped = make_optimizer(modern, make_schedule(modern, 1, 10), build({}, 5)).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(unclipped)  # so that runs may begin it
