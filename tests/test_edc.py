"""EDC: averages without bias, its distance by hand, batches that keep to themselves, networks in turn."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.condense.base import run
from hcdc_jax.condense.edc import (
    EDCData,
    ObserverTarget,
    _averaged,
    _empty,
    batch_places,
    edc,
    flatness_loss,
    matching_loss,
)
from hcdc_jax.condense.observers import observer
from hcdc_jax.condense.statistics import moments_of, statistics, views
from hcdc_jax.containers import ImageStart, image_container
from hcdc_jax.types import Batch
from tests.errors import error_of
from tests.small_images import blobs

pytestmark = pytest.mark.usefixtures("broadcasting")

KEY = jax.random.key(4)
CLASSES = 3
IMAGES, LABELS = blobs(24)
NETS = [observer(text, (6, 6, 1), CLASSES) for text in ("convnet:width=3,depth=1", "convnet:width=2,depth=1")]
LOOKS = tuple(net.look for net in NETS)
REAL = Batch(jnp.asarray(IMAGES, jnp.float32), jnp.asarray(LABELS), jnp.ones(24))


USUAL = {name: EDCData._field_defaults[name] for name in ("alpha", "crop_area", "flip", "first_layer")}


@functools.cache
def target(number):
    net = NETS[number]
    params = net.problem.init(jax.random.fold_in(KEY, number), ())
    return ObserverTarget(params, statistics(net.look, params, REAL, CLASSES))


def data_of(**changes):
    bound = jnp.full(1, 2.0)
    return EDCData((target(0), target(1)), -bound, bound, **changes)


def variables_of(per_class=4):
    images, labels = blobs(CLASSES * per_class, seed=7)
    order = np.argsort(labels, kind="stable")
    return image_container().init(KEY, ImageStart(images[order], labels[order]))


@functools.partial(jax.jit, static_argnums=0)
def read_by(number, params, images):
    weights = jnp.ones(len(images))
    return tuple(moments_of(view, weights) for view in views(LOOKS[number](params, images)))


def looked(number, images=REAL.inputs):
    return read_by(number, target(number).params, images)


@functools.partial(jax.jit, static_argnames="condenser")
def step_of(state, data, *, condenser):
    return condenser.step(jax.random.fold_in(KEY, state.step), state, data)


def test_averages_have_no_bias_and_the_slope_of_the_batch():
    averaged, found = jax.jit(_averaged), looked(0)
    average = _empty(target(0).statistics)
    for _ in range(3):  # the average of equal numbers is that number, from the first step on
        average, read = averaged(average, found, jnp.float32(0.8))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), read, found)
    numbers, average = np.random.default_rng(0).normal(size=5), _empty(target(0).statistics)
    raw = 0.0
    for number in numbers:
        batch = tuple(m._replace(mean=jnp.full_like(m.mean, number)) for m in found)
        average, read = averaged(average, batch, jnp.float32(0.8))
        raw = 0.8 * raw + 0.2 * number
    np.testing.assert_allclose(read[0].mean, raw / (1 - 0.8**5), rtol=1e-4)

    def value(shift):
        batch = tuple(m._replace(mean=m.mean + shift) for m in found)
        return _averaged(average, batch, jnp.float32(0.8))[1][0].mean[0]

    np.testing.assert_allclose(jax.grad(value)(0.0), 1.0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_distance_of_statistics_is_the_formula(alpha):
    found, theirs = looked(0, REAL.inputs[:6] + 0.5), target(0).statistics
    shares, factors = np.array([0.5, 0.25, 0.25]), np.array([10.0, 1.0, 3.0])
    expected = 0.0
    for factor, mine, view in zip(factors, found, theirs, strict=True):
        for name in ("mean", "variance"):
            value, whole, classes = (np.asarray(getattr(m, name)) for m in (mine, view.whole, view.classes))
            forms = np.linalg.norm(value - whole), np.linalg.norm(value - shares @ classes)
            expected += factor * (alpha * forms[0] + (1 - alpha) * forms[1])
    distance = matching_loss(found, theirs, jnp.asarray(shares), jnp.float32(alpha), jnp.asarray(factors))
    np.testing.assert_allclose(distance, expected, rtol=1e-5)


def test_the_real_images_match_themselves_and_the_slope_is_finite():
    target_of_all, ones = target(0).statistics, jnp.ones(3)

    def distance(images):
        return matching_loss(looked(0, images), target_of_all, jnp.ones(CLASSES) / CLASSES, jnp.float32(1), ones)

    both = jax.jit(jax.value_and_grad(distance))
    value, slope = both(REAL.inputs)
    assert value < 1e-4
    assert np.isfinite(slope).all()
    assert both(REAL.inputs + 1)[0] > 1


def test_flatness_is_a_divergence_and_the_code_has_the_other_one():
    ours, theirs = np.random.default_rng(1).normal(size=(2, 5, CLASSES)) * 3

    def divergence(a, b):
        a, b = (np.exp(x / 4) / np.exp(x / 4).sum(1, keepdims=True) for x in (a, b))
        return (a * np.log(a / b)).sum(1).mean()

    np.testing.assert_allclose(flatness_loss(ours, theirs, 4.0, "paper"), divergence(ours, theirs), rtol=1e-4)
    np.testing.assert_allclose(flatness_loss(ours, theirs, 4.0, "code"), divergence(theirs, ours) / CLASSES, rtol=1e-4)
    np.testing.assert_allclose(flatness_loss(ours, ours, 4.0, "paper"), 0, atol=1e-6)


def test_a_batch_has_equally_many_of_each_class():
    np.testing.assert_array_equal(batch_places(jnp.int32(1), 12, 3, 6), [2, 3, 6, 7, 10, 11])
    whole = [batch_places(jnp.int32(i), 12, 3, 3) for i in range(4)]
    np.testing.assert_array_equal(np.sort(np.concatenate(whole)), np.arange(12))


def test_a_batch_of_fewer_images_than_classes_has_one_of_each_of_some():
    found = [batch_places(jnp.int32(i), 12, 6, 2) for i in range(6)]
    np.testing.assert_array_equal(found, [[0, 2], [4, 6], [8, 10], [1, 3], [5, 7], [9, 11]])
    edc(LOOKS, CLASSES, batch_size=1).init(KEY, variables_of(), data_of())


def test_a_batch_is_moved_alone_within_bounds_and_starts_afresh():
    condenser, data = edc(LOOKS, CLASSES, iterations=3, batch_size=6), data_of()
    states = [condenser.init(KEY, variables_of(), data)]
    for _ in range(6):
        states.append(step_of(states[-1], data, condenser=condenser)[0])
    pixels = [np.asarray(state.variables.pixels) for state in states]
    mine = np.asarray(batch_places(jnp.int32(0), 12, 3, 6))
    np.testing.assert_array_equal(np.flatnonzero(np.any(pixels[3] != pixels[0], axis=(1, 2, 3))), mine)
    np.testing.assert_array_equal(pixels[6][mine], pixels[3][mine])
    assert np.all(np.any(pixels[6] != pixels[0], axis=(1, 2, 3)))
    assert np.abs(pixels[6]).max() <= 2 < np.abs(pixels[0]).max()
    counts = [[int(average.count) for average in state.averages] for state in states]
    assert counts == [[0, 0], [1, 0], [1, 1], [2, 1], [0, 1], [1, 1], [1, 2]], "in turn, and anew with each batch"
    assert [int(state.opt_state.count) for state in states] == [0, 1, 2, 3, 1, 2, 3]
    assert np.abs(pixels[3] - pixels[2]).max() < 0.5 * np.abs(pixels[2] - pixels[1]).max(), "the rate falls"


def test_steps_bring_statistics_closer():
    condenser = edc(LOOKS, CLASSES, iterations=60, flatness="none")
    noise = variables_of()._replace(pixels=jax.random.normal(KEY, (12, 6, 6, 1)))
    wide = data_of()._replace(low=jnp.full(1, -9.0), high=jnp.full(1, 9.0), flip=0.0)
    data = wide._replace(momentum=0.0, crop_area=1.0, matching_weight=1.0, image_rate=0.2, alpha=1.0)
    seen = []
    run(
        KEY, condenser, condenser.init(KEY, noise, data), data, steps=60, every=20,
        report=lambda step, state, infos: seen.append(float(infos.matching.mean())),
    )  # fmt: skip
    assert seen[2] < 0.5 * seen[0]


def test_switches_change_what_they_say():
    alone = data_of()._replace(observers=(target(0),))
    state = edc(LOOKS[:1], CLASSES).init(KEY, variables_of(), alone)
    state = state._replace(step=jnp.int32(1), smooth=state.smooth * 0.3)

    def info(flatness="paper", **changes):
        changes = {name: jnp.float32(value) for name, value in (USUAL | changes).items()}
        return step_of(state, alone._replace(**changes), condenser=edc(LOOKS[:1], CLASSES, flatness=flatness))[1]

    usual = info()
    np.testing.assert_allclose(
        usual.distance, usual.cross_entropy + 0.01 * usual.matching + 0.25 * usual.flatness, rtol=1e-5
    )
    assert usual.flatness > 0
    assert info("code").flatness != usual.flatness
    assert info(alpha=1.0).matching != usual.matching
    assert info(crop_area=1.0, flip=0.0).cross_entropy != usual.cross_entropy
    assert info(first_layer=1.0).matching < usual.matching


def test_in_mode_code_the_first_convolution_alone_has_the_factor():
    """What a step compares, with distances by hand: of the norm once, of both views of the convolution ten times."""
    data = data_of(alpha=0.3, momentum=0.0, crop_area=1.0, flip=0.0)
    distances, pixels = np.zeros(3), jnp.clip(variables_of().pixels, -2, 2)
    for number, (mine, view) in enumerate(zip(looked(0, pixels), target(0).statistics, strict=True)):
        for name in ("mean", "variance"):
            value, whole, classes = (np.asarray(getattr(m, name), float) for m in (mine, view.whole, view.classes))
            distances[number] += 0.3 * np.linalg.norm(value - whole) + 0.7 * np.linalg.norm(value - classes.mean(0))
    # The norm; channels and patches of the convolution.
    for mode, factors in (("paper", (10, 10, 10)), ("code", (1, 10, 10))):
        condenser = edc(LOOKS, CLASSES, mode=mode)
        info = step_of(condenser.init(KEY, variables_of(), data), data, condenser=condenser)[1]
        np.testing.assert_allclose(info.matching, np.dot(factors, distances), rtol=1e-4)


def test_images_that_the_observers_chose_take_the_place_of_the_containers():
    chosen = jnp.full((12, 6, 6, 1), 0.5)
    state = edc(LOOKS, CLASSES).init(KEY, variables_of(), data_of(start=chosen))
    np.testing.assert_array_equal(state.variables.pixels, chosen)
    np.testing.assert_array_equal(state.smooth, chosen)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (4, "edc.batch_size = 4 does not divide into 3 classes"),
        (9, "12 images do not make batches of 9; choose edc.batch_size among the multiples of 3 that divide 12"),
    ],
)
def test_batches_that_do_not_come_out_even_are_refused(size, message):
    condenser = edc(LOOKS, CLASSES, batch_size=size)
    assert message in error_of(lambda: condenser.init(KEY, variables_of(), data_of()))
