"""HCDC with own theta: hypergradients matched at networks that were trained on the real data."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import Condenser, has_diverged
from hcdc_jax.condense.base import run as run_condenser
from hcdc_jax.condense.hcdc import HCDCData, hcdc
from hcdc_jax.containers import Container, ImageStart
from hcdc_jax.errors import DivergedError, UserError
from hcdc_jax.hypergradients import distances
from hcdc_jax.hypergradients.distances import READ_VALUES
from hcdc_jax.hypergradients.fixed_networks import Pool, Target, without_diverged
from hcdc_jax.hypergradients.krylov import norm
from hcdc_jax.pipeline.hcdc.matched_candidates import choose_candidates
from hcdc_jax.pipeline.hcdc.matched_networks import networks_at
from hcdc_jax.pipeline.hcdc.refinement import refined
from hcdc_jax.pipeline.hcdc.selection import DISTANCES, settled
from hcdc_jax.pipeline.hcdc.shifts import facts, learned_shift, shifted
from hcdc_jax.pipeline.hcdc.targets import Matched, believed, matched_targets, tell_of_exploded
from hcdc_jax.pipeline.kinds.shares import check_equal
from hcdc_jax.pipeline.kinds.starts import learned, stored, to_learn
from hcdc_jax.pipeline.recipes.base import Learner, Method, Recipe, Request, Work, part_key
from hcdc_jax.pipeline.setup import Setup, Start
from hcdc_jax.spaces.continuous import as_is
from hcdc_jax.types import Array, Batch


def _condenser(setup: Setup, container: Container) -> Condenser:
    options = setup.config.hcdc
    return hcdc(setup.matched_problem, container, distance=distances.get(options.distance), direct=options.direct)


def _values_alone(setup: Setup, container: Container) -> Condenser:
    return hcdc(setup.matched_problem, container, distance="value", direct=setup.config.hcdc.direct)


class _Match(NamedTuple):
    """What one of the methods here matches.

    Attributes:
      name: of its recipe.
      condenser: of S_val.
      distances: what it may choose from, where it chooses.
    """

    name: str
    condenser: Callable[[Setup, Container], Condenser]
    distances: tuple[str, ...]

    def asked(self, setup: Setup) -> tuple[str, ...]:
        """The distances that S_val may be matched by."""
        options = setup.config.hcdc
        fixed = self.condenser is _condenser and options.selection == "fixed"
        return (options.distance,) if fixed else self.distances

    def reads_hypergradients(self, setup: Setup) -> bool:
        """Whether they enter the match; else nobody pays for them."""
        return self.asked(setup) != ("value",)


_HCDC = _Match("hcdc", _condenser, DISTANCES)
_VALUE_ONLY = _Match("value_only", _values_alone, ("value",))
_SHIFTED = _Match("hcdc_shifted", _condenser, DISTANCES)


def _work(request: Request) -> Work:
    return _work_of(request, _matched(request), _HCDC)


def _work_of_values(request: Request) -> Work:
    return _work_of(request, _matched(request), _VALUE_ONLY)


def _shifted_work(request: Request) -> Work:
    """The networks on S_train stand where candidates will: at the shifted hyperparameters."""
    setup, matched = request.run.setup, _matched(request)
    assert request.condensed_train is not None
    shift = learned_shift(request.run, request.seed, matched, request.condensed_train)
    matched = matched._replace(cost=matched.cost.plus(shift.cost))

    def placed(hparams: Array) -> Array:
        return shifted(setup, hparams, shift.amount)

    work = _work_of(request, matched, _SHIFTED, placed)
    return work._replace(facts={**work.facts, **facts(setup, shift.amount)})


def _matched(request: Request) -> Matched:
    assert request.condensed_train is not None
    candidates = choose_candidates(request.run, request.seed, request.condensed_train)
    return matched_targets(request.run, request.seed, candidates)


def _work_of(request: Request, matched: Matched, match: _Match, placed: Callable[[Array], Array] = as_is) -> Work:
    """Work of S_val, `placed` being where candidates are trained on S_train."""
    setup = request.run.setup
    container = learned(setup, "val")

    def learn(matched: Matched) -> Batch:
        work, key, count = _frozen(request, matched, match, placed), part_key("val", request.seed), steps(setup)
        method, start = match.condenser(setup, container), container.init(key, request.start)
        state = run_condenser(key, method, method.init(key, start, work.data), work.data, steps=count, every=count)
        if has_diverged(state.variables, start):
            raise DivergedError("S_val diverged")
        return jax.jit(container.decode)(state.variables)

    matched = refined(request, matched, match.name, learn, placed)
    return settled(request, _frozen(request, matched, match, placed), container, match.name, match.distances)


def _frozen(request: Request, matched: Matched, match: _Match, placed: Callable[[Array], Array]) -> Work:
    setup, options = request.run.setup, request.run.setup.config.hcdc
    assert request.condensed_train is not None
    slopes = match.reads_hypergradients(setup)
    networks = networks_at(
        request.run, request.seed, placed(matched.hparams), request.condensed_train,
        options.sensitivity if slopes else "direct",
    )  # fmt: skip
    pool, target, cost = networks.pool, believed(setup, matched), matched.cost.plus(networks.cost)
    if slopes:
        cost = cost.plus(matched.gradient_cost)
        tell_of_exploded(request.run, request.seed, matched.hparams, target)
    if setup.asks_jointly:
        pool = _together(pool, options.inits)
    else:  # all networks of a candidate have the same target
        target = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * options.inits), target)
    pool, target = _trained(request, pool, target)
    if slopes:
        _tell_of_diverged(request, pool, target, match)
    rates = setup.kind.rates(setup, request.start)
    data = HCDCData(pool, target, jnp.asarray(setup.space.prior_std), rates)
    return Work(data, cost, np.asarray(matched.hparams))


def _together(pool: Pool, inits: int) -> Pool:
    """The networks of each candidate as one of a joint problem: leaves [inits m, ...] become [m, inits, ...]."""

    def by_candidate(leaf: Array) -> Array:
        return jnp.moveaxis(leaf.reshape(inits, -1, *leaf.shape[1:]), 0, 1)

    # Responses have the axis of hyperparameters before that of networks: [m, h, inits, ...].
    response = jax.tree.map(lambda leaf: jnp.moveaxis(by_candidate(leaf), 1, 2), pool.response)
    hparams = jax.tree.map(lambda leaf: by_candidate(leaf)[:, 0], pool.hparams)
    diverged = None if pool.diverged is None else by_candidate(pool.diverged).any(1)
    return Pool(jax.tree.map(by_candidate, pool.params), hparams, response, diverged)


def _tell_of_diverged(request: Request, pool: Pool, target: Target, match: _Match) -> None:
    """Says of how many networks on S_train the response is not used, if any.

    Raises:
      DivergedError: no network has a hypergradient on both sides, and nothing else is matched.
    """
    flagged = np.zeros(len(pool.hparams), bool) if pool.diverged is None else np.asarray(pool.diverged)
    there = ~np.isnan(np.asarray(target.gradient)).all(1) & ~flagged
    where, count = f"seed {request.seed}", f"{flagged.sum()} of {len(flagged)}"
    cure = "lengthen training.proxy_steps, raise hcdc.damping, or set hcdc.solver = 'neumann'"
    if not there.any() and not set(match.asked(request.run.setup)) & set(READ_VALUES):
        raise DivergedError(
            f"{where}: no network has a hypergradient that did not diverge on both sides, so none can be matched; "
            f"{cure}, or hcdc.distance = 'value'"
        )
    if flagged.any():
        request.run.progress.say(
            f"{where}: the responses of {count} networks on S_train diverged, which are not at a minimum; {match.name} "
            f"matches their losses alone, as far as hcdc.distance reads losses; {cure}"
        )


def _trained(request: Request, pool: Pool, target: Target) -> tuple[Pool, Target]:
    """Without the networks whose weights have no finite norm: one of them would undo all of S_val."""
    pool = without_diverged(pool)
    good = np.asarray(jax.vmap(lambda *network: jnp.isfinite(norm(network)))(pool.params, pool.response))
    if good.all():
        return pool, target
    if not good.any():
        raise DivergedError(
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
    check_equal(setup.config, "hcdc.start = 'train'")
    wanted = setup.kind.count(setup.config, setup.data, part) // setup.data.num_classes
    if wanted > np.bincount(labels).min():
        raise UserError(
            "hcdc.start = 'train' takes S_val from the images of S_train: set condense.val_factor = 1 or less"
        )
    kept = np.concatenate([np.flatnonzero(labels == c)[:wanted] for c in range(setup.data.num_classes)])
    return ImageStart(images[kept], labels[kept])


_START = to_learn(_first)


def pays_for_hypergradients(setup: Setup, name: str) -> bool:
    """Whether the price of the S_val of that name holds the hypergradients of the full trainings."""
    return any(match.name == name and match.reads_hypergradients(setup) for match in (_HCDC, _VALUE_ONLY, _SHIFTED))


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
