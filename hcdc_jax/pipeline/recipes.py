"""How each method makes the two halves of a condensed data set.

A method is a pair: what S_train is made by, and what candidates are validated on. A recipe says how one half is made:
container, start, what the steps read, condenser, number of steps. A new method is a line in `METHODS`, and a recipe in
`RECIPES` if it needs one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense import coresets
from hcdc_jax.condense.base import Condenser, GraphRates
from hcdc_jax.condense.gradient_matching import MatchingData, constant, drawn_from, gradient_matching
from hcdc_jax.condense.hcdc import HCDCData, condensed_pool, hcdc
from hcdc_jax.condense.hcdc_shared import SharedData, hcdc_shared
from hcdc_jax.containers import Container, GraphStart, graph_container
from hcdc_jax.containers.graph import fixed, free, identity, pairwise
from hcdc_jax.frozen import Target
from hcdc_jax.models.graph import gcn_coefficients, sgc
from hcdc_jax.pipeline.progress import Progress
from hcdc_jax.pipeline.setup import CONDENSE, MATCHED, POOL, Setup, key_for, solver_of
from hcdc_jax.pipeline.targets import matched_targets
from hcdc_jax.types import Batch


class Method(NamedTuple):
    """A row of the comparison.

    Attributes:
      train: recipe of S_train; None for the one that `hcdc.train_method` names.
      val: recipe of S_val; or "real" (the whole real validation part) or "random_real" (as many random real validation
        nodes as S_val has).
      about: one line for `hcdc list`.
    """

    train: str | None
    val: str
    about: str


METHODS = {
    "random": Method("random", "random", "real nodes, chosen at random, with the edges between them"),
    "gcond": Method("gcond", "gcond", "GCond: gradient matching with a generated adjacency (arXiv 2110.07580)"),
    "gcond_x": Method("gcond_x", "gcond_x", "GCond-X: gradient matching without edges (arXiv 2110.07580)"),
    "gradient_matching": Method(
        "gradient_matching", "gradient_matching", "gradient matching with filters drawn anew and a free adjacency"
    ),
    "hcdc": Method(None, "hcdc", "hypergradients matched at networks trained on the real data (arXiv 2405.17535)"),
    "hcdc_shared": Method(None, "hcdc_shared", "HCDC's Algorithm 1 as printed: theta shared, trained on S_train"),
    "real_val": Method(None, "real", "S_train with the whole real validation part"),
    "random_val": Method(None, "random_real", "S_train with random real validation nodes, as many as S_val has"),
}


def methods() -> dict[str, str]:
    """The methods that a run can compare, each with one line about it."""
    return {name: method.about for name, method in METHODS.items()}


class Request(NamedTuple):
    """One half that is to be made.

    Attributes:
      setup: the run.
      part: "train" or "val".
      seed: of the method.
      condensed_train: S_train, for the recipes of S_val that need it; None otherwise.
      folder: where targets are kept.
      progress: told what is going on.
    """

    setup: Setup
    part: str
    seed: int
    condensed_train: Batch | None
    folder: Path
    progress: Progress


class Work(NamedTuple):
    """What the steps of a condenser read, and what it cost to get.

    Attributes:
      data: argument of the condenser.
      full_trainings: trainings on the real data.
      training_seconds: their time, without compilation; not counted as condensation.
      seconds: time of everything else that was computed here, or earlier and read from disk, without compilation.
      compile_seconds: of what was read from disk.
      matched: [m, h] candidates that were matched.
    """

    data: Any
    full_trainings: int = 0
    training_seconds: float = 0.0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    matched: np.ndarray | None = None


class Recipe(NamedTuple):
    """How one half is made.

    Attributes:
      container: of the half; reads the number of its nodes.
      start: the small graph it starts from.
      condenser: learns it; None leaves it as it starts.
      work: what the condenser's steps read.
      steps: how many.
    """

    container: Callable[[Setup, int], Container]
    start: Callable[[Request], GraphStart]
    condenser: Callable[[Setup, Container], Condenser] | None = None
    work: Callable[[Request, GraphStart], Work] | None = None
    steps: Callable[[Setup], int] = lambda setup: 0


def num_nodes(setup: Setup, part: str) -> int:
    """Nodes of S_train, or of S_val."""
    nodes = round(setup.config.condense.ratio * setup.data.num_nodes)
    return nodes if part == "train" else round(setup.config.condense.val_factor * nodes)


def _pool(request: Request) -> np.ndarray:
    return request.setup.data.train_idx if request.part == "train" else request.setup.data.val_idx


def _rng(request: Request) -> np.random.Generator:
    return np.random.default_rng([request.seed, 0 if request.part == "train" else 1])


def uses_egos(setup: Setup, part: str) -> bool:
    """Whether labelled nodes bring neighbours along.

    With "auto" they do where a plain sample would leave the average node less than one neighbour: without edges all
    filters of one coefficient sum are the same.
    """
    sampling = setup.config.condense.sampling
    if sampling != "auto":
        return sampling == "ego"
    mean_degree = 2 * setup.data.edges.shape[1] / setup.data.num_nodes
    return mean_degree * num_nodes(setup, part) / setup.data.num_nodes < 1


def _sampled(request: Request) -> GraphStart:
    data, count = request.setup.data, num_nodes(request.setup, request.part)
    if uses_egos(request.setup, request.part):
        nodes, num_labelled = coresets.ego_sample(_rng(request), data, _pool(request), count)
    else:
        nodes = coresets.plain_sample(_rng(request), data, _pool(request), count)
        num_labelled = len(nodes)
    start = coresets.induced_subgraph(data, nodes, num_labelled)
    if request.setup.config.condense.init == "noise":
        noise = _rng(request).normal(size=start.features.shape) * start.features.std() + start.features.mean()
        start = start._replace(features=noise.astype(np.float32))
    return start


def _all_labelled(request: Request) -> GraphStart:
    """GCond labels every node, so neighbours without label are no use to it."""
    data, count = request.setup.data, num_nodes(request.setup, request.part)
    nodes = coresets.plain_sample(_rng(request), data, _pool(request), count)
    return coresets.induced_subgraph(data, nodes, len(nodes))


def _container(adjacency) -> Callable[[Setup, int], Container]:
    return lambda setup, nodes: graph_container(adjacency, setup.config.space.order, setup.config.space.basis)


_fixed, _pairwise, _identity = (_container(adjacency) for adjacency in (fixed(), pairwise(), identity()))


def _learned(setup: Setup, nodes: int) -> Container:
    space, kind = setup.config.space, setup.config.condense.container
    if kind != "graph":
        return (_pairwise if kind == "pairwise" else _identity)(setup, nodes)
    logit = setup.config.hcdc.edge_logit
    # All absent edges of a node together start with the weight of one hundredth of an edge.
    return graph_container(free(math.log(100 * nodes) if logit == "auto" else logit), space.order, space.basis)


def _feature_rate(start: GraphStart, step: float) -> jax.Array:
    """Adam moves every entry by about its rate, so a rate suits features only in units of their size."""
    return jnp.float32(step * np.sqrt(np.mean(start.features**2)))


def _matching_work(request: Request, start: GraphStart) -> Work:
    setup, options = request.setup, request.setup.config.gcond
    sizes = np.bincount(setup.data.labels[_pool(request)], minlength=setup.data.num_classes)
    rates = GraphRates(_feature_rate(start, options.feature_step), jnp.float32(options.structure_learning_rate))
    real = setup.train if request.part == "train" else setup.val
    return Work(MatchingData(real, jnp.asarray(sizes / sizes.max(), jnp.float32), rates))


def _gcond(setup: Setup, container: Container) -> Condenser:
    space, options = setup.config.space, setup.config.gcond
    relay = sgc(setup.data.num_features, setup.data.num_classes, basis=space.basis)
    return gradient_matching(
        relay, container, constant(gcn_coefficients(space.order, space.basis)), num_classes=setup.data.num_classes,
        outer_steps=options.outer_steps, inner_steps=options.inner_steps,
    )  # fmt: skip


def _any_filter(setup: Setup, container: Container) -> Condenser:
    options = setup.config.gcond
    return gradient_matching(
        setup.problem, container, drawn_from(setup.space), num_classes=setup.data.num_classes,
        outer_steps=options.outer_steps, inner_steps=options.inner_steps,
    )  # fmt: skip


def _matching_steps(setup: Setup) -> int:
    return setup.config.gcond.epochs * setup.config.gcond.outer_steps


def _hcdc(setup: Setup, container: Container) -> Condenser:
    options = setup.config.hcdc
    return hcdc(setup.problem, container, distance=options.distance, direct=options.direct)


def _rates(setup: Setup, start: GraphStart) -> GraphRates:
    options = setup.config.hcdc
    return GraphRates(_feature_rate(start, options.feature_step), jnp.float32(options.structure_learning_rate))


def _hcdc_work(request: Request, start: GraphStart) -> Work:
    setup, options, seed = request.setup, request.setup.config.hcdc, request.seed
    matched = matched_targets(setup, seed, request.folder / f"targets_seed{seed}", request.progress)
    if matched.diverged:
        request.progress.say(f"seed {seed}: {matched.diverged} of {options.full_trainings} targets diverged; left out")
    repeated = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * options.inits), (matched.hparams, matched.target))
    hparams, target = repeated[0], Target(*repeated[1])
    pool = condensed_pool(
        key_for(POOL, seed), setup.problem, hparams, request.condensed_train, setup.training,
        solver=solver_of(setup.config), sensitivity=options.sensitivity,
    )  # fmt: skip
    data = HCDCData(pool, target, jnp.asarray(setup.space.prior_std), _rates(setup, start))
    return Work(
        data, options.full_trainings, matched.training_seconds, matched.target_seconds, matched.compile_seconds,
        np.asarray(matched.hparams),
    )  # fmt: skip


def _shared(setup: Setup, container: Container) -> Condenser:
    options = setup.config.hcdc
    return hcdc_shared(
        setup.problem, container, setup.space,
        solver=solver_of(setup.config), distance=options.distance, direct=options.direct,
    )  # fmt: skip


def _shared_work(request: Request, start: GraphStart) -> Work:
    setup, options = request.setup, request.setup.config.hcdc
    begins = setup.space.sample(key_for(MATCHED, request.seed + options.seed), options.full_trainings)
    data = SharedData(begins, request.condensed_train, setup.train, setup.val, setup.training, _rates(setup, start))
    return Work(data, matched=np.asarray(begins))


def _hcdc_steps(setup: Setup) -> int:
    return setup.config.hcdc.steps


RECIPES = {
    "random": Recipe(_fixed, _sampled),
    "gcond": Recipe(_pairwise, _all_labelled, _gcond, _matching_work, _matching_steps),
    "gcond_x": Recipe(_identity, _all_labelled, _gcond, _matching_work, _matching_steps),
    "gradient_matching": Recipe(_learned, _sampled, _any_filter, _matching_work, _matching_steps),
    "hcdc": Recipe(_learned, _sampled, _hcdc, _hcdc_work, _hcdc_steps),
    "hcdc_shared": Recipe(_learned, _sampled, _shared, _shared_work, _hcdc_steps),
}


def recipe_key(part: str, seed: int) -> jax.Array:
    """Key of the initialisation and the steps of one half."""
    return jax.random.fold_in(key_for(CONDENSE, seed), 0 if part == "train" else 1)
