"""KIP: its kernels against networks of finite width, its regression against NumPy, its steps by what they learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.condense import run
from hcdc_jax.condense.base import learned_fields
from hcdc_jax.condense.class_batches import class_pool, class_sample
from hcdc_jax.condense.kernels import always, convolutional, fully_connected, random_features
from hcdc_jax.condense.kip import KIPData, centred_labels, kip, regression_loss, ridge_regression
from hcdc_jax.containers import ImageStart, image_container
from hcdc_jax.errors import UserError
from hcdc_jax.models import image_embedding, image_problem
from hcdc_jax.types import Batch
from tests.errors import error_of
from tests.small_images import blobs

IMAGES, LABELS = blobs(60, size=4)
CONTAINER = image_container()
KERNEL = fully_connected(1)
KEY = jax.random.key(0)


def wide_network(key, x, depth, width, weight_std=2.0**0.5, bias_std=0.1):
    """(outputs, their tangent kernel) of a random ReLU network in NTK parametrisation."""
    sizes = [x.shape[1]] + [width] * depth + [1]
    keys = jax.random.split(key, depth + 1)
    params = [
        (jax.random.normal(k, (n, m)), jax.random.normal(jax.random.fold_in(k, 1), (m,)))
        for k, n, m in zip(keys, sizes, sizes[1:], strict=False)
    ]

    def output(params, x):
        for i, (weights, bias) in enumerate(params):
            x = x if i == 0 else jax.nn.relu(x)
            x = weight_std * len(weights) ** -0.5 * (x @ weights) + bias_std * bias
        return x[0]

    slopes = jax.vmap(lambda one: jax.grad(output)(params, one))(x)
    flat = [leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(slopes)]
    return jax.vmap(lambda one: output(params, one))(x), sum(leaf @ leaf.T for leaf in flat)


@pytest.mark.parametrize("depth", [1, 2])
def test_kernels_are_those_of_wide_networks(depth):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    sampled = jax.jit(lambda key: wide_network(key, x, depth, 400)[1])
    tangent = np.mean([sampled(key) for key in jax.random.split(KEY, 100)], 0)
    exact = fully_connected(depth)(x, x)
    np.testing.assert_allclose(exact, tangent, atol=0.06 * float(jnp.trace(exact)) / 3)

    @jax.jit
    @jax.vmap
    def narrow(key):
        return wide_network(key, x, depth, 50)[0]

    outputs = np.asarray(narrow(jax.random.split(KEY, 4000)))
    covariance = fully_connected(depth, kind="nngp")(x, x)
    np.testing.assert_allclose(covariance, outputs.T @ outputs / 4000, atol=0.1 * float(jnp.trace(covariance)) / 3)


def test_kernels_have_their_closed_form_on_the_diagonal_and_at_right_angles(x64):
    x = jnp.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    for depth in (0, 1, 2):
        # Without biases and with weights of variance 2 every layer keeps the variance 2 |x|^2 / d.
        tangent = fully_connected(depth, bias_std=0.0)(x, x)
        np.testing.assert_allclose(jnp.diag(tangent), (depth + 1) * jnp.array([9.0, 4.0, 1.0]), rtol=1e-12)
    nngp = fully_connected(1, bias_std=0.0, kind="nngp")(x, x)
    np.testing.assert_allclose(nngp[0, 1], 3 * 2 / np.pi, rtol=1e-12)
    np.testing.assert_allclose(nngp[0, 2], 0, atol=1e-12)
    with pytest.raises(UserError, match="'rbf'"):
        fully_connected(1, kind="rbf")


def wide_convnet(key, images, width, weight_std=2.0**0.5, bias_std=0.1):
    """Tangent kernel [n, n] of a random ConvNet of one block in NTK parametrisation."""
    n, side, _, channels = images.shape
    keys, count = jax.random.split(key, 4), width * (side // 2) ** 2
    params = [
        jax.random.normal(keys[0], (3, 3, channels, width)), jax.random.normal(keys[1], (width,)),
        jax.random.normal(keys[2], (count,)), jax.random.normal(keys[3]),
    ]  # fmt: skip

    def output(params, image):
        filters = weight_std * (9 * channels) ** -0.5 * params[0]
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(image[None], filters, (1, 1), "SAME", dimension_numbers=layout)[0]
        x = jax.nn.relu(x + bias_std * params[1][None, None]).reshape(side // 2, 2, side // 2, 2, width).mean((1, 3))
        return weight_std * count**-0.5 * jnp.vdot(params[2], x.ravel()) + bias_std * params[3]

    slopes = [leaf.reshape(n, -1) for leaf in jax.vmap(lambda image: jax.grad(output)(params, image))(images)]
    return sum(leaf @ leaf.T for leaf in slopes)


def test_the_convolutional_kernel_is_that_of_wide_convnets():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 2)), jnp.float32)
    sampled = jax.jit(lambda key: wide_convnet(key, images, 100))
    tangent = np.mean([sampled(key) for key in jax.random.split(KEY, 100)], 0)
    exact = convolutional(1)(images, images)
    np.testing.assert_allclose(exact, tangent, atol=0.03 * float(jnp.trace(exact)) / 3)


def test_the_convolutional_kernel_is_symmetric_definite_and_differentiable(x64):
    images = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5, 5, 1)))
    direction, kernel, h = jax.random.normal(KEY, images.shape), jax.jit(convolutional(2)), 1e-5
    gram = kernel(images, images)
    np.testing.assert_allclose(gram, gram.T, rtol=1e-12)
    assert np.linalg.eigvalsh(gram).min() > 0
    np.testing.assert_allclose(kernel(images, images[1:3]), gram[:, 1:3], rtol=1e-12)

    def total(images):  # of two different sets: the kernel of an image with itself has a kink
        return (kernel(images[:2], images[2:]) ** 2).sum()

    difference = (total(images + h * direction) - total(images - h * direction)) / (2 * h)
    np.testing.assert_allclose(jnp.vdot(jax.grad(total)(images), direction), difference, rtol=1e-6)
    assert "lower kip.depth to 2" in error_of(lambda: convolutional(3)(images, images))


def test_random_features_are_the_mean_over_networks_drawn_by_the_key():
    shape = IMAGES.shape[1:]
    problem, embed = image_problem("mlp", shape, 3, width=8), image_embedding("mlp", 3, width=8)
    draw = random_features(problem, embed, (), 2)
    images = jnp.asarray(IMAGES[:5])
    features = [np.asarray(embed(problem.init(key, None), None, images)) for key in jax.random.split(KEY, 2)]
    expected = sum(part @ part.T for part in features) / sum(part.shape[1] for part in features)
    np.testing.assert_allclose(draw(KEY)(images, images), expected, rtol=1e-5)
    assert not np.allclose(draw(jax.random.key(1))(images, images), expected, rtol=1e-2)


def batches():
    chosen = class_sample(np.random.default_rng(1), LABELS, [2] * 3)
    support = CONTAINER.decode(CONTAINER.init(KEY, ImageStart(IMAGES[chosen], LABELS[chosen])))
    real = Batch(jnp.asarray(IMAGES, float), jnp.asarray(LABELS), jnp.ones(len(LABELS), float))
    return support, real


def test_the_slope_of_the_loss_is_that_of_finite_differences(x64):
    support, real = batches()
    direction, h = jax.random.normal(KEY, support.inputs.shape), 1e-5

    @jax.jit
    def loss(pixels):
        return regression_loss(KERNEL, support._replace(inputs=pixels), real, 1e-6, 3)[0]

    slope = jnp.vdot(jax.jit(jax.grad(loss))(support.inputs), direction)
    difference = (loss(support.inputs + h * direction) - loss(support.inputs - h * direction)) / (2 * h)
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


def test_slopes_are_finite_where_two_images_are_equal():
    support, real = batches()
    twins = support._replace(inputs=support.inputs.at[1].set(support.inputs[0]))
    slope = jax.jit(jax.grad(lambda x: regression_loss(KERNEL, twins._replace(inputs=x), real, 1e-2, 3)[0]))(
        twins.inputs
    )
    assert np.isfinite(slope).all()


def test_the_regression_is_that_of_numpy_and_weight_0_leaves_out(x64):
    support, real = batches()
    targets = np.eye(3)[np.asarray(support.labels)] - 1 / 3
    np.testing.assert_allclose(centred_labels(support.labels, 3, float), targets)
    gram, cross = np.asarray(KERNEL(support.inputs, support.inputs)), np.asarray(KERNEL(real.inputs, support.inputs))
    damped = gram + 0.1 * np.trace(gram) / 6 * np.eye(6)
    predicted = ridge_regression(KERNEL, support.inputs, jnp.asarray(targets), real.inputs, 0.1)
    np.testing.assert_allclose(predicted, cross @ np.linalg.inv(damped) @ targets, rtol=1e-9)
    loss, accuracy = regression_loss(KERNEL, support, real, 0.1, 3)
    np.testing.assert_allclose(loss, 0.5 * np.mean((predicted - np.eye(3)[LABELS] + 1 / 3) ** 2), rtol=1e-9)
    np.testing.assert_allclose(accuracy, np.mean(np.argmax(predicted, 1) == LABELS))
    kept = np.array([1.0, 1, 0, 1, 1, 1])
    without = ridge_regression(KERNEL, support.inputs, jnp.asarray(targets), real.inputs, 1e-9, jnp.asarray(kept))
    index = np.flatnonzero(kept)
    alone = ridge_regression(KERNEL, support.inputs[index], jnp.asarray(targets[index]), real.inputs, 1e-9)
    np.testing.assert_allclose(without, alone, rtol=1e-5, atol=1e-7)


def test_an_image_set_predicts_its_own_labels(x64):
    support, _ = batches()
    targets = centred_labels(support.labels, 3, float)
    np.testing.assert_allclose(
        ridge_regression(KERNEL, support.inputs, targets, support.inputs, 1e-12), targets, atol=1e-8
    )


@pytest.mark.parametrize("learn_labels", [False, True])
def test_steps_teach_the_images_and_labels_only_where_asked(learn_labels):
    condenser = kip(always(KERNEL), CONTAINER, num_classes=3, batch_size=30, learn_labels=learn_labels)
    data = KIPData(class_pool(IMAGES, LABELS, 3), jnp.float32(0.1), jnp.float32(1e-3))
    labels = np.eye(3, dtype=np.float32)
    noise = image_container("noise").init(KEY, ImageStart(IMAGES[:3].astype(np.float32), labels))
    assert list(learned_fields(noise)) == ["pixels"]
    infos = []
    state = run(
        KEY, condenser, condenser.init(KEY, noise, data), data, steps=60, every=20,
        report=lambda step, state, info: infos.append(jax.tree.map(np.mean, info)),
    )  # fmt: skip
    assert infos[-1].distance < 0.5 * infos[0].distance
    assert infos[-1].accuracy > infos[0].accuracy
    assert bool(np.any(state.variables.labels != labels)) is learn_labels
    np.testing.assert_array_equal(state.variables.weights, noise.weights)


def test_adam_moves_every_pixel_by_its_rate_at_first():
    condenser = kip(always(KERNEL), CONTAINER, num_classes=3, batch_size=30)
    variables = CONTAINER.init(KEY, ImageStart(IMAGES[:3], LABELS[:3]))
    data = KIPData(class_pool(IMAGES, LABELS, 3), jnp.float32(0.04), jnp.float32(1e-3))
    state, _ = jax.jit(condenser.step)(KEY, condenser.init(KEY, variables, data), data)
    np.testing.assert_allclose(jnp.abs(state.variables.pixels - variables.pixels), 0.04, rtol=1e-2)
    assert kip(always(KERNEL), CONTAINER, num_classes=3) is kip(always(fully_connected(1)), CONTAINER, num_classes=3)
