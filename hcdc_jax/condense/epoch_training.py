"""How image condensers train networks on the way: relays, experts, students, and what protocols make of them."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcdc_jax.batches.augment import Augmentation, apply, augment, draw_crop_each, settings_of
from hcdc_jax.batches.rand_augment import RandAugment, rand_augment
from hcdc_jax.models.perturbations import MixedLabels, cut_mixed
from hcdc_jax.problem import Problem, weighted_mean
from hcdc_jax.storage.files import sha256
from hcdc_jax.training.soft_labels import softened_divergence
from hcdc_jax.training.train import Decayed, Trainee, Training, kernels, optimizer_of, orders_of, take_step
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["learning_rate"],
    meta_fields=["epochs", "batch_size", "augmentation"],
)
@dataclasses.dataclass(frozen=True)
class EpochTraining:
    """How networks that look at real images are trained: whole epochs at one rate.

    Attributes:
      learning_rate: traced.
      epochs: passes over the real images.
      batch_size: real images per step.
      augmentation: with parameters for each image, one operation per step or all of them.
    """

    learning_rate: float | Array
    epochs: int
    batch_size: int
    augmentation: Augmentation | None = None


def checksum(*read: PyTree) -> str:
    """SHA-256 of the numbers that a training reads: its images, labels and weights, and its hyperparameters."""
    return sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(read)))


def trained_by(
    key: Array, network: dict[str, Any], data: str, training: EpochTraining, **stored: Any
) -> dict[str, Any]:
    """All that decides the parameters of a trained network, as JSON gives it back.

    Args:
      key: of the training.
      network: what is trained, under the name by which messages call it.
      data: its `checksum`.
      training: how it is trained.
      **stored: how its parameters are kept.

    Returns:
      A dictionary in the order in which differences are to be told.
    """
    made_by = {
        **network,
        "data": data,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "learning_rate": float(training.learning_rate),
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "augmentation": settings_of(training.augmentation),
        **stored,
    }
    return json.loads(json.dumps(made_by))  # as it will be read: tuples are lists


@functools.cache
def augmented(problem: Problem, augmentation: Augmentation | None) -> Problem:
    """The problem whose training sees images under `augment`, with parameters for each image.

    What the problem itself does to its batches comes after it. Without an augmentation, the problem as it is.
    """
    if augmentation is None:
        return problem
    return _shown(problem, lambda key, hparams, images: augment(key, augmentation, images))


@functools.cache
def cropped(problem: Problem, least_area: float) -> Problem:
    """The problem whose training sees a crop of each image, at least this share of it; at 1, the problem as it is.

    What the problem itself does to its batches comes after it.
    """
    if least_area >= 1:
        return problem

    def crop(key, hparams, images):
        n, height, width, _ = images.shape
        return apply(draw_crop_each(key, least_area, (height, width), n, flip=0.0), images)  # flips are an augmentation

    return _shown(problem, crop)


@functools.cache
def taught(
    problem: Problem,
    augmentation: Augmentation | None,
    cutmix: float,
    weight_decay: float,
    num_classes: int,
    *,
    decayed: Decayed = "all",
    labels: MixedLabels = "mixed",
) -> Problem:
    """The network of a problem under the training loss and the perturbations that a protocol of the field gives it.

    Args:
      problem: whose `init`, `apply` and `val_loss` stay; its own regularisers and noise stay out of it.
      augmentation: see `augmented`.
      cutmix: probability of `perturbations.cut_mixed` per step.
      weight_decay: as PyTorch counts it, twice the factor of the squared norm.
      num_classes: of the labels.
      decayed: which parameters `weight_decay` is for.
      labels: of images that have a box of another one, see `perturbations.cut_mixed`.
    """

    def train_loss(params, hparams, batch):
        return problem.val_loss(params, hparams, batch) + _decay(params, weight_decay, decayed)

    def perturb(key, hparams, batch):
        del hparams
        return cut_mixed(key, batch, cutmix, num_classes, labels)

    plain = problem._replace(train_loss=train_loss, perturb=perturb if cutmix else None)
    return augmented(plain, augmentation)


@functools.cache
def rand_augmented(problem: Problem, settings: RandAugment) -> Problem:
    """The problem whose training sees images under RandAugment.

    What the problem itself does to its batches comes after it. Hyperparameters become a pair: those of the problem, and
    the `rand_augment.Levels` of the images.
    """
    return _shown(_accompanied(problem), lambda key, hparams, images: rand_augment(key, settings, images, hparams[1]))


@functools.cache
def distilled(
    network: Problem,
    teacher: Problem | None,
    label_weight: float,
    weight_decay: float,
    temperature: float | None = None,
    *,
    decayed: Decayed = "all",
) -> Problem:
    """The network, trained to give the logits of a teacher for whatever it is shown (EDC's post-evaluation).

    Hyperparameters become a pair: those of the network, and the parameters of the teacher; without a teacher the logits
    [n, num_classes] themselves, of what the step shows.

    Args:
      network: its perturbations stay; the teacher sees what they leave.
      teacher: a problem without hyperparameters; None where it has spoken already.
      label_weight: of the cross-entropy of the labels beside the difference from the teacher.
      weight_decay: as for `taught`.
      temperature: the difference is `softened_divergence` at this temperature (FKD, RDED); the mean squared difference
        of logits (EDC) if not given.
      decayed: as for `taught`.
    """

    def train_loss(params, hparams, batch):
        own, taught_by = hparams
        said = taught_by if teacher is None else jax.lax.stop_gradient(teacher.apply(taught_by, (), batch.inputs))
        logits = network.apply(params, own, batch.inputs)
        if temperature is None:
            difference = ((logits - said) ** 2).mean(-1)
        else:
            difference = softened_divergence(logits, said, temperature)
        of_labels = label_weight * network.val_loss(params, own, batch)
        return weighted_mean(difference, batch.weights) + of_labels + _decay(params, weight_decay, decayed)

    return _accompanied(network)._replace(train_loss=train_loss)


def _decay(params: Params, weight_decay: float, decayed: Decayed) -> Array:
    """What adds `weight_decay` times each parameter that decays to its gradient."""
    if decayed == "kernels":
        params = jax.tree.map(lambda leaf, is_one: leaf if is_one else None, params, kernels(params))
    return weight_decay / 2 * optax.tree.norm(params, squared=True)


def _shown(problem: Problem, change: Callable[[Array, HParams, Array], Array]) -> Problem:
    """The problem whose training sees images after `change(key, hparams, images)`, before what itself does to them."""

    def perturb(key, hparams, batch):
        key_change, key_rest = jax.random.split(key)
        batch = batch._replace(inputs=change(key_change, hparams, batch.inputs))
        return batch if problem.perturb is None else problem.perturb(key_rest, hparams, batch)

    return problem._replace(perturb=perturb)


def _accompanied(problem: Problem) -> Problem:
    """The problem with a pair for its hyperparameters, of which it reads the first."""

    def perturb(key, hparams, batch):
        assert problem.perturb is not None
        return problem.perturb(key, hparams[0], batch)

    return Problem(
        init=lambda key, hparams: problem.init(key, hparams[0]),
        apply=lambda params, hparams, inputs: problem.apply(params, hparams[0], inputs),
        train_loss=lambda params, hparams, batch: problem.train_loss(params, hparams[0], batch),
        val_loss=lambda params, hparams, batch: problem.val_loss(params, hparams[0], batch),
        perturb=None if problem.perturb is None else perturb,
    )


def even_batches(num_examples: int, batch_size: int) -> tuple[int, int]:
    """(batches per epoch, size of each): as few as `batch_size` allows, equally large.

    What does not divide, fewer examples than there are batches, is left out of that epoch.
    """
    per_epoch = -(-num_examples // batch_size)
    return per_epoch, num_examples // per_epoch


def train_from(
    key: Array, problem: Problem, params: Params, hparams: HParams, batch: Batch, training: Training
) -> Params:
    """`train` from given parameters; differentiable in them, in the batch and in the learning rate.

    Args:
      key: for the order of mini-batches and what perturbs them.
      problem: what is trained.
      params: where training starts.
      hparams: one candidate.
      batch: the training examples.
      training: optimiser and length.

    Returns:
      The parameters after the last step.
    """
    orders = orders_of(key, batch, training)

    def step(trainee, _):
        return take_step(problem, hparams, trainee, batch, training, orders)

    if training.remat:
        step = jax.checkpoint(step, prevent_cse=False)
    trainee = Trainee(params, optimizer_of(training).init(params), key, jnp.zeros((), jnp.int32))
    return jax.lax.scan(step, trainee, length=training.steps)[0].params
