"""Rivals without a synthetic S_val: real validation data, surrogate models of the same full trainings, chance."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.pipeline.clock import Elapsed, measured
from hcdc_jax.pipeline.hcdc.matched_candidates import choose_candidates
from hcdc_jax.pipeline.hcdc.shifts import Shift, learned_shift, shifted
from hcdc_jax.pipeline.hcdc.targets import Matched, believed, matched_targets
from hcdc_jax.pipeline.recipes.base import Cost, Method, RankRequest, RankResult
from hcdc_jax.pipeline.scoring import mean_scores, rank_keys
from hcdc_jax.pipeline.setup import RANK, Setup, key_for
from hcdc_jax.pipeline.taught.teachers import relabelled, teachers
from hcdc_jax.search import Halving, successive_halving, surrogate
from hcdc_jax.training.candidates import Scores
from hcdc_jax.types import Batch


def _whole(setup: Setup, seed: int) -> Batch:
    del seed
    return setup.val


def _some(setup: Setup, seed: int) -> Batch:
    """Random validation examples, as many as S_val has; of a graph with all that surrounds them."""
    data = setup.data
    count = min(setup.kind.count(setup.config, data, "val"), len(data.val_idx))
    index = np.random.default_rng([seed, 1]).choice(data.val_idx, count, replace=False)
    return setup.kind.batch(setup, index)


def _on_real(validation: Callable[[Setup, int], Batch]) -> Callable[[RankRequest], RankResult]:
    """Trains on S_train and validates on real data."""

    def judge(trial: RankRequest) -> RankResult:
        setup, seed = trial.run.setup, trial.seed
        val = validation(setup, seed)
        scores, elapsed = trial.networks().on(val)
        return RankResult(scores, elapsed, trial.train_scalars + setup.kind.real_scalars(setup))

    return judge


def _on_teachers(trial: RankRequest) -> RankResult:
    """Trains on S_train and asks how far networks agree with the teachers on validation images, of any class.

    Accuracy is the share of images on which network and teachers name the same class.
    """
    setup, seed = trial.run.setup, trial.seed
    taught_by = teachers(trial.run, seed, trial.condensed_train)
    with measured() as labelling:
        val = jax.block_until_ready(relabelled(setup, taught_by, setup.val))
    scores, elapsed = trial.networks().on(val)
    stored = trial.train_scalars + setup.kind.real_scalars(setup) + val.labels.size
    cost = Cost(labelling.run, labelling.compile).plus(taught_by.cost)
    return RankResult(scores, elapsed, stored, cost, taught_by.paid)


def _on_itself(trial: RankRequest) -> RankResult:
    """The loss that is left on S_train itself."""
    return _left_on(trial, trial.condensed_train)


def _on_images(trial: RankRequest) -> RankResult:
    """The loss that is left on S_train; where teachers labelled many views, on the images as they are, the first."""
    labels, batch = trial.run.setup.config.labels, trial.condensed_train
    if labels.teachers:
        batch = jax.tree.map(lambda leaf: leaf[: len(leaf) // labels.views], batch)
    return _left_on(trial, batch)


def _left_on(trial: RankRequest, batch: Batch) -> RankResult:
    scores, elapsed = trial.networks().on(batch)
    return RankResult(scores, elapsed, trial.train_scalars)


def paid(trial: RankRequest) -> Matched:
    """The m full trainings that hcdc pays for, from the same matched candidates."""
    return matched_targets(trial.run, trial.seed, choose_candidates(trial.run, trial.seed, trial.condensed_train))


def scores_of(losses: np.ndarray, accuracy: np.ndarray | None = None) -> Scores:
    """Scores of what the host computed; candidates tie in an accuracy that a method does not predict."""
    accuracy = np.zeros(len(losses)) if accuracy is None else accuracy
    return Scores(*map(jnp.asarray, (losses.astype(np.float32), accuracy.astype(np.float32), np.isfinite(losses))))


def _surrogate(trial: RankRequest, *, with_gradients: bool) -> RankResult:
    """A Gaussian process on the log losses of the full trainings."""
    setup, matched = trial.run.setup, paid(trial)
    with measured() as elapsed:
        logs = predicted_logs(setup, matched, with_gradients=with_gradients)
    hparams, (value, gradient) = matched.hparams, matched.target
    stored = hparams.size + value.size + gradient.size * with_gradients
    cost = matched.cost.plus(matched.gradient_cost) if with_gradients else matched.cost
    return RankResult(scores_of(np.exp(logs)), elapsed, stored, cost, np.asarray(hparams))


def predicted_logs(setup: Setup, matched: Matched, *, with_gradients: bool) -> np.ndarray:
    """[n] log losses of the candidates, by a Gaussian process on those of the full trainings."""
    value, gradient = map(np.asarray, believed(setup, matched))
    slopes = gradient / value[:, None] if with_gradients else None
    return surrogate.predict(surrogate.fit(setup.space, matched.hparams, np.log(value), slopes), setup.candidates)[0]


def _real_val_residual(trial: RankRequest) -> RankResult:
    """real_val, with its log losses corrected by a Gaussian process on what they miss of the full trainings."""
    setup, matched = trial.run.setup, paid(trial)
    keys = rank_keys(setup, trial.seed)
    with measured() as fitting:
        at_matched, _ = mean_scores(setup, keys, matched.hparams, trial.condensed_train, setup.val)
    scores, elapsed = trial.networks().on(setup.val)
    usable = np.asarray(at_matched.status)  # a failed network on S_train says nothing about its residual
    residual = np.log(np.asarray(matched.target.value)[usable]) - np.log(at_matched.loss[usable])
    correction = 0.0
    if usable.any():
        process = surrogate.fit(setup.space, np.asarray(matched.hparams)[usable], residual)
        correction = surrogate.predict(process, setup.candidates)[0]
    return RankResult(
        scores._replace(loss=scores.loss * np.exp(correction)),
        elapsed,
        trial.train_scalars + setup.kind.real_scalars(setup) + matched.hparams.size + residual.size,
        matched.cost.plus(Cost(fitting.run, fitting.compile)),
        np.asarray(matched.hparams),
    )


def _shift(trial: RankRequest) -> Shift:
    return learned_shift(trial.run, trial.seed, paid(trial), trial.condensed_train)


def _lambda_shift(trial: RankRequest) -> RankResult:
    """real_val after a learned constant shift of the hyperparameters."""
    setup, matched, shift = trial.run.setup, paid(trial), _shift(trial)
    candidates = shifted(setup, setup.candidates, shift.amount)
    scores, elapsed = mean_scores(setup, rank_keys(setup, trial.seed), candidates, trial.condensed_train, setup.val)
    stored = trial.train_scalars + setup.kind.real_scalars(setup) + shift.amount.size
    cost = matched.cost.plus(shift.cost)
    return RankResult(scores, elapsed, stored, cost, np.asarray(matched.hparams), shift.amount)


def _chance(trial: RankRequest) -> RankResult:
    """A random order: what choosing blindly gives."""
    with measured() as elapsed:
        order = jax.random.permutation(key_for(RANK, trial.seed), len(trial.run.setup.candidates))
    return RankResult(scores_of(np.asarray(order, np.float64)), elapsed, 0)


def _halving(trial: RankRequest) -> RankResult:
    """Successive halving on the full data, ranked by `places`."""
    setup = trial.run.setup
    with measured() as elapsed:
        found = successive_halving(
            key_for(RANK, trial.seed), setup.problem, setup.candidates, setup.train, setup.val, training=setup.training
        )
    place, accuracy = places(found, np.asarray(setup.candidates))
    # All of its time is training on the full data, which the full trainings already count.
    cost = Cost(0.0, elapsed.compile, elapsed.run, found.full_trainings)
    return RankResult(scores_of(place, accuracy), Elapsed(), setup.kind.real_scalars(setup), cost)


def places(found: Halving, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places [n] of the candidates [n, h], and their last accuracies [n].

    Who is dropped later ranks higher, the loss decides among equals; the winner's place is 0, of failed ones inf.
    """
    last = {hparams.tobytes(): row for row, hparams in enumerate(found.history.hparams)}
    rows = np.array([last[hparams.tobytes()] for hparams in candidates])
    order = np.lexsort((found.history.loss[rows], -found.steps[rows]))
    return np.where(found.history.status[rows], np.argsort(order), np.inf), found.history.accuracy[rows]


REAL_VAL = Method("S_train with the whole real validation part", None, _on_real(_whole))
REAL_VAL_HARD = Method(
    "real_val on S_train with its own labels, where others have teachers", None, _on_real(_whole), labels="own"
)
TEACHER_VAL = Method(
    "S_train with real validation images and what the teachers of [labels] say of them", None, _on_teachers
)
TRAIN_LOSS = Method("the loss that is left on S_train, nothing else", None, _on_images)
TRAIN_LOSS_HARD = Method(
    "train_loss on S_train with its own labels, where others have teachers", None, _on_itself, labels="own"
)
RANDOM_VAL = Method("S_train with random real validation examples, as many as S_val has", None, _on_real(_some))
SURROGATE = Method(
    "Gaussian process on the losses of hcdc's full trainings",
    None,
    functools.partial(_surrogate, with_gradients=False),
    paid,
)
SURROGATE_GRAD = Method(
    "Gaussian process on the losses and hypergradients of hcdc's full trainings",
    None,
    functools.partial(_surrogate, with_gradients=True),
    paid,
)
REAL_VAL_RESIDUAL = Method(
    "real_val, corrected by a Gaussian process on what it misses of hcdc's full trainings",
    None,
    _real_val_residual,
    paid,
)
LAMBDA_SHIFT = Method(
    "real_val after a shift of lambda learned from hcdc's full trainings", None, _lambda_shift, _shift
)
RANDOM_CHOICE = Method("a random order of the candidates", None, _chance, labels="unseen")
SUCCESSIVE_HALVING = Method("successive halving of the candidates on the full data", None, _halving, labels="unseen")
