"""Double-end pruning: margins of nets that can be computed by hand, who goes and who stays, and what is left."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.condense.pruning import Judge, area_under_margin, kept_places, margin, prune, validation_accuracy
from hcdc_jax.containers import (
    ImageStart,
    MemoryShapes,
    graph_container,
    hmn_container,
    image_container,
    ledger,
    multi_formation_container,
    planned_ledger,
    stored_scalars,
)
from hcdc_jax.containers.graph import fixed
from hcdc_jax.errors import UserError
from hcdc_jax.metrics import spearman
from hcdc_jax.models import image_problem
from hcdc_jax.problem import Problem, mean_loss
from hcdc_jax.training.train import Training, train
from hcdc_jax.types import Batch

KEY = jax.random.key(4)
SHAPE = (4, 4, 1)
SHAPES = MemoryShapes(dataset=1, extracted=1, per_class=1, instance=1, width=2, side=2)
CONTAINERS = {
    "pixels": image_container(),
    "multi_formation": multi_formation_container(SHAPE),
    "hmn": hmn_container(SHAPE, 2, SHAPES),
}
IMAGES = np.random.default_rng(0).normal(size=(10, *SHAPE)).astype(np.float32)
LABELS = np.repeat(np.arange(2, dtype=np.int32), 5)
SCORES = np.array([3.0, 1.0, 5.0, 2.0, 4.0, 0.1, 0.5, 0.2, 0.4, 0.3])


def linear(start: float = 0.0) -> Problem:
    """Logits (s, -s) with s the weighted sum of pixels; all weights start at `start`."""

    def apply(params, hparams, inputs):
        signal = inputs.reshape(len(inputs), -1) @ params
        return jnp.stack([signal, -signal], 1)

    def loss(params, hparams, batch):
        return mean_loss(apply(params, hparams, batch.inputs), batch)

    return Problem(lambda key, hparams: jnp.full(16, start), apply, loss, loss)


def judge_of(problem, *, rate=0.1, steps=3, batch_size=None, inits=2):
    return Judge(problem, (), Training(jnp.float32(rate), "sgd", steps, batch_size=batch_size), inits)


def test_margins_are_those_of_the_label_over_the_next():
    logits = jnp.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [-1.0, -1.0, -4.0]])
    np.testing.assert_allclose(margin(logits, jnp.array([0, 1, 0])), [1.0, -2.0, 0.0])
    np.testing.assert_allclose(margin(logits, jax.nn.one_hot(jnp.array([0, 1, 0]), 3)), [1.0, -2.0, 0.0])


def batch_of(images=IMAGES, labels=LABELS):
    return Batch(jnp.asarray(images), jnp.asarray(labels), jnp.ones(len(labels)))


def test_the_area_under_a_constant_margin_is_the_margin():
    signs = np.where(LABELS == 0, 1.0, -1.0)
    expected = 2 * 0.5 * IMAGES.sum((1, 2, 3)) * signs
    np.testing.assert_allclose(area_under_margin(KEY, batch_of(), judge_of(linear(0.5), rate=0.0)), expected, rtol=1e-5)


def test_margins_are_averaged_over_epochs_of_training():
    found = area_under_margin(KEY, batch_of(), judge_of(linear(), inits=1))
    weights, flat, signs, total = np.zeros(16), IMAGES.reshape(10, -1), np.where(LABELS == 0, 1.0, -1.0), 0.0
    for _ in range(3):
        pull = signs / (1 + np.exp(2 * signs * (flat @ weights)))  # minus the slope of the loss in s, halved
        weights = weights + 0.1 * 2 * (pull[:, None] * flat).mean(0)
        total = total + 2 * signs * (flat @ weights)
    np.testing.assert_allclose(found, total / 3, rtol=1e-4)


def test_an_epoch_is_as_many_steps_as_there_are_batches():
    judge = judge_of(linear(), batch_size=5, steps=2, inits=1)
    params, _ = train(jax.random.split(KEY, 1)[0], judge.problem, (), batch_of(), judge.training)
    expected = margin(judge.problem.apply(params, (), batch_of().inputs), batch_of().labels)
    np.testing.assert_allclose(area_under_margin(KEY, batch_of(), judge), expected, rtol=1e-5)


BATCH_NORM = image_problem("convnet", (8, 8, 1), 3, width=4, depth=1, norm="batch")


def noisy_classes(per_class: int) -> Batch:
    """Images of three classes, sorted by class: one of three patterns, each in noise and at a brightness of its own."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(3, dtype=np.int32), per_class)
    images = rng.normal(size=(3, 8, 8, 1))[labels] + 1.5 * rng.normal(size=(len(labels), 8, 8, 1))
    return batch_of((images + 2 * rng.normal(size=(len(labels), 1, 1, 1))).astype(np.float32), labels)


def margins_epoch_by_epoch(batch: Batch, judge: Judge, per_epoch: int) -> np.ndarray:
    """Of one network: trained anew for each number of epochs, then asked about all images at once."""
    total, key, labels = 0.0, jax.random.split(KEY, 1)[0], np.asarray(batch.labels)
    epochs = judge.training.steps // per_epoch
    for epoch in range(1, epochs + 1):
        training = dataclasses.replace(judge.training, steps=epoch * per_epoch)
        params, _ = train(key, judge.problem, (), batch, training)
        logits = np.asarray(judge.problem.apply(params, (), batch.inputs))
        own = logits[np.arange(len(labels)), labels]
        others = np.where(np.arange(3) == labels[:, None], -np.inf, logits).max(1)
        total = total + own - others
    return total / epochs


def test_under_batch_norm_margins_are_those_of_the_whole_batch():
    batch, judge = noisy_classes(20), judge_of(BATCH_NORM, steps=12, batch_size=15, inits=1)
    expected = margins_epoch_by_epoch(batch, judge, per_epoch=4)
    np.testing.assert_allclose(area_under_margin(KEY, batch, judge), expected, rtol=1e-3, atol=1e-4)


def test_under_batch_norm_many_images_are_asked_about_in_parts_that_are_like_the_whole():
    """300 images sorted by class: parts in that order would be of one class or two."""
    batch, judge = noisy_classes(100), judge_of(BATCH_NORM, steps=10, batch_size=60, inits=1)
    expected = margins_epoch_by_epoch(batch, judge, per_epoch=5)
    found = np.asarray(area_under_margin(KEY, batch, judge))
    assert spearman(found, expected) > 0.99
    assert np.abs(found - expected).max() < 0.2 * np.ptp(expected)


def test_under_batch_norm_validation_is_that_of_whole_batches():
    """Without its batch an image has lost its brightness, by which alone the classes differ."""

    def apply(params, hparams, inputs):
        signal = (inputs - inputs.mean(0, keepdims=True)).mean((1, 2, 3)) * params
        return jnp.stack([signal, -signal], 1)

    def loss(params, hparams, batch):
        return mean_loss(apply(params, hparams, batch.inputs), batch)

    problem = Problem(lambda key, hparams: jnp.ones(()), apply, loss, loss)
    labels = np.repeat(np.arange(2), 200)
    bright = batch_of(np.where(labels == 0, 3.0, 1.0)[:, None, None, None] * np.ones((400, *SHAPE)), labels)
    places = np.arange(0, 400, 20)
    assert validation_accuracy(KEY, bright, places, bright, judge_of(problem)) == 1.0


def test_who_goes_is_what_the_strategy_says():
    """Of each class two: by score class 0 is 1, 3, 0, 4, 2 and class 1 is 5, 7, 9, 8, 6."""
    assert kept_places(SCORES, LABELS, 2, 0.0).tolist() == [0, 1, 3, 5, 7, 9], "the easy go"
    assert kept_places(SCORES, LABELS, 2, 1.0).tolist() == [0, 2, 4, 6, 8, 9], "the hard go"
    assert kept_places(SCORES, LABELS, 2, 0.5).tolist() == [0, 3, 4, 7, 8, 9], "one of each"
    assert kept_places(SCORES, LABELS, 2, 0.49).tolist() == [0, 1, 3, 5, 7, 9], "rounded down"
    assert kept_places(SCORES, LABELS, 0, 0.5).tolist() == list(range(10))
    many = np.random.default_rng(0).normal(size=101)
    assert np.argmin(many) not in kept_places(many, np.zeros(101, int), 100, 0.29)
    low = 101 - np.argsort(np.argsort(many))[kept_places(many, np.zeros(101, int), 100, 0.29)][0]
    assert low == 101 - 29


@pytest.fixture(params=CONTAINERS, name="container")
def _container(request):
    return CONTAINERS[request.param]


def test_what_is_left_are_the_images_that_stayed(container):
    variables = container.init(KEY, ImageStart(IMAGES, LABELS))
    pruned = prune(KEY, container, variables, 2, "hard_only", judge=judge_of(linear()))
    whole, left = (jax.jit(container.decode)(v) for v in (variables, pruned.variables))
    np.testing.assert_allclose(left.inputs, whole.inputs[pruned.kept], atol=1e-6)
    np.testing.assert_array_equal(left.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(pruned.kept, kept_places(pruned.margins, LABELS, 2, 1.0))
    if container is CONTAINERS["hmn"]:
        assert ledger(pruned.variables) == planned_ledger(SHAPE, 2, SHAPES, 3)
    else:
        kept, before = (sum(stored_scalars(v).values()) for v in (pruned.variables, variables))
        assert kept * 10 == before * 6


def test_strategies_are_the_ends_they_are_named_after():
    container = CONTAINERS["pixels"]
    variables = container.init(KEY, ImageStart(IMAGES, LABELS))
    easy, hard, *drawn = (
        prune(key, container, variables, 1, strategy, judge=judge_of(linear()))
        for key, strategy in [
            (KEY, "easy_only"),
            (KEY, "hard_only"),
            *((jax.random.key(i), "random") for i in range(9)),
        ]
    )
    gone_easy, gone_hard = (set(range(10)) - set(pruned.kept) for pruned in (easy, hard))
    for own in (range(5), range(5, 10)):
        own = np.array(own)
        assert own[easy.margins[own].argmax()] in gone_easy
        assert own[hard.margins[own].argmin()] in gone_hard
    assert all(np.bincount(LABELS[each.kept]).tolist() == [4, 4] for each in drawn)
    assert len({tuple(each.kept) for each in drawn}) > 3


def test_the_share_of_the_hard_end_is_chosen_on_validation_images():
    """Images that are loud and wrong are learned first, which makes them easy; without them the others are right."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(2), 6)
    images = np.where(labels == 0, 1.0, -1.0)[:, None, None, None] + 0.1 * rng.normal(size=(12, *SHAPE))
    images[[0, 1, 6, 7]] *= -20.0
    container = CONTAINERS["pixels"]
    variables = container.init(KEY, ImageStart(images, labels))
    real = batch_of(np.where(LABELS == 0, 1.0, -1.0)[:, None, None, None] + 0.0 * IMAGES)
    judge = judge_of(linear(), rate=0.01)
    pruned = prune(KEY, container, variables, 2, judge=judge, validation=real, betas=(1.0, 0.5, 0.0))
    assert pruned.beta == 0.0
    assert pruned.accuracies.tolist() == [0.0, 0.0, 1.0]
    np.testing.assert_array_equal(pruned.kept, [2, 3, 4, 5, 8, 9, 10, 11])


def test_what_cannot_be_pruned_is_told_in_one_line():
    container, judge = CONTAINERS["pixels"], judge_of(linear())
    variables = container.init(KEY, ImageStart(IMAGES, LABELS))
    with pytest.raises(UserError, match="5 images of each class cannot go where a class has 5; drop at most 4"):
        prune(KEY, container, variables, 5, "hard_only", judge=judge)
    with pytest.raises(UserError, match="unknown pruning strategy 'both'; known are double_end"):
        prune(KEY, container, variables, 1, "both", judge=judge)
    with pytest.raises(UserError, match="chooses between the ends on real validation images"):
        prune(KEY, container, variables, 1, judge=judge)
    with pytest.raises(UserError, match="none can be removed"):
        prune(KEY, graph_container(fixed(), 2, "laplacian"), None, 1, "random", judge=judge)
