"""A problem of your own and its data, looked through before anything is trained: one small batch, a few gradients."""

from __future__ import annotations

import functools
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.errors import UserError
from hcdc_jax.models.checks import check_losses
from hcdc_jax.models.own import Readable
from hcdc_jax.problem import LossOfLogits, Problem, mean_loss
from hcdc_jax.types import Array, Batch, HParams, Params, check_examples

FEW = 64

Way: TypeAlias = Literal["loss", "training", "no derivative", "nothing"]
"""How a hyperparameter acts: in a loss; on the way of training alone, by noise, start or rate, where only unrolled
hypergradients see it; without a derivative, as by rounding; or not at all."""


def check_problem(problem: Problem, space: Readable, train: Batch, val: Batch) -> list[str]:
    """Looks for what would spoil a search, on the first 64 examples of each part and at one candidate.

    Args:
      problem: what is to be trained.
      space: of its candidates.
      train: the training part.
      val: the validation part.

    Returns:
      What is suspicious, a sentence each; empty where nothing is.

    Raises:
      UserError: what cannot work: parts that `check_examples` refuses, outputs or labels of the wrong shape, losses
        that are not finite or as `check_losses` says.
    """
    for part, batch in (("training", train), ("validation", val)):
        check_examples(batch, part)
    few_train, few_val = (_first(batch) for batch in (train, val))
    try:
        hparams, params = _point(problem=problem, space=space)
    except jax.errors.JAXTypeError as error:
        raise UserError(f"init cannot be traced by JAX ({type(error).__name__}): write it with jax.numpy") from error
    for part, batch, few in (("training", train, few_train), ("validation", val, few_val)):
        _check_outputs(problem, params, hparams, part, batch, few)
    check_losses(problem.train_loss, problem.val_loss, params, hparams, few_train, few_val)
    return [*_of_hyperparameters(problem, space, hparams, train, val), *_of_data(problem, train, val)]


def acts_through(problem: Problem, space: Readable, train: Batch, val: Batch) -> dict[str, Way]:
    """How each hyperparameter of the vector acts, see `Way`; arguments as of `check_problem`.

    Found from slopes and differences of both losses, of the start and of what noise makes of the training loss, at one
    candidate and parameters beside its start. Those of `Problem.unrolled_only` act on the way of training.
    """
    found_at = _sensitivities(_first(train), _first(val), problem=problem, space=space)
    slopes, differences = (np.asarray(values) for values in found_at)
    moves = (differences != 0).any(axis=(0, 2))
    found: dict[str, Way] = {}
    for name, slope, moved in zip(space.hparam_names, slopes.T != 0, moves, strict=True):
        if name in problem.unrolled_only:
            found[name] = "training"
        elif slope[:2].any():
            found[name] = "loss"
        elif slope.any():
            found[name] = "training"
        else:
            found[name] = "no derivative" if moved else "nothing"
    return found


def _of_hyperparameters(problem: Problem, space: Readable, hparams: HParams, train: Batch, val: Batch) -> list[str]:
    found = acts_through(problem, space, train, val)
    acts = np.ones(len(found), bool) if space.active is None else np.asarray(space.active(hparams))
    # Nothing is known of what does not act at this candidate; a choice acts as any of its options does.
    ways: dict[str, Any] = {name: way for (name, way), on in zip(found.items(), acts, strict=True) if on}
    for name, (places, _) in space.named.items():
        of_options = {ways.pop(one) for one in [space.hparam_names[place] for place in places] if one in ways}
        if of_options:
            acting = min(of_options, key=get_args(Way).index)
            if acting == "nothing" or not set(places) <= set(space.discrete):
                ways[name] = acting
    sentences = {
        "training": "acts on the way of training alone: its implicit hypergradient is 0, unroll (sensitivity 'unroll')",
        "no derivative": "acts without a derivative, as by rounding or comparing: hypergradients do not see it",
        "nothing": "is ignored, as far as one candidate shows: no loss, start or noise depends on it",
    }
    return [f"the hyperparameter {name!r} {sentences[way]}" for name, way in ways.items() if way in sentences]


def _of_data(problem: Problem, train: Batch, val: Batch) -> list[str]:
    findings = []
    for path, leaf in jax.tree.leaves_with_path(train.inputs):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            findings.append(
                f"inputs{jax.tree_util.keystr(path)} are of type {leaf.dtype}: gradients condense floats alone; "
                "choose examples (coresets), or condense what an embedding makes of them"
            )
    if _loss_of(problem) is mean_loss and train.labels.ndim == val.labels.ndim == 1:
        unseen = np.setdiff1d(np.unique(val.labels), np.unique(train.labels))
        if unseen.size:
            findings.append(f"no training example has the labels {unseen.tolist()}, which validation asks for")
    return findings


def _loss_of(problem: Problem) -> object:
    return problem.val_loss.loss if isinstance(problem.val_loss, LossOfLogits) else None


def _check_outputs(problem: Problem, params: Params, hparams: HParams, part: str, batch: Batch, few: Batch) -> None:
    try:
        outputs = jax.eval_shape(problem.apply, params, hparams, few.inputs)
    except jax.errors.JAXTypeError:
        return  # which `check_losses` puts into words
    if not isinstance(outputs, jax.ShapeDtypeStruct):
        raise UserError(f"the network must return one array of outputs, got {type(outputs).__name__}")
    if outputs.shape[:1] < few.labels.shape[:1]:
        raise UserError(
            f"of {few.labels.shape[0]} examples of the {part} part the network gives outputs {outputs.shape}"
        )
    if _loss_of(problem) is not mean_loss or outputs.ndim != 2:
        return
    classes, labels = outputs.shape[1], batch.labels
    if labels.ndim == 2 and labels.shape[1] != classes:
        raise UserError(
            f"labels of the {part} part are of {labels.shape[1]} classes, the network has {classes} outputs"
        )
    if labels.ndim == 1:
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise UserError(
                f"labels of the {part} part are of type {labels.dtype}; class numbers are integers, and numbers to be "
                "foretold go with loss='squared'"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise UserError(
                f"labels of the {part} part go from {low} to {high}, but the network has {classes} outputs, for the "
                f"classes 0 to {classes - 1}"
            )


def _first(batch: Batch) -> Batch:
    """The first examples, where all leaves have an axis of them."""
    count = batch.labels.shape[0]
    if any(leaf.shape[:1] != (count,) for leaf in jax.tree.leaves(batch)):
        return batch
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[:FEW]), batch)


@functools.partial(jax.jit, static_argnames=("problem", "space"))
def _point(*, problem: Problem, space: Readable) -> tuple[Array, Params]:
    """A candidate, and parameters beside its start, where layers that begin at 0 hide nothing."""
    key = jax.random.key(0)
    hparams = space.from_unit(_unit(space))
    params = problem.init(key, hparams)
    leaves, tree = jax.tree.flatten(params)
    moved = [
        leaf + 0.05 * jax.random.normal(jax.random.fold_in(key, place), leaf.shape, leaf.dtype)
        for place, leaf in enumerate(leaves)
    ]
    return hparams, jax.tree.unflatten(tree, moved)


@functools.partial(jax.jit, static_argnames=("problem", "space"))
def _sensitivities(train: Batch, val: Batch, *, problem: Problem, space: Readable) -> tuple[Array, Array]:
    """Slopes [4, h] of four numbers in the hyperparameters, and differences [3, h, 4] where each of these moves alone.

    The numbers: training and validation loss, a random sum of the parameters at the start, and the training loss on
    what noise makes of its batch, where there is noise. Each moves by a quarter, a half and three quarters of its
    range, round its end.
    """
    hparams, params = _point(problem=problem, space=space)
    key = jax.random.key(1)

    def numbers(hparams: Array) -> Array:
        start: list[Array] = jax.tree.leaves(problem.init(key, hparams))
        signs = [jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype) for i, leaf in enumerate(start)]
        losses = [
            problem.train_loss(params, hparams, train),
            problem.val_loss(params, hparams, val),
            sum((jnp.vdot(leaf, sign) for leaf, sign in zip(start, signs, strict=True)), jnp.zeros(())),
        ]
        if problem.perturb is not None:
            losses.append(problem.train_loss(params, hparams, problem.perturb(key, hparams, train)))
        return jnp.stack(losses)

    here, pull = jax.vjp(numbers, hparams)
    (slopes,) = jax.vmap(pull)(jnp.eye(here.size, dtype=here.dtype))
    others = jnp.stack([space.from_unit((_unit(space) + step) % 1) for step in (0.25, 0.5, 0.75)])
    moved = jnp.where(jnp.eye(hparams.size, dtype=bool)[None], others[:, None], hparams[None, None])
    # By one and the same program, or rounding would tell equals apart.
    found = jax.lax.map(numbers, jnp.concatenate([hparams[None], moved.reshape(-1, hparams.size)]))
    return slopes, (found[1:] - found[:1]).reshape(*moved.shape[:2], -1)


def _unit(space: Readable) -> Array:
    """The candidate that is looked at, as a point of the unit cube."""
    return jax.random.uniform(jax.random.key(0), (len(space.hparam_names),))
