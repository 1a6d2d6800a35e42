"""Arrays of condensed data as other benchmarks lay them out; NumPy alone."""

from __future__ import annotations

import numpy as np

from hcdc_jax.condensed import Condensed, examples
from hcdc_jax.errors import UserError
from hcdc_jax.types import Batch

ROUNDING = 1e-5
"""Weights of edges below it are what float32 leaves of 0."""


def adjacency_of(batch: Batch) -> np.ndarray:
    """Weights A [n, n] of the edges of a condensed graph, symmetric, without loops.

    A graph is stored by the terms P_k of its filters. Off the diagonal, S = D^-1/2 (A + I) D^-1/2 holds
    a_ij / sqrt(d_i d_j), and on it 1 / d_i, since A has no loops: A follows from S, and S from P_1, whose signs tell
    the basis (`batches.graphs.filter_terms`).

    Raises:
      UserError: it is no graph, or its filters have order 0.
    """
    if not hasattr(batch.inputs, "nodes"):
        raise UserError("only a condensed graph has edges")
    terms = np.asarray(batch.inputs.edges, np.float64)
    if terms.shape[-1] < 2:
        raise UserError("filters of order 0 read no edges, so the condensed graph has none")
    operator = _operator(terms[..., 1])
    degrees = 1 / np.diag(operator)
    weights = operator * np.sqrt(degrees[:, None] * degrees[None, :])
    weights = (weights + weights.T) / 2  # but for rounding they are the same
    np.fill_diagonal(weights, 0)
    return np.where(np.abs(weights) < ROUNDING, 0, weights).astype(np.float32)


def _operator(first: np.ndarray) -> np.ndarray:
    """S from the first term, which is S, I - S or -S; the diagonal of S lies above 0, at most at 1."""
    own, others = np.diag(first), first - np.diag(np.diag(first))
    if (own < 0).any():
        return -first  # Chebyshev
    if (others < 0).any() or not own.any():
        return np.eye(len(first)) - first  # Laplacian
    return first


def graphslim_arrays(condensed: Condensed) -> dict[str, np.ndarray]:
    """S_train as GraphSlim (arXiv 2406.16715) keeps a reduced graph: `adj` [n, n], `feat` [n, d], `label` [n].

    Its loader adds loops and normalises, as ours does. It trains on all nodes, so that those of weight 0, which are
    here for their edges alone, are left out.

    Raises:
      UserError: it is no graph, or nodes have probabilities of classes.
    """
    adjacency = adjacency_of(condensed.train)
    features, labels = examples(condensed.train)
    if labels.ndim != 1:
        raise UserError("GraphSlim reads class numbers, and these nodes have probabilities of classes")
    counts = np.asarray(condensed.train.weights) > 0
    return {"adj": adjacency[counts][:, counts], "feat": features, "label": labels.astype(np.int64)}


def ddranking_arrays(condensed: Condensed) -> dict[str, np.ndarray]:
    """S_train as DD-Ranking (arXiv 2505.13300) reads it: `images` [n, c, h, w] by class, equally many of each.

    Images are as our networks read them, standardised or whitened: whoever whitened says `use_zca` there, too. Soft
    labels come along as `labels` [n, classes], a learned step size as `lr`.

    Raises:
      UserError: it holds no images, or classes differ in number.
    """
    inputs, labels = examples(condensed.train)
    if inputs.ndim != 4:
        raise UserError("DD-Ranking evaluates images alone")
    classes = labels if labels.ndim == 1 else labels.argmax(1)
    sizes = np.unique(classes, return_counts=True)[1]
    if len(set(sizes.tolist())) > 1:
        raise UserError(f"DD-Ranking takes equally many images of each class; here are {sizes.min()} to {sizes.max()}")
    order = np.argsort(classes, kind="stable")
    arrays = {"images": np.ascontiguousarray(inputs[order].transpose(0, 3, 1, 2))}
    if labels.ndim == 2:
        arrays["labels"] = labels[order].astype(np.float32)
    rate = condensed.card.get("learned_learning_rate")
    return arrays if rate is None else arrays | {"lr": np.asarray(rate, np.float32)}
