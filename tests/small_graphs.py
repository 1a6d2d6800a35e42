"""Real graphs that fit on a page: blocks of nodes that prefer their own kind, and nodes that know nobody."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from hcdc_jax.containers import GraphStart
from hcdc_jax.data import GraphData
from hcdc_jax.data.graphs import build_graph

NUM_CLASSES = 3


def block_graph(
    num_nodes: int = 60, num_features: int = 5, *, isolated: int = 3, inside: float = 0.2, seed: int = 0, sparse=False
) -> GraphData:
    """A stochastic block model of three classes; its last `isolated` nodes have no edge.

    A third of the nodes each are for training, validation and test, in turn.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(num_nodes) // 3 % NUM_CLASSES
    chance = np.where(labels[:, None] == labels, inside, inside / 10)
    chance[num_nodes - isolated :] = chance[:, num_nodes - isolated :] = 0
    edges = np.argwhere(np.triu(rng.uniform(size=chance.shape) < chance, 1)).T
    features = np.eye(NUM_CLASSES, num_features)[labels] + 0.5 * rng.normal(size=(num_nodes, num_features))
    nodes = np.arange(num_nodes)
    return build_graph(
        "blocks", sp.csr_matrix(features) if sparse else features, edges, labels,
        nodes[::3], nodes[1::3], nodes[2::3], where="test",
    )  # fmt: skip


def dense_adjacency(data: GraphData) -> np.ndarray:
    adjacency = np.zeros((data.num_nodes, data.num_nodes))
    for a, b in data.edges.T:
        adjacency[a, b] = adjacency[b, a] = 1
    return adjacency


def normalised(adjacency: np.ndarray) -> np.ndarray:
    """S = D^-1/2 (A + I) D^-1/2 by its definition, in float64."""
    looped = np.asarray(adjacency, np.float64) + np.eye(len(adjacency))
    half = np.diag(1 / np.sqrt(looped.sum(1)))
    return half @ looped @ half


def polynomials(operator: np.ndarray, order: int, basis: str) -> list[np.ndarray]:
    """P_0 ... P_order of a symmetric S through its eigenvalues: no recurrence that the library could share."""
    eigenvalues, vectors = np.linalg.eigh(operator)
    spectra = {
        "laplacian": lambda k: (1 - eigenvalues) ** k,
        "adjacency": lambda k: eigenvalues**k,
        "chebyshev": lambda k: np.cos(k * np.arccos(np.clip(-eigenvalues, -1, 1))),
    }
    return [(vectors * spectra[basis](k)) @ vectors.T for k in range(order + 1)]


def small_start(num_nodes: int = 9, num_features: int = 4, seed: int = 0) -> GraphStart:
    """A ring with a chord, classes in turn, the last node without a label that counts."""
    rng = np.random.default_rng(seed)
    nodes = np.arange(num_nodes)
    adjacency = np.zeros((num_nodes, num_nodes), np.float32)
    adjacency[nodes, (nodes + 1) % num_nodes] = 1
    adjacency[0, num_nodes // 2] = 1
    labels = (nodes % NUM_CLASSES).astype(np.int32)
    features = np.eye(NUM_CLASSES, num_features)[labels] + 0.3 * rng.normal(size=(num_nodes, num_features))
    weights = (nodes < num_nodes - 1).astype(np.float32)
    return GraphStart(features.astype(np.float32), np.maximum(adjacency, adjacency.T), labels, weights)
