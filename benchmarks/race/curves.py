"""Every candidate of a pool trained once on the full data: scores at the rungs of its training, and its hypergradient.

Made in pieces, each on disk as soon as it is done: what was interrupted goes on to the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.hcdc import direct_target, target_at, unrolled_targets
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.hypergradients.solvers import LinearSolver
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.setup import CANDIDATES, TRUTH, Setup, key_for, solver_of
from hcdc_jax.problem import Problem
from hcdc_jax.progress import Progress
from hcdc_jax.search import rungs
from hcdc_jax.storage import files
from hcdc_jax.training.candidates import ask_each, over_chunks, score, scored_at_once, side_by_side
from hcdc_jax.training.sharding import as_needed, in_order, local_devices, mesh_of, over_candidates
from hcdc_jax.training.train import advance, begin, orders_of, shapes_of_step
from hcdc_jax.types import Array, Batch, HParams, Params

PIECE = 48
"""Candidates that are trained between two files."""


class Curves(NamedTuple):
    """What is known of a pool of n candidates.

    Attributes:
      hparams: [n, h].
      unit: [n, h] their places in the prior, from 0 to 1.
      steps: [r] of training at each rung; the last one is a full training.
      loss: [n, r] on the real validation part; infinite where the candidate failed.
      accuracy: [n, r] there.
      test_accuracy: [n, r] on the real test part.
      hypergradient: [n, h] of the validation loss after a full training; NaN where there is none.
      training_seconds: of one full training, without compilation.
      gradient_seconds: of one hypergradient on top of it.
      training_compile_seconds: of the program that trains.
      gradient_compile_seconds: of the one that takes hypergradients.
    """

    hparams: np.ndarray
    unit: np.ndarray
    steps: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    test_accuracy: np.ndarray
    hypergradient: np.ndarray
    training_seconds: float
    gradient_seconds: float
    training_compile_seconds: float
    gradient_compile_seconds: float


def curves(setup: Setup, folder: Path, progress: Progress) -> Curves:
    """Trains the candidates of the pool, or reads what was made of them.

    Args:
      setup: whose candidates are the pool.
      folder: keeps the pieces.
      progress: told how many pieces are done; what it raises `between` ends the work there.
    """
    n = len(setup.candidates)
    paths = [folder / f"{first:06d}.npz" for first in range(0, n, PIECE)]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    for i in progress.track(missing, f"{n} full trainings", len(paths) - len(missing)):
        files.write_npz(paths[i], _piece(setup, np.arange(i * PIECE, (i + 1) * PIECE)))
    pieces = [read_arrays(path) for path in paths]
    found = {name: np.concatenate([piece[name] for piece in pieces])[:n] for name in pieces[0] if name != "seconds"}
    # Of training and its compilation, of gradients and theirs; a process that went on compiled again.
    seconds, most = (reduce([piece["seconds"] for piece in pieces], 0) for reduce in (np.sum, np.max))
    trained = PIECE * len(paths)
    unit = np.asarray(
        jax.random.uniform(key_for(CANDIDATES, setup.config.space.seed), (n, len(setup.space.hparam_names)))
    )
    full, gradient = seconds[0] / trained, seconds[2] / trained
    if setup.config.hcdc.sensitivity == "unroll":  # the reverse pass repeats the training
        gradient = max(gradient - full, 0.0)
    return Curves(
        hparams=np.asarray(setup.candidates),
        unit=unit,
        steps=np.array(_steps(setup)),
        training_seconds=full,
        gradient_seconds=gradient,
        training_compile_seconds=most[1],
        gradient_compile_seconds=most[3],
        **found,
    )


def _steps(setup: Setup) -> tuple[int, ...]:
    return tuple(rung.steps for rung in rungs(len(setup.candidates), setup.training.steps))


def _piece(setup: Setup, index: np.ndarray) -> dict[str, np.ndarray]:
    # The last piece repeats the last candidate: one shape, one compiled program.
    candidates, key = setup.candidates[np.minimum(index, len(setup.candidates) - 1)], key_for(TRUTH, 0)
    with measured() as training:
        params, scores = jax.block_until_ready(_trained(setup, key, candidates))
    with measured() as targeting:
        slopes = jax.block_until_ready(_hypergradients(setup, key, params, candidates))
    val, test = scores
    return {
        "loss": np.asarray(val.loss),
        "accuracy": np.asarray(val.accuracy),
        "test_accuracy": np.asarray(test.accuracy),
        "hypergradient": np.asarray(slopes),
        "seconds": np.array([training.run, training.compile, targeting.run, targeting.compile]),
    }


def _trained(setup: Setup, key: Array, candidates: HParams):
    """The networks after a full training, and (val, test) scores [n, r] on the way."""
    real = (setup.val, setup.test)
    devices = as_needed(local_devices(), len(candidates), (setup.train, real))
    seen = shapes_of_step(setup.train, setup.training)
    size, alone = side_by_side(setup.problem, candidates[0], seen, real, None, devices[0].platform)
    mesh = mesh_of(devices)
    chunks, replicate = over_candidates(candidates, min(size, -(-len(candidates) // mesh.size)), mesh)
    shared = replicate((key, setup.training, setup.train, real))
    return in_order(
        mesh, _climb(setup.problem, chunks, shared, steps=_steps(setup), mesh=mesh, alone=alone), len(candidates)
    )


@functools.partial(jax.jit, static_argnames=("problem", "steps", "mesh", "alone"))
def _climb(problem, chunks, shared, *, steps, mesh, alone):
    key, training, train_batch, _ = shared
    orders = orders_of(key, train_batch, training)

    def one(shared, hparams):
        (key, training, train_batch, real), orders = shared
        trainee, before, found = begin(key, problem, hparams, training), 0, []
        for rung in steps:
            trainee = advance(problem, hparams, trainee, train_batch, training, rung - before, orders)
            found.append(tuple(score(problem, trainee.params, hparams, part) for part in real))
            before = rung
        return trainee.params, jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

    return over_chunks(one, (shared, orders), chunks, mesh, alone)


def _hypergradients(setup: Setup, key: Array, params: Params, candidates: HParams) -> Array:
    options = setup.config.hcdc
    if options.sensitivity == "unroll":
        training = dataclasses.replace(setup.training, adjoint_batch_size=options.adjoint_batch_size)
        groups = np.array_split(np.arange(len(candidates)), -(-len(candidates) // options.side_by_side))
        found = [
            unrolled_targets(key, setup.problem, candidates[group], setup.train, setup.val, training)
            for group in groups
        ]
        return jnp.concatenate([jnp.where(bad[:, None], jnp.nan, target.gradient) for target, _, bad in found])
    at_once = scored_at_once(setup.problem, candidates, setup.train)
    ask = _asking(options.sensitivity, solver_of(setup.config), options.direct)
    return ask_each(ask, setup.problem, params, candidates, (setup.train, setup.val), at_once=at_once)


@functools.cache
def _asking(sensitivity: str, solver: LinearSolver, direct: bool):
    """What `ask_each` asks a trained network; one object for each setting, or each call would compile anew."""

    def ask(problem: Problem, params: Params, hparams: HParams, real: tuple[Batch, Batch]) -> Array:
        if sensitivity == "direct":
            target, diverged = direct_target(problem, params, hparams, real[1])
        else:
            target, diverged = target_at(problem, params, hparams, *real, solver=solver, direct=direct)
        return jnp.where(diverged, jnp.nan, target.gradient)

    return ask
