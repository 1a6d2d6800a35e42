"""Condensers of images that match class by class: DC, DSA and DM, by their losses, their zeros and plain loops."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.condense import class_batches, run
from hcdc_jax.condense.base import ImageRates, learned_fields
from hcdc_jax.condense.class_batches import class_pool, class_sample, draw_per_class
from hcdc_jax.condense.dc import DCData, dc, dsa
from hcdc_jax.condense.dm import DMData, dm
from hcdc_jax.condense.epoch_training import augmented, even_batches
from hcdc_jax.condense.gradient_matching import constant, gradient_distance
from hcdc_jax.condense.mtt import MTTData, mtt
from hcdc_jax.containers import ImageStart, image_container
from hcdc_jax.errors import UserError
from hcdc_jax.models import image_embedding, image_problem
from tests.small_images import blobs, conv_net

NET = conv_net(1, 3, width=3)
CONTAINER = image_container()
IMAGES, LABELS = blobs(30)
KEY = jax.random.key(1)
NONE = constant(())
AUGMENTATION = Augmentation(("color", "crop", "rotate"))


def condensers():
    options = {"outer_steps": 3, "inner_epochs": 2}
    return {
        "dc": dc(NET.problem, CONTAINER, NONE, **options),
        "dsa": dsa(NET.problem, CONTAINER, NONE, augmentation=AUGMENTATION, **options),
        "dm": dm(NET.problem, NET.embed, CONTAINER, NONE),
        "dm_augmented": dm(NET.problem, NET.embed, CONTAINER, NONE, augmentation=AUGMENTATION, classes_at_once=2),
    }


def data_of(name, images=IMAGES, labels=LABELS, *, rate=0.1, momentum=0.5):
    kind = DMData if name.startswith("dm") else DCData
    return kind(class_pool(images, labels, 3), ImageRates(jnp.asarray(rate, float), jnp.asarray(momentum, float)))


def variables_of(per_class=2):
    chosen = class_sample(np.random.default_rng(0), LABELS, [per_class] * 3)
    return CONTAINER.init(KEY, ImageStart(IMAGES[chosen], LABELS[chosen]))


@functools.partial(jax.jit, static_argnames="condenser")
def step_of(key, state, data, *, condenser):
    return condenser.step(key, state, data)


@pytest.fixture(params=["dsa", "dm_augmented"], name="name")
def _name(request):
    return request.param


def test_a_step_goes_down_the_slope_of_its_distance(name, x64):
    condenser, data = condensers()[name], data_of(name)
    variables = variables_of()
    assert variables.pixels.dtype == jnp.float64
    state = condenser.init(KEY, variables, data)
    after, _ = step_of(KEY, state, data, condenser=condenser)
    gradient = (variables.pixels - after.variables.pixels) / data.rates.learning_rate
    direction, h = jax.random.normal(KEY, gradient.shape), 1e-5

    def distance(shift):
        moved = state._replace(variables=variables._replace(pixels=variables.pixels + shift * direction))
        return step_of(KEY, moved, data, condenser=condenser)[1].distance

    np.testing.assert_allclose(jnp.vdot(gradient, direction), (distance(h) - distance(-h)) / (2 * h), rtol=1e-6)


def test_the_distance_vanishes_where_synthetic_images_are_the_real_ones(name):
    """Under any augmentation, too: both sides see the same draw."""
    condenser = condensers()[name]
    order = np.argsort(LABELS, kind="stable")
    variables = CONTAINER.init(KEY, ImageStart(IMAGES[order], LABELS[order]))
    data = data_of(name)
    state = condenser.init(KEY, variables, data)
    for seed in range(5):
        _, info = step_of(jax.random.key(seed), state, data, condenser=condenser)
        assert abs(info.distance) < 1e-3  # eps in the cosine, times 18 outputs
    moved = state._replace(variables=variables._replace(pixels=variables.pixels[::-1]))
    assert step_of(KEY, moved, data, condenser=condenser)[1].distance > 0.01


def test_the_distance_of_convolutions_counts_output_channels():
    """The golden numbers: nothing between equals, 2 per output between opposites, biases do not count."""
    rng = np.random.default_rng(0)
    a, b = ({"kernel": rng.normal(size=(3, 3, 2, 5)), "bias": rng.normal(size=5)} for _ in range(2))
    rows = [np.moveaxis(tree["kernel"], -1, 0).reshape(5, -1) for tree in (a, b)]
    cosines = [u @ v / (np.linalg.norm(u) * np.linalg.norm(v)) for u, v in zip(*rows, strict=True)]
    distance = jax.jit(gradient_distance)
    np.testing.assert_allclose(distance(a, b), 5 - sum(cosines), rtol=1e-5)
    assert abs(distance(a, a)) <= 5e-5
    np.testing.assert_allclose(distance(a, jax.tree.map(np.negative, a)), 10, rtol=1e-5)


def test_a_step_changes_pixels_and_what_its_state_names(name):
    condenser, data = condensers()[name], data_of(name)
    state = condenser.init(KEY, variables_of(), data)
    after, _ = step_of(KEY, state, data, condenser=condenser)
    np.testing.assert_array_equal(after.variables.labels, state.variables.labels)
    np.testing.assert_array_equal(after.variables.weights, state.variables.weights)
    assert np.any(after.variables.pixels != state.variables.pixels)
    resting, _ = step_of(KEY, state, data_of(name, rate=0.0), condenser=condenser)
    np.testing.assert_array_equal(resting.variables.pixels, state.variables.pixels)


def test_steps_with_momentum_are_those_of_pytorch(name):
    """m = 0.5 m + g, x = x - rate m; the momentum lives on when the network changes."""
    condenser, data = condensers()[name], data_of(name, momentum=0.5)
    state = condenser.init(KEY, variables_of(), data)
    velocity = 0.0
    for t in range(4):
        key = jax.random.fold_in(KEY, t)
        fresh = state._replace(opt_state=jax.tree.map(jnp.zeros_like, state.opt_state))
        plain, _ = step_of(key, fresh, data, condenser=condenser)
        velocity = 0.5 * velocity + (state.variables.pixels - plain.variables.pixels) / 0.1
        expected = state.variables.pixels - 0.1 * velocity
        state, _ = step_of(key, state, data, condenser=condenser)
        np.testing.assert_allclose(state.variables.pixels, expected, atol=1e-5)


def test_the_relay_trains_on_the_new_images_and_is_drawn_anew():
    condenser = dc(NET.problem, CONTAINER, NONE, outer_steps=3, inner_epochs=2)
    data = data_of("dc")
    state = condenser.init(KEY, variables_of(), data)
    slope = jax.jit(jax.grad(NET.problem.train_loss))
    relays = []
    for t in range(6):
        before, (state, _) = state, step_of(jax.random.fold_in(KEY, t), state, data, condenser=condenser)
        relays.append(state.relay)
        if t % 3 == 1:
            expected = before.relay
            for _ in range(2):
                gradient = slope(expected, state.hparams, CONTAINER.decode(state.variables))
                expected = jax.tree.map(lambda p, g: p - 0.01 * g, expected, gradient)
            jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), state.relay, expected)
    distances = [
        max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in itertools.pairwise(relays)
    ]
    # Within a round small steps, none in its last step; between rounds another network.
    assert distances[0] < 0.05
    assert distances[1] == 0.0
    assert distances[2] > 0.1


def test_classes_one_by_one_are_all_classes_at_once():
    state = condensers()["dm"].init(KEY, variables_of(), data_of("dm"))
    data = data_of("dm")
    results = [
        step_of(KEY, state, data, condenser=dm(NET.problem, NET.embed, CONTAINER, NONE, classes_at_once=count))
        for count in (None, 2)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), *results)


def test_mean_features_are_matched_class_by_class():
    condenser = condensers()["dm"]
    variables, data = variables_of(), data_of("dm")
    state = condenser.init(KEY, variables, data)
    _, info = step_of(KEY, state, data, condenser=condenser)
    params = NET.problem.init(jax.random.split(KEY, 4)[1], jnp.zeros(0))
    expected = 0.0
    for c in range(3):
        real, synthetic = (
            np.asarray(NET.embed(params, (), jnp.asarray(x, jnp.float32))).mean(0)
            for x in (IMAGES[np.arange(c, 30, 3)], variables.pixels[variables.labels == c])
        )
        expected += np.sum((real - synthetic) ** 2)
    np.testing.assert_allclose(info.distance, expected, rtol=1e-4)


def test_a_pool_draws_without_repeats_and_small_classes_give_what_they_have():
    labels = np.array([2] * 7 + [0] * 3 + [1] * 5)
    images = np.arange(15.0)[:, None, None, None] * np.ones((1, 2, 2, 1))
    pool = class_pool(images, labels, 3)
    draw = jax.jit(draw_per_class, static_argnums=2)
    seen = [set(), set(), set()]
    for seed in range(30):
        batch = draw(jax.random.key(seed), pool, 5)
        assert batch.inputs.shape == (3, 5, 2, 2, 1)
        np.testing.assert_array_equal(batch.weights.sum(1), [3, 5, 5])
        for c in range(3):
            chosen = np.asarray(batch.inputs[c, :, 0, 0, 0])[np.asarray(batch.weights[c]) > 0].astype(int)
            assert len(set(chosen)) == len(chosen)
            assert (labels[chosen] == c).all()
            seen[c] |= set(chosen)
    assert [len(one) for one in seen] == [3, 5, 7]
    assert draw(KEY, pool, 100).inputs.shape[1] == 7


def test_a_sample_of_classes_is_sorted_and_small_ones_give_all():
    chosen = class_sample(np.random.default_rng(0), LABELS, [4] * 3)
    np.testing.assert_array_equal(LABELS[chosen], np.repeat(np.arange(3), 4))
    assert len(set(chosen)) == 12

    np.testing.assert_array_equal(LABELS[class_sample(np.random.default_rng(0), LABELS, [1, 11, 2])].sum(), 10 + 4)


@pytest.mark.parametrize("name", ["dm", "dc"])
def test_classes_of_unequal_sizes_weigh_as_if_their_images_stood_twice(name, x64):
    """Means over a class do not see that all of its images are repeated; the slopes of the copies add up."""
    counts, options = (1, 2, 2), {"outer_steps": 1, "inner_epochs": 0}
    condenser = condensers()["dm"] if name == "dm" else dc(NET.problem, CONTAINER, NONE, **options)
    chosen = class_sample(np.random.default_rng(0), LABELS, counts)
    few = CONTAINER.init(KEY, ImageStart(IMAGES[chosen], LABELS[chosen]))
    twice = CONTAINER.init(KEY, ImageStart(IMAGES[np.r_[chosen[0], chosen]], LABELS[np.r_[chosen[0], chosen]]))
    moved, said = [], []
    for variables in (few, twice):
        table = class_batches.synthetic_table(np.asarray(variables.labels), 3)
        data = data_of(name)._replace(synthetic=table)
        after, info = step_of(KEY, condenser.init(KEY, variables, data), data, condenser=condenser)
        moved.append(np.asarray(after.variables.pixels - variables.pixels))
        said.append(info.distance)
    np.testing.assert_allclose(*said, rtol=1e-9)
    np.testing.assert_allclose(moved[0], [moved[1][:2].sum(0), *moved[1][2:]], rtol=1e-6, atol=1e-12)


def test_mistakes_are_one_clear_line():
    with pytest.raises(UserError, match=r"11 examples of class 0 are to be condensed, which has 10"):
        class_sample(np.random.default_rng(0), LABELS, [11] * 3)
    with pytest.raises(UserError, match=r"0 \.\.\. 1, found 0 \.\.\. 2"):
        class_pool(IMAGES, LABELS, 2)
    with pytest.raises(UserError, match="class 3 has no example"):
        class_pool(IMAGES, LABELS, 4)
    with pytest.raises(UserError, match="4 synthetic examples do not divide into 3"):
        class_batches.split_by_class(jnp.zeros((4, 2)), 3)
    with pytest.raises(UserError, match=r"'zeros'.*real, noise"):
        image_container("zeros")


def test_images_start_from_real_ones_or_from_noise():
    start = ImageStart(IMAGES[:6].astype(np.float32), np.eye(3)[LABELS[:6]])
    real, noise = (image_container(name).init(KEY, start) for name in ("real", "noise"))
    np.testing.assert_array_equal(CONTAINER.decode(real).inputs, start.images)
    np.testing.assert_allclose(jnp.std(noise.pixels), 1.0, atol=0.15)
    assert real.labels.dtype == real.pixels.dtype == jnp.float32
    assert list(learned_fields(real)) == ["pixels"]


def test_batches_are_equal_and_training_sees_augmented_images():
    assert even_batches(500, 256) == (2, 250)
    assert even_batches(100, 256) == (1, 100)
    assert augmented(NET.problem, None) is NET.problem
    perturbed = augmented(
        NET.problem._replace(perturb=lambda key, hparams, batch: batch._replace(weights=0)), AUGMENTATION
    )
    assert perturbed.perturb is not None
    batch = perturbed.perturb(KEY, jnp.zeros(0), CONTAINER.decode(variables_of()))
    assert np.any(batch.inputs != variables_of().pixels)
    assert batch.weights == 0


def test_equal_options_are_one_condenser():
    assert condensers()["dsa"] is condensers()["dsa"]
    assert dsa(NET.problem, CONTAINER, NONE) is dc(NET.problem, CONTAINER, NONE, augmentation=Augmentation())


@pytest.mark.parametrize("name", ["dc", "dm"])
def test_steps_bring_the_distance_down(name):
    condenser = condensers()[name]
    noise = image_container("noise").init(KEY, ImageStart(IMAGES[:6], np.arange(6) // 2))
    data = data_of(name, rate=0.5)
    means = []
    run(
        KEY, condenser, condenser.init(KEY, noise, data), data, steps=90, every=30,
        report=lambda step, state, infos: means.append(float(infos.distance.mean())),
    )  # fmt: skip
    assert means[2] < 0.8 * means[0]


@pytest.mark.parametrize("name", ["dc", "dsa", "dm", "mtt"])
def test_the_networks_of_the_library_go_with_every_condenser(name):
    """Traced only: the ConvNet at its full size, on 32 x 32 pixels."""
    problem, embed = image_problem("convnet", (32, 32, 3), 10), image_embedding("convnet", 10)
    shapes = functools.partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    labels = np.repeat(np.arange(10), 2)
    start = ImageStart(np.zeros((20, 32, 32, 3)), labels)
    pool, rates = class_pool(start.images, labels, 10), ImageRates(jnp.float32(1.0), jnp.float32(0.5))
    condenser = {
        "dc": lambda: dc(problem, CONTAINER, NONE),
        "dsa": lambda: dsa(problem, CONTAINER, NONE),
        "dm": lambda: dm(problem, embed, CONTAINER, NONE, augmentation=Augmentation()),
        "mtt": lambda: mtt(problem, CONTAINER, student_steps=2, max_start=1, augmentation=Augmentation()),
    }[name]()
    if name == "mtt":
        one = jax.ShapeDtypeStruct((), jnp.float32)
        experts = jax.ShapeDtypeStruct((2, 3, 320_010), jnp.float32)
        data = MTTData(experts, jnp.zeros(0), rates, one, one, one)
    else:
        data = DMData(pool, rates) if name == "dm" else DCData(pool, rates)
    state = jax.eval_shape(condenser.init, KEY, CONTAINER.init(KEY, start), data)
    after, info = jax.eval_shape(condenser.step, KEY, state, data)
    assert shapes(after) == shapes(state)
    assert info.distance.shape == ()
