"""S_train as methods train on it: with its own labels, or with those of teachers."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.batches import augment
from hcdc_jax.config import Config
from hcdc_jax.containers import ImageStart, ViewStart, view_container
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.condensed_parts import CondensedPart, Place, make_part, read_part
from hcdc_jax.pipeline.recipes.base import Cost, Recipe, part_key
from hcdc_jax.pipeline.setup import Run
from hcdc_jax.pipeline.taught.teachers import Teachers, labels_of, teachers
from hcdc_jax.storage import files
from hcdc_jax.storage.codec import to_arrays
from hcdc_jax.types import Batch

TAUGHT = "_taught"
"""Ends the names of files of parts that teachers labelled."""


def train_place(folder: Path, config: Config, method: str, seed: int) -> Place:
    """Where the S_train of a method lies."""
    ending = TAUGHT if recipes.is_taught(config, method) else ""
    return Place(folder, recipes.train_recipe(config, method).name + ending, "train", seed)


def make_train(run: Run, method: str, seed: int) -> CondensedPart:
    """Makes the S_train of a method, or reads it: condensed first, and labelled by teachers if the run has them.

    Raises:
      UserError: all candidates that might teach have diverged, or the disk is full.
    """
    config = run.setup.config
    recipe, place = recipes.train_recipe(config, method), train_place(run.folder, config, method, seed)
    given = make_part(run, recipe, "train", seed, method=method)
    if recipes.is_taught(config, method) and not place.finished.exists():
        files.write_npz(place.finished, to_arrays(_taught(run, seed, recipe, given)))
    return read_part(place)


def teachers_of(run: Run, seed: int) -> Teachers:
    """The teachers of one seed, whichever S_train they are to label.

    The candidates they are chosen from are those that hcdc matches, drawn by means of the S_train of hcdc.
    """
    return teachers(run, seed, given_train(run, seed))


def given_train(run: Run, seed: int) -> Batch:
    """The S_train of hcdc with its own labels, by means of which matched candidates are drawn, whoever asks first."""
    recipe = recipes.given_recipe(run.setup.config)
    return make_part(run, recipe, "train", seed, method=recipe.name).batch


def relabelled_start(run: Run, seed: int, method: str, start: ImageStart) -> ImageStart:
    """What S_val starts from, with the labels that `labels.val` wants."""
    config = run.setup.config
    if config.labels.val == "own" or not recipes.is_taught(config, method):
        return start
    return start._replace(labels=np.asarray(labels_of(run.setup, teachers_of(run, seed), jnp.asarray(start.images))))


def _taught(run: Run, seed: int, recipe: Recipe, given: CondensedPart) -> CondensedPart:
    """The same images, in views, with labels of teachers; its cost leaves out the full trainings, which rows share."""
    setup, options, taught_by = run.setup, run.setup.config.labels, teachers_of(run, seed)
    augmentation = augment.Augmentation(())
    if options.views > 1:
        augmentation = augment.fitting(augment.parse(options.augmentation, augment.VIEW_OPERATIONS), setup.data.name)
    key = jax.random.fold_in(part_key("train", seed), 1)
    container = view_container((recipe.finished or recipe.container)(setup, "train"), augmentation)
    with measured() as elapsed:
        seen = jax.jit(augment.views, static_argnums=(1, 3))(key, augmentation, given.batch.inputs, options.views)
        labels = jnp.stack([labels_of(setup, taught_by, view) for view in seen])
        variables = container.init(key, ViewStart(given.variables, labels, key))
        batch = jax.block_until_ready(jax.jit(container.decode)(variables))
    return given._replace(variables=variables, batch=batch, cost=given.cost.plus(Cost(elapsed.run, elapsed.compile)))
