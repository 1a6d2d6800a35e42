"""What edges alone say: the normalised adjacency, and features of nodes that have none of their own."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

NUM_SIGNALS = 64
"""Random signs per node: the bits of one 64-bit number."""


def normalised_adjacency(edges: np.ndarray, num_nodes: int, weights: np.ndarray | None = None) -> sp.csr_matrix:
    """S = D^-1/2 (A + I) D^-1/2 of a real graph, D the row sums of A + I; isolated nodes keep their loop.

    Args:
      edges: [2, E] undirected, each once.
      num_nodes: n.
      weights: [E] entries of A, at least 0; ones if not given.
    """
    nodes = np.arange(num_nodes)
    senders = np.concatenate([edges[0], edges[1], nodes])
    receivers = np.concatenate([edges[1], edges[0], nodes])
    if weights is None:
        entries = np.ones(len(senders), np.float32)
    else:  # sums of weights of any size in float64; those of ones are exact
        entries = np.concatenate([weights, weights, np.ones(num_nodes)])
    looped = sp.csr_matrix((entries, (receivers, senders)), shape=(num_nodes, num_nodes))
    scale = sp.diags(np.asarray(looped.sum(1)).ravel() ** -0.5)
    return (scale @ looped @ scale).tocsr().astype(np.float32)


def structural_features(
    edges: np.ndarray, num_nodes: int, *, powers: tuple[int, ...] = (6, 16), seed: int = 0
) -> np.ndarray:
    """Features from the graph alone: random signs R, propagated; no label is read.

    Rows of S^k R are near each other where walks of length 2 k between the two nodes are likely (random projection,
    Johnson-Lindenstrauss), so low powers tell neighbourhoods and high powers communities. The leading eigenvector of
    S, which knows degrees only, is taken out first; rows are scaled to length sqrt(`NUM_SIGNALS`), which takes the
    degrees out of the rest and makes entries about 1.

    Args:
      edges: [2, E] undirected.
      num_nodes: n.
      powers: k of each block of `NUM_SIGNALS` columns, ascending.
      seed: of the signs. They are raw bits of a PCG64 generator, which no version of NumPy changes.

    Returns:
      [n, len(powers) * NUM_SIGNALS] float32.
    """
    operator = normalised_adjacency(edges, num_nodes)
    leading = np.sqrt(1 + np.bincount(edges.reshape(-1), minlength=num_nodes)).astype(np.float32)
    leading /= np.linalg.norm(leading)
    bits = np.random.PCG64(seed).random_raw(num_nodes).astype("<u8").view(np.uint8).reshape(num_nodes, -1)
    signal = 2.0 * np.unpackbits(bits, axis=1).astype(np.float32) - 1.0
    signal -= np.outer(leading, leading @ signal)
    blocks = []
    for k in range(1, max(powers) + 1):
        signal = operator @ signal
        if k in powers:
            length = np.linalg.norm(signal, axis=1, keepdims=True)
            blocks.append(np.sqrt(NUM_SIGNALS) * signal / np.maximum(length, np.finfo(np.float32).tiny))
    return np.concatenate(blocks, axis=1, dtype=np.float32)
