"""A training step of NAS-Bench-201's network: cells, and the mixture of all operations, in one compiled program."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from benchmarks.timing import seconds
from hcdc_jax import spaces
from hcdc_jax.data.cells import CONV_3X3
from hcdc_jax.models import image_problem
from hcdc_jax.training.train import Training, train
from hcdc_jax.types import Batch

SHAPE, NUM_CLASSES = (16, 16, 3), 10
IMAGES, DRAWS, STEPS = 64, 8, 20
WIDTHS = (4, 16)


def cells() -> dict[str, dict[str, float]]:
    """Milliseconds of a step on 64 random images of 16 x 16 pixels, one cell a stage, by channels of the first stage.

    The mixture does what all operations on all edges do; its ratio is to 3 x 3 convolutions on all edges, the largest
    cell.
    """
    return {f"width {width}": _of_width(width) for width in WIDTHS}


def _of_width(width: int) -> dict[str, float]:
    space = spaces.get("nas_bench_201")
    problem = image_problem(
        "nas_bench_201", SHAPE, NUM_CLASSES, read=space.read, width=width, depth=1, norm="batch", weight_decay=1e-3
    )
    image_key, label_key, draw_key, key = jax.random.split(jax.random.key(0), 4)
    labels = jax.random.randint(label_key, (IMAGES,), 0, NUM_CLASSES)
    batch = Batch(jax.random.normal(image_key, (IMAGES, *SHAPE)), labels, jnp.ones(IMAGES))
    # In a loop, as everything that trains has it.
    training = Training(steps=STEPS)
    trained = jax.jit(functools.partial(_trained, key, problem, batch, training))
    largest, mixture = spaces.one_hot([(CONV_3X3,) * 6])[0], jnp.full(len(space.hparam_names), 0.2)
    slowest, compilation = seconds(trained, largest, repeats=3)
    mixed, _ = seconds(trained, mixture, repeats=3)
    drawn = [seconds(trained, cell, repeats=3)[0] for cell in space.sample(draw_key, DRAWS)]
    return {
        "largest_ms": 1e3 * slowest / STEPS,
        "drawn_ms": 1e3 * sum(drawn) / DRAWS / STEPS,
        "mixture_ms": 1e3 * mixed / STEPS,
        "mixture_to_largest": mixed / slowest,
        "compile_seconds": compilation,
    }


def _trained(key, problem, batch, training, hparams):
    return train(key, problem, hparams, batch, training)[0]
