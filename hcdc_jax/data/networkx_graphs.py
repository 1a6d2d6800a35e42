"""Graphs of networkx, whose nodes are of any kind and carry their data as attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from hcdc_jax.data.graphs import UNKNOWN_LABEL
from hcdc_jax.data.names import GRAPH_NAMES, PARTS, part_of
from hcdc_jax.errors import UserError

_SPLIT, _WEIGHT = "split", "weight"
_KNOWN = [name for others in GRAPH_NAMES.values() for name in others]
_MASKS = [name for part in PARTS for name in GRAPH_NAMES[f"{part}_mask"]]


def holds_networkx(value: Any) -> bool:
    """Whether an object looks like a graph of networkx."""
    return all(hasattr(value, name) for name in ("nodes", "edges", "is_directed", "is_multigraph"))


def networkx_arrays(graph: Any, *, where: str) -> dict[str, np.ndarray]:
    """The arrays of `npz.read_graph` from the attributes of nodes, which are numbered in the order of `graph.nodes`.

    Features and labels go by the names that an .npz may use (`x`, `y` ...); a node without a label has an unknown one.
    Parts are masks, or one attribute `split` with the words train, val and test. The attribute `weight` of edges is
    their weight.

    Raises:
      UserError: an attribute is missing at a node or an edge where others have it, or is a list of another length.
    """
    nodes = list(graph.nodes(data=True))
    names = {name: None for _, attributes in nodes for name in attributes}  # in their order
    arrays = {name: _attribute(name, nodes, where=where) for name in names if name != _SPLIT}
    if _SPLIT in names:
        parts = [_part(node, attributes.get(_SPLIT), where=where) for node, attributes in nodes]
        arrays |= {f"{part}_idx": np.flatnonzero([of == part for of in parts]) for part in PARTS if part in parts}
    number = {node: k for k, (node, _) in enumerate(nodes)}
    edges = list(graph.edges(data=True))
    ends = np.array([(number[a], number[b]) for a, b, _ in edges], np.int64).reshape(-1, 2).T
    # An undirected edge has no order; one of its directions would otherwise be taken for all there is.
    arrays["edge_index"] = ends if graph.is_directed() else np.sort(ends, axis=0)
    weights = [attributes[_WEIGHT] for _, _, attributes in edges if _WEIGHT in attributes]
    if weights:
        if len(weights) < len(edges):
            raise UserError(f"{where}: {len(edges) - len(weights)} of {len(edges)} edges have no weight; give all one")
        arrays["edge_weight"] = np.array(weights)
    return arrays


def _part(node: Any, word: Any, *, where: str) -> str | None:
    if word is None:
        return None
    part = part_of(str(word))
    if part is None:
        raise UserError(
            f"{where}: the split of node {node!r} is {word!r}; known are train, val and test, or none at all"
        )
    return part


def _attribute(name: str, nodes: list[tuple[Any, dict[str, Any]]], *, where: str) -> np.ndarray:
    """[n, ...] an attribute of all nodes; labels may be missing, and masks are, where they are, false.

    One by a name that nobody reads is an array of objects, of which nobody asks more than that it is there.
    """
    values = [attributes.get(name) for _, attributes in nodes]
    if name.lower() not in _KNOWN:
        unread = np.empty(len(values), object)
        unread[:] = values
        return unread
    missing = [node for node, attributes in nodes if name not in attributes]
    if missing:
        is_word = any(isinstance(value, str) for value in values)
        if name.lower() not in _MASKS and (name.lower() not in GRAPH_NAMES["labels"] or is_word):
            raise UserError(
                f"{where}: {len(missing)} nodes have no {name!r}, the first is {missing[0]!r}; give all one"
            )
        default = False if name.lower() in _MASKS else UNKNOWN_LABEL
        values = [attributes.get(name, default) for _, attributes in nodes]
    try:
        return np.array(values)
    except ValueError as error:
        raise UserError(f"{where}: {name!r} must have the same length at all nodes") from error
