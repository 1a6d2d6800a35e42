"""HCDC with own theta: hypergradients matched at networks that were trained on the real data."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import Condenser, has_diverged
from hcdc_jax.condense.base import run as run_condenser
from hcdc_jax.condense.hcdc import HCDCData, hcdc
from hcdc_jax.containers import Container, ImageStart
from hcdc_jax.errors import UserError
from hcdc_jax.frozen import Pool, Target
from hcdc_jax.krylov import norm
from hcdc_jax.pipeline.draws import drawn
from hcdc_jax.pipeline.matched_networks import networks_at
from hcdc_jax.pipeline.recipes.base import Learner, Method, Recipe, Request, Work, half_key
from hcdc_jax.pipeline.recipes.starts import learned, stored, to_learn
from hcdc_jax.pipeline.refinement import refined
from hcdc_jax.pipeline.selection import DISTANCES, settled
from hcdc_jax.pipeline.setup import Setup, Start
from hcdc_jax.pipeline.shifts import facts, learned_shift, shifted
from hcdc_jax.pipeline.targets import Matched, believed, matched_targets, tell_of_exploded
from hcdc_jax.spaces.continuous import as_is
from hcdc_jax.types import Array, Batch


def _condenser(setup: Setup, container: Container) -> Condenser:
    options = setup.config.hcdc
    return hcdc(setup.matched_problem, container, distance=options.distance, direct=options.direct)


def _values_alone(setup: Setup, container: Container) -> Condenser:
    return hcdc(setup.matched_problem, container, distance="value", direct=setup.config.hcdc.direct)


def _work(request: Request) -> Work:
    return _work_of(request, _matched(request), "hcdc", _condenser, DISTANCES)


def _work_of_values(request: Request) -> Work:
    return _work_of(request, _matched(request), "value_only", _values_alone, ("value",))


def _shifted_work(request: Request) -> Work:
    """The networks on S_train stand where candidates will: at the shifted hyperparameters."""
    setup, matched = request.run.setup, _matched(request)
    assert request.condensed_train is not None
    shift = learned_shift(request.run, request.seed, matched, request.condensed_train)
    matched = matched._replace(cost=matched.cost.plus(shift.cost))

    def placed(hparams: Array) -> Array:
        return shifted(setup, hparams, shift.amount)

    work = _work_of(request, matched, "hcdc_shifted", _condenser, DISTANCES, placed)
    return work._replace(facts={**work.facts, **facts(setup, shift.amount)})


def _matched(request: Request) -> Matched:
    assert request.condensed_train is not None
    draws = drawn(request.run, request.seed, request.condensed_train)
    return matched_targets(request.run, request.seed, draws)


def _work_of(
    request: Request,
    matched: Matched,
    name: str,
    condenser: Callable[[Setup, Container], Condenser],
    distances: tuple[str, ...],
    placed: Callable[[Array], Array] = as_is,
) -> Work:
    """Work of S_val, `placed` being where candidates are trained on S_train."""
    setup = request.run.setup
    container = learned(setup, "val")

    def learn(matched: Matched) -> Batch | None:
        work, key, count = _frozen(request, matched, placed), half_key("val", request.seed), steps(setup)
        method, start = condenser(setup, container), container.init(key, request.start)
        state = run_condenser(key, method, method.init(key, start, work.data), work.data, steps=count, every=count)
        return None if has_diverged(state.variables, start) else jax.jit(container.decode)(state.variables)

    matched = refined(request, matched, name, learn, placed)
    return settled(request, _frozen(request, matched, placed), container, name, distances)


def _frozen(request: Request, matched: Matched, placed: Callable[[Array], Array]) -> Work:
    setup, options = request.run.setup, request.run.setup.config.hcdc
    assert request.condensed_train is not None
    networks = networks_at(request.run, request.seed, placed(matched.hparams), request.condensed_train)
    pool, target = networks.pool, believed(setup, matched)
    tell_of_exploded(request.run, request.seed, target)
    if setup.asks_jointly:
        pool = _together(pool, options.inits)
    else:  # all networks of a candidate have the same target
        target = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * options.inits), target)
    pool, target = _trained(request, pool, target)
    rates = setup.kind.rates(setup, request.start)
    data = HCDCData(pool, target, jnp.asarray(setup.space.prior_std), rates)
    return Work(data, matched.cost.plus(networks.cost), np.asarray(matched.hparams))


def _together(pool: Pool, inits: int) -> Pool:
    """The networks of each candidate as one of a joint problem: leaves [inits m, ...] become [m, inits, ...]."""

    def by_candidate(leaf: Array) -> Array:
        return jnp.moveaxis(leaf.reshape(inits, -1, *leaf.shape[1:]), 0, 1)

    # Responses have the axis of hyperparameters before that of networks: [m, h, inits, ...].
    response = jax.tree.map(lambda leaf: jnp.moveaxis(by_candidate(leaf), 1, 2), pool.response)
    hparams = jax.tree.map(lambda leaf: by_candidate(leaf)[:, 0], pool.hparams)
    return Pool(jax.tree.map(by_candidate, pool.params), hparams, response)


def _trained(request: Request, pool: Pool, target: Target) -> tuple[Pool, Target]:
    """Without the networks whose weights or response have no finite norm: one of them would undo all of S_val."""
    good = np.asarray(jax.vmap(lambda *network: jnp.isfinite(norm(network)))(pool.params, pool.response))
    if good.all():
        return pool, target
    if not good.any():
        raise UserError(
            f"all {len(good)} networks trained on S_train diverged; lower training.learning_rate and run in a new "
            "folder"
        )
    request.run.progress.say(
        f"seed {request.seed}: {(~good).sum()} of {len(good)} networks trained on S_train diverged and are left out"
    )
    return jax.tree.map(lambda leaf: leaf[good], (pool, target))


def steps(setup: Setup) -> int:
    """Steps of S_val; Algorithm 1 takes as many."""
    return setup.config.hcdc.steps


def _first(setup: Setup, part: str, seed: int) -> Start:
    """Real examples of the part that S_val stands for, or those that S_train starts from."""
    if setup.config.hcdc.start == "val":
        return stored(setup, part, seed)
    if setup.kind.unit != "images":
        raise UserError("hcdc.start = 'train' is for images; leave it out")
    images, labels = stored(setup, "train", seed)
    wanted = setup.kind.count(setup.config, setup.data, part) // setup.data.num_classes
    if wanted > np.bincount(labels).min():
        raise UserError(
            "hcdc.start = 'train' takes S_val from the images of S_train: set condense.val_factor = 1 or less"
        )
    kept = np.concatenate([np.flatnonzero(labels == c)[:wanted] for c in range(setup.data.num_classes)])
    return ImageStart(images[kept], labels[kept])


_START = to_learn(_first)

METHOD = Method(
    "hypergradients matched at networks trained on the real data (arXiv 2405.17535)",
    train=None,
    val=Recipe("hcdc", _START, learned, Learner(_condenser, _work, steps, rate="hcdc.feature_step", by_class=False)),
)
VALUE_ONLY = Method(
    "as hcdc, but the losses of the same full trainings are matched, without their hypergradients",
    train=None,
    val=Recipe(
        "value_only",
        _START,
        learned,
        Learner(_values_alone, _work_of_values, steps, rate="hcdc.feature_step", by_class=False),
    ),
)
SHIFTED = Method(
    "hcdc at hyperparameters shifted as lambda_shift does, so that S_train wants what the full data wants",
    train=None,
    val=Recipe(
        "hcdc_shifted",
        _START,
        learned,
        Learner(_condenser, _shifted_work, steps, rate="hcdc.feature_step", by_class=False),
    ),
)
