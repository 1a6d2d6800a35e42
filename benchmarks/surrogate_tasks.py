"""Functions that surrogates learn from a few points: drawn ones, whose truth is known, and those of finished runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax import spaces
from hcdc_jax.data.cells import number_of
from hcdc_jax.data.nas_bench_201 import published_accuracies
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.folder import config_of
from hcdc_jax.pipeline.hcdc.targets import folder_of
from hcdc_jax.pipeline.setup import space_of
from hcdc_jax.spaces import Space

QUERIES, FEATURES = 200, 256


class Draw(NamedTuple):
    """What a surrogate is told of a function, and what it is asked.

    Attributes:
      space: of the points.
      points: [m, h].
      values: [m].
      queries: [q, h].
      truth: [q] values that the queries are ranked by.
      gradients: [m, h] slopes of the values, or None where they are not known.
    """

    space: Space
    points: np.ndarray
    values: np.ndarray
    queries: np.ndarray
    truth: np.ndarray
    gradients: np.ndarray | None = None


class Task(NamedTuple):
    """Functions of one kind, one for each seed.

    Attributes:
      name: of the kind.
      count: m, of points that are told.
      draw: `draw(seed)`.
      seeds: of the draws.
      mirrored: whether peers, who know no symmetries, are told all points of the orbits.
    """

    name: str
    count: int
    draw: Callable[[int], Draw]
    seeds: Sequence[int]
    mirrored: bool = False


def mirrored(draw: Draw) -> Draw:
    """The same with every point of the orbits told, for those who know no symmetries; without gradients."""
    orbits = np.asarray(jax.vmap(draw.space.equivalents)(jnp.asarray(draw.points)))
    return draw._replace(
        space=draw.space._replace(orbit=None),
        points=np.concatenate(orbits), values=np.repeat(draw.values, orbits.shape[1]), gradients=None,
    )  # fmt: skip


def cube(h: int) -> Space:
    """A box of h hyperparameters, each of standard deviation 1 and mean 0."""
    return spaces.box(f"cube_{h}", {f"x{i}": (-(3**0.5), 3**0.5) for i in range(h)})


def additive(params: Any, x: jax.Array) -> jax.Array:
    return params @ x


def quadratic(params: Any, x: jax.Array) -> jax.Array:
    linear, curvature = params
    return linear @ x + curvature @ x**2


def fourier(params: Any, x: jax.Array) -> jax.Array:
    """A draw of a stationary process: random Fourier features (Rahimi and Recht 2007)."""
    frequencies, phases, weights = params
    return weights @ jnp.cos(frequencies @ x + phases)


def even(params: Any, x: jax.Array) -> jax.Array:
    return fourier(params, x) + fourier(params, -x)


@functools.cache
def _surface(function: Callable[[Any, jax.Array], jax.Array]) -> Callable[..., Any]:
    """Values [n] and slopes [n, h] at points [n, h], compiled once for a kind of function."""
    return jax.jit(jax.vmap(jax.value_and_grad(function, argnums=1), (None, 0)))


def normal_params(rng: np.random.Generator, h: int) -> Any:
    return rng.normal(size=h)


def two_normal_params(rng: np.random.Generator, h: int) -> Any:
    return rng.normal(size=h), rng.normal(size=h)


def fourier_params(rng: np.random.Generator, h: int, own: float = 0.0) -> Any:
    """Of length scales from 1 to 2 sqrt(h), times exp(own z) with a normal z for each coordinate."""
    length = np.exp(rng.uniform(0.0, math.log(2 * math.sqrt(h))) + own * rng.normal(size=h))
    weights = rng.normal(size=FEATURES) * math.sqrt(2 / FEATURES)
    return rng.normal(size=(FEATURES, h)) / length, rng.uniform(0, 2 * math.pi, FEATURES), weights


def drawn(space: Space, function: Callable, params_of: Callable, count: int, seed: int) -> Draw:
    """A random function on a space, told at `count` points that fill it evenly, without noise.

    Slopes are told where points of the space have neighbours, which cells do not have.
    """
    params = params_of(np.random.default_rng(seed), len(space.hparam_names))
    points, queries = space.spread(seed, count), space.sample(jax.random.key(seed), QUERIES)
    values, slopes = map(np.asarray, _surface(function)(params, points))
    truth = np.asarray(_surface(function)(params, queries)[0])
    told = slopes if space.mixed is None else None
    return Draw(space, np.asarray(points), values, np.asarray(queries), truth, told)


def drawn_tasks(
    seeds: Sequence[int], counts: Sequence[int] = (8, 16), widths: Sequence[int] = (3, 6, 11)
) -> list[Task]:
    """All kinds of drawn functions, each with every number of points."""
    kinds: list[tuple[str, Space, Callable, Callable]] = [
        ("additive, cells", spaces.get("nas_bench_201"), additive, normal_params),
        ("smooth, cells", spaces.get("nas_bench_201"), fourier, fourier_params),
        *(
            (f"{name}, {h} dimensions", cube(h), function, params_of)
            for name, function, params_of in (
                ("smooth", fourier, fourier_params),
                ("smooth, unequal lengths", fourier, functools.partial(fourier_params, own=0.7)),
                ("additive quadratic", quadratic, two_normal_params),
            )
            for h in widths
        ),
        ("even, filters", spaces.get("graph_filter"), even, fourier_params),
    ]
    tasks = []
    for name, space, function, params_of in kinds:
        for count in counts:
            draw = functools.partial(drawn, space, function, params_of, count)
            tasks.append(Task(name, count, draw, seeds))
            if space.orbit is not None:
                tasks.append(Task(f"{name}, mirrored for peers", count, draw, seeds, mirrored=True))
    return tasks


def published_tasks(seeds: Sequence[int], counts: Sequence[int] = (8, 16)) -> list[Task]:
    """Logarithms of the published errors of NAS-Bench-201's cells on CIFAR-10; no hypergradients of these exist.

    Raises:
      UserError: `HCDC_DATA_DIR` does not have them.
    """
    errors = 100 - published_accuracies("cifar10", "val")
    return [
        Task("NAS-Bench-201, CIFAR-10", count, functools.partial(_published, errors, count), seeds) for count in counts
    ]


def _published(errors: np.ndarray, count: int, seed: int) -> Draw:
    space = spaces.get("nas_bench_201")
    points, queries = map(np.asarray, (space.spread(seed, count), space.sample(jax.random.key(seed), QUERIES)))
    values, truth = (
        np.log([errors[number_of(spaces.discrete_cell(cell))] for cell in cells]) for cells in (points, queries)
    )
    return Draw(space, points, values, queries, truth)


def run_tasks(folder: Path, seeds: Sequence[int], counts: Sequence[int] = (8, 16)) -> list[Task]:
    """What the full trainings of a run say of its candidates, and what some of its candidates say of the others.

    The first has a draw for each seed of the run, and hypergradients. The second has one for each of `seeds`: they
    share candidates and losses, so that their interval speaks of other points on the same surface alone.

    Raises:
      UserError: the folder is no run folder, or it has no truth or no full trainings yet.
    """
    config = config_of(folder)
    trained = [seed for seed in config.seeds if any(folder_of(folder, seed).glob("*.npz"))]
    if not trained:
        raise UserError(f"{folder} has no full trainings (checkpoints/targets_seed*): run a method that pays for them")
    if not (folder / "results" / "truth.npz").is_file():
        raise UserError(f"{folder} has no truth (results/truth.npz): finish its run first")
    truth, space = read_arrays(folder / "results" / "truth.npz"), space_of(config)
    fine = np.isfinite(truth["loss"]).all(0) & truth["status"].all(0)
    candidates, losses = truth["hparams"][fine], truth["loss"][:, fine]
    paid = functools.partial(_of_trainings, folder, space, candidates, losses.mean(0))
    tasks = [Task(f"{folder.name}, full trainings", len(paid(trained[0]).points), paid, trained)]
    for count in counts:
        draw = functools.partial(_of_candidates, space, candidates, losses, count)
        tasks.append(Task(f"{folder.name}, among its candidates", count, draw, seeds))
    mirrors = [task._replace(name=f"{task.name}, mirrored for peers", mirrored=True) for task in tasks]
    return tasks + (mirrors if space.orbit is not None else [])


def _of_trainings(folder: Path, space: Space, candidates: np.ndarray, truth: np.ndarray, seed: int) -> Draw:
    """Log losses and their slopes at the full trainings of one seed that did not diverge."""
    records = [read_arrays(path) for path in sorted(folder_of(folder, seed).glob("*.npz"))]
    records = [record for record in records if not record["diverged"] and np.isfinite(record["value"])]
    points, value, gradient = (np.array([one[key] for one in records]) for key in ("hparams", "value", "gradient"))
    return Draw(space, points, np.log(value), candidates, truth, gradient / value[:, None])


def _of_candidates(space: Space, candidates: np.ndarray, losses: np.ndarray, count: int, seed: int) -> Draw:
    """Log losses of some candidates, in one of the truth's trainings."""
    order = np.random.default_rng(seed).permutation(len(candidates))
    told, asked = order[:count], order[count:]
    values = np.log(losses[seed % len(losses), told])
    return Draw(space, candidates[told], values, candidates[asked], losses[:, asked].mean(0))
