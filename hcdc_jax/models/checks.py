"""Losses of your own: what implicit differentiation needs of them, checked before it is needed."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from hcdc_jax import arguments
from hcdc_jax.errors import UserError
from hcdc_jax.types import Array, HParams, Params, PyTree

LossFn = Callable[[Params, HParams, PyTree], Array]


def check_losses(
    train_loss: LossFn, val_loss: LossFn, params: Params, hparams: HParams, train_batch: PyTree, val_batch: PyTree
) -> None:
    """Checks that both losses are what `hypergradient` and the searches take, at one point.

    Both must be traceable by JAX, return one floating-point number, and have a finite gradient that is not 0 with
    respect to params. That finds accuracies, rounding, NumPy inside, roots of 0 and losses per example.

    Args:
      train_loss: `train_loss(params, hparams, batch) -> scalar`.
      val_loss: `val_loss(params, hparams, batch) -> scalar`.
      params: such as `problem.init(key, hparams)` gives; not at a minimum.
      hparams: one candidate.
      train_batch: argument of `train_loss`.
      val_batch: argument of `val_loss`.

    Raises:
      UserError: the first thing that is wrong, in one line.
    """
    for name, tree in (("params", params), ("hparams", hparams)):
        arguments.check_floats(name, tree)
    _check("train_loss", train_loss, params, hparams, train_batch)
    _check("val_loss", val_loss, params, hparams, val_batch)


def _check(name: str, loss: LossFn, params: Params, hparams: HParams, batch: PyTree) -> None:
    try:
        result = jax.eval_shape(loss, params, hparams, batch)
    except jax.errors.JAXTypeError as error:
        raise UserError(
            f"{name} cannot be traced by JAX ({type(error).__name__}): it turns arrays into NumPy or Python values; "
            "use jax.numpy, and jnp.where or lax.cond for choices"
        ) from error
    arguments.check_loss(name, result)
    value, gradients = _value_and_gradients(params, hparams, batch, loss=loss)
    if not jnp.isfinite(value):
        raise UserError(f"{name} is {value} at these params and hparams; it must be finite")
    for path, leaf in jax.tree.leaves_with_path(dict(zip(("params", "hparams"), gradients, strict=True))):
        if not jnp.isfinite(leaf).all():
            place = f"{path[0].key}{jax.tree_util.keystr(path[1:])}"
            raise UserError(
                f"{name} has a gradient that is not finite in {place}, though its value is; look for a root, logarithm "
                "or division at 0, and for jnp.where around one"
            )
    if not any(leaf.any() for leaf in jax.tree.leaves(gradients[0])):
        raise UserError(
            f"{name} is not differentiable, or does not use params: its gradient in them is 0 everywhere; accuracies, "
            "argmax, rounding and stop_gradient have none"
        )


@functools.partial(jax.jit, static_argnames="loss")
def _value_and_gradients(
    params: Params, hparams: HParams, batch: PyTree, *, loss: LossFn
) -> tuple[Array, tuple[Params, HParams]]:
    return jax.value_and_grad(loss, argnums=(0, 1))(params, hparams, batch)
