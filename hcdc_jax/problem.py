"""What is trained and what is searched: the one interface between models and everything else."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcdc_jax import arguments
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree


class Problem(NamedTuple):
    """A bilevel problem as four pure functions, and a fifth where training is noisy.

    Hyperparameters enter through the functions themselves, so one compiled program serves every candidate. Problems
    hash by their functions: build a problem once and reuse it, and nothing is traced a second time.

    Attributes:
      init: `init(key, hparams) -> params`.
      apply: `apply(params, hparams, inputs) -> logits [n, num_classes]`.
      train_loss: `train_loss(params, hparams, batch) -> scalar`, a mean over examples plus every regulariser, so that
        its Hessian sees what training minimises.
      val_loss: `val_loss(params, hparams, batch) -> scalar`, a mean over examples without regularisers.
      perturb: `perturb(key, hparams, batch) -> batch`, what a step of training sees of its batch: noise, augmentation,
        mixtures. None: the batch itself. Implicit differentiation looks at `train_loss` alone; where hyperparameters
        act here, hypergradients must be unrolled.
      unrolled_only: names of hyperparameters of the vector whose implicit hypergradient is 0 although the losses read
        them, such as a factor of the learning rate.
    """

    init: Callable[[Array, HParams], Params]
    apply: Callable[[Params, HParams, PyTree], Array]
    train_loss: Callable[[Params, HParams, PyTree], Array]
    val_loss: Callable[[Params, HParams, PyTree], Array]
    perturb: Callable[[Array, HParams, PyTree], PyTree] | None = None
    unrolled_only: tuple[str, ...] = ()


ValLoss: TypeAlias = Callable[[Array, Batch], Array]
"""`loss(logits [r, num_classes], batch) -> scalar`, see `mean_loss`."""


def mean_loss(logits: Array, batch: Batch) -> Array:
    """Weighted mean cross-entropy of the labelled examples.

    Args:
      logits: [r, num_classes] with r >= n; rows beyond the n labelled ones are ignored.
      batch: labels [n] (class numbers) or [n, num_classes] (probabilities), and weights [n].
    """
    logits = logits[: batch.labels.shape[0]]
    if batch.labels.ndim == 1:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    else:
        losses = optax.softmax_cross_entropy(logits, batch.labels)
    return weighted_mean(losses, batch.weights)


def brier_score(logits: Array, batch: Batch) -> Array:
    """Weighted mean of |softmax(logits) - labels|^2, from 0 to 2 (Brier, 1950); arguments as of `mean_loss`.

    A proper score as the cross-entropy is, but bounded: however sure a network is of an error, it costs 2 at most. It
    orders candidates that are sure in different measure more nearly by their errors.
    """
    logits = logits[: batch.labels.shape[0]]
    labels = jax.nn.one_hot(batch.labels, logits.shape[-1]) if batch.labels.ndim == 1 else batch.labels
    return weighted_mean(jnp.square(jax.nn.softmax(logits) - labels).sum(-1), batch.weights)


def share_right(logits: Array, batch: Batch) -> Array:
    """Weighted share of labelled examples whose largest logit is the label's (or the likeliest label's).

    NaN where labels [n] are floats, of which none is right or wrong; arguments as of `mean_loss`.
    """
    if batch.labels.ndim == 1 and jnp.issubdtype(batch.labels.dtype, jnp.floating):
        return jnp.full((), jnp.nan, logits.dtype)
    logits = logits[: batch.labels.shape[0]]
    labels = batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(-1)
    return weighted_mean((logits.argmax(-1) == labels).astype(logits.dtype), batch.weights)


def weighted_mean(values: Array, weights: Array) -> Array:
    """Of values [n] by weights [n]."""
    return jnp.vdot(values, weights) / weights.sum()


@dataclasses.dataclass(frozen=True)
class LossOfLogits:
    """A validation loss that reads nothing but logits, so that who has these need not ask the network again.

    XLA computes twice what is asked for twice inside branches and loops, such as those of cells.

    Attributes:
      apply: of the problem.
      loss: `loss(logits, batch) -> scalar`.
      accuracy: `accuracy(logits, batch) -> scalar` in [0, 1]; NaN where nothing can be right or wrong.
    """

    apply: Callable[[Params, HParams, PyTree], Array]
    loss: ValLoss
    accuracy: ValLoss = share_right

    def __call__(self, params: Params, hparams: HParams, batch: Batch) -> Array:
        """The loss of the network on a batch, as `Problem.val_loss`."""
        return self.loss(self.apply(params, hparams, batch.inputs), batch)


LOSSES: Mapping[str, ValLoss] = {"cross_entropy": mean_loss, "brier": brier_score}
"""Validation losses by name."""


@functools.cache
def judged_by(problem: Problem, loss: ValLoss) -> Problem:
    """The problem whose validation loss is `loss(logits, batch)`; training stays as it is."""
    return problem._replace(val_loss=LossOfLogits(problem.apply, loss, _accuracy_of(problem)))


def _accuracy_of(problem: Problem) -> ValLoss:
    return problem.val_loss.accuracy if isinstance(problem.val_loss, LossOfLogits) else share_right


@functools.cache
def joint(problem: Problem, loss: ValLoss, count: int) -> Problem:
    """`count` networks of one candidate that are asked together: their logits are the mean of all.

    Parameters have a leading axis of networks. A mean of losses keeps what each network gets wrong by chance; the loss
    of the mean does not (Lakshminarayanan et al., arXiv 1612.01474). Each is trained for itself: the training loss is
    the sum of theirs. They are computed one after the other: side by side, convolutions would have a kernel for each.

    Args:
      problem: of a single network.
      loss: `loss(logits, batch)` of validation.
      count: of networks.
    """

    def init(key, hparams):
        return jax.vmap(lambda key: problem.init(key, hparams))(jax.random.split(key, count))

    def apply(params, hparams, inputs):
        return jax.lax.map(lambda one: problem.apply(one, hparams, inputs), params).mean(0)

    def train_loss(params, hparams, batch):
        return jax.lax.map(lambda one: problem.train_loss(one, hparams, batch), params).sum()

    return judged_by(problem._replace(init=init, apply=apply, train_loss=train_loss), loss)


def loss_and_accuracy(problem: Problem, params: Params, hparams: HParams, batch: Batch) -> tuple[Array, Array]:
    """The validation loss and `accuracy`, of one pass where the loss is a `LossOfLogits`."""
    logits, val_loss = problem.apply(params, hparams, batch.inputs), problem.val_loss
    if isinstance(val_loss, LossOfLogits) and val_loss.apply == problem.apply:
        return val_loss.loss(logits, batch), val_loss.accuracy(logits, batch)
    return arguments.scalar("problem.val_loss", val_loss)(params, hparams, batch), _accuracy_of(problem)(logits, batch)


def dealt(count: int, at_most: int) -> np.ndarray:
    """Places [slices, k] of examples that a network is asked about slice by slice, where all at once are too many.

    A norm that looks at its batch sees one slice, so slices are to be like the whole: equally large, and dealt at
    random, the same way at any time. Data may lie sorted by class, and a slice of one class is no sample of it.

    Args:
      count: of the examples.
      at_most: examples of a slice.

    Returns:
      The first `count` places, row by row, are each example once; those after them fill up the last slice.
    """
    slices = -(-count // at_most)
    order = np.arange(count) if slices == 1 else np.random.default_rng(0).permutation(count)
    return np.resize(order, (slices, -(-count // slices)))


def accuracy(problem: Problem, params: Params, hparams: HParams, batch: Batch) -> Array:
    """What the validation loss calls its accuracy; without a word of it the share of `share_right`."""
    return _accuracy_of(problem)(problem.apply(params, hparams, batch.inputs), batch)
