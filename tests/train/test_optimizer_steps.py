"""The train step with each optimizer: donation, checkpoints, and the unchanged program of SGD."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import serialization
from flax.traverse_util import path_aware_map

from i21k.checkpoints import Checkpoints
from i21k.train import steps
from i21k.train.devices import check_donated, put_batch, put_state
from i21k.train.optimizer import make_optimizer, make_schedule
from i21k.train.recipe import parse
from i21k.train.state import init_state, make_network
from tests.helpers.stepping import make_batch


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_a_state_is_donated_saved_and_restored_bit_exact(recipe, tmp_path, name):
    recipe.optimizer.name, recipe.optimizer.learning_rate_head = name, 2.0
    cfg = parse(recipe)
    network, devices = make_network(cfg.model, 4), jax.local_devices()[:2]
    optimizer = make_optimizer(cfg.optimizer, make_schedule(cfg.optimizer, 5, 10), network)
    step = steps.make_train_step(network, optimizer, devices, ema_decay=0.9)
    first = init_state(network, optimizer, 32, "he_normal", 0, with_ema=True)
    state = put_state(first, devices)
    for number in range(2):
        donated, state = state, step(state, put_batch(make_batch(8, number), devices))
        check_donated(donated)
    checkpoints = Checkpoints(tmp_path)
    meta = {"epoch_done": True, "classes": ["a", "b", "c", "d"]}
    checkpoints.save(2, serialization.to_state_dict(state), meta)
    restored = put_state(checkpoints.newest().into(first), devices)
    batch = make_batch(8, 2)
    one, other = (
        jax.device_get(step(each, put_batch(batch, devices))) for each in (state, restored)
    )
    leaves = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    assert all(np.array_equal(a, b) for a, b in leaves) and len(leaves) > 20
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one))


def test_sgd_is_the_program_and_the_state_that_it_was(recipe):
    """As before there were other optimizers, groups and clipping: they cost nothing when off."""
    cfg = dataclasses.replace(parse(recipe).optimizer, weight_decay=1e-4, decay="kernels")
    network = make_network(parse(recipe).model, 4)
    schedule = make_schedule(cfg, 5, 10)
    before = optax.chain(
        optax.add_decayed_weights(
            1e-4, mask=lambda params: path_aware_map(lambda p, _: p[-1] == "kernel", params)
        ),
        optax.sgd(schedule, momentum=cfg.momentum, nesterov=cfg.nesterov),
    )
    params = network.initial(32, "he_normal", 0)["params"]
    now = make_optimizer(cfg, schedule, network)
    states = [optimizer.init(params) for optimizer in (before, now)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    programs = [
        str(jax.make_jaxpr(optimizer.update)(params, state, params))
        for optimizer, state in zip((before, now), states, strict=True)
    ]
    assert programs[0] == programs[1]


def test_a_state_without_an_average_has_no_more_arrays(recipe):
    cfg = parse(recipe)
    network = make_network(cfg.model, 4)
    state = init_state(network, optax.sgd(0.1), 32, "he_normal", 0)
    assert state.ema == {} and "ema" not in {
        path.split("/")[0] for path in _paths(serialization.to_state_dict(state))
    }


def _paths(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}/")
        else:
            yield prefix + key
