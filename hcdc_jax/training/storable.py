"""Problems whose parameters and inputs are dictionaries, as files know them, whatever trees they are made of."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from hcdc_jax.problem import LossOfLogits, Problem
from hcdc_jax.types import Array, Batch, PyTree


@functools.cache
def storable(problem: Problem, num_hparams: int, inputs: Any = None) -> Problem:
    """The problem on parameters and inputs that are dictionaries: files know these, and not the trees of users.

    Args:
      problem: whose trees are its own.
      num_hparams: h, of a candidate.
      inputs: structure of its inputs, where that is none that files know.
    """
    shapes = jax.eval_shape(lambda: problem.init(jax.random.key(0), jnp.zeros(num_hparams)))
    params_tree = None if is_dictionary(shapes) else jax.tree.structure(shapes)
    if params_tree is None and inputs is None:
        return problem

    def params_of(stored: PyTree) -> PyTree:
        return _given(params_tree, stored)

    def batch_of(batch: Batch) -> Batch:
        return batch._replace(inputs=_given(inputs, batch.inputs))

    def init(key: Array, hparams: Array) -> PyTree:
        return as_dictionary(problem.init(key, hparams))

    def apply(params: PyTree, hparams: Array, given: PyTree) -> Array:
        return problem.apply(params_of(params), hparams, _given(inputs, given))

    def train_loss(params: PyTree, hparams: Array, batch: Batch) -> Array:
        return problem.train_loss(params_of(params), hparams, batch_of(batch))

    def val_loss(params: PyTree, hparams: Array, batch: Batch) -> Array:
        return problem.val_loss(params_of(params), hparams, batch_of(batch))

    def perturb(key: Array, hparams: Array, batch: Batch) -> Batch:
        assert problem.perturb is not None
        # What it gives is the problem's own, the key of its noise and all.
        return problem.perturb(key, hparams, batch_of(batch))

    own, own_val_loss = problem.val_loss, val_loss
    if isinstance(own, LossOfLogits) and own.apply == problem.apply:  # it reads logits alone, and so does this one
        own_val_loss = dataclasses.replace(own, apply=apply)
    return problem._replace(
        init=init,
        apply=apply,
        train_loss=train_loss,
        val_loss=own_val_loss,
        perturb=None if problem.perturb is None else perturb,
    )


def as_dictionary(tree: PyTree) -> PyTree:
    """A tree as files know it: itself where it is an array or dictionaries of such, else a dictionary of its leaves."""
    if is_dictionary(tree):
        return tree
    return {f"{place:04d}": leaf for place, leaf in enumerate(jax.tree.leaves(tree))}


def _given(tree: Any, stored: PyTree) -> PyTree:
    """The tree of a user from its dictionary; what is a tree of the user already stays what it is."""
    if tree is None or not is_dictionary(stored):
        return stored
    return jax.tree.unflatten(tree, [stored[name] for name in sorted(stored)])


def is_dictionary(tree: PyTree) -> bool:
    if isinstance(tree, dict):
        return all(isinstance(key, str) and "/" not in key and is_dictionary(item) for key, item in tree.items())
    return jax.tree_util.all_leaves([tree])
