"""Coresets of graphs: which real nodes a condensed graph is made of or starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from hcdc_jax.containers.graph import GraphStart
from hcdc_jax.data import GraphData
from hcdc_jax.errors import UserError


def class_counts(labels: np.ndarray, num_nodes: int, num_classes: int) -> np.ndarray:
    """How many of `num_nodes` synthetic nodes each class gets, in proportion to `labels`, at least one each.

    GCond's allocation (arXiv 2110.07580): classes by ascending size get max(floor(share), 1) nodes, the largest class
    takes the rest.

    Args:
      labels: labels of the real nodes that are condensed.
      num_nodes: nodes to give out.
      num_classes: number of classes.

    Returns:
      [num_classes] int counts that sum to `num_nodes`.

    Raises:
      UserError: fewer nodes than classes.
    """
    if num_nodes < num_classes:
        raise UserError(
            f"condense.ratio leaves {num_nodes} synthetic nodes for {num_classes} classes; raise it to at least one "
            f"node per class (ratio >= {num_classes} / number of nodes)"
        )
    sizes = np.bincount(labels, minlength=num_classes)
    counts = np.maximum(num_nodes * sizes // sizes.sum(), 1)
    largest = np.argsort(sizes, kind="stable")[-1]
    counts[largest] += num_nodes - counts.sum()
    if counts[largest] < 1:  # many tiny classes, each rounded up to one node
        return class_counts(np.arange(num_classes), num_nodes, num_classes)
    return counts


Selection: TypeAlias = Callable[[np.random.Generator, np.ndarray, int], np.ndarray]
"""`select(rng, members, count)`: `count` distinct ones of the node numbers `members`, which are of one class."""


def uniform(rng: np.random.Generator, members: np.ndarray, count: int) -> np.ndarray:
    """The selection of the method Random."""
    return rng.choice(members, count, replace=False)


def herding(embeddings: np.ndarray) -> Selection:
    """Greedy members whose running mean stays closest to the mean of their class (Welling 2009; iCaRL 1611.07725).

    Args:
      embeddings: [n, e] of all nodes.
    """

    def select(rng, members, count):
        del rng
        points = embeddings[members]
        mean, total = points.mean(0), np.zeros(points.shape[1])
        free, chosen = np.ones(len(members), bool), []
        for size in range(1, count + 1):
            distances = np.linalg.norm(size * mean - total - points, axis=1)
            chosen.append(int(np.where(free, distances, np.inf).argmin()))
            free[chosen[-1]] = False
            total += points[chosen[-1]]
        return members[chosen]

    return select


def k_center(embeddings: np.ndarray) -> Selection:
    """Greedy k-center (arXiv 1708.00489): first the member nearest to the class mean, then always the farthest one.

    Args:
      embeddings: [n, e] of all nodes.
    """

    def select(rng, members, count):
        del rng
        points = embeddings[members]
        chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmin())]
        nearest = np.full(len(members), np.inf)
        while len(chosen) < count:
            nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
            nearest[chosen] = -1.0  # equal points: never twice the same member
            chosen.append(int(nearest.argmax()))
        return members[chosen]

    return select


def plain_sample(
    rng: np.random.Generator, data: GraphData, pool: np.ndarray, num_nodes: int, select: Selection = uniform
) -> np.ndarray:
    """Labelled nodes in proportion to the classes of `pool`, fewer only where a class has fewer: [num_nodes]."""
    counts = class_counts(data.labels[pool], num_nodes, data.num_classes)
    chosen = [
        select(rng, members, min(count, len(members)))
        for c, count in enumerate(counts)
        if len(members := pool[data.labels[pool] == c])
    ]
    return np.concatenate(chosen)


def repeated_sample(rng: np.random.Generator, data: GraphData, pool: np.ndarray, num_nodes: int) -> np.ndarray:
    """As `plain_sample` at random, but a class with too few nodes repeats them: [num_nodes], as a start to learn."""
    counts = class_counts(data.labels[pool], num_nodes, data.num_classes)
    chosen = []
    for c, count in enumerate(counts):
        members = pool[data.labels[pool] == c]
        if len(members):
            chosen.append(np.resize(uniform(rng, members, min(count, len(members))), count))
    return np.concatenate(chosen)


def ego_sample(
    rng: np.random.Generator, data: GraphData, pool: np.ndarray, num_nodes: int, select: Selection = uniform
) -> tuple[np.ndarray, int]:
    """Half labelled nodes, half their neighbours, so that the induced subgraph has edges where the graph has few.

    Of a sparse graph a random set of nodes keeps almost no edge, every filter then acts as the sum of its
    coefficients, and networks trained on the set cannot feel the difference between filters.

    Returns:
      The nodes, labelled ones first, and how many are labelled. There are `num_nodes` of them, fewer only where the
      labelled ones have no more neighbours. Labels of the others are never read.
    """
    num_labelled = max(num_nodes // 2, min(num_nodes, data.num_classes))
    centres = plain_sample(rng, data, pool, num_labelled, select)
    starts, neighbours = _neighbours(data)
    taken = set(centres.tolist())
    around: list[int] = []
    # One new neighbour of each centre in turn, until the budget is spent or the balls are exhausted.
    queues = [rng.permutation(neighbours[starts[c] : starts[c + 1]]).tolist() for c in centres]
    while len(around) < num_nodes - len(centres) and any(queues):
        for queue in queues:
            while queue and queue[-1] in taken:
                queue.pop()
            if queue and len(around) < num_nodes - len(centres):
                node = queue.pop()
                taken.add(node)
                around.append(node)
    return np.concatenate([centres, np.array(around, centres.dtype)]), len(centres)


def induced_subgraph(data: GraphData, nodes: np.ndarray, num_labelled: int) -> GraphStart:
    """The subgraph on `nodes`, of which the first `num_labelled` carry their label; edges keep their weights."""
    position = np.full(data.num_nodes, -1)
    position[nodes] = np.arange(len(nodes))
    edges = position[data.edges]
    kept = (edges >= 0).all(0)
    inside = edges[:, kept]
    adjacency = np.zeros((len(nodes), len(nodes)), np.float32)
    weights = 1.0 if data.edge_weights is None else data.edge_weights[kept]
    adjacency[inside[0], inside[1]] = adjacency[inside[1], inside[0]] = weights
    features = data.features[nodes]
    labelled = np.arange(len(nodes)) < num_labelled
    return GraphStart(
        features=np.asarray(features if isinstance(features, np.ndarray) else features.toarray(), np.float32),
        adjacency=adjacency,
        labels=np.where(labelled, data.labels[nodes], 0).astype(np.int32),
        weights=labelled.astype(np.float32),
    )


def _neighbours(data: GraphData) -> tuple[np.ndarray, np.ndarray]:
    """(starts [n + 1], neighbours [2 E]): those of node i are `neighbours[starts[i] : starts[i + 1]]`."""
    ends = np.concatenate([data.edges, data.edges[::-1]], 1)
    degrees = np.bincount(ends[0], minlength=data.num_nodes)
    return np.concatenate([[0], np.cumsum(degrees)]), ends[1][np.argsort(ends[0], kind="stable")]
