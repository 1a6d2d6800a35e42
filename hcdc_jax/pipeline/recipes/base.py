"""What a method is made of: two parts, each made by a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from hcdc_jax.condense.base import Condenser
from hcdc_jax.containers import Container
from hcdc_jax.pipeline.clock import Elapsed
from hcdc_jax.pipeline.scoring import Networks
from hcdc_jax.pipeline.setup import CONDENSE, Run, Setup, Start, key_for
from hcdc_jax.training.candidates import Scores
from hcdc_jax.types import Array, Batch


class Cost(NamedTuple):
    """What has been spent; seconds are without compilation.

    Attributes:
      seconds: of all but the full trainings.
      compile_seconds: of compilation, which is paid once and not per candidate.
      training_seconds: of the full trainings.
      full_trainings: trainings on the real data.
      timed_trainings: those of them whose time is part of `seconds`, since their reverse pass runs through them.
    """

    seconds: float = 0.0
    compile_seconds: float = 0.0
    training_seconds: float = 0.0
    full_trainings: float = 0.0
    timed_trainings: float = 0.0

    def plus(self, other: Cost) -> Cost:
        """The sum of both."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


class Request(NamedTuple):
    """One condensed part that is to be learned.

    Attributes:
      run: the run it belongs to.
      part: "train" or "val".
      seed: of the method.
      start: what it starts from.
      condensed_train: S_train, where S_val is to be learned.
    """

    run: Run
    part: str
    seed: int
    start: Start
    condensed_train: Batch | None


class Work(NamedTuple):
    """What the steps of a condenser read, and what it cost to get.

    Attributes:
      data: argument of the condenser.
      cost: spent here, or earlier and read from disk.
      matched: [m, h] candidates that are matched, if there are any.
      facts: numbers by name, for the card.
      setup: of the condenser, where the data settle what the configuration leaves open.
    """

    data: Any
    cost: Cost = Cost()
    matched: np.ndarray | None = None
    facts: Mapping[str, float] = MappingProxyType({})
    setup: Setup | None = None


class Learner(NamedTuple):
    """How a condensed part is learned.

    Attributes:
      condenser: `condenser(setup, container)`; pure Python, nothing is computed.
      work: what the condenser's steps read; raises `DivergedError` where nothing can be learned from it.
      steps: how many steps it takes.
      rate: the setting, or settings, to lower where it diverges.
      dtype: of its numbers, "float32" or "float64"; what is kept of them is float32.
      facts: `facts(state)`, numbers by name that it learned besides, for the card.
      by_class: whether it needs labels that are classes.
    """

    condenser: Callable[[Setup, Container], Condenser]
    work: Callable[[Request], Work]
    steps: Callable[[Setup], int]
    rate: str
    dtype: str = "float32"
    facts: Callable[[Any], dict[str, float]] = lambda state: {}
    by_class: bool = True


class Recipe(NamedTuple):
    """How one condensed part is made.

    Attributes:
      name: part of the names of its files; of one name, part and seed there is one.
      start: `start(setup, part, seed)`, the real examples it starts from; raises `UserError` for impossible sizes.
      container: `container(setup, part)`, what stores it.
      learner: learns it; None leaves it as it starts.
      finished: `finished(setup, part)`, what decodes it once it is learned, where that is not `container`.
    """

    name: str
    start: Callable[[Setup, str, int], Start]
    container: Callable[[Setup, str], Container]
    learner: Learner | None = None
    finished: Callable[[Setup, str], Container] | None = None

    @property
    def by_class(self) -> bool:
        """Whether it is learned class by class, and so needs labels that are classes."""
        return self.learner is not None and self.learner.by_class


class LearnedVal(NamedTuple):
    """A finished S_val.

    Attributes:
      batch: decoded.
      scalars: numbers that it holds.
      cost: of learning it, of the full trainings that it was matched to, too.
      matched: [m, h] candidates of these.
    """

    batch: Batch
    scalars: int
    cost: Cost
    matched: np.ndarray


class RankRequest(NamedTuple):
    """What a rival without S_val is asked to rank.

    Attributes:
      run: the run, with its candidates.
      seed: of the method.
      condensed_train: S_train.
      train_scalars: numbers that S_train holds.
      networks: `networks()`, the candidates of the run trained on S_train; trained once, however many rows ask.
      learned: `learned(recipe)`, the S_val of the recipe of that name, which another method of the run has learned.
    """

    run: Run
    seed: int
    condensed_train: Batch
    train_scalars: int
    networks: Callable[[], Networks]
    learned: Callable[[str], LearnedVal]


class RankResult(NamedTuple):
    """Scores of the candidates, and what they took.

    Attributes:
      scores: of all candidates of the run.
      elapsed: time that every ranking takes anew.
      stored_scalars: numbers that must be kept to rank.
      cost: what is paid once, however many candidates are ranked.
      matched: [m, h] candidates that it was fitted to, if there are any.
      shift: [h] by which candidates were moved before they were trained on S_train, if they were.
    """

    scores: Scores
    elapsed: Elapsed
    stored_scalars: int
    cost: Cost = Cost()
    matched: np.ndarray | None = None
    shift: np.ndarray | None = None


class Method(NamedTuple):
    """A row of the comparison.

    Attributes:
      about: one line for `hcdc list`.
      train: recipe of S_train; None for that of the method which `hcdc.train_method` names.
      val: recipe of S_val; or how a rival without S_val ranks.
      prepare: what such a rival pays for when the others condense, kept in the run folder.
      unit: of the only kind of data that it is for, as `DataKind.unit` has it: "nodes", "images" or "examples"; None
        where it is for all, or `DataKind.methods` names it.
      settings: a frozen dataclass of settings, each with a default, which a configuration has as `[plugins.<method>]`;
        recipes read them by `config.settings_of`.
      labels: of S_train, "teachers" where the run has any, or always its "own"; "unseen" for who does not look at
        S_train, and pays neither for it nor for teachers.
    """

    about: str
    train: Recipe | None
    val: Recipe | Callable[[RankRequest], RankResult]
    prepare: Callable[[RankRequest], Any] | None = None
    labels: Literal["teachers", "own", "unseen"] = "teachers"
    unit: Literal["nodes", "images", "examples"] | None = None
    settings: type | None = None


def part_key(part: str, seed: int) -> Array:
    """Key of the initialisation and the steps of one condensed part."""
    return jax.random.fold_in(key_for(CONDENSE, seed), 0 if part == "train" else 1)
