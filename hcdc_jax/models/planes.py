"""Convolutions and means of planes [c, h, w, n] whose derivatives of every order are convolutions and means again.

Where images have few channels, patches of [n, h, w, c] are written a few numbers at a time; of planes they are copied
whole. But what JAX derives from such copies adds up k^2 padded ones in the backward pass, for which XLA's CPU compiler
makes a loop of comparisons: it takes five times as long as the convolution. Convolution and correlation are the
derivatives of one trilinear form,

    sum over i, j, c, d, h, w, n of planes[c, h + i, w + j, n] kernel[i, j, c, d] values[d, h, w, n],

so as primitives they transpose into each other, and each is one product with shifted copies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from hcdc_jax.models.image_layers import shifted_copies
from hcdc_jax.types import Array

Border: TypeAlias = tuple[int, int]
"""Rows of zeros above and below planes, and as many columns left and right of them; side of the kernel - 1 together."""


def convolved_planes(planes: Array, kernel: Array, stride: int, precision: str) -> Array:
    """`jax.lax.conv_general_dilated` of planes [c, h, w, n] with an odd kernel [k, k, c, d], zeros around.

    Returns [d, h / stride, w / stride, n], for sides that are multiples of the stride.
    """
    planes, kernel = _of_one_type(planes, kernel)
    before = (len(kernel) - 1) // 2
    if stride > 1:
        planes, kernel, before = _strided(planes, kernel, before, stride)
    border = (before, len(kernel) - 1 - before)
    return _convolve_p.bind(planes, kernel, border=border, precision=precision)


def _strided(planes: Array, kernel: Array, before: int, stride: int) -> tuple[Array, Array, int]:
    """The convolution as one without stride: of blocks of stride x stride pixels, whose pixels are its channels."""
    channels, height, width, n = planes.shape
    blocks = planes.reshape(channels, height // stride, stride, width // stride, stride, n).transpose(2, 4, 0, 1, 3, 5)
    first = -before % stride  # of the pixels of a block that the kernel begins in
    sides = (first, -(first + len(kernel)) % stride)
    kernel = jnp.pad(kernel, (sides, sides, (0, 0), (0, 0)))
    size = len(kernel) // stride
    parts = kernel.reshape(size, stride, size, stride, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return (
        blocks.reshape(-1, *blocks.shape[3:]),
        parts.reshape(size, size, stride * stride * channels, -1),
        -(-before // stride),
    )


def times_pooled(weight: Array, planes: Array) -> Array:
    """`weight * pooled(planes)` for a scalar weight.

    Where that is 0, nothing is computed but slopes in the weight; except under `vmap`, where all is.
    """
    return _times_pooled_p.bind(*_of_one_type(weight, planes), turned=False)


def pooled(planes: Array) -> Array:
    """The mean of 3 x 3 pixels around each, of those that there are at the borders: [c, h, w, n]."""
    return _pooled(planes, turned=False)


def _of_one_type(*arrays: Array) -> list[Array]:
    return [jnp.asarray(array, jnp.result_type(*arrays)) for array in arrays]


# Below, the arrays of a primitive have the same number of further leading axes, which `vmap` adds: of one size, or 1.


def _copies(planes: Array, border: Border) -> Array:
    """What each place of a kernel sees, row by row: [..., k k c, h w n]."""
    flat = planes.reshape(-1, *planes.shape[-3:])
    seen = shifted_copies(flat, sum(border) + 1, 1, (border, border))
    copies = jnp.concatenate([copy.reshape(planes.shape) for copy in seen], -4)
    return copies.reshape(*planes.shape[:-4], -1, flat[0].size)


@functools.partial(jax.jit, static_argnames=("border", "precision"))
def _convolve(planes: Array, kernel: Array, *, border: Border, precision: str) -> Array:
    """[d, h, w, n]."""
    *leading, size, _, channels, features = kernel.shape
    flat_kernel = kernel.reshape(*leading, size * size * channels, features)
    product = jnp.einsum("...kd,...kp->...dp", flat_kernel, _copies(planes, border), precision=precision)
    return product.reshape(*product.shape[:-1], *planes.shape[-3:])


@functools.partial(jax.jit, static_argnames=("border", "precision"))
def _correlate(planes: Array, values: Array, *, border: Border, precision: str) -> Array:
    """[k, k, c, d]."""
    size = sum(border) + 1
    flat_values = values.reshape(*values.shape[:-3], -1)
    product = jnp.einsum("...kp,...dp->...kd", _copies(planes, border), flat_values, precision=precision)
    return product.reshape(*product.shape[:-2], size, size, planes.shape[-4], values.shape[-4])


def _planes_of(kernel: Array, values: Array, like: Any, *, border: Border, precision: str) -> Array:
    turned = kernel[..., ::-1, ::-1, :, :].swapaxes(-1, -2)
    return _summed(_convolve_p.bind(values, turned, border=border[::-1], precision=precision), like)


def _kernel_of(values: Array, planes: Array, like: Any, **options: Any) -> Array:
    return _summed(_correlate_p.bind(planes, values, **options), like)


def _values_of(kernel: Array, planes: Array, like: Any, **options: Any) -> Array:
    return _summed(_convolve_p.bind(planes, kernel, **options), like)


def _pooled(planes: Array, *, turned: bool) -> Array:
    height, width, n = planes.shape[-3:]
    # Products with bands, since XLA would compute anew for every shifted copy what planes come from.
    rows = _mean_of_three(planes.reshape(-1, height, width * n), turned)
    return _mean_of_three(rows.reshape(-1, width, n), turned).reshape(planes.shape)


def _mean_of_three(columns: Array, turned: bool) -> Array:
    """Of neighbours along the second of three axes, of two at its ends; or the transpose of that."""
    size = columns.shape[1]
    near = abs(np.subtract.outer(np.arange(size), np.arange(size))) <= 1
    band = near / near.sum(1, keepdims=True)
    band = jnp.asarray(band.T if turned else band, columns.dtype)
    return jnp.matmul(jnp.broadcast_to(band, (len(columns), size, size)), columns, precision="highest")


@functools.partial(jax.jit, static_argnames="turned")
def _times_pooled(weight: Array, planes: Array, *, turned: bool) -> Array:
    if weight.ndim:
        return weight[..., None, None, None, None] * _pooled(planes, turned=turned)
    absent = functools.partial(jnp.zeros_like, planes)
    return jax.lax.cond(weight != 0, lambda: weight * _pooled(planes, turned=turned), absent)


def _weight_of(values: Array, like: Any, planes: Array, *, turned: bool) -> Array:
    return _summed(jnp.sum(values * _pooled(planes, turned=turned), (-4, -3, -2, -1)), like)


def _pooled_of(values: Array, weight: Array, like: Any, *, turned: bool) -> Array:
    return _summed(_times_pooled_p.bind(weight, values, turned=not turned), like)


def _summed(found: Array, like: Any) -> Array:
    """Over the leading axes that what is asked for shares: there it has the size 1."""
    shared = [axis for axis, size in enumerate(like.aval.shape) if size != found.shape[axis]]
    return found.sum(shared, keepdims=True) if shared else found


def _bilinear(
    name: str, compute: Callable[..., Array], first: Callable[..., Array], second: Callable[..., Array]
) -> Primitive:
    """A primitive that is linear in each of two arrays.

    Args:
      name: of the primitive.
      compute: what it does, compiled for its options.
      first: its transpose in the first array; of what is transposed, the primitive's arrays and options.
      second: the same in the second.
    """
    primitive = Primitive(name)

    def shape(*arrays: Any, **options: Any) -> ShapedArray:
        found = jax.eval_shape(functools.partial(compute, **options), *arrays)
        return ShapedArray(found.shape, found.dtype)

    def mapped(arrays: Any, axes: Any, **options: Any) -> tuple[Array, int]:
        pairs = zip(arrays, axes, strict=True)
        leading = [array[None] if axis is None else jnp.moveaxis(array, axis, 0) for array, axis in pairs]
        return primitive.bind(*leading, **options), 0

    primitive.def_impl(compute)
    primitive.def_abstract_eval(shape)
    ad.defbilinear(primitive, first, second)
    batching.primitive_batchers[primitive] = mapped
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    return primitive


_convolve_p = _bilinear(
    "convolve_planes",
    _convolve,
    lambda values, planes, kernel, **options: _planes_of(kernel, values, planes, **options),
    _kernel_of,
)
_correlate_p = _bilinear(
    "correlate_planes",
    _correlate,
    lambda kernel, planes, values, **options: _planes_of(kernel, values, planes, **options),
    _values_of,
)
_times_pooled_p = _bilinear("times_pooled_planes", _times_pooled, _weight_of, _pooled_of)
