"""Over-budget condensation and double-end pruning (arXiv 2310.07506, section 5).

More is condensed than the budget allows, by a tenth; then the most redundant of the images go until it holds. Which
those are, the margins say that networks trained on the condensed images give them over the course of training (area
under the margin, AUM; arXiv 2001.10528, Eq. 2): images of low margin are hard, images of high margin easy, and where
there are few images either may be worth least. How many go from the hard end is chosen on real validation images.

Any container can be pruned whose examples can be removed singly (`Container.take`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.containers import Container
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.problem import Problem, dealt
from hcdc_jax.training.train import Training, advance, begin, train
from hcdc_jax.types import Array, Batch, HParams, Params, Variables

STRATEGIES = ("double_end", "easy_only", "hard_only", "random")
BETAS = tuple(i / 10 for i in range(11))
"""Shares of the hard end that are tried; the paper's grid is not known."""
MOST_AT_ONCE = 256
"""Images that a trained network is asked about at a time, as in `evaluation`: what batch norm takes for its batch."""


class Judge(NamedTuple):
    """What networks are trained on condensed images to judge them.

    Attributes:
      problem: the network; `condense.epoch_training.augmented` adds an augmentation to its training.
      hparams: one candidate.
      training: on the condensed images, in mini-batches or not. Margins are taken once an epoch.
      inits: networks that are averaged over; the margins of one are noisy.
    """

    problem: Problem
    hparams: HParams
    training: Training
    inits: int = 4


class Pruned(NamedTuple):
    """What is left.

    Attributes:
      variables: of the container, without the images that went.
      kept: [m] places, among those before, of the images that stayed.
      margins: [n] AUM of all images before; None where the strategy does not look.
      beta: share of the hard end among what went; None where it is random.
      accuracies: [len(betas)] of real validation images, by which `beta` was chosen; None where it was given.
    """

    variables: Variables
    kept: np.ndarray
    margins: np.ndarray | None
    beta: float | None
    accuracies: np.ndarray | None


def prune(
    key: Array,
    container: Container,
    variables: Variables,
    drop_per_class: int,
    strategy: str = "double_end",
    *,
    judge: Judge,
    validation: Batch | None = None,
    betas: tuple[float, ...] = BETAS,
    keep: Callable[[str, Callable[[], Array]], np.ndarray] = lambda name, make: np.asarray(make()),
) -> Pruned:
    """Removes `drop_per_class` images of each class; `containers.stored_scalars` of the result is its new ledger.

    Args:
      key: for the networks that judge, or for the choice at random.
      container: of the images.
      variables: its variables.
      drop_per_class: how many go, of each class.
      strategy: "double_end", from both ends, shared as serves `validation` best; "easy_only", those of highest margin;
        "hard_only", those of lowest; "random".
      judge: how networks are trained on the condensed images.
      validation: real images, for "double_end". A validation part: chosen on the test part, accuracies there mean
        nothing any more.
      betas: shares of the hard end that "double_end" tries; ties go to the first.
      keep: `keep(name, make)` gives what `make()` returns; it is asked for each part that takes long, "margins" and
        then "beta_0.3" and so on, and may have it from before.

    Raises:
      UserError: another strategy, "double_end" without `validation`, nothing left of a class, or a container whose
        examples cannot be removed singly.
    """
    check_name("pruning strategy", strategy, STRATEGIES)
    if strategy == "double_end" and (validation is None or not betas):
        raise UserError("double_end chooses between the ends on real validation images: give `validation` and `betas`")
    if container.take is None:
        raise UserError("this container does not store its examples singly, so none can be removed")
    key_margins, key_choice = jax.random.split(key)
    batch: Batch = jax.jit(container.decode)(variables)
    classes = np.asarray(batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(1))
    if strategy == "random":
        kept = kept_places(np.asarray(jax.random.uniform(key_choice, classes.shape)), classes, drop_per_class, 0.0)
        return Pruned(container.take(variables, jnp.asarray(kept)), kept, None, None, None)
    # Before anything is trained: whether so many can go does not depend on margins.
    kept_places(np.zeros(len(classes)), classes, drop_per_class, 0.0)
    margins = keep("margins", lambda: area_under_margin(key_margins, batch, judge))
    beta, accuracies = {"easy_only": 0.0, "hard_only": 1.0}.get(strategy), None
    if beta is None:
        assert validation is not None

        def tried(share: float) -> Array:
            chosen = kept_places(margins, classes, drop_per_class, share)
            return validation_accuracy(key_choice, batch, chosen, validation, judge)

        accuracies = np.stack([keep(f"beta_{share:g}", functools.partial(tried, share)) for share in betas])
        beta = betas[int(accuracies.argmax())]
    kept = kept_places(margins, classes, drop_per_class, beta)
    return Pruned(container.take(variables, jnp.asarray(kept)), kept, margins, beta, accuracies)


def margin(logits: Array, labels: Array) -> Array:
    """z_y - max_{j != y} z_j [n] of logits [n, num_classes] and labels [n], or [n, num_classes] probabilities."""
    classes = labels if labels.ndim == 1 else labels.argmax(1)
    own = jax.nn.one_hot(classes, logits.shape[1], dtype=bool)
    return jnp.where(own, logits, 0.0).sum(1) - jnp.where(own, -jnp.inf, logits).max(1)


@functools.partial(jax.jit, static_argnames=("problem", "inits"))
def _mean_margins(key, batch, hparams, training, *, problem, inits):
    count = batch.labels.shape[0]
    size = min(training.batch_size or count, count)
    per_epoch = count // size
    epochs = max(training.steps // per_epoch, 1)

    def one(key):
        def epoch(carry, _):
            trainee, total = carry
            trainee = advance(problem, hparams, trainee, batch, training, per_epoch)
            logits = _logits(problem, trainee.params, hparams, batch.inputs)
            return (trainee, total + margin(logits, batch.labels)), None

        start = begin(key, problem, hparams, training), jnp.zeros(count, batch.inputs.dtype)
        return jax.lax.scan(epoch, start, length=epochs)[0][1] / epochs

    return _of_each(one, jax.random.split(key, inits)).mean(0)


def area_under_margin(key: Array, batch: Batch, judge: Judge) -> Array:
    """AUM [n]: the margin of each image, averaged over epochs and initialisations.

    Margins are those of the images as they are stored, after each epoch, with one state of the network for all; AUM's
    own are those of the augmented images as they come up in training. Batch norm sees all images as one batch, or, from
    `MOST_AT_ONCE` on, in equal parts dealt at random.

    Args:
      key: for initialisations and batches.
      batch: the condensed images, decoded.
      judge: how networks are trained on them.
    """
    return _mean_margins(key, batch, judge.hparams, judge.training, problem=judge.problem, inits=judge.inits)


def kept_places(scores: np.ndarray, classes: np.ndarray, drop_per_class: int, beta: float) -> np.ndarray:
    """Places of the images that stay, sorted by class and within it as before.

    Of each class floor(beta drop) images of lowest score go, and of highest score as many as are missing.

    Args:
      scores: [n].
      classes: [n].
      drop_per_class: how many go, of each class.
      beta: share of the low end in [0, 1].

    Raises:
      UserError: nothing would be left of a class.
    """
    smallest = int(np.unique(classes, return_counts=True)[1].min())
    if not 0 <= drop_per_class < smallest:
        raise UserError(
            f"{drop_per_class} images of each class cannot go where a class has {smallest}; drop at most {smallest - 1}"
        )
    # Shares such as 0.29 of 100 come out as 28.999...
    low = math.floor(beta * drop_per_class + 1e-9)
    kept = []
    for c in np.unique(classes):
        members = np.flatnonzero(classes == c)
        ordered = members[np.argsort(scores[members], kind="stable")]
        kept.append(np.sort(ordered[low : len(ordered) - (drop_per_class - low)]))
    return np.concatenate(kept)


def validation_accuracy(key: Array, batch: Batch, places: np.ndarray, validation: Batch, judge: Judge) -> Array:
    """Mean accuracy on real validation images of networks that are trained on some of the condensed ones.

    Args:
      key: for initialisations and batches; with the same key, other places see the same ones.
      batch: the condensed images, decoded.
      places: [m] of those that are trained on.
      validation: real images.
      judge: how networks are trained.
    """
    return _accuracy(
        key, batch, jnp.asarray(places), validation, judge.hparams, judge.training,
        problem=judge.problem, inits=judge.inits,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("problem", "inits"))
def _accuracy(key, batch, places, validation, hparams, training, *, problem, inits):
    chosen = jax.tree.map(lambda leaf: leaf[places], batch)
    classes = validation.labels if validation.labels.ndim == 1 else validation.labels.argmax(1)

    def one(key):
        params, _ = train(key, problem, hparams, chosen, training)
        correct = _logits(problem, params, hparams, validation.inputs).argmax(1) == classes
        return jnp.vdot(correct.astype(validation.weights.dtype), validation.weights) / validation.weights.sum()

    return _of_each(one, jax.random.split(key, inits)).mean()


def _logits(problem: Problem, params: Params, hparams: HParams, inputs: Array) -> Array:
    """[n, num_classes] of images [n, h, w, c]: of all together where they are few, else in slices, see `dealt`."""
    places = dealt(len(inputs), MOST_AT_ONCE)
    said = jax.lax.map(lambda place: problem.apply(params, hparams, inputs[place]), jnp.asarray(places))
    # Back from the order of slices to that of the images; what filled up the last slice is left out.
    return said.reshape(-1, said.shape[-1])[np.argsort(places.reshape(-1)[: len(inputs)])]


def _of_each(one: Callable[[Array], Array], keys: Array) -> Array:
    """`one` of every key: side by side, on a CPU one by one, whose cache holds one network in training."""
    return jax.lax.map(one, keys) if jax.default_backend() == "cpu" else jax.vmap(one)(keys)
