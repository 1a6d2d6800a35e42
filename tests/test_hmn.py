"""The hierarchical memory network: its formula, its budget, and that images do not touch one another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.batches.images import fit_standardisation, fit_whitening
from hcdc_jax.containers import (
    HMNVariables,
    ImageStart,
    MemoryShapes,
    hmn_container,
    hmn_sizes,
    ledger,
    planned_ledger,
    stored_scalars,
    usual_shapes,
)
from hcdc_jax.containers.hmn import Fit, decoder_sizes
from hcdc_jax.errors import UserError
from tests.small_images import blobs

KEY = jax.random.key(2)
CIFAR = (32, 32, 3)
SHAPE, CLASSES = (7, 6, 2), 3
SHAPES = MemoryShapes(dataset=2, extracted=3, per_class=2, instance=2, width=3, side=4)
CONTAINER = hmn_container(SHAPE, CLASSES, SHAPES)
DECODE = jax.jit(CONTAINER.decode)
START = ImageStart(np.zeros((12, *SHAPE), np.float32), np.repeat(np.arange(CLASSES), 4))


@pytest.fixture(scope="module", name="variables")
def _variables():
    return CONTAINER.init(KEY, START)


def convolved(images, layer):
    """A convolution of [h, w, c] by hand, zeros around."""
    kernel, bias = np.asarray(layer["kernel"], np.float64), np.asarray(layer["bias"], np.float64)
    side = kernel.shape[0] // 2
    padded = np.pad(images, ((side, side), (side, side), (0, 0)))
    out = np.zeros((*images.shape[:2], kernel.shape[-1]))
    for i, j in np.ndindex(*out.shape[:2]):
        out[i, j] = np.tensordot(padded[i : i + kernel.shape[0], j : j + kernel.shape[1]], kernel, 3) + bias
    return out


def rectified(values):
    """Negative numbers keep a hundredth of themselves."""
    return np.maximum(values, 0.01 * values)


def test_images_are_the_decoder_of_the_joined_memories(variables):
    """x_{c,i} = D([f_c(m_D); m_C_c; m_I_{c,i}]), with the choices that docs/hmn.md lists."""
    decoded = DECODE(variables)
    assert decoded.inputs.shape == (12, *SHAPE)
    np.testing.assert_array_equal(decoded.labels, START.labels)
    np.testing.assert_array_equal(decoded.weights, 1)
    for place in (0, 6, 11):
        c, i = divmod(place, 4)
        own = jax.tree.map(lambda leaf, c=c: leaf[c], variables.extractors)
        extracted = rectified(convolved(np.asarray(variables.dataset_memory, float), own["Conv_0"]))
        parts = [extracted, variables.class_memories[c], variables.instance_memories[c, i]]
        features = np.concatenate(parts, -1).astype(float)
        doubled = features.repeat(2, 0).repeat(2, 1)[:7, :6]
        inside = rectified(convolved(doubled, variables.decoder["Conv_0"]))
        pixels = 1 / (1 + np.exp(-convolved(inside, variables.decoder["Conv_1"])))
        np.testing.assert_allclose(decoded.inputs[place], pixels, atol=1e-5)


def test_an_image_depends_on_no_other_instance_memory(variables):
    moved = variables._replace(instance_memories=variables.instance_memories.at[1, 2].add(1.0))
    before, after = (DECODE(v).inputs for v in (variables, moved))
    change = np.abs(np.asarray(after - before)).max((1, 2, 3))
    assert np.flatnonzero(change).tolist() == [6], "exactly zero elsewhere"


def test_some_places_are_those_of_all_and_cost_as_much_as_they_are(variables):
    places = jnp.array([11, 3, 3, 6])
    some = jax.jit(CONTAINER.decode_at)(variables, places)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        some,
        jax.tree.map(lambda leaf: leaf[places], DECODE(variables)),
    )

    def flops(images):
        start = ImageStart(np.zeros(0), np.repeat(np.arange(CLASSES), images))
        shapes = jax.eval_shape(lambda key: CONTAINER.init(key, start), KEY)
        lowered = jax.jit(CONTAINER.decode_at).lower(shapes, places)
        return lowered.cost_analysis()["flops"]

    assert flops(100) == flops(4)


def test_slopes_are_finite_differences(x64, variables):
    variables = jax.tree.map(lambda leaf: leaf.astype(float), variables)
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=float)).reshape(leaf.shape), variables)

    @jax.jit
    def loss(variables):
        return jnp.sum(CONTAINER.decode(variables).inputs ** 2)

    def at(t):
        return loss(jax.tree.map(lambda value, way: value + t * way, variables, direction))

    slopes = jax.grad(loss)(variables)
    along = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(along, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-5)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(slopes)), "everything that is stored is used"


def test_networks_stack_under_vmap(variables):
    other = CONTAINER.init(jax.random.key(9), START)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, other)
    together = jax.jit(jax.vmap(CONTAINER.decode))(stacked).inputs
    for i, each in enumerate((variables, other)):
        np.testing.assert_allclose(together[i], DECODE(each).inputs, atol=1e-6)


def test_taking_keeps_images_and_what_they_share(variables):
    places = jnp.array([0, 3, 5, 6, 8, 9])
    left = CONTAINER.take(variables, places)
    np.testing.assert_allclose(DECODE(left).inputs, DECODE(variables).inputs[places], atol=1e-6)
    assert ledger(left) == planned_ledger(SHAPE, CLASSES, SHAPES, 2)
    for wrong in ([0, 1, 5, 8, 9, 10], [0, 5], [5, 0, 9]):
        with pytest.raises(UserError, match="equally many images of each of its 3 classes"):
            CONTAINER.take(variables, jnp.array(wrong))


def test_pixels_go_the_way_of_real_ones():
    images, _ = blobs(40, size=4)
    images = 1 / (1 + np.exp(-images))
    start = ImageStart(np.zeros(0), np.arange(3))
    shapes = SHAPES._replace(side=2)
    plain = hmn_container((4, 4, 1), 3, shapes)
    variables = plain.init(KEY, start)
    pixels = jax.jit(plain.decode)(variables).inputs
    assert 0 < pixels.min() < pixels.max() < 1
    for statistics in (fit_standardisation(images), fit_whitening(images)):
        container = hmn_container((4, 4, 1), 3, shapes, to_inputs=statistics.apply)
        assert container is hmn_container((4, 4, 1), 3, shapes, to_inputs=statistics.apply)
        np.testing.assert_allclose(jax.jit(container.decode)(variables).inputs, statistics.apply(pixels), atol=1e-5)


def test_a_network_starts_as_close_to_real_images_as_it_gets():
    images, labels = blobs(12, size=6, channels=2)
    order = np.argsort(labels, kind="stable")
    images = (1 / (1 + np.exp(-images[order]))).astype(np.float32)
    start = ImageStart(images, labels[order])
    shapes = SHAPES._replace(side=3)
    fitted = hmn_container((6, 6, 2), 3, shapes, start="fit_real", fit=Fit(60, 0.05, 6))
    noise = hmn_container((6, 6, 2), 3, shapes)
    decode = jax.jit(noise.decode)
    before, after = (jnp.mean((decode(c.init(KEY, start)).inputs - images) ** 2) for c in (noise, fitted))
    assert after < 0.6 * images.var() < before


@pytest.mark.parametrize(("images_per_class", "total", "generated"), [(1, 30_443, 85), (10, 306_963, 219)])
def test_the_usual_shapes_give_the_papers_numbers_of_images(images_per_class, total, generated):
    """CIFAR-10 of arXiv 2310.07506: 85 and 219 images per class from 1 and 10; the hand count is in docs/hmn.md."""
    shapes = usual_shapes(images_per_class, CIFAR)
    assert hmn_sizes(images_per_class, CIFAR, 10, shapes) == generated
    planned = planned_ledger(CIFAR, 10, shapes, generated)
    assert planned.total == total <= images_per_class * 10 * 32 * 32 * 3
    assert planned.images == 10 * generated
    side, inside = 16, shapes.extracted + shapes.per_class + shapes.instance
    width = shapes.width
    by_hand = {
        "dataset_memory": side * shapes.dataset,
        "class_memories": 10 * side * shapes.per_class,
        "instance_memories": 10 * generated * side * shapes.instance,
        "extractors": 10 * (shapes.dataset + 1) * shapes.extracted,
        "decoder": (9 * inside + 1) * width + 2 * (9 * width + 1) * width + (9 * width + 1) * 3,
    }
    assert {name: getattr(planned, name) for name in by_hand} == by_hand
    assert planned_ledger(CIFAR, 10, shapes, generated + 1).total > images_per_class * 10 * 32 * 32 * 3


def test_the_ledger_counts_what_is_stored(variables):
    counted = ledger(variables)
    leaves = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert counted.total == leaves == sum(counted[:5]) == sum(stored_scalars(variables).values())
    assert counted == planned_ledger(SHAPE, CLASSES, SHAPES, 4)
    assert set(HMNVariables._fields) <= set(counted._fields)
    assert f"{leaves}" in str(counted).replace(",", "")


def test_a_tenth_more_budget_is_images_alone():
    shapes = usual_shapes(1, CIFAR)
    more = hmn_sizes(1.1, CIFAR, 10, shapes) - hmn_sizes(1, CIFAR, 10, shapes)
    assert more == (33_792 - 3_243) // 320 - 85


@pytest.mark.parametrize(
    ("shape", "side", "sizes"),
    [
        (CIFAR, None, ((4, 4), (8, 8), (16, 16), (32, 32))),
        ((28, 28, 1), None, ((4, 4), (7, 7), (14, 14), (28, 28))),
        ((28, 28, 1), 7, ((7, 7), (14, 14), (28, 28))),
        ((5, 9, 3), 3, ((3, 5), (5, 9))),
        ((3, 3, 1), None, ((3, 3),)),
    ],
)
def test_memories_double_to_any_image(shape, side, sizes):
    assert decoder_sizes(shape, side) == sizes


def test_what_cannot_be_is_told_in_one_line(variables):
    with pytest.raises(UserError, match=r"side 5 do not double to images of 32 x 32; choose hmn.side among 32, 16, 8"):
        hmn_container(CIFAR, 10, MemoryShapes(side=5))
    with pytest.raises(UserError, match=r"one image per class stores 2,249 numbers.* 640; raise condense.images_per"):
        hmn_sizes(1, (8, 8, 1), 10, usual_shapes(1, (8, 8, 1)))
    with pytest.raises(UserError, match=r"unknown start of a memory network 'real' in 'condense\.init'"):
        hmn_container(CIFAR, 10, start="real")
    with pytest.raises(UserError, match="these 7 are not"):
        CONTAINER.init(KEY, ImageStart(np.zeros(0), np.arange(7) % 3))
    with pytest.raises(UserError, match="use the configuration that it was condensed with"):
        hmn_container(SHAPE, CLASSES, SHAPES._replace(instance=1)).decode(variables)
    with pytest.raises(UserError, match="use the configuration that it was condensed with"):
        hmn_container(SHAPE, CLASSES, SHAPES._replace(width=4)).decode(variables)
