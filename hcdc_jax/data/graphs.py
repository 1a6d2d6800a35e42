"""A node-classification graph in host memory, the checks it must pass, and its summary."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp

from hcdc_jax.data.edges import undirected
from hcdc_jax.data.names import class_numbers
from hcdc_jax.errors import UserError

Features: TypeAlias = np.ndarray | sp.csr_matrix

UNKNOWN_LABEL = -1
NUM_DRAWN_VAL = 500
"""Nodes of a drawn validation part (fewer where fewer are left): the size of Planetoid's."""


class GraphData(NamedTuple):
    """One graph with labelled nodes, as NumPy and SciPy arrays on the host.

    Attributes:
      name: what the graph is called in cards and reports.
      features: [n, d] float32, dense or CSR.
      edges: [2, E] int32, every undirected edge once with `edges[0] < edges[1]`, sorted, without self-loops.
      labels: [n] int32 class numbers, -1 where unknown.
      train_idx: int32 numbers of the training nodes; `val_idx` and `test_idx` alike. The three share no node and hold
        labelled nodes only; nodes in none of them are context.
      val_idx: see `train_idx`.
      test_idx: see `train_idx`.
      num_classes: number of classes, each with at least one training node.
      checksum: SHA-256 over all arrays, 64 hexadecimal digits: equal if and only if the data is.
      train_edges: like `edges`, the ones that training sees, of an inductive split; None where it sees them all.
      edge_weights: [E] float32 above 0, one for each of `edges`; None where all are 1.
      notes: lines about what a reader changed or left out; no part of the checksum.
    """

    name: str
    features: Features
    edges: np.ndarray
    labels: np.ndarray
    train_idx: np.ndarray
    val_idx: np.ndarray
    test_idx: np.ndarray
    num_classes: int
    checksum: str
    train_edges: np.ndarray | None = None
    edge_weights: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_nodes(self) -> int:
        return len(self.labels)

    @property
    def num_features(self) -> int:
        return _shape(self.features)[1]


def build_graph(
    name: str,
    features: Features,
    edges: np.ndarray,
    labels: np.ndarray,
    train_idx: np.ndarray,
    val_idx: np.ndarray | None,
    test_idx: np.ndarray,
    *,
    where: str,
    seed: int = 0,
    train_edges: np.ndarray | None = None,
    edge_weights: np.ndarray | None = None,
) -> GraphData:
    """Checks the parts of a graph against each other and puts them into the form of `GraphData`.

    Edges may come in both directions, repeated and with self-loops: the result has each undirected edge once.

    Args:
      name: see `GraphData`; so are `features` ([n, d] real numbers), `labels` and the three index arrays.
      features: see `GraphData`.
      edges: [2, E] int node numbers.
      labels: see `GraphData`.
      train_idx: see `GraphData`.
      val_idx: see `GraphData`; None draws up to `NUM_DRAWN_VAL` labelled nodes outside train and test.
      test_idx: see `GraphData`.
      where: the file or source, for error messages.
      seed: of that draw.
      train_edges: see `GraphData`.
      edge_weights: [E] or [E, 1] of the edges as they are given, see `edges.undirected`; ones if not given.

    Raises:
      UserError: the parts do not make a graph one can train on; the text says which part and why.
    """
    features = _checked_features(features, where=where)
    labels = _checked_labels(labels, _shape(features)[0], where=where)
    if train_edges is not None and edge_weights is not None:
        raise UserError(f"{where}: weights of edges are read for graphs that training sees whole; leave them out")
    whole = undirected(edges, edge_weights, len(labels), where=where)
    if train_edges is not None:
        train_edges = undirected(train_edges, None, len(labels), where=f"{where} (training)").ends
    train_idx = _checked_indices("train_idx", train_idx, labels, where=where)
    test_idx = _checked_indices("test_idx", test_idx, labels, where=where)
    if val_idx is None:
        val_idx = _draw_validation(labels, train_idx, test_idx, seed=seed, where=where)
    val_idx = _checked_indices("val_idx", val_idx, labels, where=where)
    _check_disjoint({"train_idx": train_idx, "val_idx": val_idx, "test_idx": test_idx}, where=where)
    num_classes = int(labels.max()) + 1
    _check_classes(labels, train_idx, num_classes, where=where)
    graph = GraphData(name, features, whole.ends, labels, train_idx, val_idx, test_idx, num_classes, checksum="")
    return _with_checksum(graph._replace(train_edges=train_edges, edge_weights=whole.weights, notes=whole.notes))


def normalize_rows(graph: GraphData) -> GraphData:
    """The graph with each feature row divided by its sum; rows that sum to zero stay as they are."""
    sums = np.asarray(graph.features.sum(axis=1), dtype=np.float64).reshape(-1)
    scale = np.divide(1.0, sums, out=np.ones_like(sums), where=sums != 0)
    if isinstance(graph.features, np.ndarray):
        features = (graph.features * scale[:, None]).astype(np.float32)
    else:
        features = sp.csr_matrix(sp.diags_array(scale) @ graph.features, dtype=np.float32)
    return _with_checksum(graph._replace(features=features))


def standardize_columns(graph: GraphData) -> GraphData:
    """The graph with dense features of mean 0 and standard deviation 1 over its training nodes, column by column."""
    training = np.asarray(graph.features[graph.train_idx], np.float64)
    spread = training.std(0)
    # A column that is constant over the training nodes says nothing there and has no unit: it is centred only.
    scale = np.divide(1.0, spread, out=np.ones_like(spread), where=spread > 0)
    features = np.asarray((graph.features - training.mean(0).astype(np.float32)) * scale.astype(np.float32))
    return _with_checksum(graph._replace(features=features))


def seen_from(graph: GraphData, part: str) -> GraphData:
    """The graph as "train" or another part sees it: `edges` are the training edges where training has its own."""
    if part != "train" or graph.train_edges is None:
        return graph
    return graph._replace(edges=graph.train_edges)


def summary(data: GraphData) -> dict[str, int | float | str]:
    """Counts that describe a graph, ready for a card or a table.

    `homophily` is the share of edges between nodes of one class, among edges whose both ends have a known label;
    `isolated` counts nodes without an edge, which see only themselves in any graph filter; `mean_weight` is there where
    edges have weights.
    """
    degree = np.bincount(data.edges.reshape(-1), minlength=data.num_nodes)
    ends = data.labels[data.edges]
    known = (ends != UNKNOWN_LABEL).all(axis=0)
    same = ends[0, known] == ends[1, known]
    return {
        "name": data.name,
        "nodes": data.num_nodes,
        "edges": data.edges.shape[1],
        "mean_degree": float(degree.mean()),
        "homophily": float(same.mean()) if same.size else float("nan"),
        "features": data.num_features,
        "classes": data.num_classes,
        "train": len(data.train_idx),
        "val": len(data.val_idx),
        "test": len(data.test_idx),
        "isolated": int((degree == 0).sum()),
        "unlabelled": int((data.labels == UNKNOWN_LABEL).sum()),
        **({} if data.edge_weights is None else {"mean_weight": float(data.edge_weights.mean())}),
        "checksum": data.checksum,
    }


def _shape(features: Features) -> tuple[int, ...]:
    return features.shape or ()  # never None: SciPy's untyped base class only looks so to a type checker


def _checked_features(features: Features, *, where: str) -> Features:
    shape = _shape(features)
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{where}: the features must have shape [nodes, features], got {list(shape)}")
    if features.dtype.kind not in "biuf":
        raise UserError(f"{where}: the features must be real numbers, got dtype {features.dtype}")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which the next check reports
        dense = isinstance(features, np.ndarray)
        features = features.astype(np.float32) if dense else sp.csr_matrix(features, dtype=np.float32)
    values = features if isinstance(features, np.ndarray) else features.data
    finite = np.isfinite(values)
    if not finite.all():
        position = np.argwhere(~finite)[0][0]
        row = position if isinstance(features, np.ndarray) else np.searchsorted(features.indptr, position, "right") - 1
        raise UserError(f"{where}: the features of node {row} hold NaN or infinite numbers; clean them first")
    return features


def _checked_labels(labels: np.ndarray, num_nodes: int, *, where: str) -> np.ndarray:
    labels = class_numbers(labels)
    if labels.shape != (num_nodes,):
        raise UserError(f"{where}: labels must have shape [{num_nodes}], one per feature row, got {list(labels.shape)}")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where}: labels must be integers, got dtype {labels.dtype}")
    out_of_range = (labels < UNKNOWN_LABEL) | (labels >= num_nodes)
    if out_of_range.any():
        node = np.flatnonzero(out_of_range)[0]
        raise UserError(
            f"{where}: the label of node {node} is {labels[node]}, out of range: classes count from 0, -1 is unknown"
        )
    if labels.max() < 1:
        raise UserError(f"{where}: labels name fewer than two classes")
    return labels.astype(np.int32)


def _checked_indices(part: str, indices: np.ndarray, labels: np.ndarray, *, where: str) -> np.ndarray:
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise UserError(
            f"{where}: {part} must be a list of node numbers, got dtype {indices.dtype}, shape {list(indices.shape)}"
        )
    if indices.size == 0:
        raise UserError(f"{where}: {part} holds no node")
    missing = indices[(indices < 0) | (indices >= len(labels))]
    if missing.size:
        raise UserError(f"{where}: {part} names node {missing[0]}, but there are nodes 0 to {len(labels) - 1} only")
    nodes, counts = np.unique(indices, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{where}: {part} names node {nodes[counts > 1][0]} more than once")
    unknown = indices[labels[indices] == UNKNOWN_LABEL]
    if unknown.size:
        raise UserError(f"{where}: {part} holds node {unknown[0]}, whose label is unknown (-1)")
    return indices.astype(np.int32)


def _draw_validation(
    labels: np.ndarray, train_idx: np.ndarray, test_idx: np.ndarray, *, seed: int, where: str
) -> np.ndarray:
    taken = np.concatenate([train_idx, test_idx])
    left = np.setdiff1d(np.flatnonzero(labels != UNKNOWN_LABEL), taken)
    if not left.size:
        raise UserError(f"{where}: no labelled node is left outside train and test for validation; add val_idx")
    return np.sort(np.random.default_rng(seed).permutation(left)[:NUM_DRAWN_VAL])


def _check_disjoint(parts: dict[str, np.ndarray], *, where: str) -> None:
    names = list(parts)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = np.intersect1d(parts[first], parts[second])
            if shared.size:
                raise UserError(
                    f"{where}: {first} and {second} share {shared.size} nodes, the first is node {shared[0]}; "
                    "the parts must not overlap"
                )


def _check_classes(labels: np.ndarray, train_idx: np.ndarray, num_classes: int, *, where: str) -> None:
    absent = np.setdiff1d(np.arange(num_classes), labels)
    if absent.size:
        raise UserError(f"{where}: no node has class {absent[0]} of 0 to {num_classes - 1}; renumber the labels")
    untrained = np.setdiff1d(np.arange(num_classes), labels[train_idx])
    if untrained.size:
        raise UserError(f"{where}: class {untrained[0]} has no training node; add one to the training part")


def _with_checksum(graph: GraphData) -> GraphData:
    digest = hashlib.sha256()
    features = [graph.features] if isinstance(graph.features, np.ndarray) else _csr_arrays(graph.features)
    optional = [array for array in (graph.train_edges, graph.edge_weights) if array is not None]
    parts = [graph.train_idx, graph.val_idx, graph.test_idx]
    for array in [*features, graph.edges, graph.labels, *parts, *optional]:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return graph._replace(checksum=digest.hexdigest())


def _csr_arrays(features: sp.csr_matrix) -> list[np.ndarray]:
    indptr, indices = features.indptr.astype(np.int32), features.indices.astype(np.int32)
    return [np.asarray(features.shape, np.int32), indptr, indices, features.data]
