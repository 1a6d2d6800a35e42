"""Problems whose parameters and inputs are dictionaries, as files know them, whatever trees they are made of."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hcdc_jax.problem import LossOfLogits, Problem
from hcdc_jax.types import Array, Batch, PyTree


@functools.cache
def storable(problem: Problem, num_hparams: int) -> Problem:
    """The problem with its parameters in a dictionary: files know these, and not the trees that users think of."""
    hparams = jnp.zeros(num_hparams)
    shapes = jax.eval_shape(lambda: problem.init(jax.random.key(0), hparams))
    if is_dictionary(shapes):
        return problem
    tree = jax.tree.structure(shapes)

    def init(key: Array, hparams: Array) -> PyTree:
        return as_dictionary(problem.init(key, hparams))

    def apply(params: PyTree, hparams: Array, inputs: PyTree) -> Array:
        return problem.apply(_given(tree, params), hparams, inputs)

    def train_loss(params: PyTree, hparams: Array, batch: Batch) -> Array:
        return problem.train_loss(_given(tree, params), hparams, batch)

    def val_loss(params: PyTree, hparams: Array, batch: Batch) -> Array:
        return problem.val_loss(_given(tree, params), hparams, batch)

    own_val_loss = _of_logits(problem, apply, val_loss)
    return problem._replace(init=init, apply=apply, train_loss=train_loss, val_loss=own_val_loss)


@functools.cache
def reading_dictionaries(problem: Problem, tree: Any, as_they_are: bool) -> Problem:
    """The problem on inputs in a dictionary, where the study's are another tree."""
    if as_they_are:
        return problem

    def given(batch: Batch) -> Batch:
        return batch._replace(inputs=_given(tree, batch.inputs))

    def apply(params: PyTree, hparams: Array, inputs: PyTree) -> Array:
        return problem.apply(params, hparams, _given(tree, inputs))

    def train_loss(params: PyTree, hparams: Array, batch: Batch) -> Array:
        return problem.train_loss(params, hparams, given(batch))

    def val_loss(params: PyTree, hparams: Array, batch: Batch) -> Array:
        return problem.val_loss(params, hparams, given(batch))

    def perturb(key: Array, hparams: Array, batch: Batch) -> Batch:
        assert problem.perturb is not None
        seen = problem.perturb(key, hparams, given(batch))
        return seen._replace(inputs=as_dictionary(seen.inputs))

    noisy = None if problem.perturb is None else perturb
    own_val_loss = _of_logits(problem, apply, val_loss)
    return problem._replace(apply=apply, train_loss=train_loss, val_loss=own_val_loss, perturb=noisy)


def _of_logits(problem: Problem, apply: Callable[..., Array], val_loss: Callable[..., Array]) -> Callable[..., Array]:
    """The validation loss of a wrapped problem, which reads logits alone where that of the problem does."""
    own = problem.val_loss
    return (
        dataclasses.replace(own, apply=apply)
        if isinstance(own, LossOfLogits) and own.apply == problem.apply
        else val_loss
    )


def as_dictionary(tree: PyTree) -> PyTree:
    """A tree as files know it: itself where it is an array or dictionaries of such, else a dictionary of its leaves."""
    if is_dictionary(tree):
        return tree
    return {f"{place:04d}": leaf for place, leaf in enumerate(jax.tree.leaves(tree))}


def _given(tree: Any, stored: dict[str, Array]) -> PyTree:
    return jax.tree.unflatten(tree, [stored[name] for name in sorted(stored)])


def is_dictionary(tree: PyTree) -> bool:
    if isinstance(tree, dict):
        return all(isinstance(key, str) and "/" not in key and is_dictionary(item) for key, item in tree.items())
    return jax.tree_util.all_leaves([tree])
