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
        logits, read = _read(network, params, images)
        convolved = tuple(inputs for layer, inputs in read if isinstance(layer, nn.Conv))
        normed = tuple(inputs for layer, inputs in read if isinstance(layer, Norm))
        if not convolved:
            raise UserError(f"the network {name!r} has no convolution whose inputs could be compared; choose another")
        return LayerInputs(logits, convolved, normed)

    return look


@functools.cache
def norm_inputs(name: str, num_classes: int, **options: Any) -> Callable[[Params, Array], dict[tuple[str, ...], Array]]:
    """What each norm of a network reads, by where its parameters lie, as a pure function.

    Args:
      name: see `layer_inputs`.
      num_classes: see `layer_inputs`.
      **options: see `layer_inputs`.

    Returns:
      `read(params, images [n, h, w, c]) -> {path: [n, h, w, c]}`; scale and shift are `params[path[0]][path[1]]...`.

    Raises:
      UserError: there is no such network or option.
    """
    network = image_net(name, num_classes, **options)

    def read(params: Params, images: Array) -> dict[tuple[str, ...], Array]:
        return {layer.path: inputs for layer, inputs in _read(network, params, images)[1] if isinstance(layer, Norm)}

    return read


def _read(network: nn.Module, params: Params, images: Array) -> tuple[Array, list[tuple[nn.Module, Array]]]:
    """Logits, and each convolution and norm with what it reads, in the order of the network."""
    found: list[tuple[nn.Module, Array]] = []

    def keep(call, args, kwargs, context):
        layer = context.module
        known = isinstance(layer, nn.Conv) or (isinstance(layer, Norm) and layer.kind != "none")
        if context.method_name == "__call__" and known:
            found.append((layer, args[0]))
        return call(*args, **kwargs)

    with nn.intercept_methods(keep):
        logits = only_logits(network.apply({"params": params}, images))
    return logits, found
