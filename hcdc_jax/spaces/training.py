"""Spaces of graph filters, extended by hyperparameters of the training."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from hcdc_jax.errors import UserError
from hcdc_jax.spaces.continuous import Space, one_object
from hcdc_jax.spaces.graph_filter import graph_filter
from hcdc_jax.spaces.named import box


@one_object
def with_training(
    filters: Space,
    *,
    name: str | None = None,
    weight_decay: tuple[float, float] = (1e-5, 1e-2),
    learning_rate_factor: tuple[float, float] = (0.2, 5.0),
    dropout: tuple[float, float] = (0.0, 0.7),
) -> Space:
    """The filters of a space, and with them the logarithms of weight decay and learning rate, and a dropout rate.

    The vector is that of `filters`, then `log_weight_decay`, `log_learning_rate_factor`, `dropout`. The weight decay
    takes the place of the model's own, the learning rate is relative to that of `Training` (under Adam), and dropout
    acts as its expected regulariser; see `models.Setting`. The learning rate has no implicit hypergradient: where
    training converges it does not matter. It needs unrolled ones (`unrolled_hypergradient`; in a run
    `hcdc.sensitivity = "unroll"`).

    Args:
      filters: a space that is read as a `models.Setting`, such as `graph_filter()` or `appnp()`.
      name: of the new space; that of `filters` with "+training" if not given.
      weight_decay: bounds; the prior is uniform in the logarithm.
      learning_rate_factor: bounds; likewise.
      dropout: bounds of the rate, at least 0 and below 1.

    Raises:
      UserError: `filters` are no graph filters, or bounds that a `box` or a dropout rate cannot have.
    """
    if filters.basis is None:
        raise UserError(f"space {filters.name!r} is no space of graph filters; `with_training` extends those only")
    if not 0 <= dropout[0] <= dropout[1] < 1:
        raise UserError(f"the bounds of 'dropout' must lie in [0, 1), got {dropout}")
    training = box(
        f"{filters.name}+training",
        {
            "weight_decay": (*weight_decay, "log"),
            "learning_rate_factor": (*learning_rate_factor, "log"),
            "dropout": dropout,
        },
    )
    h = len(filters.hparam_names)

    def both(first, second, vector):
        return jnp.concatenate([first(vector[..., :h]), second(vector[..., h:])], -1)

    def orbit(hparams):
        return jax.vmap(lambda first: jnp.concatenate([first, hparams[h:]]))(filters.equivalents(hparams[:h]))

    def read(hparams):
        return filters.read(hparams[:h])._replace(**training.read(hparams[h:]))

    return Space(
        name or training.name,
        filters.hparam_names + training.hparam_names,
        functools.partial(both, filters.from_unit, training.from_unit),
        filters.prior_std + training.prior_std,
        functools.partial(both, filters.project, training.project),
        read,
        filters.basis,
        functools.partial(both, filters.admit, training.admit),
        orbit=orbit if filters.orbit is not None else None,
    )


@one_object
def filter_training(order: int = 2, basis: str = "laplacian", prior: str = "box") -> Space:
    """Graph filters together with weight decay, learning rate and dropout; `with_training` of `graph_filter`."""
    return with_training(graph_filter(order, basis, prior), name="filter_training")


def without_implicit_hypergradient(space: Space) -> tuple[str, ...]:
    """Its hyperparameters that act on the way of training and not in its loss: only unrolling sees them."""
    unseen = ("learning_rate_factor", "input_noise", "mixup")
    return tuple(name for name in space.hparam_names if name.removeprefix("log_").removeprefix("logit_") in unseen)
