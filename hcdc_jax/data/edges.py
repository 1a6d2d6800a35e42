"""Edges as files list them, in any order and direction, as the undirected edges of a graph with their weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hcdc_jax.errors import UserError


class Edges(NamedTuple):
    """Undirected edges.

    Attributes:
      ends: [2, E] int32, every edge once with `ends[0] < ends[1]`, sorted, without self-loops.
      weights: [E] float32 above 0; None where all are 1.
      notes: lines about what was changed.
    """

    ends: np.ndarray
    weights: np.ndarray | None
    notes: tuple[str, ...]


def undirected(edges: np.ndarray, weights: np.ndarray | None, num_nodes: int, *, where: str) -> Edges:
    """Each undirected edge once, however often and in whatever direction it is listed.

    The filters are those of undirected graphs, so an edge that is listed in one direction goes both ways; how many
    those are is told, unless all edges are listed as `edges[0] < edges[1]` or all the other way around, as one does who
    lists undirected edges once.

    Args:
      edges: [2, m] int node numbers.
      weights: [m] or [m, 1] real numbers, at least 0; edges of weight 0 are none. None stands for ones.
      num_nodes: n.
      where: the source, for messages.

    Raises:
      UserError: there is no edge, one has an end that does not exist, or the weights are not such numbers, or an edge
        is listed with several.
    """
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise UserError(f"{where}: edge_index must have shape [2, edges], got {list(edges.shape)}")
    if edges.dtype.kind not in "iu":
        raise UserError(f"{where}: edge_index must be integers, got dtype {edges.dtype}")
    missing = edges[(edges < 0) | (edges >= num_nodes)]
    if missing.size:
        raise UserError(f"{where}: edge_index names node {missing[0]}, but there are nodes 0 to {num_nodes - 1} only")
    edges, notes = edges.astype(np.int64), []
    if weights is not None:
        weights = _checked_weights(weights, edges, where=where)
        edges, weights = _without_zeros(edges, weights, notes, where=where)
        loops = int(((edges[0] == edges[1]) & (weights != 1)).sum())
        if loops:
            notes.append(f"{where}: {loops} weights of self-loops are not read; the filter gives each node one of 1")
    apart = edges[0] != edges[1]
    edges, weights = edges[:, apart], None if weights is None else weights[apart]
    if edges.shape[1] == 0:
        raise UserError(f"{where}: edge_index holds no edge between two nodes, so there is no graph to learn from")
    downward = edges[0] > edges[1]
    pairs = edges.min(0) * num_nodes + edges.max(0)
    # One number for each directed edge, the two directions of an edge next to each other: sorted once.
    pairs_of_directed = np.unique(2 * pairs + downward) // 2
    codes = np.unique(pairs_of_directed)
    one_way = 2 * len(codes) - len(pairs_of_directed)
    if one_way and not (downward.all() or not downward.any()):
        notes.append(
            f"{where}: {one_way} of {len(codes)} edges are listed in one direction only; they are taken as undirected"
        )
    if weights is not None:
        weights = _weights_of(codes, pairs, weights, num_nodes, where=where)
    return Edges(np.stack(np.divmod(codes, num_nodes)).astype(np.int32), weights, tuple(notes))


def _checked_weights(weights: np.ndarray, edges: np.ndarray, *, where: str) -> np.ndarray:
    count = edges.shape[1]
    if weights.shape not in ((count,), (count, 1)):
        raise UserError(f"{where}: edge_weight must have shape [{count}], one per edge, got {list(weights.shape)}")
    if weights.dtype.kind not in "biuf":
        raise UserError(f"{where}: edge_weight must be real numbers, got dtype {weights.dtype}")
    with np.errstate(over="ignore"):  # what is beyond float32 becomes inf, which is reported
        weights = weights.reshape(-1).astype(np.float32)
    for bad, what, mend in (
        (~np.isfinite(weights), "NaN or infinite", "clean the weights first"),
        (weights < 0, "negative", "weights must be at least 0, since degrees are sums of them"),
    ):
        if bad.any():
            first = np.flatnonzero(bad)[0]
            ends = " to ".join(map(str, edges[:, first]))
            raise UserError(
                f"{where}: {bad.sum()} weights in edge_weight are {what}, the first of the edge from {ends}; {mend}"
            )
    return weights


def _without_zeros(
    edges: np.ndarray, weights: np.ndarray, notes: list[str], *, where: str
) -> tuple[np.ndarray, np.ndarray]:
    kept = weights > 0
    if not kept.all():
        notes.append(f"{where}: {(~kept).sum()} edges of weight 0 are left out")
    return edges[:, kept], weights[kept]


def _weights_of(
    codes: np.ndarray, pairs: np.ndarray, weights: np.ndarray, num_nodes: int, *, where: str
) -> np.ndarray | None:
    """[E] the weight of each undirected edge `codes`, of all that `pairs` list; None where all are 1."""
    order = np.argsort(pairs, kind="stable")
    starts = np.searchsorted(pairs[order], codes)
    least, most = (of.reduceat(weights[order], starts) for of in (np.minimum, np.maximum))
    differing = np.flatnonzero(least != most)
    if differing.size:
        first = differing[0]
        ends = " and ".join(map(str, divmod(int(codes[first]), num_nodes)))
        raise UserError(
            f"{where}: {differing.size} edges are listed more than once with different weights, the first between "
            f"nodes {ends} ({least[first]:g} and {most[first]:g}); filters are of undirected graphs: give each edge one"
        )
    return None if (least == 1).all() else least
