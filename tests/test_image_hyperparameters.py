"""Each hyperparameter of image training enters where it says, and is seen by hypergradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import spaces
from hcdc_jax.errors import UserError
from hcdc_jax.hypergradients.fixed_networks import unrolled_hypergradient
from hcdc_jax.models import ImageSetting, image_problem
from hcdc_jax.models.perturbations import mixed_up, probabilities, relu_tanh, smoothed, with_noise
from hcdc_jax.problem import mean_loss
from hcdc_jax.training.train import Training, train
from hcdc_jax.types import Batch

KEY = jax.random.key(0)
IMAGES = jax.random.normal(KEY, (6, 4, 4, 1))
BATCH = Batch(IMAGES, jnp.arange(6) % 3, jnp.ones(6))


def problem_of(*names):
    """An MLP that reads the named hyperparameters, in this order."""
    return image_problem("mlp", (4, 4, 1), 3, width=5, read=lambda h: ImageSetting(**dict(zip(names, h, strict=True))))


def params_of(problem):
    return problem.init(jax.random.key(1), jnp.zeros(2))


def test_penalties_divide_the_layers():
    problem = problem_of("weight_decay_first", "weight_decay")
    params = params_of(problem)
    squares = {layer: sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(part)) for layer, part in params.items()}
    bare = problem.val_loss(params, jnp.array([0.1, 0.2]), BATCH)
    found = problem.train_loss(params, jnp.array([0.1, 0.2]), BATCH) - bare
    first = squares.pop("Dense_0")
    np.testing.assert_allclose(found, 0.1 * first + 0.2 * sum(squares.values()), rtol=1e-4)


def test_smoothing_acts_in_training_alone():
    problem = problem_of("label_smoothing", "weight_decay")
    params, hparams = params_of(problem), jnp.array([0.3, 0.0])
    logits = np.asarray(problem.apply(params, hparams, IMAGES), np.float64)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    hard = -logs[np.arange(6), np.asarray(BATCH.labels)].mean()
    np.testing.assert_allclose(problem.train_loss(params, hparams, BATCH), 0.7 * hard - 0.3 * logs.mean(), rtol=1e-5)
    np.testing.assert_allclose(problem.val_loss(params, hparams, BATCH), hard, rtol=1e-5)


def test_gain_and_activation_act_everywhere():
    problem = problem_of("input_gain", "relu_share")
    params = params_of(problem)
    plain = image_problem("mlp", (4, 4, 1), 3, width=5)
    np.testing.assert_allclose(
        problem.apply(params, jnp.array([2.0, 1.0]), IMAGES), plain.apply(params, (), 2 * IMAGES), rtol=1e-5, atol=1e-6
    )
    tanh = image_problem("mlp", (4, 4, 1), 3, width=5, activation="tanh")
    np.testing.assert_allclose(
        problem.apply(params, jnp.array([1.0, 0.0]), IMAGES), tanh.apply(params, (), IMAGES), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(relu_tanh(jnp.float32(0.25), jnp.float32(-1.0)), 0.75 * np.tanh(-1), rtol=1e-6)


def test_noise_has_its_size():
    noisy = with_noise(KEY, Batch(jnp.ones((50, 8, 8, 1)), jnp.zeros(50, int), jnp.ones(50)), jnp.float32(0.5))
    assert noisy.inputs.std() == pytest.approx(0.5, rel=0.05)
    assert noisy.inputs.mean() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_mixup_mixes_images_labels_and_weights_alike(strength):
    one_hot_images = jnp.eye(6)[:, :, None, None]  # so that an image tells what it is mixed of
    weights = jnp.arange(1.0, 7.0)
    mixed = mixed_up(KEY, Batch(one_hot_images, BATCH.labels, weights), jnp.float32(strength), 3)
    shares = np.asarray(mixed.inputs[..., 0, 0])
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    assert 1 - shares.max(1).min() <= strength / 2 + 1e-6
    np.testing.assert_allclose(mixed.labels, shares @ np.asarray(probabilities(BATCH.labels, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mixed.weights, shares @ np.asarray(weights), rtol=1e-5)


def test_smoothed_labels_are_probabilities_and_stay_soft():
    soft = smoothed(BATCH.labels, 3, jnp.float32(0.3))
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(smoothed(soft, 3, jnp.float32(0.0)), soft)
    assert soft[0, 0] == pytest.approx(0.8)


def test_every_hyperparameter_of_the_space_is_felt_by_training():
    """Reverse mode through training against differences, one hyperparameter at a time."""
    space = spaces.get("regularisation")
    problem = image_problem("mlp", (4, 4, 1), 3, width=8, read=space.read)
    val = Batch(IMAGES[::-1], BATCH.labels, BATCH.weights)
    training = Training(0.05, "momentum", steps=25, schedule="cosine")
    with jax.enable_x64(True):
        cast = lambda tree: jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, tree)  # noqa: E731
        exact = problem._replace(init=lambda *args: cast(problem.init(*args)))
        train_batch, val_batch = cast(BATCH), cast(val)
        lam = jnp.asarray(space.sample(KEY, 1)[0], float)

        @jax.jit
        def hypergradient(lam):
            fit = lambda lam: train(KEY, exact, lam, train_batch, training)[0]  # noqa: E731
            slope, info = unrolled_hypergradient(fit, exact.val_loss, lam, val_batch)
            return slope, info.value

        slope, _ = hypergradient(lam)
        for i in range(len(lam)):
            step = 1e-5 * jnp.eye(len(lam))[i]
            difference = (hypergradient(lam + step)[1] - hypergradient(lam - step)[1]) / 2e-5
            np.testing.assert_allclose(slope[i], difference, rtol=1e-4, atol=1e-9)
            assert abs(difference) > 1e-6


def test_networks_of_other_depth_take_the_space_too():
    space = spaces.get("regularisation")
    problem = image_problem("convnet", (8, 8, 1), 3, width=4, depth=2, read=space.read)
    hparams = space.sample(KEY, 2)
    params = jax.vmap(problem.init, (None, 0))(KEY, hparams)
    images = Batch(jnp.ones((3, 8, 8, 1)), jnp.arange(3), jnp.ones(3))
    losses = jax.vmap(problem.train_loss, (0, 0, None))(params, hparams, images)
    assert np.isfinite(losses).all()
    bare = mean_loss(problem.apply(jax.tree.map(lambda x: x[0], params), hparams[0], images.inputs), images)
    assert losses[0] > bare


def test_a_hyperparameter_that_enters_nowhere():
    with pytest.raises(UserError, match="unknown hyperparameter of image networks 'momentum' in the space 'mine'"):
        spaces.image_training("mine", momentum=(0.1, 0.5))


def test_your_own_space_reads_what_it_names():
    space = spaces.image_training("mine", mixup=(0.01, 0.9, "logit"), learning_rate_factor=(0.1, 10, "log"))
    setting = space.read(jnp.array([0.0, 0.0]))
    assert setting.mixup == pytest.approx(0.5)
    assert setting.learning_rate_factor == pytest.approx(1.0)
    assert setting.weight_decay is None
