"""Labels of teachers: their losses against NumPy, who gives them, and the views that they are given to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.batches.augment import parse, views
from hcdc_jax.containers import ImageStart, ViewStart, image_container, stored_scalars, view_container
from hcdc_jax.models import image_problem
from hcdc_jax.training.soft_labels import SoftLoss, logits_of, soft_label_loss, taught_labels
from hcdc_jax.types import Batch
from tests.small_images import NO_HPARAMS, blobs, conv_net

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
OURS, THEIRS = RNG.normal(size=(2, 5, 3))
WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0, 1.0])


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def taught(logits, weights=WEIGHTS):
    return Batch(jnp.zeros((len(logits), 1)), jnp.asarray(softmax(logits)), jnp.asarray(weights))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_kl_is_that_of_softened_probabilities(temperature):
    p, q = softmax(THEIRS / temperature), softmax(OURS / temperature)
    expected = temperature**2 * np.average((p * np.log(p / q)).sum(1), weights=WEIGHTS)
    found = soft_label_loss(jnp.asarray(OURS), taught(THEIRS), SoftLoss("kl", temperature))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_logit_mse_is_that_of_centred_logits():
    differences = (OURS - OURS.mean(1, keepdims=True)) - (THEIRS - THEIRS.mean(1, keepdims=True))
    expected = np.average((differences**2).mean(1), weights=WEIGHTS)
    found = soft_label_loss(jnp.asarray(OURS), taught(THEIRS), SoftLoss("logit_mse"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["kl", "logit_mse"])
def test_who_agrees_has_nothing_left_to_learn(name):
    loss, slope = jax.value_and_grad(soft_label_loss)(jnp.asarray(THEIRS + 7), taught(THEIRS), SoftLoss(name))
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_certainty_leaves_losses_finite():
    certain = Batch(jnp.zeros((1, 1)), jnp.array([[1.0, 0.0, 0.0]]), jnp.ones(1))
    for name in ("kl", "logit_mse"):
        loss, slope = jax.value_and_grad(soft_label_loss)(jnp.array([[0.1, 0.2, 0.3]]), certain, SoftLoss(name))
        assert np.isfinite(loss)
        assert np.isfinite(slope).all()
    np.testing.assert_allclose(softmax(np.asarray(logits_of(certain.labels))), certain.labels, atol=1e-6)


def test_teachers_speak_with_the_mean_of_their_logits():
    problem, images = conv_net().problem, jnp.asarray(blobs(6)[0], jnp.float32)
    params = jax.vmap(lambda key: problem.init(key, jnp.zeros(0)))(jax.random.split(KEY, 3))
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(3)]
    logits = np.mean([np.asarray(problem.apply(one, jnp.zeros(0), images)) for one in each], 0)
    found = taught_labels(problem, params, jnp.zeros((3, 0)), images)
    np.testing.assert_allclose(found, softmax(logits), rtol=1e-4, atol=1e-6)


def test_a_network_learns_labels_of_teachers_by_their_loss_and_classes_by_cross_entropy():
    soft = SoftLoss("kl", 3.0)
    plain, own = (image_problem("mlp", (2, 2, 1), 3, width=4, soft_loss=loss) for loss in (None, soft))
    params = plain.init(KEY, NO_HPARAMS)
    inputs = jnp.asarray(RNG.normal(size=(5, 2, 2, 1)), jnp.float32)
    classes = Batch(inputs, jnp.array([0, 1, 2, 0, 1]), jnp.ones(5))
    np.testing.assert_array_equal(own.train_loss(params, (), classes), plain.train_loss(params, (), classes))
    probabilities = classes._replace(labels=jnp.asarray(softmax(THEIRS), jnp.float32))
    decay = plain.train_loss(params, (), probabilities) - plain.val_loss(params, (), probabilities)
    expected = soft_label_loss(plain.apply(params, (), inputs), probabilities, soft) + decay
    np.testing.assert_allclose(own.train_loss(params, (), probabilities), expected, rtol=1e-5)
    np.testing.assert_array_equal(own.val_loss(params, (), probabilities), plain.val_loss(params, (), probabilities))


def test_views_are_the_images_and_then_others():
    images = jnp.asarray(blobs(4)[0], jnp.float32)
    found = views(KEY, parse("crop_flip"), images, 3)
    np.testing.assert_array_equal(found[0], images)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[one] - found[other]).max() > 0
    np.testing.assert_array_equal(views(KEY, parse("crop_flip"), images, 2), found[:2])  # more views change no view


def test_a_container_of_views_stores_the_images_once():
    images, classes = blobs(4)
    plain, augmentation = image_container(), parse("crop_flip")
    inside = plain.init(KEY, ImageStart(images.astype(np.float32), classes))
    labels = softmax(RNG.normal(size=(3, 4, 3))).astype(np.float32)
    container = view_container(plain, augmentation)
    variables = container.init(KEY, ViewStart(inside, labels, jax.random.key(5)))
    batch = container.decode(variables)
    expected = views(jax.random.key(5), augmentation, inside.pixels, 3)
    np.testing.assert_array_equal(batch.inputs, expected.reshape(12, 6, 6, 1))
    np.testing.assert_array_equal(batch.labels, labels.reshape(12, 3))
    np.testing.assert_array_equal(batch.weights, np.ones(12))
    scalars = stored_scalars(variables)
    assert scalars == {"images": 4 * 36 + 4 + 4, "labels": 3 * 4 * 3, "key": 2}
