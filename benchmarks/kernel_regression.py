"""KIP against its public figure: kernel regression on 100 CIFAR-10 images, before and after 300 steps.

Public code of the paper (arXiv 2011.00050) goes from 24 % to 46.7 % of the test images with the tangent kernel of one
hidden layer, 5,000 real images a step and standardised pixels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.command import CONFIGS
from hcdc_jax import config as configs
from hcdc_jax import pipeline
from hcdc_jax.condense.kernels import Kernel, fully_connected
from hcdc_jax.condense.kip import regression_loss
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.condensed_parts import make_part
from hcdc_jax.types import Batch

AT_ONCE = 1000  # test images: their kernel in float64 is small next to that of a step


def kip(steps: int = 300) -> dict:
    """Test accuracy of the regression on the images that KIP starts from, and on those that it ends with."""
    config = configs.apply_overrides(
        configs.load(CONFIGS / "images" / "cifar10_kip.toml"),
        ["--data.preprocessing", "standard", "--kip.steps", str(steps)],
    )
    found: dict = {"steps": steps}
    with tempfile.TemporaryDirectory() as folder, pipeline.opened(config, Path(folder) / "run") as run:
        kernel = fully_connected(config.kip.depth)
        for method in ("random", "kip"):
            part = make_part(run, recipes.train_recipe(config, method), "train", config.seeds[0], method=method)
            accuracy = regression_accuracy(kernel, part.batch, run.setup.test, config.kip.ridge)
            found[method] = {"images": len(part.batch.labels), "accuracy": accuracy, "seconds": part.cost.seconds}
    return found


def regression_accuracy(kernel: Kernel, support: Batch, test: Batch, ridge: float) -> float:
    """Share of the test images whose largest prediction is their class, in float64."""

    def double(batch: Batch, places: slice = slice(None)) -> Batch:
        inputs, weights = (jnp.asarray(leaf[places], "float64") for leaf in (batch.inputs, batch.weights))
        return Batch(inputs, batch.labels[places], weights)

    with jax.enable_x64(True):
        in_double = double(support)
        hits = jax.jit(lambda support, batch: regression_loss(kernel, support, batch, ridge, 10)[1])
        parts = [double(test, slice(first, first + AT_ONCE)) for first in range(0, len(test.labels), AT_ONCE)]
        return float(
            np.average([hits(in_double, part) for part in parts], weights=[len(part.labels) for part in parts])
        )
