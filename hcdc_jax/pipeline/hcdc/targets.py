"""The m full trainings that HCDC pays for, each on disk as soon as it is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.hcdc import direct_target, fit, target_at, unrolled_target, unrolled_targets
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import DivergedError
from hcdc_jax.hypergradients.fixed_networks import Target
from hcdc_jax.pipeline.clock import Elapsed, measured
from hcdc_jax.pipeline.hcdc.matched_candidates import MatchedCandidates, log_spread
from hcdc_jax.pipeline.hcdc.rungs import Climbed, climb, never
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.pipeline.setup import MIXES, TARGETS, Run, Setup, key_for, solver_of
from hcdc_jax.storage import files
from hcdc_jax.storage.codec import to_arrays, to_tree
from hcdc_jax.training.train import Training
from hcdc_jax.types import Array, Params

UNFELT = 0.1
"""Share of the spread of log losses after full trainings; 0.5 to 1.3 were seen wherever rankings were good."""
EXPLODED = 10.0
"""Standard deviations of the log losses that a slope of them may have at most; see `believed`."""
SLIGHT = 0.1
"""A slope of log losses, in prior standard deviations, that is believed however near to each other the losses are."""


class Matched(NamedTuple):
    """The matched candidates and what the real data say about them; trainings that diverged are left out.

    Attributes:
      hparams: [m, h].
      target: values [m] and hypergradients [m, h], NaN where the solve of one diverged.
      cost: of choosing the candidates and of all m full trainings, the diverged ones included: what their values cost.
      gradient_cost: of their hypergradients, on top; who does not look at these does not pay for them.
      params: of the trained networks, leading axis [m], where they are kept: where they teach.
    """

    hparams: Array
    target: Target
    cost: Cost
    gradient_cost: Cost = Cost()
    params: Params = None

    def plus(self, other: Matched) -> Matched:
        """Both, one behind the other."""
        joined = jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves),
            (self.hparams, self.target, self.params),
            (other.hparams, other.target, other.params),
        )
        hparams, target, params = joined
        cost, gradient_cost = self.cost.plus(other.cost), self.gradient_cost.plus(other.gradient_cost)
        return Matched(hparams, target, cost, gradient_cost, params)


def folder_of(folder: Path, seed: int) -> Path:
    """Where the targets of one seed lie in a run folder."""
    return folder / "checkpoints" / f"targets_seed{seed}"


def matched_targets(run: Run, seed: int, candidates: MatchedCandidates) -> Matched:
    """Computes or reads the m own-theta targets of one seed.

    With `extended_space = "samples"` the given candidates are matched. With "trajectories" those that follow a first
    one give way to where the hypergradient of the one before leads, a step of one prior standard deviation downhill
    each, until the trajectory is as long as wanted; with "mixes" every second one gives way to a mixture around it.

    Args:
      run: the run.
      seed: of the method.
      candidates: those to match.

    Raises:
      DivergedError: all trainings did.
    """
    setup, options, folder = run.setup, run.setup.config.hcdc, folder_of(run.folder, seed)

    def candidate(i: int) -> np.ndarray:
        hparams = np.asarray(candidates.hparams[i])
        if options.extended_space == "trajectories" and i % options.trajectory_length:
            return _downhill(setup, read_arrays(_file(folder, i - 1)), hparams)
        if options.extended_space == "mixes" and i % 2:
            assert setup.space.mixed is not None  # other spaces are refused when the run is set up
            key = jax.random.fold_in(key_for(MIXES, seed), i)
            return np.asarray(setup.space.mixed(key, jnp.asarray(hparams), options.mix_temperature))
        return hparams

    label = f"full trainings, seed {seed}"
    matched = _targets(run, folder, key_for(TARGETS, seed), options.full_trainings, candidate, label)
    if not len(matched.hparams):
        raise DivergedError(
            f"all {options.full_trainings} trainings on the real data diverged; lower training.learning_rate and run "
            "in a new folder"
        )
    truth = log_spread(np.asarray(matched.target.value))
    if candidates.spread < UNFELT * truth:
        run.progress.say(
            f"seed {seed}: networks trained on S_train hardly feel the hyperparameters (their log losses on real data "
            f"spread by {candidates.spread:.2g}, those after full trainings by {truth:.2g}), so no S_val can rank "
            "them; lengthen training.proxy_steps, or store more in S_train"
        )
    tell_of_exploded(run, seed, matched.hparams, believed(setup, matched))
    return matched._replace(cost=candidates.cost.plus(matched.cost))


def tell_of_exploded(run: Run, seed: int, hparams: Array, target: Target) -> None:
    """Says how many hypergradients of candidates [m, h] `believed` left out, if any."""
    known = np.asarray(jax.vmap(run.setup.space.has_slope)(hparams)).any(1)
    count = int((np.isnan(np.asarray(target.gradient)).all(1) & known).sum())
    if count:
        run.progress.say(
            f"seed {seed}: {count} of {len(target.value)} hypergradients exploded on their way back through the "
            "training and are left out; distances that read losses match those there"
        )


def believed(setup: Setup, matched: Matched) -> Target:
    """The target, NaN in place of hypergradients that exploded on their way back through a training.

    And where the space has none: of discrete choices, and of what is not active.

    Where steps of training amplify each other, the derivative of the last network may be a million times what a change
    of hyperparameters really does, though the training ends well. The losses tell: where arguments are standard normal,
    the root mean square slope of a function is the standard deviation of its values if it is linear, and sqrt(k) times
    that if it is a Hermite polynomial of degree k. Slopes of log losses, in prior standard deviations, were seen at 0
    to 7 standard deviations of the log losses, and from 19 on with trainings that amplify.
    """
    target = matched.target
    known = np.asarray(jax.vmap(setup.space.has_slope)(matched.hparams))
    target = target._replace(gradient=jnp.where(known, target.gradient, jnp.nan))
    if setup.config.hcdc.sensitivity != "unroll":
        return target  # a solve says itself whether it diverged
    value, gradient = np.asarray(target.value), np.where(known, target.gradient, 0.0)
    slopes = np.linalg.norm(np.asarray(setup.space.prior_std) * gradient / value[:, None], axis=1)
    spread = log_spread(value)
    # Two losses say nothing of their spread.
    limit = max(EXPLODED * spread, SLIGHT) if len(value) > 2 and np.isfinite(spread) else np.inf
    good = np.isfinite(slopes) & (slopes <= limit)
    return target._replace(gradient=jnp.where(good[:, None], target.gradient, jnp.nan))


def found_targets(run: Run, folder: Path, key: Array, found: np.ndarray, label: str) -> Matched:
    """Computes or reads the own-theta targets of candidates [k, h] that a search has found; there may be none.

    Args:
      run: the run.
      folder: keeps them.
      key: of the initialisations.
      found: the candidates.
      label: what the trainings are called.
    """
    return _targets(run, folder, key, len(found), lambda i: found[i], label)


def _targets(
    run: Run, folder: Path, key: Array, count: int, candidate: Callable[[int], np.ndarray], label: str
) -> Matched:
    paths, options = [_file(folder, i) for i in range(count)], run.setup.config.hcdc
    together = options.side_by_side if options.sensitivity == "unroll" else 1
    groups = [range(first, min(first + together, count)) for first in range(0, count, together)]
    missing = [group for group in groups if not all(paths[i].exists() for i in group)]
    for group in run.progress.track(missing, label, len(groups) - len(missing)):
        found = _some(run.setup, jax.random.fold_in(key, group[0]), [candidate(i) for i in group])
        for i, record in zip(group, found, strict=True):
            files.write_npz(paths[i], record)
    records = [read_arrays(path) for path in paths]
    stacked = {name: np.stack([record[name] for record in records]) for name in records[0]}
    networks = {name: array for name, array in stacked.items() if name.startswith("params/")}
    good = np.isfinite(stacked["value"])
    if not good.all():
        run.progress.say(f"{label}: {(~good).sum()} of {count} diverged and are left out")
    unsolved = stacked["diverged"] & good
    if unsolved.any():
        run.progress.say(
            f"{label}: the hypergradients of {unsolved.sum()} of {count} diverged and are left out; their losses "
            "count. Lengthen training.steps, or raise hcdc.damping"
        )
    gradient = np.where(unsolved[:, None], np.nan, stacked["gradient"])
    return Matched(
        hparams=jnp.asarray(stacked["hparams"][good]),
        target=Target(jnp.asarray(stacked["value"][good]), jnp.asarray(gradient[good])),
        cost=Cost(
            compile_seconds=float(stacked["compile_seconds"].sum()),
            training_seconds=float(stacked["training_seconds"].sum()),
            full_trainings=count,
        ),
        gradient_cost=Cost(
            seconds=float(stacked["target_seconds"].sum()),
            # Records of older versions have no times of compilation apart.
            compile_seconds=float(stacked.get("target_compile_seconds", np.zeros(1)).sum()),
            timed_trainings=count if options.sensitivity == "unroll" else 0,
        ),
        params=to_tree({name: array[good] for name, array in networks.items()}).get("params"),
    )


def _file(folder: Path, i: int) -> Path:
    return folder / f"{i:03d}.npz"


def _some(setup: Setup, key: Array, hparams: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Records of candidates that are trained in one call; their times are equal shares."""
    if len(hparams) == 1:
        return [_one(setup, key, hparams[0])]
    with measured() as elapsed:
        target, params, diverged = jax.block_until_ready(
            unrolled_targets(
                key, setup.problem, jnp.asarray(np.stack(hparams)), setup.train, setup.val, _thrifty(setup)
            )
        )
    share = Elapsed()
    share.run, share.compile = elapsed.run / len(hparams), elapsed.compile / len(hparams)
    records = []
    for i, one in enumerate(hparams):
        own_target, own_params, own_diverged = jax.tree.map(lambda leaf, i=i: leaf[i], (target, params, diverged))
        records.append(_record(setup, one, own_target, own_params, own_diverged, Elapsed(), share))
    return records


def _record(
    setup: Setup,
    hparams: np.ndarray,
    target: Target,
    params: Params,
    diverged: Array,
    training: Elapsed,
    targeting: Elapsed,
    climbed: Climbed | None = None,
) -> dict[str, np.ndarray]:
    """What is kept of one candidate; its network where it may teach, its curve where it was looked at midway."""
    networks = to_arrays({"params": params}) if setup.config.labels.teachers else {}
    return (
        {
            "hparams": hparams,
            "value": np.asarray(target.value),
            "gradient": np.asarray(target.gradient),
            "diverged": np.asarray(diverged),
            "training_seconds": np.asarray(training.run),
            "compile_seconds": np.asarray(training.compile),
            "target_seconds": np.asarray(targeting.run),
            "target_compile_seconds": np.asarray(targeting.compile),
        }
        | networks
        | ({} if climbed is None else {"midway": climbed.midway})
    )


def _thrifty(setup: Setup) -> Training:
    return dataclasses.replace(setup.training, adjoint_batch_size=setup.config.hcdc.adjoint_batch_size)


def _one(setup: Setup, key: Array, hparams: np.ndarray) -> dict[str, np.ndarray]:
    return _record(setup, hparams, *full_training(setup, key, jnp.asarray(hparams)))


_Trained: TypeAlias = tuple[Target, Params, Array, Elapsed, Elapsed, Climbed | None]


def full_training(setup: Setup, key: Array, hparams: Array, hopeless: Callable[[int, float], bool] = never) -> _Trained:
    """One full training with its hypergradient, as `hcdc.sensitivity` takes it.

    Args:
      setup: of the run.
      key: of the training.
      hparams: [h].
      hopeless: whether it is given up midway, see `climb`; with `hcdc.stop_sure` alone.

    Returns:
      (target, params, diverged, training, targeting, climbed): the loss on the real validation part and its
      hypergradient [h], NaN where it was given up, the network, whether either diverged, the times of the training and
      of the hypergradient, and with `hcdc.stop_sure` what it was midway.
    """
    if setup.config.hcdc.sensitivity == "unroll":
        return _unrolled(setup, key, hparams)
    return _after_training(setup, key, hparams, hopeless)


def _after_training(setup: Setup, key: Array, hparams: Array, hopeless: Callable[[int, float], bool]) -> _Trained:
    options, climbed = setup.config.hcdc, None
    with measured() as training:
        if options.stop_sure is None:
            params = jax.block_until_ready(fit(key, setup.problem, hparams, setup.train, setup.training))
        else:
            climbed = jax.block_until_ready(climb(setup, key, hparams, hopeless))
            params = climbed.params
    if climbed is not None and climbed.share < 1:
        unknown = Target(jnp.float32(jnp.nan), jnp.full_like(hparams, jnp.nan))
        return unknown, params, jnp.array(False), training, Elapsed(), climbed
    with measured() as targeting:
        if options.sensitivity == "direct":
            found = direct_target(setup.problem, params, hparams, setup.val)
        else:
            found = target_at(
                setup.problem, params, hparams, setup.train, setup.val,
                solver=solver_of(setup.config), direct=options.direct,
            )  # fmt: skip
        target, diverged = jax.block_until_ready(found)
    return target, params, diverged, training, targeting, climbed


def _unrolled(setup: Setup, key: Array, hparams: Array) -> _Trained:
    # Training and its reverse pass are one program; all of it is timed as the price of the
    # hypergradient (`Cost.timed_trainings`).
    with measured() as targeting:
        target, params, diverged = jax.block_until_ready(
            unrolled_target(key, setup.problem, hparams, setup.train, setup.val, _thrifty(setup))
        )
    return target, params, diverged, Elapsed(), targeting, None


def _downhill(setup: Setup, record: dict[str, np.ndarray], otherwise: np.ndarray) -> np.ndarray:
    scale = np.asarray(setup.space.prior_std, np.float32)
    known = np.asarray(setup.space.has_slope(jnp.asarray(record["hparams"])))
    slope = np.where(known, record["gradient"] * scale, 0)
    length = float(np.linalg.norm(slope))
    if record["diverged"] or not np.isfinite(length) or length == 0:  # a diverged or a collapsed network leads nowhere
        return otherwise
    return np.asarray(setup.space.project(jnp.asarray(record["hparams"] - scale * slope / length)))
