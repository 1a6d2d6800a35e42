"""A step of each condenser of images against the network passes that it cannot do without, and many networks at once.

The unit is the gradient of a network's loss on so many images, timed in the same process. What a step needs of it:

- DC, DSA: per class one gradient on the real images, and on the synthetic ones a gradient and the gradient of its
  distance, which is three gradients' worth; then the epochs that the relay trains.
- DM: per class the features of the real images, a third of a gradient, and a gradient on the synthetic ones.
- MTT: per step of the student a gradient, once more since only the ends of its steps are kept, and what goes back
  through it, two gradients' worth.
- HCDC: per matched network a gradient on S_val, and the gradient of a derivative along a line: three gradients' worth.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.command import CONFIGS
from benchmarks.step_memory import temporary_bytes
from benchmarks.timing import seconds
from hcdc_jax import config as configs
from hcdc_jax import pipeline
from hcdc_jax.condense.base import run as run_condenser
from hcdc_jax.config import Config
from hcdc_jax.evaluation import evaluate_networks
from hcdc_jax.evaluation.protocols import PROTOCOLS, with_epochs
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.condensed_parts import make_part
from hcdc_jax.pipeline.recipes.base import Recipe, Request, part_key
from hcdc_jax.pipeline.recipes.image_relays import relay
from hcdc_jax.pipeline.setup import Run, Setup
from hcdc_jax.types import Batch

CONFIG = CONFIGS / "images" / "fashion_narrow.toml"
METHODS = ("dc", "dsa", "dm", "mtt", "hcdc")
STEPS = 5
"""In one call, so that what surrounds a step is what surrounds it in a run."""


def narrow(*overrides: str) -> Config:
    """A narrow ConvNet on Fashion-MNIST where `HCDC_DATA_DIR` has it, else on the digits."""
    bundled = ["--data.name", "digits_images", "--data.shrink", "1", "--data.train", "800", "--data.val", "400"]
    own = [] if os.environ.get("HCDC_DATA_DIR") else [*bundled, "--data.test", "200"]
    return configs.apply_overrides(
        configs.load(CONFIG), [*own, "--dc.outer_steps", "1000", "--mtt.experts", "1", *overrides]
    )


def condensers(*methods: str) -> dict:
    """Seconds of a step, of the passes in it, and their ratio; temporary memory against images per class.

    Of all methods; of those named, without the memory.
    """
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = narrow(
            "--methods", *(methods or METHODS), "--hcdc.full_trainings", "4", "--hcdc.oversampling", "2",
            # A step takes as long at networks that were trained for less.
            "--training.steps", "30", "--training.proxy_steps", "30",
        )  # fmt: skip
        with pipeline.opened(config, Path(folder) / "run") as run:
            for name in config.methods:
                step, compilation = _step_seconds(run, name)
                floor = _floor(run.setup, name)
                found[name] = {
                    "seconds": step, "passes_seconds": floor, "ratio": step / floor, "compile_seconds": compilation
                }  # fmt: skip
    return {"steps": found} if methods else {"steps": found, "temporary_bytes": _memory()}


def networks(count: int = 20, epochs: int = 20) -> dict:
    """`count` networks trained on 100 images in one call, and one after the other."""
    setup = pipeline.prepare(narrow("--methods", "random"))
    problem, train = relay(setup).problem, _first(setup.train, 100)
    protocol = with_epochs(PROTOCOLS["dc"], epochs)

    def together():
        return evaluate_networks(jax.random.key(0), problem, protocol, train, setup.test, networks=count).accuracy

    def alone():
        calls = [
            evaluate_networks(jax.random.key(i), problem, protocol, train, setup.test, networks=1) for i in range(count)
        ]
        return jnp.stack([call.accuracy for call in calls])

    (at_once, compiled), (looped, _) = seconds(together, repeats=3), seconds(alone, repeats=3)
    return {"networks": count, "together": at_once, "one_by_one": looped, "compile_seconds": compiled}


def _step_seconds(run: Run, name: str) -> tuple[float, float]:
    recipe, part, condensed_train = recipes.train_recipe(run.setup.config, name), "train", None
    method = recipes.get(run.setup.config, name)
    if method.train is None:
        assert isinstance(method.val, Recipe)
        condensed_train = make_part(run, recipe, "train", 0, method=name).batch
        recipe, part = method.val, "val"
    learner, container = recipe.learner, recipe.container(run.setup, part)
    assert learner is not None
    start, key = recipe.start(run.setup, part, 0), part_key(part, 0)
    work = learner.work(Request(run, part, 0, start, condensed_train))
    condenser = learner.condenser(run.setup, container)
    state = condenser.init(key, container.init(key, start), work.data)
    taken, compilation = seconds(
        lambda: run_condenser(key, condenser, state, work.data, steps=STEPS, every=STEPS), repeats=3
    )
    return taken / STEPS, compilation


def _floor(setup: Setup, name: str) -> float:
    """Seconds of the passes that a step is made of."""
    config, classes = setup.config, setup.data.num_classes
    per_class = config.condense.images_per_class

    def gradients(count: int, repeats: int = 1) -> float:
        return repeats * _gradient_seconds(setup, count)

    if name in ("dc", "dsa"):
        trained = 50 * gradients(classes * per_class)  # epochs of DC at 10 images a class, in one batch
        return gradients(config.dc.batch_size, classes) + 3 * gradients(per_class, classes) + trained
    if name == "dm":
        return gradients(config.dm.batch_size, classes) / 3 + gradients(per_class, classes)
    if name == "mtt":
        return 4 * gradients(classes * per_class, config.mtt.student_steps)
    count = round(per_class * config.condense.val_factor) * classes
    return 4 * gradients(count, config.hcdc.full_trainings * config.hcdc.inits)


def _gradient_seconds(setup: Setup, count: int, repeats: int = 10) -> float:
    """Of one gradient of the loss on `count` images, in a loop as a condenser has it."""
    network = relay(setup)
    batch, params = _first(setup.train, count), network.problem.init(jax.random.key(0), network.hparams)

    @jax.jit
    def chain(params):
        def descend(params, _):
            slope = jax.grad(network.problem.val_loss)(params, network.hparams, batch)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, slope), None

        return jax.lax.scan(descend, params, length=repeats)[0]

    return seconds(chain, params)[0] / repeats


def _first(batch: Batch, count: int) -> Batch:
    return jax.tree.map(lambda leaf: leaf[:count], batch)


def _memory() -> dict:
    """Temporary bytes of a step: DC by images per class, MTT by steps of the student."""
    settings = {f"dc, {count} images a class": ("dc", "--condense.images_per_class", count) for count in (1, 10, 50)}
    settings |= {f"mtt, {count} steps of the student": ("mtt", "--mtt.student_steps", count) for count in (5, 20, 80)}
    found = {}
    for label, (name, option, value) in settings.items():
        with tempfile.TemporaryDirectory() as folder:
            config = narrow("--methods", name, option, str(value), "--dc.inner_epochs", "1")
            with pipeline.opened(config, Path(folder) / "run") as run:
                found[label] = temporary_bytes(run, name)
    return found
