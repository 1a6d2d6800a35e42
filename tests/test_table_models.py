"""Networks on rows of tables, for classes and for amounts, against their formulas in NumPy."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import evaluate, spaces
from hcdc_jax.data.table_sets import table
from hcdc_jax.models import ImageSetting, image_problem, table_embedding, table_problem
from hcdc_jax.problem import accuracy, loss_and_accuracy
from hcdc_jax.spaces.training import without_implicit_hypergradient
from hcdc_jax.training.soft_labels import SoftLoss
from hcdc_jax.training.train import Training
from hcdc_jax.types import Batch
from tests.errors import error_of

KEY = jax.random.key(0)
ROWS = jax.random.normal(KEY, (6, 4))
WEIGHTS = jnp.arange(1.0, 7.0)
CLASSES = Batch(ROWS, jnp.arange(6) % 3, WEIGHTS)
AMOUNTS = Batch(ROWS, jnp.linspace(-1, 1, 6), WEIGHTS)
NO_HPARAMS = jnp.zeros(0)


def reading(*names):
    return lambda hparams: ImageSetting(**dict(zip(names, hparams, strict=True)))


def params_of(problem, hparams=NO_HPARAMS):
    return jax.jit(problem.init)(jax.random.key(1), hparams)


def dense(layer, inputs):
    return inputs @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def normed(layer, stream):
    centred = stream - stream.mean(1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return normal * np.asarray(layer["scale"]).reshape(-1) + np.asarray(layer["bias"]).reshape(-1)


@pytest.mark.parametrize("num_classes", [3, None])
def test_the_residual_network_is_its_formula(num_classes):
    problem = table_problem("residual_mlp", 4, num_classes, width=5, depth=2)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params_of(problem))  # no scale is 1, no shift 0
    stream = dense(params["Dense_0"], np.asarray(ROWS, np.float64))
    for block in range(2):
        hidden = np.maximum(dense(params[f"Dense_{2 * block + 1}"], normed(params[f"Norm_{block}"], stream)), 0)
        assert hidden.shape == (6, 10)
        stream = stream + dense(params[f"Dense_{2 * block + 2}"], hidden)
    features = np.maximum(normed(params["Norm_2"], stream), 0)
    expected = dense(params["Head_0"]["Dense_0"], features)
    assert expected.shape == (6, num_classes or 1)
    np.testing.assert_allclose(problem.apply(params, NO_HPARAMS, ROWS), expected, rtol=1e-4, atol=1e-5)
    embed = table_embedding("residual_mlp", num_classes, width=5, depth=2)
    np.testing.assert_allclose(embed(params, NO_HPARAMS, ROWS), features, rtol=1e-4, atol=1e-5)


def test_amounts_are_learned_by_squared_errors_and_have_no_accuracy():
    problem = table_problem("mlp", 4, None, width=5, weight_decay=0.01)
    params = params_of(problem)
    outputs = np.asarray(problem.apply(params, NO_HPARAMS, ROWS), np.float64)[:, 0]
    expected = np.average((outputs - np.asarray(AMOUNTS.labels)) ** 2, weights=np.asarray(WEIGHTS))
    loss, right = loss_and_accuracy(problem, params, NO_HPARAMS, AMOUNTS)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert np.isnan(right)
    assert np.isnan(accuracy(problem, params, NO_HPARAMS, AMOUNTS))
    penalty = 0.01 * sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(problem.train_loss(params, NO_HPARAMS, AMOUNTS), expected + penalty, rtol=1e-5)


def test_smoothing_shrinks_amounts_in_training_alone():
    problem = table_problem("mlp", 4, None, width=5, weight_decay=0.0, read=reading("label_smoothing"))
    hparams = jnp.array([0.3])
    params = params_of(problem, hparams)
    shrunk = AMOUNTS._replace(labels=0.7 * AMOUNTS.labels)
    np.testing.assert_allclose(
        problem.train_loss(params, hparams, AMOUNTS), problem.val_loss(params, hparams, shrunk), rtol=1e-6
    )


def test_mixup_mixes_amounts():
    problem = table_problem("mlp", 4, None, width=5, read=reading("mixup"))
    labels = ROWS.sum(1)  # linear in the row, and so it stays
    mixed = problem.perturb(KEY, jnp.array([0.8]), Batch(ROWS, labels, jnp.ones(6)))
    assert not np.allclose(mixed.labels, labels)
    np.testing.assert_allclose(mixed.labels, mixed.inputs.sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_dropout_is_the_mean_over_all_masks(num_classes, x64):
    """Exactly so for squared errors; to second order, so for small logits, under the cross-entropy."""
    rate, labels = 0.4, np.asarray((AMOUNTS if num_classes is None else CLASSES).labels)
    problem = table_problem("mlp", 4, num_classes, width=5, weight_decay=0.0, read=reading("dropout"))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), params_of(problem, jnp.zeros(1)))
    params["Head_0"] = jax.tree.map(lambda leaf: 0.05 * leaf, params["Head_0"])
    batch = Batch(jnp.asarray(ROWS, float), jnp.asarray(labels), jnp.asarray(WEIGHTS, float))
    features = np.asarray(table_embedding("mlp", num_classes, width=5)(params, NO_HPARAMS, batch.inputs))

    def loss_at(masked):
        outputs = dense(params["Head_0"]["Dense_0"], masked)
        if num_classes is None:
            return np.average((outputs[:, 0] - labels) ** 2, weights=np.asarray(WEIGHTS))
        logs = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
        return -np.average(logs[np.arange(6), labels], weights=np.asarray(WEIGHTS))

    expected = 0.0
    for mask in itertools.product([0, 1], repeat=5):
        chance = np.prod([1 - rate if kept else rate for kept in mask])
        expected += chance * loss_at(features * mask / (1 - rate))
    train_loss = jax.jit(problem.train_loss)
    without, dropped = (train_loss(params, jnp.array([p]), batch) for p in (0.0, rate))
    np.testing.assert_allclose(without, loss_at(features), rtol=1e-6)
    np.testing.assert_allclose(
        dropped - without, expected - loss_at(features), rtol=1e-5 if num_classes is None else 0.03
    )


@pytest.mark.parametrize("num_classes", [3, None])
def test_every_hyperparameter_of_the_space_moves_the_gradient_of_training(num_classes):
    """Which is what an implicit hypergradient is made of."""
    space, batch = spaces.get("tables"), AMOUNTS if num_classes is None else CLASSES
    problem = table_problem("mlp", 4, num_classes, width=5, read=space.read)
    middle = space.from_unit(jnp.full(6, 0.5))
    params = params_of(problem, middle)
    mixed = jax.jit(jax.jacfwd(jax.grad(problem.train_loss), argnums=1))(params, middle, batch)
    sizes = sum((leaf**2).reshape(-1, 6).sum(0) for leaf in jax.tree.leaves(mixed))
    assert (np.asarray(sizes) > 1e-10).all()
    assert without_implicit_hypergradient(space) == ()


@pytest.mark.parametrize(("name", "network"), [("wine", "residual_mlp"), ("diabetes", "mlp")])
def test_candidates_of_the_space_learn_a_table(name, network):
    data, space = table(name), spaces.get("tables")
    problem = table_problem(network, data.train.inputs.shape[1], data.num_classes, read=space.read, width=12, depth=1)
    train, val = (
        Batch(jnp.asarray(part.inputs), jnp.asarray(part.labels), jnp.ones(len(part.labels)))
        for part in (data.train, data.val)
    )
    scores = evaluate(
        KEY, problem, space.spread(0, 4), train, val, training=Training(steps=100, learning_rate=0.01)
    )  # fmt: skip
    assert scores.status.all()
    assert len({*np.asarray(scores.loss).tolist()}) == 4
    if data.num_classes is None:
        assert np.isnan(scores.accuracy).all()
        # A linear model explains about a half; the mean alone has the variance of the labels.
        assert scores.loss.min() < 0.75 * np.var(data.val.labels)
    else:
        assert scores.accuracy.max() > 0.9


def test_networks_of_images_may_have_dropout_too():
    images = jax.random.normal(KEY, (6, 4, 4, 1))
    problem = image_problem("convnet", (4, 4, 1), 3, width=2, depth=1, weight_decay=0.0, read=reading("dropout"))
    batch, params = Batch(images, CLASSES.labels, WEIGHTS), params_of(problem, jnp.zeros(1))
    train_loss = jax.jit(problem.train_loss)
    without, dropped = (train_loss(params, jnp.array([rate]), batch) for rate in (0.0, 0.5))
    assert dropped > without
    np.testing.assert_allclose(without, problem.val_loss(params, jnp.zeros(1), batch), rtol=1e-6)


def test_what_does_not_go_together_is_refused():
    assert "network for tables 'convnet'" in error_of(lambda: table_problem("convnet", 4, 3))
    assert "option of mlp 'widht'; did you mean 'width'?" in error_of(lambda: table_problem("mlp", 4, 3, widht=3))
    assert "the bounds of 'dropout' must lie in [0, 1)" in error_of(lambda: spaces.image_training("s", dropout=(0, 1)))
    problem = table_problem("mlp", 4, 3, width=5, read=reading("dropout"), soft_loss=SoftLoss())
    soft = CLASSES._replace(labels=jnp.full((6, 3), 1 / 3))
    params = params_of(problem, jnp.zeros(1))
    assert "dropout is known under the cross-entropy alone" in error_of(
        lambda: problem.train_loss(params, jnp.array([0.1]), soft)
    )
