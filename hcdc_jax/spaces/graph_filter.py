"""Polynomial graph filters C(lambda) = sum_k c_k(lambda) P_k: spaces that differ in their basis P_k and in c_k.

With S the normalised adjacency and L = I - S, P_k is a power of L or S or a Chebyshev polynomial of L - I
(`graphs.filter_terms`). Powers of S or L up to 10 are nearly parallel, so small changes of many coefficients cancel;
that is a property of those parameterisations, and it is left as published.

Where the coefficients are free, C(-lambda) = -C(lambda): weights that change their sign with it make the same network,
and are as likely, so that both filters have the same losses in distribution (`Space.orbit`).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial.chebyshev import chebfit, chebpts1
from scipy.special import comb

from hcdc_jax import arguments
from hcdc_jax.models import Setting
from hcdc_jax.spaces.choices import Bounds
from hcdc_jax.spaces.continuous import Space, as_is, either_sign, one_object, unit_l1
from hcdc_jax.spaces.named import box
from hcdc_jax.types import Array


@one_object
def graph_filter(order: int = 2, basis: str = "laplacian", prior: str = "box") -> Space:
    """Filters of the given order with coefficients uniform in [-1, 1] ("box") or of unit L1 norm ("l1").

    The search space of HCDC's Table 2 (arXiv 2405.17535).
    """
    symbol = {"laplacian": "L", "adjacency": "S", "chebyshev": "T"}[basis]
    names = tuple(f"{symbol}^{k}" if basis != "chebyshev" else f"T_{k}" for k in range(order + 1))
    if prior == "l1":
        return _of_filters(unit_l1("graph_filter", names), basis)
    return _of_filters(box("graph_filter", dict.fromkeys(names, (-1.0, 1.0))), basis)


@one_object
def chebnet(order: int = 3) -> Space:
    """Free coefficients of Chebyshev polynomials T_k(L - I), uniform in [-1, 1]: ChebNet (arXiv 1606.09375)."""
    names = [f"T_{k}" for k in range(order + 1)]
    return _of_filters(box("chebnet", dict.fromkeys(names, (-1.0, 1.0))), "chebyshev")


@one_object
def appnp(order: int = 10) -> Space:
    """One hyperparameter, the logit of the teleport probability a: APPNP (arXiv 1810.05997).

    `order` steps Z <- (1 - a) S Z + a H from Z = H amount to c_k = a (1 - a)^k on S^k, and (1 - a)^K on the last power,
    so that the coefficients sum to 1. The logit is uniform in [-4, 3], a between 0.02 and 0.95. The cosine of a
    single number is 1 or -1 and teaches nothing: match it with a distance that reads values.
    """

    def coefficients(hparams: Array) -> Array:
        powers = jnp.arange(order + 1, dtype=hparams.dtype)
        stay = jnp.exp(powers * jax.nn.log_sigmoid(-hparams[0]))  # (1 - a)^k
        return stay * jnp.where(powers < order, jax.nn.sigmoid(hparams[0]), 1.0)

    return _of_filters(box("appnp", {"logit_teleport": (-4.0, 3.0)}), "adjacency", coefficients)


@one_object
def gprgnn(order: int = 10, teleport: float = 0.1) -> Space:
    """Free coefficients of the powers of S: GPR-GNN (arXiv 2006.07988).

    A factor of all coefficients may move into the weights of the next layer. The prior settles it: it is centred on
    personalised PageRank, the start of the paper, whose coefficients sum to 1, and is as wide as the paper's random
    start, a standard deviation of 1 / sqrt(K + 1) for each coefficient.

    Args:
      order: K.
      teleport: of the PageRank at the centre.
    """
    centre = teleport * (1 - teleport) ** np.arange(order + 1)
    centre[-1] /= teleport  # as in APPNP: what has not teleported after K steps
    half = (3.0 / (order + 1)) ** 0.5
    bounds: dict[str, Bounds] = {f"S^{k}": (float(c - half), float(c + half)) for k, c in enumerate(centre)}
    return _of_filters(box("gprgnn", bounds), "adjacency")


@one_object
def bernnet(order: int = 10) -> Space:
    """Filters that are nowhere negative, sum_k b_k B_k(L / 2) in the Bernstein basis: BernNet (arXiv 2106.10994).

    b_k = softplus(h_k) instead of the paper's ReLU, under which a coefficient that reaches 0 has no slope to leave it;
    h_k uniform in [-4, 2], so b_k between 0.02 and 2.1. The filter is applied in Chebyshev polynomials: the change of
    basis has entries of size 1, where the one to powers of L cancels five digits at order 10.
    """
    matrix = bernstein_to_chebyshev(order)

    def coefficients(hparams: Array) -> Array:
        values = jax.nn.softplus(hparams)
        return jnp.matmul(values, jnp.asarray(matrix, values.dtype), precision=jax.lax.Precision.HIGHEST)

    names = [f"softplus_inverse_b{k}" for k in range(order + 1)]
    return _of_filters(box("bernnet", dict.fromkeys(names, (-4.0, 2.0))), "chebyshev", coefficients)


def bernstein_to_chebyshev(order: int) -> np.ndarray:
    """The matrix M [K + 1, K + 1] with B_k((1 + x) / 2) = sum_j M[k, j] T_j(x), x = L - I in [-1, 1]."""
    k, x = np.arange(order + 1), chebpts1(order + 1)[:, None]
    bernstein = comb(order, k) * ((1 - x) / 2) ** (order - k) * ((1 + x) / 2) ** k
    # Interpolation at Chebyshev points is exact for polynomials of this order, and stable.
    return chebfit(x[:, 0], bernstein, order).T


def _of_filters(space: Space, basis: str, coefficients: Callable[[Array], Array] | None = None) -> Space:
    """`space`, read as the coefficients of a filter; as they are, of either sign, where no function is given."""
    if space.domain is not None:
        space = space._replace(domain=as_is)  # of a box: any coefficients make a filter
    if coefficients is None:
        return space._replace(read=Setting, basis=basis, orbit=either_sign)

    def read(hparams: Array) -> Setting:
        arguments.check_width(space.name, space.hparam_names, hparams)
        return Setting(coefficients(hparams))

    return space._replace(read=read, basis=basis)
