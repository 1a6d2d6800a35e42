"""The cells of NAS-Bench-201 as hyperparameters: six one-hot choices among five operations, in one vector of 30."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcdc_jax import arguments
from hcdc_jax.data.cells import (
    EDGES,
    NONE,
    NUM_CELLS,
    OPERATIONS,
    PATHS,
    Cell,
    all_cells,
    cell_of,
    is_connected,
    number_of,
)
from hcdc_jax.errors import UserError
from hcdc_jax.models import ImageSetting
from hcdc_jax.spaces.continuous import Space, one_object
from hcdc_jax.types import Array, HParams

NUM_EDGES, NUM_OPERATIONS = len(EDGES), len(OPERATIONS)
_DIRECT = EDGES.index((0, 3))
_NAMES = tuple(f"{source}-{target} {operation}" for source, target in EDGES for operation in OPERATIONS)


@one_object
def nas_bench_201() -> Space:
    """Cells [30]: for each edge in turn the weights of its five operations (Dong and Yang, arXiv 2001.00326).

    Draws are truly discrete: one weight of each edge is 1. Operations are drawn independently and evenly; where that
    leaves no way from input to output, as in 2 % of all cells, the direct edge takes its second choice. Draws may
    repeat, or differ and compute the same (`cells.signature`), as those of a discrete space do.

    Between the cells lies the relaxed space: `project` goes to the nearest mixing weights, six points of the simplex,
    and what a space means for smooth ones holds there: hypergradients, steps, `prior_std`. `spread` fills the cube of
    30 dimensions that choices are made from, and few of its points say little about so many.
    """
    edges = tuple(map(tuple, np.arange(len(_NAMES)).reshape(NUM_EDGES, NUM_OPERATIONS).tolist()))
    return Space(
        "nas_bench_201",
        _NAMES,
        _from_unit,
        _prior_std(),
        _project,
        _read,
        mixed=mixed,
        choices=edges,
    )


def one_hot(cells: Sequence[str | int | Sequence[int]]) -> Array:
    """Cells, each by its string, number or operations, as hyperparameters [n, 30].

    Raises:
      UserError: one of them is no cell.
    """
    chosen = np.array([cell_of(cell) for cell in cells], int).reshape(-1, NUM_EDGES)
    return jnp.asarray(np.eye(NUM_OPERATIONS, dtype=np.float32)[chosen].reshape(len(chosen), -1))


def discrete_cell(hparams: HParams) -> Cell:
    """The cell that hyperparameters [30] are.

    Raises:
      UserError: they mix operations.
    """
    weights = np.asarray(hparams).reshape(NUM_EDGES, NUM_OPERATIONS)
    cell = tuple(weights.argmax(1).tolist())
    if not np.array_equal(weights, np.eye(NUM_OPERATIONS)[list(cell)]):
        raise UserError(f"these hyperparameters mix operations; the nearest cell is number {number_of(cell)}")
    return cell


def softmax_mix(logits: Array) -> Array:
    """Mixing weights [..., 30] of logits [..., 30], a softmax for each edge, as DARTS has it (arXiv 1806.09055)."""
    return jax.nn.softmax(_edges(logits)).reshape(logits.shape)


def mixed(key: Array, hparams: HParams, temperature: float | Array) -> Array:
    """Weights [30] drawn around those of a cell [30]: softmaxes of Gumbel noise, of which the cell is the maximum.

    If the cell itself is drawn evenly, this is the concrete distribution (arXiv 1611.00712), or Gumbel-softmax
    (1611.01144). The operations of the cell stay the heaviest; as the temperature falls to 0 all others vanish.
    """
    noise = jax.random.gumbel(key, (NUM_EDGES, NUM_OPERATIONS))
    highest, chosen = noise.max(-1, keepdims=True), _edges(hparams) > 0
    # Independent numbers have no order: where the highest stands, whatever stood in its place is as likely.
    displaced = jnp.where(chosen, noise, 0).sum(-1, keepdims=True)
    noise = jnp.where(chosen, highest, jnp.where(noise == highest, displaced, noise))
    return softmax_mix(noise.ravel() / temperature)


def _edges(vector: Array) -> Array:
    return vector.reshape(*vector.shape[:-1], NUM_EDGES, NUM_OPERATIONS)


def _from_unit(u: Array) -> Array:
    u = _edges(u)
    chosen = u.argmax(-1)
    present = chosen != NONE
    connected = jnp.any(jnp.stack([present[..., list(path)].all(-1) for path in PATHS]), 0)
    second = 1 + u[..., _DIRECT, 1:].argmax(-1)
    chosen = chosen.at[..., _DIRECT].set(jnp.where(connected, chosen[..., _DIRECT], second))
    return jax.nn.one_hot(chosen, NUM_OPERATIONS, dtype=u.dtype).reshape(*u.shape[:-2], -1)


def _prior_std() -> tuple[float, ...]:
    """Of each coordinate, which is 1 with some probability p, else 0: the root of p (1 - p)."""
    p = np.full((NUM_EDGES, NUM_OPERATIONS), 1 / NUM_OPERATIONS)
    lost = np.count_nonzero(~is_connected(all_cells())) / NUM_CELLS  # all of them without the direct edge
    p[_DIRECT] += lost / (NUM_OPERATIONS - 1)
    p[_DIRECT, NONE] = 1 / NUM_OPERATIONS - lost
    return tuple(np.sqrt(p * (1 - p)).ravel().tolist())


def _project(hparams: Array) -> Array:
    return jax.vmap(optax.projections.projection_simplex)(_edges(hparams)).reshape(hparams.shape)


def _read(hparams: Array) -> ImageSetting:
    arguments.check_width("nas_bench_201", _NAMES, hparams)
    return ImageSetting(cell=_edges(hparams))
