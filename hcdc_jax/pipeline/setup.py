"""What the stages of a run share, and what they ask of graphs and images alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from hcdc_jax import spaces
from hcdc_jax.batches.images import Preprocessing, StreamedInputs
from hcdc_jax.condense.coresets import Selection
from hcdc_jax.condensed import Condensed
from hcdc_jax.config import Config, Solver, shares_theta
from hcdc_jax.containers import Container
from hcdc_jax.data import ArrayData, GraphData, ImageData, ImageStream
from hcdc_jax.errors import UserError
from hcdc_jax.hypergradients.linear_solver import LinearSolver
from hcdc_jax.hypergradients.solvers import chebyshev, conjugate_gradient, dense, identity, neumann
from hcdc_jax.problem import Problem, ValLoss, joint
from hcdc_jax.progress import Progress
from hcdc_jax.training.train import Training
from hcdc_jax.types import Array, Batch

Data: TypeAlias = ArrayData | GraphData | ImageData | ImageStream
Start: TypeAlias = Any
"""What a container starts from: a `GraphStart` or an `ImageStart`."""

OWN = "own"
"""Name, in a configuration, of the space and of the network that a study brings."""


class Source(NamedTuple):
    """What a study brings in place of what a configuration names.

    Attributes:
      data: that is condensed.
      problem: that is trained.
      space: that is searched.
      facts: what tells one study from another, by name, for `results/info.json`.
    """

    data: Data
    problem: Problem
    space: spaces.Space
    facts: Mapping[str, Any] = MappingProxyType({})


class RealParts(NamedTuple):
    """The real data as a problem reads it.

    Attributes:
      data: with the options of the configuration applied.
      train: the real training examples; of images that are streamed a `streamed_batch`.
      val: the real validation examples.
      test: the real test examples.
      preprocessing: what was done to images, in numbers.
      problem: what is trained.
      taught_problem: what is trained on labels of teachers, where there are any.
      proxy_problem: what is trained on condensed data otherwise; `problem` if not given.
    """

    data: Data
    train: Batch
    val: Batch
    test: Batch
    preprocessing: Preprocessing | None
    problem: Problem
    taught_problem: Problem | None = None
    proxy_problem: Problem | None = None


class Looked(NamedTuple):
    """A named network, at whatever hyperparameters.

    Attributes:
      problem_of: `problem_of(weight_decay=..., read=...) -> Problem`.
      embedding_of: `embedding_of(read=...)`, what its last linear layer reads: `embed(params, hparams, inputs)`.
    """

    problem_of: Callable[..., Problem]
    embedding_of: Callable[..., Callable[[Any, Array, Any], Array]]


class DataKind(NamedTuple):
    """What the stages ask of a kind of data.

    Attributes:
      unit: what an example is called, in the plural.
      models: names of its networks.
      methods: names of the methods that are for this kind alone.
      summary: `summary(data)`, its counts.
      build: `build(config, data, space, problem)`, the real data and what is trained: `problem`, or None for that of
        `config.model`.
      count: `count(config, data, part)`, examples of S_train ("train") or of S_val ("val").
      sampled: `sampled(setup, part, seed, selection)`, real examples, as many as are to be stored; raises `UserError`
        for impossible sizes.
      to_learn: `to_learn(setup, part, seed)`, real examples that the learned container starts from, as many as it
        decodes; raises `UserError` likewise.
      surplus: `surplus(setup, part)`, how many of these are over the budget in each class, and are pruned when they are
        learned; raises `UserError` likewise.
      embeddings: `embeddings(setup, part)`, [n, d] of all examples: where coresets measure distances.
      noise: `noise(rng, start)`, the start with noise in place of its inputs, of their mean and standard deviation.
      fixed: `fixed(setup, part)`, the container of real examples that stay as they are.
      learned: `learned(setup, part)`, the container of examples that are learned.
      rates: `rates(setup, start)`, Adam step sizes of S_val.
      matching_rates: `matching_rates(setup, start, options)`, step sizes of what is matched class by class, by the
        `image_rate` or `feature_step` of a section of the configuration.
      network: `network(setup)`, the network of `[model]` as condensers look through it; see `Looked`.
      batch: `batch(setup, index)`, real examples by their numbers.
      real_scalars: `real_scalars(setup)`, numbers that the real data holds.
      words: `words(setup)`, what was done to the data, for the card.
      storage: `storage(setup)`, what a container makes of the budget, in words; empty where it stores the examples.
      num_parameters: `num_parameters(setup)`, [n] numbers that each candidate learns; None where all learn as many.
      keep_figure: `keep_figure(folder, name, condensed)` writes what the figure of condensed data is drawn from, if
        there is one.
    """

    unit: str
    models: Collection[str]
    methods: tuple[str, ...]
    summary: Callable[[Any], dict[str, Any]]
    build: Callable[[Config, Any, spaces.Space, Problem | None], RealParts]
    count: Callable[[Config, Any, str], int]
    sampled: Callable[[Setup, str, int, Selection], Start]
    to_learn: Callable[[Setup, str, int], Start]
    surplus: Callable[[Setup, str], int]
    embeddings: Callable[[Setup, str], np.ndarray]
    noise: Callable[[np.random.Generator, Start], Start]
    fixed: Callable[[Setup, str], Container]
    learned: Callable[[Setup, str], Container]
    rates: Callable[[Setup, Start], Any]
    matching_rates: Callable[[Setup, Start, Any], Any]
    network: Callable[[Setup], Looked]
    batch: Callable[[Setup, np.ndarray], Batch]
    real_scalars: Callable[[Setup], int]
    words: Callable[[Setup], str]
    storage: Callable[[Setup], str]
    num_parameters: Callable[[Setup], np.ndarray | None]
    keep_figure: Callable[[Path, str, Condensed], None]


class Setup(NamedTuple):
    """Everything that the stages of a run share.

    Attributes:
      config: as read.
      kind: of the data.
      data: the real data.
      space: what is searched.
      problem: what is trained.
      training: how, on the real data.
      proxy_training: how, on condensed data.
      candidates: [n, h], the ranked ones.
      train: the real training examples; of images that are streamed a `streamed_batch`.
      val: the real validation examples.
      test: the real test examples.
      preprocessing: what was done to images, in numbers.
      taught_problem: what is trained on labels of teachers, where there are any.
      proxy_problem: what is trained on condensed data otherwise.
      relay_problem: `problem` with the cross-entropy for its validation loss, whatever candidates are ranked by:
        condensers match the gradients of what is trained on.
      val_loss: of logits, what candidates are ranked by.
      facts: what tells the study from another, see `Source`.
    """

    config: Config
    kind: DataKind
    data: Any
    space: spaces.Space
    problem: Problem
    training: Training
    proxy_training: Training
    candidates: Array
    train: Batch
    val: Batch
    test: Batch
    preprocessing: Preprocessing | None
    taught_problem: Problem | None
    proxy_problem: Problem
    relay_problem: Problem
    val_loss: ValLoss
    facts: Mapping[str, Any] = MappingProxyType({})

    def problem_on(self, condensed_train: Batch) -> Problem:
        """What is trained on this S_train: labels of teachers have a loss of their own."""
        if self.taught_problem is not None and condensed_train.labels.ndim == 2:
            return self.taught_problem
        return self.proxy_problem

    @property
    def asks_jointly(self) -> bool:
        """Whether the networks of a candidate are asked together: logits are averaged in place of losses."""
        return self.config.training.proxy_average == "logits"

    def asked(self, problem: Problem, count: int) -> Problem:
        """What `count` networks of a candidate are asked: a `joint` problem, or each by itself."""
        return joint(problem, self.val_loss, count) if self.asks_jointly else problem

    @property
    def matched_problem(self) -> Problem:
        """What the networks of a matched candidate are asked."""
        return self.asked(self.problem, self.config.hcdc.inits)


class Run(NamedTuple):
    """A run at work.

    Attributes:
      setup: what is run.
      folder: where its results lie.
      progress: who is told about it.
    """

    setup: Setup
    folder: Path
    progress: Progress


def check_in_memory(setup: Setup, what: str) -> None:
    """Refuses what takes all training images at once where they are streamed, before anything else is computed."""
    if isinstance(setup.train.inputs, StreamedInputs):
        raise UserError(f"{what} takes all training images in memory: leave it out, or set data.stream = false")


# Offsets that keep the keys of different purposes apart.
(
    CANDIDATES, TARGETS, POOL, CONDENSE, RANK, TRUTH, SEARCH, MATCHED, EXPERTS, EVALUATE, PRUNE, OBSERVERS, MOSAICS,
    REFINE, MIXES, VIEW_KEYS,
) = range(16)  # fmt: skip


def key_for(purpose: int, seed: int) -> Array:
    """The key of one purpose and seed; no two share one."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def space_of(config: Config) -> spaces.Space:
    """The space that `[space]` names.

    Raises:
      UserError: a basis or a prior that the space does not have, or hypergradients that would say nothing about it.
    """
    if config.space.name == OWN:
        raise UserError(
            f"space.name = {OWN!r} is the space of a study: give its Python file in place of a configuration"
        )
    options, taken = config.space, spaces.options(config.space.name)
    given = {"order": options.order, "basis": options.basis, "prior": options.prior}
    space = spaces.get(options.name, **{key: value for key, value in given.items() if key in taken})
    if space.basis not in (None, options.basis):
        raise UserError(f"the space {space.name!r} has a basis of its own: set space.basis = {space.basis!r}")
    if options.prior != "box" and "prior" not in taken:
        raise UserError(f"the space {space.name!r} has a prior of its own: leave out space.prior")
    check_space(config, space)
    return space


_NEED_HYPERGRADIENTS = ("hcdc", "hcdc_shared", "hcdc_shifted", "hcdc_surrogate", "surrogate_grad", "lambda_shift")
"""Methods that read them, or learn a shift of hyperparameters along them."""


def check_space(config: Config, space: spaces.Space, unrolled_only: tuple[str, ...] = ()) -> None:
    """Checks that the methods of a run can search a space.

    Args:
      config: of the run.
      space: that is searched.
      unrolled_only: hyperparameters that the network of a study says to have no implicit hypergradient.

    Raises:
      UserError: hypergradients would say nothing about it.
    """
    smooth = len(space.hparam_names) - len(space.discrete)
    if not smooth:
        for method in config.methods:
            if method in _NEED_HYPERGRADIENTS and not (method == "hcdc" and config.hcdc.distance == "value"):
                also = ", set hcdc.distance = 'value'" if method == "hcdc" else ""
                raise UserError(
                    f"no hyperparameter of the space {space.name!r} has a hypergradient, which {method} reads, all are "
                    f"choices that are not relaxed: leave the method out{also}, or relax a choice"
                )
    if smooth == 1:
        where = f"the space {space.name!r} has one hyperparameter, of which a cosine sees the sign alone"
        if "hcdc" in config.methods and config.hcdc.distance in ("cosine", "weighted_cosine"):
            raise UserError(f"{where}: set hcdc.distance = 'value_gradient'")
        if "hcdc_shared" in config.methods:
            raise UserError(f"{where}: leave out the method hcdc_shared")
    if "log_learning_rate_factor" in space.hparam_names and config.training.optimizer != "adam":
        raise UserError(f"the space {space.name!r} searches the learning rate of Adam: set training.optimizer = 'adam'")
    if config.hcdc.extended_space == "mixes" and space.mixed is None:
        raise UserError(
            "hcdc.extended_space = 'mixes' is for cells, between which there are mixtures; the space "
            f"{space.name!r} has none: set it to 'samples'"
        )
    if config.hcdc.design == "factorial":
        space.factorial(0, config.hcdc.full_trainings)
    unseen = unrolled_only or spaces.without_implicit_hypergradient(space)
    if unseen:
        where = f"the space {space.name!r} searches {', '.join(unseen)}, whose implicit hypergradient is 0"
        if config.hcdc.sensitivity == "implicit":
            raise UserError(f"{where}: set hcdc.sensitivity = 'unroll'")
        if "hcdc_shared" in config.methods:
            raise UserError(f"{where}: leave out the method hcdc_shared")
        if shares_theta(config):
            raise UserError(f"{where}: set hcdc.theta = 'own'")


def pool(data: Data, part: str) -> np.ndarray:
    """Numbers of the real examples that S_train or S_val stands for."""
    return data.train_idx if part == "train" else data.val_idx


def solver_of(config: Config, auto: Solver = "chebyshev") -> LinearSolver:
    """The solver that `[hcdc]` names, or `auto` where it leaves that open.

    Chebyshev iteration is the better one at trained networks, whose Hessians have next to no negative curvature. It
    amplifies what there is: networks that are still on their way need Neumann's series.
    """
    options = config.hcdc
    name = auto if options.solver == "auto" else options.solver
    if name == "identity":
        return identity()
    if name == "dense":
        return dense(damping=options.damping)
    solvers = {"neumann": neumann, "chebyshev": chebyshev, "conjugate_gradient": conjugate_gradient}
    return solvers[name](options.num_hvps, damping=options.damping)
