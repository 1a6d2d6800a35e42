"""How many candidates a device trains at a time: by the memory that one takes, and by whether it has branches."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hcdc_jax import arguments
from hcdc_jax.problem import Problem
from hcdc_jax.training.scores import score
from hcdc_jax.types import Batch, HParams, PyTree


def side_by_side(
    problem: Problem, hparams: HParams, seen: Batch, scored: tuple[Batch, ...], wanted: int | None, platform: str
) -> tuple[int, bool]:
    """How many candidates a device trains at a time, and whether `alone`, see `candidates.over_chunks`.

    Arguments as of `memory_chunk_size`; `wanted` is None where that is open.
    """
    alone = wanted in (None, 1) and better_alone(problem, hparams, seen, platform)
    if wanted is not None or alone:
        return wanted or 1, alone
    # On a CPU the budget is about the cache, which one pass over a large validation part cannot spoil for training.
    scored = () if platform == "cpu" else scored
    return memory_chunk_size(problem, hparams, seen, scored, budget=memory_budget(platform)), False


def memory_budget(platform: str) -> float:
    """Bytes of working memory in which the candidates of one chunk run fastest.

    An accelerator is kept busy by many candidates at once, and 4 GB leave room on any. On a CPU candidates side by
    side gain 15 % at best, where a network is tiny, and lose up to 60 % once they push each other out of the cache:
    16 MB is a share of the last level of common ones. A candidate that needs more runs alone.

    Args:
      platform: of the device, "cpu", "gpu" or "tpu".
    """
    return 16e6 if platform == "cpu" else 4e9


def memory_chunk_size(
    problem: Problem,
    hparams: HParams,
    batch: Batch,
    eval_batches: tuple[Batch, ...] = (),
    *,
    budget: float | None = None,
) -> int:
    """How many candidates fit side by side into `budget` bytes on one device.

    Counts every array that one training step, or scoring on one batch, of one candidate computes: more than XLA holds
    at once. Of loops and branches one pass counts, and what they return; of calls what they return.

    Args:
      problem: what is trained.
      hparams: one candidate.
      batch: what a step looks at, or `train.shapes_of_step`; shared by all candidates, so not counted.
      eval_batches: what candidates are scored on, likewise.
      budget: bytes for the working memory of all candidates of a chunk; `memory_budget` of JAX's by default.
    """
    shapes = jax.eval_shape(lambda tree: tree, (hparams, batch, eval_batches))
    leaves, tree = jax.tree.flatten(shapes)
    size = _work_of_one(problem, tree, tuple(leaves)).nbytes
    budget = memory_budget(jax.default_backend()) if budget is None else budget
    return max(1, int(budget // max(size, 1)))


def branches(problem: Problem, hparams: HParams, batch: Batch) -> bool:
    """Whether a training step chooses at run time what to compute, as the cells of `models.nas_bench_201` do."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda tree: tree, (hparams, batch, ())))
    return _work_of_one(problem, tree, tuple(leaves)).branches


def better_alone(problem: Problem, hparams: HParams, batch: Batch, platform: str) -> bool:
    """Whether candidates are computed one after the other: on a CPU those that skip parts of their network.

    Side by side they would compute all parts; an accelerator has room for that.
    """
    return platform == "cpu" and branches(problem, hparams, batch)


class _Work(NamedTuple):
    """What one candidate computes.

    Attributes:
      nbytes: of the arrays of its largest piece of work.
      branches: whether one of them has branches.
    """

    nbytes: int
    branches: bool


@functools.lru_cache(maxsize=256)
def _work_of_one(problem: Problem, tree: PyTree, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> _Work:
    """Of `memory_chunk_size`; tracing takes longer than a small evaluation, so shapes that were seen are remembered."""

    def train_step(hparams, batch):
        params = problem.init(jax.random.key(0), hparams)
        return jax.grad(arguments.scalar("problem.train_loss", problem.train_loss))(params, hparams, batch)

    def scoring(hparams, batch):
        return score(problem, problem.init(jax.random.key(0), hparams), hparams, batch)

    hparams, batch, eval_batches = jax.tree.unflatten(tree, leaves)
    work = [(train_step, batch), *((scoring, scored) for scored in eval_batches)]
    traced = [_work_of(jax.make_jaxpr(step)(hparams, data).jaxpr) for step, data in work]
    return _Work(max(one.nbytes for one in traced), any(one.branches for one in traced))


_LOOKED_INTO = ("scan", "cond", "checkpoint", "remat2")


def _work_of(jaxpr: PyTree) -> _Work:
    nbytes, found = 0, False
    for equation in jaxpr.eqns:
        nbytes += sum(_nbytes(v.aval) for v in equation.outvars)
        found |= equation.primitive.name == "cond"
        if equation.primitive.name in _LOOKED_INTO:
            inner = [_work_of(sub) for sub in _jaxprs_in(equation.params)]
            nbytes += max((one.nbytes for one in inner), default=0)
            found |= any(one.branches for one in inner)
    return _Work(nbytes, found)


def _jaxprs_in(params: Mapping[str, Any]) -> Iterator[PyTree]:
    for value in params.values():
        for part in value if isinstance(value, tuple) else (value,):
            jaxpr = getattr(part, "jaxpr", part)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _nbytes(aval: PyTree) -> int:
    shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
    return int(np.prod(shape)) * getattr(dtype, "itemsize", 4)
