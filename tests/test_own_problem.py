"""Networks of one's own as problems: against losses written by hand, in every dialect, with and without noise."""

from __future__ import annotations

import inspect
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

import hcdc_jax as hc
from hcdc_jax import models
from hcdc_jax.problem import LossOfLogits
from hcdc_jax.types import Batch
from tests.errors import error_of

pytestmark = pytest.mark.usefixtures("broadcasting")

SPACE = hc.spaces.box(
    "mine", {"decay": (1e-3, 1e-1, "log"), "smoothing": (0.01, 0.3, "logit"), "gain": (0.5, 2.0), "rate": (0.1, 0.6)}
)
KEY = jax.random.key(0)
HPARAMS = SPACE.sample(KEY, 1)[0]
TRAINING = hc.Training(steps=20, learning_rate=0.05)


def digits(n: int, seed: int = 0, classes: int = 3) -> Batch:
    """Examples whose class is the largest of their first numbers."""
    inputs = np.random.default_rng(seed).normal(size=(n, 4))
    weights = np.random.default_rng(seed + 1).uniform(0.5, 2, n)
    return hc.as_batch((inputs, inputs[:, :classes].argmax(1), weights))


BATCH = digits(20)


def init(key):
    keys = jax.random.split(key)
    return {"first": 0.5 * jax.random.normal(keys[0], (4, 8)), "second": 0.5 * jax.random.normal(keys[1], (8, 3))}


def apply(params, inputs, h):
    return jnp.tanh(h["gain"] * inputs @ params["first"]) @ params["second"]


def noisy_apply(params, inputs, h, key):
    hidden = jnp.tanh(inputs @ params["first"])
    return (hidden if key is None else models.gaussian_dropout(key, h["rate"], hidden)) @ params["second"]


def problem_of(network=init, apply=apply, **options):
    return hc.make_problem(network, apply, space=SPACE, **options)


PLAIN = problem_of(weight_decay="decay", label_smoothing="smoothing")
NOISY = problem_of(apply=noisy_apply, weight_decay="decay")


# Losses, in NumPy.


def by_hand(logits, labels):
    """Cross-entropy of each example with class probabilities."""
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -(labels * logs).sum(1)


def test_both_losses_are_those_that_are_written_by_hand():
    params = init(KEY)
    first, second = np.asarray(params["first"], np.float64), np.asarray(params["second"], np.float64)
    log_decay, logit_smoothing, gain, _ = np.asarray(HPARAMS, np.float64)
    smoothing = 1 / (1 + np.exp(-logit_smoothing))
    logits = np.tanh(gain * np.asarray(BATCH.inputs) @ first) @ second
    hard = np.eye(3)[np.asarray(BATCH.labels)]
    val = np.average(by_hand(logits, hard), weights=BATCH.weights)
    fit = np.average(by_hand(logits, (1 - smoothing) * hard + smoothing / 3), weights=BATCH.weights)
    train = fit + np.exp(log_decay) * ((first**2).sum() + (second**2).sum())
    np.testing.assert_allclose(PLAIN.val_loss(params, HPARAMS, BATCH), val, rtol=1e-5)
    np.testing.assert_allclose(PLAIN.train_loss(params, HPARAMS, BATCH), train, rtol=1e-5)
    right = np.average(logits.argmax(1) == np.asarray(BATCH.labels), weights=BATCH.weights)
    _, accuracy = hc.problem.loss_and_accuracy(PLAIN, params, HPARAMS, BATCH)
    np.testing.assert_allclose(accuracy, right, rtol=1e-5)


def test_regression_and_many_labels():
    outputs = np.random.default_rng(0).normal(size=(20, 2))
    targets = np.random.default_rng(1).uniform(size=(20, 2)).round()
    batch = hc.as_batch((outputs, targets, BATCH.weights))
    read = lambda params, inputs: inputs + params["zero"]  # noqa: E731
    start = lambda key: {"zero": jnp.zeros(())}  # noqa: E731
    squared, binary = (hc.make_problem(start, read, space=SPACE, loss=loss) for loss in ("squared", "binary"))
    expected = np.average(((outputs - targets) ** 2).sum(1), weights=BATCH.weights)
    params = start(KEY)
    loss, accuracy = hc.problem.loss_and_accuracy(squared, params, HPARAMS, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert np.isnan(accuracy)
    chances = 1 / (1 + np.exp(-outputs))
    each = -(targets * np.log(chances) + (1 - targets) * np.log(1 - chances))
    loss, accuracy = hc.problem.loss_and_accuracy(binary, params, HPARAMS, batch)
    np.testing.assert_allclose(loss, np.average(each.mean(1), weights=BATCH.weights), rtol=1e-5)
    np.testing.assert_allclose(
        accuracy, np.average(((chances > 0.5) == targets).mean(1), weights=BATCH.weights), rtol=1e-5
    )
    one = hc.as_batch((outputs[:, :1], targets[:, :1]))
    assert one.labels.shape == (20,)
    np.testing.assert_allclose(
        squared.val_loss(params, HPARAMS, one), ((outputs[:, 0] - targets[:, 0]) ** 2).mean(), rtol=1e-5
    )
    assert "the network gives 2 numbers for an example and its label has 1" in error_of(
        lambda: squared.val_loss(params, HPARAMS, batch._replace(labels=batch.labels[:, :1]))
    )


def test_a_loss_of_ones_own_and_a_regulariser():
    def absolute(outputs, batch):
        return jnp.average(jnp.abs(outputs[:, 0] - batch.labels), weights=batch.weights)

    def half_gain(params, h):
        return 0.5 * h["gain"] * jnp.sum(params["second"] ** 2)

    problem, params = problem_of(loss=absolute, regulariser=half_gain, weight_decay=0.25), init(KEY)
    outputs = np.asarray(apply(params, BATCH.inputs, SPACE.read(HPARAMS)))[:, 0]
    fit = np.average(np.abs(outputs - BATCH.labels), weights=BATCH.weights)
    squares = {name: float((np.asarray(leaf) ** 2).sum()) for name, leaf in params.items()}
    expected = fit + 0.25 * sum(squares.values()) + 0.5 * float(HPARAMS[2]) * squares["second"]
    np.testing.assert_allclose(problem.val_loss(params, HPARAMS, BATCH), fit, rtol=1e-5)
    np.testing.assert_allclose(problem.train_loss(params, HPARAMS, BATCH), expected, rtol=1e-5)


def test_the_slope_of_noisy_training_is_that_of_its_differences(x64):
    problem = problem_of(
        apply=noisy_apply, weight_decay="decay", label_smoothing="smoothing", learning_rate_factor="gain"
    )
    batch, training = (
        hc.as_batch(jax.tree.map(np.float64, (BATCH.inputs, BATCH.weights)))._replace(labels=BATCH.labels),
        hc.Training(steps=5, learning_rate=0.05),
    )

    def loss(hparams):
        return problem.val_loss(hc.train(KEY, problem, hparams, batch, training)[0], hparams, batch)

    here, steps = jnp.asarray(HPARAMS, jnp.float64), 1e-5 * jnp.concatenate([jnp.eye(4), -jnp.eye(4)])
    slopes = jax.jit(jax.grad(loss))(here)
    ahead, behind = jax.jit(jax.vmap(loss))(here + steps).reshape(2, 4)
    np.testing.assert_allclose(slopes, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-9)
    assert (np.asarray(slopes) != 0).all()
    assert problem.unrolled_only == ("gain",)


# Noise.


def seen(problem, key):
    return problem.perturb(key, HPARAMS, BATCH)


def test_noise_is_in_training_alone_and_comes_from_the_key():
    params = init(KEY)
    loss = lambda key: float(NOISY.train_loss(params, HPARAMS, seen(NOISY, key)))  # noqa: E731
    assert loss(KEY) == loss(KEY)
    assert loss(KEY) != loss(jax.random.key(1))
    silent = problem_of(apply=lambda params, inputs: noisy_apply(params, inputs, None, None), weight_decay="decay")
    for name in ("train_loss", "val_loss"):
        assert getattr(NOISY, name)(params, HPARAMS, BATCH) == getattr(silent, name)(params, HPARAMS, BATCH)
    assert PLAIN.perturb is None
    assert silent.perturb is None


def test_gaussian_dropout_has_mean_and_variance_of_a_mask():
    drawn = np.asarray(models.gaussian_dropout(KEY, 0.2, jnp.full(100_000, 3.0)))
    np.testing.assert_allclose([drawn.mean(), drawn.var()], [3, 9 * 0.2 / 0.8], rtol=0.02)


def test_own_perturbations_come_before_the_noise():
    def brighter(key, batch, h):
        return batch._replace(inputs=batch.inputs + h["gain"])

    problem = problem_of(apply=noisy_apply, perturb=brighter)
    batch = seen(problem, KEY)
    np.testing.assert_allclose(batch.inputs.inputs, BATCH.inputs + HPARAMS[2], rtol=1e-6)
    quiet = problem_of(perturb=brighter)
    np.testing.assert_allclose(seen(quiet, KEY).inputs, BATCH.inputs + HPARAMS[2], rtol=1e-6)


# The library around them.


def test_training_learns_with_noise_and_batches():
    training = hc.Training(steps=150, learning_rate=0.05, batch_size=10)
    hparams = jnp.asarray([-8.0, -3.0, 1.0, 0.1])
    params, info = jax.jit(lambda: hc.train(KEY, NOISY, hparams, BATCH, training))()
    assert float(NOISY.val_loss(params, hparams, BATCH)) < 0.5 * float(NOISY.val_loss(init(KEY), hparams, BATCH))
    assert np.isfinite(info.losses).all()


def test_candidates_share_one_program():
    traces = []

    def traced(params, inputs, h):
        traces.append(1)
        return apply(params, inputs, h)

    problem = problem_of(apply=traced, weight_decay="decay")
    first = hc.evaluate(KEY, problem, SPACE.sample(KEY, 3), BATCH, digits(10, 5), training=TRAINING)
    count = len(traces)
    again = hc.evaluate(KEY, problem, SPACE.sample(jax.random.key(1), 3), BATCH, digits(10, 6), training=TRAINING)
    assert len(traces) == count
    assert first.status.all()
    assert again.status.all()
    assert not np.array_equal(first.loss, again.loss)


def test_numbers_are_scored_by_their_loss_and_have_no_accuracy():
    problem = problem_of(apply=lambda params, inputs: inputs @ params["first"][:, :1], loss="squared")
    batch = hc.as_batch((BATCH.inputs, np.asarray(BATCH.inputs).sum(1)))
    scores = hc.evaluate(KEY, problem, SPACE.sample(KEY, 2), batch, batch, training=TRAINING)
    assert scores.status.all()
    assert np.isfinite(scores.loss).all()
    assert np.isnan(scores.accuracy).all()


# Dialects.


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, h, train=False):
        hidden = jnp.tanh(h["gain"] * nn.Dense(8)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(hidden))


class NnxNet(nnx.Module):
    def __init__(self, *, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(8, 3, rngs=rngs)
        self.shift = jnp.arange(8.0)

    def __call__(self, x, h):
        return self.second(self.dropout(jnp.tanh(h["gain"] * self.first(x) + self.shift)))


def linen():
    network = LinenNet()
    params = network.init(KEY, BATCH.inputs, SPACE.read(HPARAMS))
    made = hc.make_problem(network, example=np.asarray(BATCH.inputs), space=SPACE, weight_decay="decay")
    return made, params["params"], network.apply(params, BATCH.inputs, SPACE.read(HPARAMS))


def linen_of_h():
    class Gained(nn.Module):
        gain: float

        @nn.compact
        def __call__(self, x, key):
            hidden = jnp.tanh(self.gain * nn.Dense(8)(x))
            return nn.Dense(3)(hidden if key is None else models.gaussian_dropout(key, 0.5, hidden))

    network = Gained(float(HPARAMS[2]))
    params = network.init(KEY, BATCH.inputs, None)
    made = hc.make_problem(lambda h: Gained(h["gain"]), example=BATCH.inputs, space=SPACE, weight_decay="decay")
    return made, params["params"], network.apply(params, BATCH.inputs, None)


def nnx_net():
    network = NnxNet(rngs=nnx.Rngs(KEY))
    network.eval()
    made = hc.make_problem(NnxNet, space=SPACE, weight_decay="decay")
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    return made, params, network(BATCH.inputs, SPACE.read(HPARAMS))


def equinox_net():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        mlp: eqx.nn.MLP
        dropout: eqx.nn.Dropout

        def __init__(self, key):
            self.mlp = eqx.nn.MLP(4, 3, 8, 1, key=key)
            self.dropout = eqx.nn.Dropout(0.5)

        def __call__(self, x, h, key):
            return self.mlp(self.dropout(h["gain"] * x, key=key))

    network = Net(KEY)
    params = eqx.filter(network, eqx.is_inexact_array)
    made = hc.make_problem(Net, space=SPACE, weight_decay="decay")
    silent = eqx.nn.inference_mode(network)
    return made, params, jax.vmap(lambda x: silent(x, SPACE.read(HPARAMS), None))(BATCH.inputs)


@pytest.mark.parametrize("dialect", [linen, linen_of_h, nnx_net, equinox_net])
def test_a_module_is_what_it_is_by_itself(dialect):
    problem, expected_params, expected = dialect()

    @jax.jit
    def found():
        params = problem.init(KEY, HPARAMS)
        noisy = [problem.train_loss(params, HPARAMS, seen(problem, jax.random.key(i))) for i in (0, 0, 1)]
        losses = problem.train_loss(params, HPARAMS, BATCH), problem.val_loss(params, HPARAMS, BATCH)
        slopes = jax.vmap(lambda h: jax.grad(problem.train_loss)(params, h, seen(problem, KEY)))(SPACE.sample(KEY, 2))
        return params, problem.apply(params, HPARAMS, BATCH.inputs), losses, noisy, slopes

    params, outputs, (train, val), noisy, slopes = found()
    flat, expected_flat = (ravel_pytree(tree)[0] for tree in (params, expected_params))
    np.testing.assert_allclose(flat, expected_flat, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(train - val, np.exp(HPARAMS[0]) * (np.asarray(flat) ** 2).sum(), rtol=1e-4)
    assert noisy[0] == noisy[1]
    assert noisy[0] != noisy[2]
    of_candidates = np.asarray(jax.vmap(lambda slope: ravel_pytree(slope)[0])(slopes))
    assert np.isfinite(of_candidates).all()
    assert (of_candidates[0] != of_candidates[1]).mean() > 0.5


def test_what_is_no_network_is_told_in_one_line():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(x))

    class Restless(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(x))

    class NormedNnx(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            return self.norm(x)

    def of(network, apply=None, **options):
        return lambda: hc.make_problem(network, apply, space=SPACE, **options)

    expected = {
        of(Normed(), example=BATCH.inputs): "Normed keeps state between steps (batch_stats)",
        of(NormedNnx): "NormedNnx keeps state between steps (BatchStat)",
        of(Restless(), example=BATCH.inputs): "Restless draws random numbers in evaluation, too",
        of(LinenNet(), np.ones((1, 4))): "inputs of a module go in example=",
        of(LinenNet()): "give example=X[:1]",
        of(init): "apply",
        of(lambda rngs: 3): "builds a network of Flax NNX, not a int",
        of(NnxNet(rngs=nnx.Rngs(0))): "NnxNet is built already",
        of(lambda x: x): "cannot tell what '<lambda>' is",
        of(init, lambda params, inputs, hp: inputs): "missing a required argument: 'hp'",
        of(init, apply, weight_decay="decy"): "unknown hyperparameter 'decy' of the space 'mine' in weight_decay; did",
        of(init, apply, weight_decay=-1.0): "weight_decay must be the name of a hyperparameter or a number from 0",
        of(init, apply, loss="square"): "unknown loss 'square'; did you mean 'squared'?",
        of(init, apply, loss="squared", label_smoothing=0.1): "goes with loss='cross_entropy' alone",
    }
    for call, text in expected.items():
        assert text in error_of(call)


# Checks.


def test_what_is_suspicious_is_told():
    space = hc.spaces.box("ways", {name: (0.1, 0.6) for name in ("decay", "idle", "step", "rate", "scale", "factor")})

    def scaled(key, h):
        return jax.tree.map(lambda leaf: h["scale"] * leaf, init(key))

    def stepping(params, inputs, h, key):
        return noisy_apply(params, inputs, h, key) * jnp.where(h["step"] > 0.35, 1.0, 2.0)

    problem = hc.make_problem(scaled, stepping, space=space, weight_decay="decay", learning_rate_factor="factor")
    assert problem.unrolled_only == ("factor",)
    train = BATCH._replace(inputs=BATCH.inputs.astype(int), labels=BATCH.labels * 0)
    *findings, integers, unseen = models.check_problem(problem, space, train, BATCH)
    assert integers.startswith("inputs are of type int32")
    assert unseen == "no training example has the labels [1, 2], which validation asks for"
    assert {finding.split("'")[1]: finding.split("'")[2].split()[:2] for finding in findings} == {
        "idle": ["is", "ignored,"],
        "step": ["acts", "without"],
        "rate": ["acts", "on"],
        "scale": ["acts", "on"],
        "factor": ["acts", "on"],
    }


GOOD = hc.spaces.box("good", {"decay": (1e-3, 1e-1, "log"), "gain": (0.5, 2.0)})


def test_data_that_do_not_fit_are_told():
    problem = hc.make_problem(init, apply, space=GOOD, weight_decay="decay")

    def check(train=BATCH, val=BATCH, problem=problem):
        return models.check_problem(problem, GOOD, train, val)

    assert check() == []
    assert "labels of the validation part go from 0 to 3, but the network has 3 outputs" in error_of(
        lambda: check(val=digits(20, classes=4))
    )
    assert "the training part has 19 labels, 20 weights, 20 inputs" in error_of(
        lambda: check(train=BATCH._replace(labels=BATCH.labels[1:]))
    )
    assert "of type float32; class numbers are integers" in error_of(
        lambda: check(train=BATCH._replace(labels=BATCH.labels + 0.5))
    )
    numpy = hc.make_problem(init, lambda params, inputs: np.tanh(np.asarray(inputs @ params["first"])), space=GOOD)
    assert "train_loss cannot be traced by JAX" in error_of(lambda: check(problem=numpy))
    unfinished = hc.make_problem(init, lambda p, x, h: jnp.log(-h["gain"]) * x @ p["first"], space=GOOD)
    assert "train_loss is nan" in error_of(lambda: check(problem=unfinished))


# Arrays.


def test_arrays_become_a_batch():
    X, y = np.ones((3, 2)), np.array([[0], [2], [1]])
    batch = hc.as_batch((X, y))
    assert (batch.inputs.dtype, batch.labels.dtype, batch.weights.dtype) == (jnp.float32, jnp.int32, jnp.float32)
    assert batch.labels.tolist() == [0, 2, 1]
    assert batch.weights.tolist() == [1, 1, 1]
    assert hc.as_batch(batch) is batch
    assert hc.as_batch(([[1.0, 2.0], [3.0, 4.0]], [True, False])).labels.tolist() == [1, 0]
    tree = hc.as_batch(({"a": X, "b": X[:, 0]}, y[:, 0] / 2, [0, 1, 2]))
    assert tree.inputs["b"].shape == (3,)
    assert tree.labels.tolist() == [0, 1, 0.5]
    expected = [
        ((X, y[:2]), "must have one leading axis of examples, got 2 labels, 2 weights, 3 inputs"),
        ((X, y, np.ones(2)), "got 3 labels, 2 weights, 3 inputs"),
        ((X * np.nan, y), "inputs hold NaN or infinite numbers"),
        ((X[:0], y[:0]), "there are no examples"),
        ((X, y, -np.ones(3)), "weights must be one number for each example"),
        ((X, np.array(["cat", "dog", "cat"])), "np.unique(y, return_inverse=True)[1]"),
        ((X, 3), "got a single number"),
        (X, "as (inputs, labels)"),
    ]
    for examples, text in expected:
        assert text in error_of(lambda examples=examples: hc.as_batch(examples))


def test_the_example_of_the_docstring_runs():
    text = inspect.getdoc(hc.make_problem)
    block = text.split("\n\n    ", 1)[1].split("\n\nIn place")[0]
    names = {"hc": hc, "jax": jax, "jnp": jnp}
    exec(textwrap.dedent("    " + block), names)
    problem = names["problem"]
    assert isinstance(problem.val_loss, LossOfLogits)
    batch = Batch(jnp.ones((2, 64)), jnp.array([3, 4]), jnp.ones(2))
    hparams = names["space"].sample(KEY, 1)[0]
    assert problem.train_loss(problem.init(KEY, hparams), hparams, batch) > problem.val_loss(
        problem.init(KEY, hparams), hparams, batch
    )
