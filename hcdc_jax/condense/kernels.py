"""Kernels of networks: in closed form where these are infinitely wide, and of drawn ones of finite width.

Wide fully connected ReLU networks: Cho and Saul 2009, arXiv 1806.07572; wide convolutional ones: arXiv 1904.11955, with
pooling as in arXiv 2107.13034. Finite ones are random features, an approximation: arXiv 2210.12067.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from hcdc_jax.errors import UserError, check_name
from hcdc_jax.problem import Problem
from hcdc_jax.types import Array, HParams, Params, PyTree

Kernel: TypeAlias = Callable[[Array, Array], Array]
"""`kernel(a [n, ...], b [m, ...]) -> [n, m]`, positive semidefinite where a is b."""
KernelDraw: TypeAlias = Callable[[Array], Kernel]
"""`draw(key)`, the kernel of one step."""


@functools.cache
def always(kernel: Kernel) -> KernelDraw:
    """One kernel for all steps."""
    return lambda key: kernel


class Covariance(NamedTuple):
    """What one layer hands to the next.

    Attributes:
      nngp: [n, m], covariance of the outputs at initialisation.
      ntk: [n, m], tangent kernel of the outputs.
      left: [n], variances of the first inputs' outputs.
      right: [m], of the second's.
    """

    nngp: Array
    ntk: Array
    left: Array
    right: Array


@functools.cache
def fully_connected(
    depth: int = 1, *, weight_std: float = 2.0**0.5, bias_std: float = 0.1, kind: str = "ntk", eps: float | None = None
) -> Kernel:
    """The kernel of a ReLU network with `depth` hidden layers in NTK parametrisation.

    A layer computes weight_std / sqrt(inputs) * W x + bias_std * b with standard normal W, b.

    Args:
      depth: hidden layers; 0 is the linear kernel.
      weight_std: of all layers.
      bias_std: of all layers.
      kind: "ntk", all layers trained, or "nngp", the last one alone.
      eps: inputs whose cosine is this close to 1 or -1 count as parallel, for there the slope of the angle is
        infinite; the rounding error of a cosine, 8 times the machine epsilon, by default.

    Raises:
      UserError: another kind.
    """
    check_name("kernel", kind, ("ntk", "nngp"))

    def affine(covariance, ntk):
        scale, shift = weight_std**2, bias_std**2
        nngp, left, right = (scale * part + shift for part in (covariance.nngp, covariance.left, covariance.right))
        return Covariance(nngp, nngp + scale * ntk, left, right)

    def kernel(a, b):
        a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
        width = a.shape[1]
        products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST) / width
        raw = Covariance(products, jnp.zeros_like(products), (a * a).sum(1) / width, (b * b).sum(1) / width)
        covariance = affine(raw, raw.ntk)
        tolerance = 8 * float(jnp.finfo(products.dtype).eps) if eps is None else eps
        for _ in range(depth):
            active, slopes = _relu(covariance, tolerance)
            covariance = affine(active, slopes * covariance.ntk)
        return covariance.ntk if kind == "ntk" else covariance.nngp

    return kernel


def _relu(covariance: Covariance, eps: float) -> tuple[Covariance, Array]:
    """Covariance after ReLU of Gaussians, E[relu(u) relu(v)], and E[relu'(u) relu'(v)] (arc-cosine kernels)."""
    norms = jnp.sqrt(covariance.left)[:, None] * jnp.sqrt(covariance.right)[None]
    active, share = _arc_cosine(covariance.nngp, norms, eps)
    return Covariance(active, active, covariance.left / 2, covariance.right / 2), share


def _arc_cosine(covariance: Array, norms: Array, eps: float) -> tuple[Array, Array]:
    """E[relu(u) relu(v)] and E[relu'(u) relu'(v)] of Gaussians with this covariance and product of deviations."""
    cosine = covariance / norms
    # The slope of the angle at cosine 1 is infinite, and times the zero slope of the cosine there it would be NaN.
    parallel = jnp.abs(cosine) > 1.0 - eps
    cosine = jnp.where(parallel, jax.lax.stop_gradient(jnp.sign(cosine)), cosine)
    sine = jnp.sqrt(jnp.where(parallel, 1.0, 1.0 - cosine**2)) * ~parallel
    angle = jnp.arctan2(sine, cosine)
    share = (jnp.pi - angle) / (2 * jnp.pi)
    return norms * (sine / (2 * jnp.pi) + share * cosine), share


class PixelCovariance(NamedTuple):
    """What one layer hands to the next: of one image b against n images a, between all pairs of their pixels.

    Attributes:
      nngp: [n, h, w, h, w], covariance of the outputs at initialisation.
      ntk: the same, tangent kernel of the outputs.
      left: [n, h, w, h, w], covariance of each a with itself.
      right: [1, h, w, h, w], of b with itself.
    """

    nngp: Array
    ntk: Array
    left: Array
    right: Array


@functools.cache
def convolutional(
    depth: int = 3, *, weight_std: float = 2.0**0.5, bias_std: float = 0.1, eps: float | None = None
) -> Kernel:
    """The tangent kernel of a wide ConvNet: `depth` blocks of 3 x 3 convolution, ReLU and 2 x 2 mean, a linear layer.

    It is the ConvNet of the field without its norm, in NTK parametrisation. Takes about 100 n m p^2 operations for p
    pixels, and the memory of n p^2 numbers: the images of b are taken one by one, and again in the backward pass.

    Args:
      depth: number of blocks, each of which halves the image; an odd row or column is left out of the mean.
      weight_std: of all layers.
      bias_std: of all layers.
      eps: see `fully_connected`.
    """
    scale, shift = weight_std**2, bias_std**2

    def block(state: PixelCovariance, tolerance: float) -> PixelCovariance:
        nngp, left, right = (scale * _convolved(part) + shift for part in (state.nngp, state.left, state.right))
        ntk = nngp + scale * _convolved(state.ntk)
        (left_std, right_std) = (jnp.sqrt(_variances(part)) for part in (left, right))
        active, slopes = _rectified(nngp, left_std, right_std, tolerance)
        parts = (
            active,
            slopes * ntk,
            *(_rectified(part, std, std, tolerance)[0] for part, std in ((left, left_std), (right, right_std))),
        )
        return PixelCovariance(*map(_pooled, parts))

    def kernel(a, b):
        _check_pixels(a.shape[1:3], depth)
        tolerance = 8 * float(jnp.finfo(a.dtype).eps) if eps is None else eps

        def products(x, y):
            covariance = jnp.einsum("nijc,nklc->nijkl", x, y, precision=jax.lax.Precision.HIGHEST)
            return covariance / x.shape[-1]

        own = products(a, a)

        @jax.checkpoint
        def against(image):
            image = image[None]
            cross = products(a, jnp.broadcast_to(image, a.shape))
            state = PixelCovariance(cross, jnp.zeros_like(cross), own, products(image, image))
            for _ in range(depth):
                state = block(state, tolerance)
            nngp, ntk = (_variances(part).mean((1, 2)) for part in (state.nngp, state.ntk))
            return scale * (nngp + ntk) + shift

        return jax.lax.map(against, b).T

    return kernel


@functools.cache
def random_features(
    problem: Problem, embed: Callable[[Params, HParams, PyTree], Array], hparams: tuple[float, ...], networks: int
) -> KernelDraw:
    """Mean inner product of the features of drawn networks: what trains is their last layer alone.

    Not the kernel of a wide network but a draw around its covariance; another at every step, so that images do not fit
    one draw (arXiv 2210.12067).

    Args:
      problem: whose networks are drawn.
      embed: `embed(params, hparams, inputs) -> [n, d]`.
      hparams: of the networks.
      networks: how many.
    """

    def draw(key):
        params = jax.vmap(lambda key: problem.init(key, jnp.asarray(hparams)))(jax.random.split(key, networks))

        def kernel(a, b):
            left, right = (jax.vmap(lambda p, x=x: embed(p, jnp.asarray(hparams), x))(params) for x in (a, b))
            products = jnp.einsum("knd,kmd->nm", left, right, precision=jax.lax.Precision.HIGHEST)
            return products / (networks * left.shape[-1])

        return kernel

    return draw


def _check_pixels(sides: tuple[int, ...], depth: int) -> None:
    if min(sides) < 2**depth:
        raise UserError(
            f"images of {sides[0]} x {sides[1]} pixels cannot be halved {depth} times; lower kip.depth to "
            f"{min(sides).bit_length() - 1}"
        )


def _convolved(covariance: Array) -> Array:
    """Mean over the nine places of a 3 x 3 kernel, which lies alike on both images; zeros around them."""
    h, w = covariance.shape[1:3]
    padded = jnp.pad(covariance, ((0, 0), *[(1, 1)] * 4))
    places = [(slice(i, i + h), slice(j, j + w)) for i in range(3) for j in range(3)]
    return functools.reduce(jnp.add, (padded[:, i, j, i, j] for i, j in places)) / 9


def _pooled(covariance: Array) -> Array:
    """Mean over 2 x 2 pixels of both images."""
    n, h, w = covariance.shape[0], covariance.shape[1] // 2, covariance.shape[2] // 2
    even = covariance[:, : 2 * h, : 2 * w, : 2 * h, : 2 * w]
    return even.reshape(n, h, 2, w, 2, h, 2, w, 2).mean((2, 4, 6, 8))


def _variances(covariance: Array) -> Array:
    """[n, h, w] of [n, h, w, h, w]."""
    return jnp.einsum("nijij->nij", covariance)


def _rectified(covariance: Array, left_std: Array, right_std: Array, eps: float) -> tuple[Array, Array]:
    return _arc_cosine(covariance, left_std[:, :, :, None, None] * right_std[:, None, None], eps)
