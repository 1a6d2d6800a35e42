"""Scores of untrained networks from one batch: the rivals that cost next to nothing. Larger is better.

Each is a pure function of a key, a problem, a candidate and a batch, and goes under `vmap` over candidates, keys or
both; average over keys to reduce the influence of the initialisation. What their papers call a layer is here a kernel:
parameters of that name, with leading axes where kernels are stacked.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from hcdc_jax.models import image_problem, sign_agreement
from hcdc_jax.models.nas_bench_201 import size_of
from hcdc_jax.problem import Problem
from hcdc_jax.types import Array, Batch, HParams, Params

ZeroCost: TypeAlias = Callable[[Array, HParams, Batch], Array]
"""`proxy(key, hparams, batch) -> scalar`."""

JACOBIAN_SHIFT = 1e-5
"""Keeps logarithms and reciprocals of eigenvalues finite; of the authors' code."""
FAINT = 1e-30
"""`synflow`'s first input. Signals grow to about 1e47 in the largest cell; single precision ends at 1e38."""


def grad_norm(key: Array, problem: Problem, hparams: HParams, batch: Batch) -> Array:
    """The sum over kernels of the norm of the loss's gradient (Abdelfattah et al., arXiv 2101.08134)."""
    _, gradient = _kernel_gradient(key, problem, hparams, batch)
    return sum((jnp.sqrt(_of_each(leaf**2)).sum() for leaf in gradient), jnp.zeros(()))


def snip(key: Array, problem: Problem, hparams: HParams, batch: Batch) -> Array:
    """The sum over kernels' entries of |w dL/dw| (Lee et al., arXiv 1810.02340)."""
    kernels, gradient = _kernel_gradient(key, problem, hparams, batch)
    return sum((jnp.abs(w * g).sum() for w, g in zip(kernels, gradient, strict=True)), jnp.zeros(()))


def synflow(key: Array, problem: Problem, hparams: HParams, batch: Batch) -> Array:
    """The logarithm of the sum over kernels' entries of |w dR/dw|, R the sum of logits of an image of ones.

    All parameters are replaced by their absolute values (Tanaka et al., arXiv 2006.05467). The batch gives the shape.

    Args:
      key: of the initialisation.
      problem: a network without norm, whose activation commutes with positive factors, such as the rectifier.
      hparams: one candidate.
      batch: of images [n, h, w, c].
    """
    params = jax.tree.map(jnp.abs, problem.init(key, hparams))
    ones = jnp.ones_like(batch.inputs[:1])

    def response(params: Params, scale: float | Array) -> Array:
        # With input and biases so much smaller every layer is, and so is what comes out.
        scaled = jax.tree.map(lambda leaf, kernel: leaf if kernel else scale * leaf, params, _is_kernel(params))
        return problem.apply(scaled, hparams, scale * ones).sum()

    size = jnp.log(response(params, FAINT)) - math.log(FAINT)
    # From here on signals and slopes run from 1 / sqrt(R) to sqrt(R) or back.
    half = jnp.exp(-size / 2)
    kernels, gradient = map(_kernels, (params, jax.grad(lambda params: half * response(params, half))(params)))
    score = sum((jnp.abs(w * g).sum() for w, g in zip(kernels, gradient, strict=True)), jnp.zeros(()))
    return jnp.log(score) + size


def jacob_cov(key: Array, problem: Problem, hparams: HParams, batch: Batch) -> Array:
    """How little the gradients of the logits in different images are alike (Mellor et al., arXiv 2006.04647v1).

    Minus the sum of log(v + k) + 1 / (v + k) over the eigenvalues v of their correlation matrix, k = 1e-5.
    """
    params = problem.init(key, hparams)
    slopes = jax.grad(lambda images: problem.apply(params, hparams, images).sum())(batch.inputs)
    eigenvalues = jnp.linalg.eigvalsh(jnp.corrcoef(slopes.reshape(len(slopes), -1)))
    shifted = eigenvalues + JACOBIAN_SHIFT
    return -(jnp.log(shifted) + 1 / shifted).sum()


def naswot(
    key: Array,
    problem: Problem,
    hparams: HParams,
    batch: Batch,
    *,
    agreement: Callable[[Params, HParams, Array], Array],
) -> Array:
    """The log determinant of how many rectifiers agree about each pair of images (Mellor et al., arXiv 2006.04647).

    Args:
      key: of the initialisation.
      problem: gives the parameters.
      hparams: one candidate.
      batch: of images [n, h, w, c].
      agreement: of the network, see `models.sign_agreement`.
    """
    return jnp.linalg.slogdet(agreement(problem.init(key, hparams), hparams, batch.inputs))[1]


def nas_bench_201_proxies(
    image_shape: tuple[int, int, int], num_classes: int, *, read: Callable[[HParams], Any], **options: Any
) -> dict[str, ZeroCost]:
    """All proxies of cells of NAS-Bench-201, by name: `proxy(key, hparams [30], batch) -> scalar`.

    Args:
      image_shape: (height, width, channels).
      num_classes: number of classes.
      read: of the space.
      **options: of the network, such as `width`, `depth` and `norm`.
    """
    network = functools.partial(image_problem, "nas_bench_201", image_shape, num_classes, read=read, weight_decay=0.0)
    problem, plain = network(**options), network(**{**options, "norm": "none"})
    agreement = sign_agreement("nas_bench_201", num_classes, read=read, **options)
    sizes = {name: value for name, value in options.items() if name in ("width", "depth", "norm")}

    def size(field: str, key: Array, hparams: HParams, batch: Batch) -> Array:
        del key, batch
        return getattr(size_of(read(hparams).cell, image_shape, num_classes, **sizes), field)

    def on(problem: Problem, score: Callable[..., Array]) -> ZeroCost:
        return lambda key, hparams, batch: score(key, problem, hparams, batch)

    return {
        "num_parameters": functools.partial(size, "parameters"),
        "flops": functools.partial(size, "flops"),
        "grad_norm": on(problem, grad_norm),
        "snip": on(problem, snip),
        "synflow": on(plain, synflow),
        "jacob_cov": on(problem, jacob_cov),
        "naswot": on(problem, functools.partial(naswot, agreement=agreement)),
    }


def _kernel_gradient(key: Array, problem: Problem, hparams: HParams, batch: Batch) -> tuple[list[Array], list[Array]]:
    params = problem.init(key, hparams)
    return _kernels(params), _kernels(jax.grad(problem.val_loss)(params, hparams, batch))


def _is_kernel(params: Params) -> Mapping[str, Any]:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _kernels(params: Params) -> list[Array]:
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(_is_kernel(params)), strict=True)
    return [leaf for leaf, kernel in pairs if kernel]


def _of_each(leaf: Array) -> Array:
    """Sums over the axes of one kernel: the last two of a linear layer, the last four of convolutions."""
    return leaf.sum((-2, -1)) if leaf.ndim == 2 else leaf.sum((-4, -3, -2, -1))
