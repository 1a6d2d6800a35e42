"""New networks on condensed images: protocols as published, a plain loop as oracle, failures that stay alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.batches.rand_augment import RandAugment, levels, rand_augment
from hcdc_jax.condense.epoch_training import augmented, cropped, distilled, rand_augmented, taught
from hcdc_jax.evaluation import TEST_BATCH, Teacher, evaluate_networks, stored_logits, summary
from hcdc_jax.evaluation.protocols import PROTOCOLS, Protocol, smooth_factors, stages, with_epochs
from hcdc_jax.models import image_problem
from hcdc_jax.models.perturbations import cut_mixed
from hcdc_jax.problem import Problem, mean_loss
from hcdc_jax.training.candidates import Scores
from hcdc_jax.training.train import Training, begin, kernels, shown, take_step
from hcdc_jax.types import Batch
from tests.errors import error_of
from tests.small_images import blobs

KEY = jax.random.key(3)
OF_DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")
WITHOUT_CUTOUT = ("color", "crop", "flip", "scale", "rotate")


def batch_of(count, seed=0, *, shift=0, weights=None):
    """Blobs of three classes; `shift` gives each the label of another one."""
    images, labels = blobs(count, seed=seed)
    weights = jnp.ones(count) if weights is None else jnp.asarray(weights, jnp.float32)
    return Batch(jnp.asarray(images, jnp.float32), jnp.asarray((labels + shift) % 3), weights)


def linear(init=None):
    """Softmax regression on pixels, from small random weights if no `init(key)` is given."""

    def apply(params, hparams, inputs):
        return inputs.reshape(len(inputs), -1) @ params

    def val_loss(params, hparams, batch):
        return mean_loss(apply(params, hparams, batch.inputs), batch)

    def train_loss(params, hparams, batch):
        raise AssertionError("regularisers of the problem do not belong to a protocol")

    init = init or (lambda key: 0.1 * jax.random.normal(key, (36, 3)))
    return Problem(lambda key, hparams: init(key), apply, train_loss, val_loss)


@pytest.mark.parametrize(
    ("name", "epochs", "drops", "factor", "forgets", "batch_size", "operations", "cutmix", "networks"),
    [
        ("dc", 300 + 1, (300 // 2 + 2,), 0.1, True, 256, None, 0.0, 20),
        ("dsa", 1000 + 1, (1000 // 2 + 2,), 0.1, True, 256, OF_DSA, 0.0, 20),
        ("mtt", 1000 + 1, (1000 // 2 + 2,), 0.1, True, 256, OF_DSA, 0.0, 5),
        ("idc", 1000, (1000 * 2 // 3, 1000 * 5 // 6), 0.2, False, 64, WITHOUT_CUTOUT, 0.5, 5),
    ],
)  # fmt: skip
def test_protocols_are_those_of_the_field(
    name, epochs, drops, factor, forgets, batch_size, operations, cutmix, networks
):
    protocol = PROTOCOLS[name]
    assert (protocol.learning_rate, protocol.optimizer, protocol.weight_decay) == (0.01, "momentum", 5e-4)
    assert (protocol.epochs, protocol.drops, protocol.factor, protocol.forgets) == (epochs, drops, factor, forgets)
    assert (protocol.batch_size, protocol.cutmix, protocol.networks) == (batch_size, cutmix, networks)
    assert protocol.learned_rate == (name == "mtt")
    chosen = None if operations is None else Augmentation(operations)  # all ranges are those of DSA
    assert protocol.augmentation == chosen


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def by_hand(protocol, train, test, weights):
    """Full-batch SGD with momentum and weight decay as PyTorch does it, in NumPy: test loss and accuracy each epoch."""
    x, y = np.asarray(train.inputs, float).reshape(len(train.inputs), -1), np.eye(3)[np.asarray(train.labels)]
    rate, velocity, history = protocol.learning_rate, 0.0, []

    shadow = weights
    for epoch in range(protocol.epochs):
        if epoch in protocol.drops:
            rate *= protocol.factor
            velocity = 0.0 if protocol.forgets else velocity
        if protocol.zeta:
            rate = protocol.learning_rate * (1 + np.cos(epoch * np.pi / (protocol.zeta * protocol.epochs))) / 2
        gradient = x.T @ (softmax(x @ weights) - y) / len(x) + protocol.weight_decay * weights
        velocity = 0.9 * velocity + gradient
        weights = weights - rate * velocity
        shadow = protocol.average * shadow + (1 - protocol.average) * weights
        seen = softmax(np.asarray(test.inputs, float).reshape(len(test.inputs), -1) @ shadow)
        losses = -np.log(seen[np.arange(len(seen)), test.labels])
        right = seen.argmax(1) == np.asarray(test.labels)
        history.append([np.average(values, weights=test.weights) for values in (losses, right)])
    return np.array(history)


@pytest.mark.parametrize("forgets", [True, False])
def test_training_is_a_plain_loop_and_the_last_step_counts(forgets):
    # Labels of S_train are wrong, so that training undoes what the good start knew.
    protocol = Protocol("", epochs=9, drops=(4, 7), factor=0.3, forgets=forgets, learning_rate=0.2, weight_decay=0.1)
    start, _ = blobs(3)
    start = start.reshape(3, -1).T
    train, count = batch_of(12, shift=1), TEST_BATCH + 5  # two slices, the last of them filled up
    test = batch_of(count, seed=1, weights=np.random.default_rng(0).random(count))
    history = by_hand(protocol, train, test, start)
    scores = evaluate_networks(
        KEY, linear(lambda key: jnp.asarray(start, jnp.float32)), protocol, train, test, networks=1
    )
    np.testing.assert_allclose(scores.loss, history[-1:, 0], rtol=1e-4)
    np.testing.assert_allclose(scores.accuracy, history[-1:, 1], rtol=1e-5)
    assert scores.accuracy[0] < history[:, 1].max() - 0.3
    other = by_hand(dataclasses.replace(protocol, forgets=not forgets), train, test, start)
    assert abs(other[-1, 0] - history[-1, 0]) > 1e-2 * history[-1, 0]  # the loop can tell


def test_under_batch_norm_a_sorted_test_part_is_judged_like_a_mixed_one():
    """600 images, sorted by class, are looked at in slices; of one class alone batch norm leaves noise."""

    def apply(params, hparams, inputs):
        del hparams
        signal = (inputs - inputs.mean(0, keepdims=True)).sum((1, 2, 3)) * params
        return jnp.stack([signal, -signal], 1)

    def loss(params, hparams, batch):
        return mean_loss(apply(params, hparams, batch.inputs), batch)

    problem = Problem(lambda key, hparams: jnp.ones(()), apply, loss, loss)
    labels, noise = np.repeat(np.arange(2), 300), np.random.default_rng(0).normal(size=600)
    bright = (np.where(labels == 0, 3.0, 1.0) + 0.2 * noise)[:, None, None, None]
    test = Batch(jnp.asarray(bright, jnp.float32), jnp.asarray(labels), jnp.ones(600))
    protocol = Protocol("", epochs=1, learning_rate=1e-9)
    found = evaluate_networks(KEY, problem, protocol, test, test, networks=1)
    assert found.accuracy[0] > 0.99
    np.testing.assert_allclose(found.loss[0], loss(1.0, (), test), rtol=0.05)


def test_a_smooth_rate_and_the_average_of_parameters_are_those_of_the_loop():
    protocol = Protocol("", epochs=9, zeta=1.5, average=0.8, learning_rate=0.2, weight_decay=0.1)
    start = blobs(3)[0].reshape(3, -1).T
    train, test = batch_of(12, shift=1), batch_of(9, seed=1)
    problem = linear(lambda key: jnp.asarray(start, jnp.float32))
    found = evaluate_networks(KEY, problem, protocol, train, test, networks=1)
    np.testing.assert_allclose(found.loss, by_hand(protocol, train, test, start)[-1:, 0], rtol=1e-4)
    for changes in ({"zeta": 1.0}, {"average": 0.0}):
        other = by_hand(dataclasses.replace(protocol, **changes), train, test, start)
        assert abs(other[-1, 0] - found.loss[0]) > 1e-3 * found.loss[0], "the loop can tell"


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_a_teacher_is_asked_for_logits_of_what_is_seen(temperature):
    protocol = Protocol(
        "", epochs=9, learning_rate=0.2, weight_decay=0.1, label_weight=0.5, temperature=temperature
    )  # fmt: skip
    train, test = batch_of(12, shift=1), batch_of(9, seed=1)
    taught_by = np.random.default_rng(1).normal(size=(36, 3))
    x, wrong = np.asarray(train.inputs).reshape(12, -1), np.eye(3)[np.asarray(train.labels)]
    weights, velocity = np.zeros((36, 3)), 0
    for _ in range(9):
        ours, theirs = x @ weights, x @ taught_by
        if temperature is None:
            difference = 2 * (ours - theirs) / 3
        else:
            difference = temperature * (softmax(ours / temperature) - softmax(theirs / temperature))
        slope = difference + 0.5 * (softmax(ours) - wrong)
        velocity = 0.9 * velocity + x.T @ slope / 12 + 0.1 * weights
        weights = weights - 0.2 * velocity
    logits = np.asarray(test.inputs).reshape(9, -1) @ weights
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(9), test.labels])

    teacher = Teacher(linear(), jnp.asarray(taught_by, jnp.float32))
    problem = linear(lambda key: jnp.zeros((36, 3)))._replace(train_loss=None)
    scores = evaluate_networks(KEY, problem, protocol, train, test, networks=1, teacher=teacher)
    np.testing.assert_allclose(scores.loss, [expected], rtol=1e-3)
    assert "teacher" in error_of(lambda: evaluate_networks(KEY, problem, protocol, train, test))

    # With all that is done to images, too.
    soft = dataclasses.replace(PROTOCOLS["edc_soft"], epochs=2, batch_size=4)
    assert np.isfinite(evaluate_networks(KEY, problem, soft, train, test, networks=2, teacher=teacher).loss).all()


def test_stored_logits_teach_as_the_teacher_does_online_given_the_same_views():
    """Two networks under all that EDC does to images, against a loop of steps that ask the teacher each time."""
    protocol = dataclasses.replace(PROTOCOLS["edc_stored"], epochs=3, batch_size=4, zeta=None, average=0.0)
    train, test, views = batch_of(9), batch_of(9, seed=1), jax.random.key(11)
    teacher = Teacher(linear(), jnp.asarray(np.random.default_rng(1).normal(size=(36, 3)), jnp.float32))
    problem = linear()._replace(train_loss=None)
    stored = stored_logits(views, protocol, train, teacher)
    assert stored.logits.shape == (3, 9, 3), "epochs, three batches of three, classes"
    scores = evaluate_networks(KEY, problem, protocol, train, test, networks=2, teacher=stored)

    shown_to = rand_augmented(cropped(taught(problem, Augmentation(("flip",)), 1.0, 0.0, 3), 0.08), RandAugment())
    asking, asked = distilled(shown_to, teacher.problem, 0.025, 0.0), (((), levels(train.inputs)), teacher.params)
    training, step = Training(0.001, "adamw", batch_size=3), jax.jit(take_step, static_argnums=0)
    for number, loss in enumerate(scores.loss):
        trainee = begin(jax.random.fold_in(KEY, number), asking, asked, training)._replace(key=views)
        for _ in range(9):
            trainee, _ = step(asking, asked, trainee, train, training)
        np.testing.assert_allclose(loss, problem.val_loss(trainee.params, (), test), rtol=1e-5)

    longer = with_epochs(protocol, 4)
    assert "logits are stored of 3 epochs of 9 images, this protocol shows 9 images in each of 4" in error_of(
        lambda: evaluate_networks(KEY, problem, longer, train, test, teacher=stored)
    )


def test_the_smooth_schedule_has_the_published_values():
    factors = smooth_factors(600, 2.0)
    np.testing.assert_allclose(factors[[0, 300, 599]], [1, (1 + np.cos(np.pi / 4)) / 2, 0.5], atol=2e-3)
    assert smooth_factors(600, 1.0)[-1] < 1e-4
    late = smooth_factors(600, 2.0, early_late=True)
    np.testing.assert_array_equal(late[:500], factors[:500])
    np.testing.assert_allclose(late[500] / factors[500], 1 / 6)
    np.testing.assert_allclose(np.diff(late[500:]), np.diff(late[500:])[0])
    np.testing.assert_allclose(late[599], late[500] / 100)


def test_edc_is_as_published_for_cifar():
    edc = PROTOCOLS["edc"]
    assert (edc.epochs, edc.batch_size, edc.optimizer, edc.learning_rate) == (1000, 25, "adamw", 0.001)
    assert (edc.zeta, edc.average, edc.cutmix, edc.crop_area) == (2.0, 0.99, 1.0, 0.08)
    assert edc.rand_augment == RandAugment(num_ops=2, magnitude=9.0)
    assert [name for name, protocol in PROTOCOLS.items() if protocol.rand_augment] == [
        "edc", "edc_soft", "edc_stored", "edc_early_late", "edc_code", "edc_code_cifar100", "edc_code_tiny"
    ]  # fmt: skip
    assert dataclasses.replace(PROTOCOLS["edc_early_late"], early_late=False, about=edc.about) == edc
    soft, stored = PROTOCOLS["edc_soft"], PROTOCOLS["edc_stored"]
    assert dataclasses.replace(stored, logits="online", about=soft.about) == soft


@pytest.mark.parametrize(
    ("name", "epochs", "batch_size", "optimizer", "rate", "momentum", "decay", "crop_area", "last_factor"),
    [
        ("edc_code", 1000, 25, "adamw", 0.001, None, 0.0, 0.08, 0.5**3),
        ("edc_code_cifar100", 1000, 50, "momentum", 0.1, 0.875, 5e-4, 0.5, 0.0),
        ("edc_code_tiny", 300, 100, "momentum", 0.1, 0.875, 5e-4, 0.5, 0.5),
    ],
)
def test_the_authors_code_has_its_own_protocol_for_each_data_set(
    name, epochs, batch_size, optimizer, rate, momentum, decay, crop_area, last_factor
):
    protocol, soft = PROTOCOLS[name], PROTOCOLS["edc_soft"]
    assert (protocol.epochs, protocol.batch_size, protocol.optimizer) == (epochs, batch_size, optimizer)
    assert (protocol.learning_rate, protocol.weight_decay, protocol.crop_area) == (rate, decay, crop_area)
    assert momentum is None or protocol.momentum == momentum
    assert (protocol.labels, protocol.decayed) == ("own", "kernels")
    assert (soft.labels, soft.decayed, soft.momentum) == ("mixed", "all", 0.9), "the paper's form stays as it is"
    for same in ("label_weight", "average", "cutmix", "rand_augment", "augmentation", "logits"):
        assert getattr(protocol, same) == getattr(soft, same)
    factors, lasting = stages(protocol)
    assert sum(lasting) == epochs
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(last_factor, abs=6e-3)
    if name == "edc_code":
        np.testing.assert_array_equal(np.cumsum(lasting), [800, 900, 950, 1000])


def biased():
    """Softmax regression with a kernel and a bias, both far from 0."""

    def apply(params, hparams, inputs):
        return inputs.reshape(len(inputs), -1) @ params["kernel"] + params["bias"][None]

    def val_loss(params, hparams, batch):
        return mean_loss(apply(params, hparams, batch.inputs), batch)

    rng = np.random.default_rng(4)
    start = {"kernel": jnp.asarray(rng.normal(size=(36, 3)), jnp.float32), "bias": jnp.asarray([9.0, -6.0, 3.0])}
    return Problem(lambda key, hparams: start, apply, val_loss, val_loss), start


@pytest.mark.parametrize(("optimizer", "taught_by"), [("momentum", True), ("momentum", False), ("adamw", True)])
def test_kernels_alone_decay_and_labels_stay_those_of_the_image(optimizer, taught_by):
    """Images that CutMix made, with the labels they had before it, through a loop in NumPy."""
    problem, start = biased()
    protocol = Protocol(
        "", epochs=6, learning_rate=0.05, optimizer=optimizer, momentum=0.875, decayed="kernels", cutmix=1.0,
        labels="own", label_weight=0.5 if taught_by else None, weight_decay=0.5 if optimizer == "momentum" else 0.0,
    )  # fmt: skip
    train, test = batch_of(12, shift=1), batch_of(9, seed=1)
    theirs, right = np.random.default_rng(1).normal(size=(36, 3)), np.eye(3)[np.asarray(train.labels)]
    mixing = taught(linear(), None, 1.0, 0.0, 3)
    values = {name: np.asarray(value, float) for name, value in start.items()}
    first, second = ({name: np.zeros_like(value) for name, value in values.items()} for _ in range(2))
    for step in range(6):
        seen = shown(jax.random.fold_in(KEY, 0), jnp.int32(step), mixing, (), train, Training(batch_size=12))
        x = np.asarray(seen.inputs, float).reshape(12, -1)
        logits = x @ values["kernel"] + values["bias"]
        slope = softmax(logits) - right
        if taught_by:
            slope = 2 * (logits - x @ theirs) / 3 + 0.5 * slope
        for name, gradient in {"kernel": x.T @ slope / 12, "bias": slope.mean(0)}.items():
            if optimizer == "momentum":
                gradient = gradient + (protocol.weight_decay * values[name] if name == "kernel" else 0)
                first[name] = 0.875 * first[name] + gradient
                values[name] = values[name] - 0.05 * first[name]
                continue
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            unbiased = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            decay = 0.01 * values[name] if name == "kernel" else 0
            values[name] = values[name] - 0.05 * (unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8) + decay)
    logits = np.asarray(test.inputs, float).reshape(9, -1) @ values["kernel"] + values["bias"]
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(9), test.labels])

    teacher = Teacher(linear(), jnp.asarray(theirs, jnp.float32)) if taught_by else None

    def loss(**changes):
        changed = dataclasses.replace(protocol, **changes)
        return evaluate_networks(KEY, problem, changed, train, test, networks=1, teacher=teacher).loss[0]

    np.testing.assert_allclose(loss(), expected, rtol=1e-5)
    others = [{"decayed": "all"}, {"labels": "mixed"}, {"momentum": 0.9}]
    for changes in others if optimizer == "momentum" else others[:1]:
        assert abs(loss(**changes) / expected - 1) > 1e-3, "the loop can tell"


@pytest.mark.parametrize("name", ["resnet18", "deit_tiny"])
def test_what_decays_is_what_multiplies_images_and_features(name):
    problem = image_problem(name, (16, 16, 3), 4, weight_decay=0.0)
    params = jax.eval_shape(lambda key: problem.init(key, ()), KEY)
    for path, (leaf, decays) in jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda *both: both, params, kernels(params)), is_leaf=lambda node: isinstance(node, tuple)
    ):
        token = path[-1].key in ("class_token", "positions")
        assert decays == (leaf.ndim > 1 and not token), path
    assert "no parameter is called 'kernel'" in error_of(lambda: kernels(jnp.ones((2, 2))))


def test_rand_augment_comes_first_and_knows_black_and_white_from_the_set():
    batch, mirrored = batch_of(6), Augmentation(("flip",), flip=1.0)
    problem = rand_augmented(augmented(linear(), mirrored), RandAugment())
    seen = jax.jit(problem.perturb)(KEY, ((), levels(batch.inputs)), batch)
    augment = jax.jit(rand_augment, static_argnums=1)
    first = augment(jax.random.split(KEY)[0], RandAugment(), batch.inputs, levels(batch.inputs))
    np.testing.assert_allclose(seen.inputs, first[:, :, ::-1], atol=1e-5)
    np.testing.assert_array_equal(seen.labels, batch.labels)
    # Training sees it.
    with_it, without = (
        evaluate_networks(KEY, linear(), Protocol("", epochs=3, rand_augment=chosen), batch, batch, networks=1)
        for chosen in (RandAugment(), None)
    )
    assert with_it.loss[0] != without.loss[0]


ROUGH = Protocol(
    "", epochs=3, drops=(2,), learning_rate=0.1, batch_size=5, cutmix=0.5, augmentation=Augmentation(("crop", "flip"))
)


def test_networks_side_by_side_are_those_one_by_one():
    problem, train, test = linear(), batch_of(12), batch_of(9, seed=1)
    together, alone = (
        jax.tree.map(
            np.asarray, evaluate_networks(KEY, problem, ROUGH, train, test, networks=networks, chunk_size=chunk_size)
        )
        for networks, chunk_size in ((3, 2), (2, 1))
    )
    assert together.loss.shape == (3,)
    np.testing.assert_allclose(together.loss[:2], alone.loss, rtol=1e-5)
    np.testing.assert_array_equal(together.accuracy[:2], alone.accuracy)
    assert len(set(together.loss.tolist())) == 3, "each network has an initialisation of its own"


def test_a_network_that_diverges_is_counted_and_spoils_no_mean():
    def init(key):
        return jax.random.normal(key, (36, 3))

    def sometimes_bad(key):
        return jnp.where(jax.random.key_data(key)[0] == bad, jnp.nan, init(key))

    bad = jax.random.key_data(jax.random.fold_in(KEY, 2))[0]
    train, test = batch_of(6), batch_of(9, seed=1)
    protocol = Protocol("", epochs=2, drops=(1,))
    good = evaluate_networks(KEY, linear(init), protocol, train, test, networks=4)
    mixed = evaluate_networks(KEY, linear(sometimes_bad), protocol, train, test, networks=4)
    np.testing.assert_array_equal(mixed.status, [True, True, False, True])
    others = np.arange(4) != 2
    np.testing.assert_array_equal(mixed.loss[others], good.loss[others])
    found = summary(mixed)
    assert found["failed"] == 1
    assert found["mean"] == pytest.approx(np.asarray(good.accuracy, float)[others].mean())
    assert np.isnan(found["values"]).tolist() == [False, False, True, False]
    none = summary(Scores(jnp.full(2, jnp.inf), jnp.zeros(2), jnp.zeros(2, bool)))
    assert np.isnan(none["mean"])
    assert none["failed"] == 2


def test_other_numbers_compile_nothing():
    traces = []
    plain = linear()

    def val_loss(params, hparams, batch):
        traces.append(None)
        return plain.val_loss(params, hparams, batch)

    problem = plain._replace(val_loss=val_loss)
    train, test = batch_of(6), batch_of(9, seed=1)
    protocol = Protocol("", epochs=6, drops=(3,))
    first = evaluate_networks(KEY, problem, protocol, train, test, networks=2)
    before = len(traces)
    longer = evaluate_networks(KEY, problem, with_epochs(protocol, 40), train, test, networks=2)
    faster = evaluate_networks(KEY, problem, protocol, train, test, networks=2, learning_rate=0.5)
    assert len(traces) == before
    assert (longer.loss < first.loss).all()
    assert (faster.loss < first.loss).all()


def test_fewer_epochs_keep_the_shape_of_the_schedule():
    short = with_epochs(PROTOCOLS["idc"], 30)
    assert (short.epochs, short.drops) == (30, (20, 25))
    assert with_epochs(PROTOCOLS["dsa"], 1001) == PROTOCOLS["dsa"]


class TestCutMix:
    # Each pixel is the one-hot vector of its image's class, so the mean pixel is what the label should be.
    LABELS = np.array([0, 1, 2, 2, 0])
    BATCH = Batch(jnp.broadcast_to(jnp.eye(3)[LABELS][:, None, None], (5, 6, 8, 3)), jnp.asarray(LABELS), jnp.ones(5))

    def test_labels_are_in_proportion_to_pixels(self):
        shares = []
        for seed in range(6):
            mixed = cut_mixed(jax.random.key(seed), self.BATCH, 1.0, 3)
            np.testing.assert_allclose(mixed.labels, mixed.inputs.mean((1, 2)), atol=1e-6)
            np.testing.assert_allclose(mixed.weights, 1, atol=1e-6)
            shares.append(float(jnp.abs(mixed.labels - jnp.eye(3)[self.LABELS]).max()))
        assert len(set(shares)) > 3
        assert 0 < max(shares) <= 1

    def test_it_leaves_some_batches_alone(self):
        mixed = cut_mixed(jax.random.key(0), self.BATCH, 0.0, 3)
        np.testing.assert_array_equal(mixed.inputs, self.BATCH.inputs)
        np.testing.assert_array_equal(mixed.labels, jnp.eye(3)[self.LABELS])
        mixed = [cut_mixed(jax.random.key(seed), self.BATCH, 0.5, 3).inputs for seed in range(16)]
        touched = sum(bool((inputs != self.BATCH.inputs).any()) for inputs in mixed)
        assert 0 < touched < 16
