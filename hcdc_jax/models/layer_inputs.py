"""What the convolutions and norms of an image network are given: where statistics of data are compared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from hcdc_jax.errors import UserError
from hcdc_jax.models.image import image_net, only_logits
from hcdc_jax.models.image_layers import Norm
from hcdc_jax.types import Array, Params


class LayerInputs(NamedTuple):
    """One look of a network at images.

    Attributes:
      logits: [n, num_classes].
      convolved: [n, h, w, c] of each convolution, in the order of the network; the first is the image.
      normed: [n, h, w, c] of each norm, likewise.
    """

    logits: Array
    convolved: tuple[Array, ...]
    normed: tuple[Array, ...]


@functools.cache
def layer_inputs(name: str, num_classes: int, **options: Any) -> Callable[[Params, Array], LayerInputs]:
    """A network that tells what its layers read, as a pure function.

    Args:
      name: of the network, see `image_problem`, whose parameters it takes.
      num_classes: number of logits.
      **options: of the network.

    Returns:
      `look(params, images [n, h, w, c]) -> LayerInputs`.

    Raises:
      UserError: there is no such network or option; or, from `look`, one without convolutions.
    """
    network = image_net(name, num_classes, **options)

    def look(params: Params, images: Array) -> LayerInputs:
        convolved, normed = [], []

        def keep(call, args, kwargs, context):
            module = context.module
            if context.method_name == "__call__" and isinstance(module, nn.Conv):
                convolved.append(args[0])
            if context.method_name == "__call__" and isinstance(module, Norm) and module.kind != "none":
                normed.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(keep):
            logits = network.apply({"params": params}, images)
        if not convolved:
            raise UserError(f"the network {name!r} has no convolution whose inputs could be compared; choose another")
        return LayerInputs(only_logits(logits), tuple(convolved), tuple(normed))

    return look
