"""Networks on the rows of tables, for classes and for amounts, as `Problem`s."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hcdc_jax.errors import check_name
from hcdc_jax.models.image import ImageSetting, image_net, network_embedding, network_problem, unread
from hcdc_jax.problem import Problem, mean_loss
from hcdc_jax.training.losses import squared_loss
from hcdc_jax.training.soft_labels import SoftLoss
from hcdc_jax.types import Array, HParams, Params

TABLE_NETS = ("mlp", "residual_mlp")
"""Networks of `image_nets()` that read vectors as well."""


@functools.cache
def table_problem(
    name: str,
    num_features: int,
    num_classes: int | None,
    *,
    weight_decay: float = 2.5e-4,
    read: Callable[[HParams], ImageSetting] = unread,
    soft_loss: SoftLoss | None = None,
    **options: Any,
) -> Problem:
    """A network of `TABLE_NETS` as a `Problem` on rows [n, num_features].

    Under regression the network has one output, both losses are squared errors of standardised amounts [n] float, the
    accuracy is NaN, and label smoothing shrinks amounts towards their mean.

    Args:
      name: of the network.
      num_features: d of the rows.
      num_classes: number of classes; None is regression.
      weight_decay: see `image_problem`; so are the others.
      read: see `image_problem`.
      soft_loss: see `image_problem`; not under regression, whose labels no teacher softens.
      **options: of the network, see `image_net_options`.

    Raises:
      UserError: there is no such network or option.
    """
    network = _network(name, num_classes, options)
    fit_loss = squared_loss if num_classes is None else mean_loss
    return network_problem(
        network, (num_features,), num_classes, weight_decay=weight_decay, read=read, fit_loss=fit_loss,
        soft_loss=soft_loss,
    )  # fmt: skip


@functools.cache
def table_embedding(
    name: str, num_classes: int | None, *, read: Callable[[HParams], ImageSetting] = unread, **options: Any
) -> Callable[[Params, HParams, Array], Array]:
    """What the last linear layer of a network reads of rows, as `image_embedding` says it of images.

    Raises:
      UserError: there is no such network or option.
    """
    return network_embedding(_network(name, num_classes, options), read)


def _network(name: str, num_classes: int | None, options: dict[str, Any]):
    check_name("network for tables", name, TABLE_NETS)
    return image_net(name, 1 if num_classes is None else num_classes, **options)
