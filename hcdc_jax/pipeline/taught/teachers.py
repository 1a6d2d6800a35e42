"""The best of the m full trainings as teachers, who label images."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.pipeline.hcdc.matched_candidates import choose_candidates
from hcdc_jax.pipeline.hcdc.targets import matched_targets
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.pipeline.setup import Run, Setup
from hcdc_jax.training.soft_labels import taught_labels
from hcdc_jax.types import Array, Batch, Params


class Teachers(NamedTuple):
    """Networks that were trained on the full data, best first by their loss on the real validation part.

    Attributes:
      params: leading axis [k].
      hparams: [k, h].
      paid: [m, h] candidates of all m full trainings that they were chosen from.
      cost: of those m trainings, which hcdc's targets and the surrogates share.
    """

    params: Params
    hparams: Array
    paid: np.ndarray
    cost: Cost


def teachers(run: Run, seed: int, condensed_train: Batch) -> Teachers:
    """The teachers of one seed; trains the m candidates that hcdc matches, or reads them.

    Args:
      run: the run, with `labels.teachers` of at least 1.
      seed: of the method.
      condensed_train: S_train with its own labels, which chooses the candidates where that was not done yet.

    Raises:
      UserError: all of them diverged.
    """
    candidates = choose_candidates(run, seed, condensed_train)
    matched = matched_targets(run, seed, candidates)
    best = np.argsort(np.asarray(matched.target.value), kind="stable")[: run.setup.config.labels.teachers]
    params = jax.tree.map(lambda leaf: leaf[best], matched.params)
    # Their hypergradients are the price of matching, not of teaching.
    return Teachers(params, matched.hparams[best], np.asarray(matched.hparams), matched.cost)


def labels_of(setup: Setup, taught_by: Teachers, images: Array) -> Array:
    """Class probabilities [n, num_classes] of images [n, h, w, c]."""
    return taught_labels(setup.problem, taught_by.params, taught_by.hparams, images)


def relabelled(setup: Setup, taught_by: Teachers, batch: Batch) -> Batch:
    """A batch of images with the labels of teachers in place of its own."""
    return batch._replace(labels=labels_of(setup, taught_by, jnp.asarray(batch.inputs)))
