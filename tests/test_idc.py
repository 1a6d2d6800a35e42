"""Gradient matching under networks that are trained on real images: its distances, its networks, its schedule."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import ImageRates, MemoryRates, scaled
from hcdc_jax.condense.class_batches import class_pool
from hcdc_jax.condense.epoch_training import taught
from hcdc_jax.condense.gradient_matching import constant
from hcdc_jax.condense.idc import DISTANCES, IDCData, idc
from hcdc_jax.containers import ImageStart, image_container
from hcdc_jax.training.train import Training, advance, begin
from hcdc_jax.types import Batch
from tests.small_images import blobs, conv_net

KEY = jax.random.key(1)
NET = conv_net(1, 3, width=3)
IMAGES, LABELS = blobs(30)
PIXELS = image_container()
OPTIONS = {"num_classes": 3, "outer_steps": 3, "relay_steps": 2}
CONDENSER = idc(NET.problem, PIXELS, constant(()), batch_size=10, schedule="cosine", **OPTIONS)
RATES = ImageRates(jnp.float32(0.1), jnp.float32(0.0))


def data_of(rates=RATES, *, num_steps=1e9):
    real = Batch(jnp.asarray(IMAGES, float), jnp.asarray(LABELS), jnp.ones(30))
    return IDCData(class_pool(IMAGES, LABELS, 3), real, rates, jnp.float32(num_steps))


def start_of(container=PIXELS, per_class=10):
    order = np.argsort(LABELS, kind="stable").reshape(3, -1)[:, :per_class].reshape(-1)
    return container.init(KEY, ImageStart(IMAGES[order], LABELS[order]))


@functools.partial(jax.jit, static_argnames="condenser")
def step_of(key, state, data, *, condenser=CONDENSER):
    return condenser.step(key, state, data)


def test_distances_are_sums_over_kernels_of_convolutions():
    rng = np.random.default_rng(0)
    a, b = (
        {"conv": rng.normal(size=(3, 3, 2, 5)), "first": rng.normal(size=(1, 1, 1, 2)), "bias": rng.normal(size=5),
         "linear": rng.normal(size=(4, 3))}
        for _ in range(2)
    )  # fmt: skip
    kernels = np.concatenate([(a[name] - b[name]).ravel() for name in ("conv", "first")])
    np.testing.assert_allclose(DISTANCES["squared"](a, b), np.sum(kernels**2), rtol=1e-5)
    np.testing.assert_allclose(DISTANCES["absolute"](a, b), np.sum(np.abs(kernels)), rtol=1e-5)
    assert DISTANCES["squared"]({"linear": a["linear"]}, {"linear": b["linear"]}) == 0


def test_a_step_goes_down_the_slope_of_its_distance():
    state, data = CONDENSER.init(KEY, start_of(), data_of()), data_of()
    start = state.variables.pixels[::-1]

    def stepped(pixels):
        return step_of(KEY, state._replace(variables=state.variables._replace(pixels=pixels)), data)

    after, info = stepped(start)
    slope = (start - after.variables.pixels) / RATES.learning_rate
    steepness = jnp.sum(slope**2)
    h = 0.01 * info.distance / steepness  # down the slope the distance falls by a hundredth
    change = stepped(start + h * slope)[1].distance - stepped(start - h * slope)[1].distance
    np.testing.assert_allclose(change / (2 * h), steepness, rtol=0.01)


def test_the_distance_vanishes_where_synthetic_images_are_the_real_ones():
    data = data_of()
    state = CONDENSER.init(KEY, start_of(), data)
    assert abs(step_of(KEY, state, data)[1].distance) < 1e-6
    moved = state._replace(variables=state.variables._replace(pixels=state.variables.pixels[::-1]))
    assert step_of(KEY, moved, data)[1].distance > 0.01


def test_networks_are_trained_on_real_images_from_step_to_step():
    """Whatever the synthetic ones are; momentum and the order of batches live on, and the fourth network is new."""
    data, student = data_of(), taught(NET.problem, None, 0.5, 5e-4, 3)
    training = Training(0.01, "momentum", batch_size=10)
    start = begin(jax.random.split(jax.random.split(jax.random.fold_in(KEY, 0), 4)[0])[1], student, (), training)
    expected = [start, *(advance(student, (), start, data.real, training, steps) for steps in (2, 4))]
    for shift in (0.0, 1.0):
        variables = start_of()
        state = CONDENSER.init(KEY, variables._replace(pixels=variables.pixels + shift), data)
        relays = []
        for t in range(4):
            state, _ = step_of(jax.random.fold_in(KEY, t), state, data)
            relays.append(state.relay)
        for found, trained in zip(relays, (*expected[1:], expected[2]), strict=False):
            jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found.params, trained.params)
        assert relays[3].step == 2
        kernels = [relay.params["conv0"]["kernel"] for relay in relays]
        assert np.abs(kernels[3] - kernels[2]).max() > 0.1


def test_a_cosine_brings_the_steps_to_nothing():
    variables = start_of()
    state = CONDENSER.init(KEY, variables._replace(pixels=variables.pixels[::-1]), data_of())

    def move(step, num_steps):
        at = state._replace(step=jnp.int32(step))
        return step_of(KEY, at, data_of(num_steps=num_steps))[0].variables.pixels - state.variables.pixels

    for step, factor in ((1, 0.5 + 0.5 * np.cos(np.pi / 4)), (2, 0.5), (4, 0.0)):
        np.testing.assert_allclose(move(step, 4.0), factor * move(step, 1e9), atol=1e-5)
    rates = MemoryRates(*map(jnp.float32, (1, 2, 3, 4, 5)))
    assert [float(rate) for rate in scaled(rates, 0.5)] == [0.5, 1, 1.5, 2, 2.5]
    assert scaled(RATES._replace(momentum=0.9), 0.5).momentum == 0.9


def test_numbers_compile_nothing():
    assert CONDENSER is idc(NET.problem, PIXELS, constant(()), batch_size=10, schedule="cosine", **OPTIONS)
    state = CONDENSER.init(KEY, start_of(), data_of())
    step_of(KEY, state, data_of())
    compiled = step_of._cache_size()
    step_of(KEY, state, data_of(scaled(RATES, jnp.float32(0.3)), num_steps=7.0)._replace(relay_rate=0.02))
    assert step_of._cache_size() == compiled
