"""Batch norm as a fixed function of each image: statistics of all real images in place of those of a batch.

Networks here keep no running averages. Once one is trained, the moments of what its batch norms read are measured over
all real images ("precise batch norm", Wu and Johnson, arXiv 2105.07576), in constant memory, and folded into scale and
shift: what is left is the same network with norm "affine", whose parameters say all.

Wu and Johnson normalise what comes after a layer by batches while they measure. Here the moments of a layer are those
that it has when all layers before it are fixed already, so that the fixed network says of all images together exactly
what batch norm says of them as one batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from hcdc_jax.condense.statistics import Moments, channels_of, combined, moments_of, streamed
from hcdc_jax.models.image_layers import EPS
from hcdc_jax.types import Array, Params

NormMoments = dict[tuple[str, ...], Moments]
"""Of the channels that each norm reads, by where its parameters lie."""


@functools.partial(jax.jit, static_argnames=("read", "batch_size"))
def with_population(
    read: Callable[[Params, Array], dict[tuple[str, ...], Array]],
    params: Params,
    images: Array,
    *,
    batch_size: int = 256,
) -> Params:
    """Parameters of a network with norm "affine" that says of any image what batch norm would, given all of `images`.

    What a norm reads depends on those before it. So each pass over the images, under the moments that the last one
    found, makes those of at least one more norm exact, and after as many passes as there are norms all of them are.

    Args:
      read: the network with norm "affine", see `layer_inputs.norm_inputs`.
      params: of the network with norm "batch".
      images: [n, h, w, c], all that it was trained on.
      batch_size: images at once.
    """

    def one_pass(_, moments: NormMoments) -> NormMoments:
        fixed = folded(params, moments)

        def of_slice(place: Array, weights: Array) -> NormMoments:
            seen = read(fixed, images[place])
            return {path: moments_of(channels_of(inputs), weights) for path, inputs in seen.items()}

        return streamed(of_slice, _together, images.shape[0], batch_size)

    shapes = jax.eval_shape(lambda: one_pass(0, {}))
    anything = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    return folded(params, jax.lax.fori_loop(0, len(anything), one_pass, anything))


def folded(params: Params, moments: NormMoments) -> Params:
    """Parameters in which scale and shift of each norm of `moments` do what normalising by those does before them."""

    def of(node, path: tuple[str, ...]):
        if path in moments:
            scale = node["scale"] * jax.lax.rsqrt(moments[path].variance + EPS)
            return {"scale": scale, "bias": node["bias"] - scale * moments[path].mean}
        if isinstance(node, Mapping):
            return {name: of(part, (*path, name)) for name, part in node.items()}
        return node

    return of(params, ())


def _together(a: NormMoments, b: NormMoments) -> NormMoments:
    return {path: combined(a[path], b[path]) for path in a}
