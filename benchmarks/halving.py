"""Successive halving against `evaluate`, per training step of a candidate."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.timing import seconds
from hcdc_jax import spaces
from hcdc_jax.models import image_problem
from hcdc_jax.problem import Problem
from hcdc_jax.search import full_trainings, successive_halving
from hcdc_jax.spaces import Space
from hcdc_jax.training.candidates import evaluate
from hcdc_jax.training.train import Training
from hcdc_jax.types import Batch

NUM_CLASSES, CANDIDATES = 10, 27


def halving(*names: str) -> dict[str, dict[str, float]]:
    """Milliseconds of a training step of one candidate, in a bracket of 27 and where `evaluate` trains all 27 in full.

    "mlp": on 20,000 random images in mini-batches of 100, whose order costs more than the step itself if each candidate
    draws its own. "cells": of NAS-Bench-201 on 64 images; they skip what they do not have unless they are computed side
    by side.
    """
    return {name: SETTINGS[name]() for name in names or SETTINGS}


def _mlp() -> dict[str, float]:
    space, shape = spaces.get("regularisation"), (14, 14, 1)
    problem = image_problem("mlp", shape, NUM_CLASSES, read=space.read, width=64)
    return _measured(problem, space, shape, 20_000, Training(steps=243, batch_size=100))


def _cells() -> dict[str, float]:
    space, shape = spaces.get("nas_bench_201"), (16, 16, 3)
    options = {"width": 4, "depth": 1, "norm": "batch", "weight_decay": 1e-3}
    problem = image_problem("nas_bench_201", shape, NUM_CLASSES, read=space.read, **options)
    return _measured(problem, space, shape, 64, Training(steps=81))


SETTINGS = {"mlp": _mlp, "cells": _cells}


def _measured(
    problem: Problem, space: Space, shape: tuple[int, int, int], count: int, training: Training
) -> dict[str, float]:
    candidates = space.sample(jax.random.key(0), CANDIDATES)
    train, val = (_images(jax.random.key(seed), shape, size) for seed, size in ((1, count), (2, 64)))
    steps_of_halving = full_trainings(CANDIDATES, training.steps) * training.steps

    def searched():
        return successive_halving(jax.random.key(3), problem, candidates, train, val, training=training).params

    def evaluated():
        return evaluate(jax.random.key(3), problem, candidates, train, val, training=training).loss

    halved, halving_compilation = seconds(searched, repeats=3)
    full, compilation = seconds(evaluated, repeats=3)
    per_step, peer = halved / steps_of_halving, full / (CANDIDATES * training.steps)
    return {
        "halving_ms_per_step": 1e3 * per_step,
        "evaluate_ms_per_step": 1e3 * peer,
        "ratio": per_step / peer,
        "halving_compile_seconds": halving_compilation,
        "evaluate_compile_seconds": compilation,
    }


def _images(key: jax.Array, shape: tuple[int, int, int], count: int) -> Batch:
    pixels, labels = jax.random.split(key)
    return Batch(
        jax.random.normal(pixels, (count, *shape)),
        jax.random.randint(labels, (count,), 0, NUM_CLASSES),
        jnp.ones(count),
    )
