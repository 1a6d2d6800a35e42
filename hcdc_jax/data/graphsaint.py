"""Graphs in the layout of GraphSAINT (arXiv 1907.04931): Reddit, and others that its authors and GCond's give out.

A folder with

    adj_full.npz      CSR of all edges, as `scipy.sparse.save_npz` writes it
    adj_train.npz     the same, with the edges between training nodes alone
    feats.npy         [n, d] features
    class_map.json    {"node number": class number}
    role.json         {"tr": [...], "va": [...], "te": [...]} node numbers
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from hcdc_jax.data.download import DATA_DIR_VARIABLE
from hcdc_jax.data.graphs import GraphData, build_graph, standardize_columns
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError

FILES = ("adj_full.npz", "adj_train.npz", "feats.npy", "class_map.json", "role.json")


def load_reddit(*, split: int = 0, seed: int = 0, data_dir: Path | None = None) -> GraphData:
    """Reddit: 232,965 posts, joined where one user commented on both, 41 communities; inductive split by day.

    Raises:
      UserError: `data_dir` does not hold the folder `reddit`, or what `read_graphsaint` refuses.
    """
    folder = data_dir / "reddit" if data_dir else None
    if folder is None or not folder.is_dir():
        raise UserError(
            f"reddit is read from disk only: put {', '.join(FILES)} of GraphSAINT's Reddit into the folder reddit of a "
            f"folder that {DATA_DIR_VARIABLE} names"
        )
    return read_graphsaint(folder, name="reddit", split=split, seed=seed)


def holds_graphsaint(path: Path) -> bool:
    """Whether a folder is laid out like a graph of GraphSAINT."""
    return (path / "adj_full.npz").is_file()


def read_graphsaint(folder: Path, *, name: str | None = None, split: int = 0, seed: int = 0) -> GraphData:
    """Reads a graph in the layout of this module; features are standardised on the training nodes.

    The split is inductive: training sees the edges between training nodes alone, validation and test see all.

    Args:
      folder: where the five files lie.
      name: of the graph in reports; by default that of the folder.
      split: 0, there is one.
      seed: unused, nothing is drawn.

    Raises:
      UserError: a file is missing or damaged, counts differ, nodes have several labels, or the parts make no graph.
    """
    del seed
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} is missing; GraphSAINT's layout has {', '.join(FILES)}")
    if split != 0:
        raise UserError(f"{folder}: split {split} does not exist; graphs of GraphSAINT have one split, number 0")
    features = _features(folder / "feats.npy")
    num_nodes = len(features)
    edges, train_edges = (_edges(folder / file, num_nodes) for file in ("adj_full.npz", "adj_train.npz"))
    role = _json(folder / "role.json")
    parts = [_nodes(role.get(part), folder / "role.json", part) for part in ("tr", "va", "te")]
    outside = np.setdiff1d(train_edges, parts[0])
    if outside.size:
        raise UserError(f"{folder / 'adj_train.npz'} has an edge at node {outside[0]}, which is no training node")
    graph = build_graph(
        name or folder.name, features, edges, _labels(folder / "class_map.json", num_nodes), *parts,
        where=str(folder), train_edges=train_edges,
    )  # fmt: skip
    return standardize_columns(graph)


def _features(path: Path) -> np.ndarray:
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged and cannot be read ({error}); fetch it anew") from error
    if features.ndim != 2:
        raise UserError(f"{path} must have shape [nodes, features], got {list(features.shape)}")
    return features.astype(np.float32)


def _edges(path: Path, num_nodes: int) -> np.ndarray:
    """[2, E] of a matrix that was written by `scipy.sparse.save_npz`."""
    arrays = read_arrays(path)
    try:
        # What is stored is an edge, whatever the one value that all have.
        indices, indptr, shape = arrays["indices"], arrays["indptr"], tuple(arrays["shape"].tolist())
        matrix = sp.csr_matrix((np.ones(len(indices), bool), indices, indptr), shape=shape)
        matrix.check_format(full_check=True)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no CSR matrix of scipy.sparse.save_npz ({error})") from error
    if matrix.shape != (num_nodes, num_nodes):
        raise UserError(f"{path} is a matrix of shape {list(shape)}, but feats.npy has {num_nodes} nodes")
    values = arrays.get("data", np.ones(0))
    if values.size and (values != values[0]).any():
        raise UserError(f"{path} gives edges different weights, which are read from an .npz file alone (edge_weight)")
    entries = matrix.tocoo()
    return np.stack([entries.row, entries.col])


def _labels(path: Path, num_nodes: int) -> np.ndarray:
    classes = _json(path)
    if len(classes) != num_nodes:
        raise UserError(f"{path} has the classes of {len(classes)} nodes, but feats.npy has {num_nodes}")
    if any(isinstance(label, list) for label in classes.values()):
        raise UserError(f"{path} has several labels per node; only single-label sets such as reddit can be read")
    try:
        return _nodes([classes[str(node)] for node in range(num_nodes)], path, "classes")
    except KeyError as error:
        raise UserError(f"{path} has no class for node {error.args[0]}") from error


def _nodes(values: Any, path: Path, what: str) -> np.ndarray:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise UserError(f"{path}: {what!r} must be a list of whole numbers")
    return np.array(values, np.int64)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged and cannot be read ({error}); fetch it anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object {{...}}, got {type(content).__name__}")
    return content
