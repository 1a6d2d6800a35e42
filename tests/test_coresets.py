"""Which real nodes a condensed graph starts from."""

from __future__ import annotations

import numpy as np
import pytest

from hcdc_jax.condense.coresets import class_counts, ego_sample, induced_subgraph, plain_sample, random_nodes
from hcdc_jax.errors import UserError
from tests.small_graphs import block_graph, dense_adjacency

DATA = block_graph(90, inside=0.15)


def test_counts_of_cora_are_those_of_gcond():
    # 20 training nodes in each of 7 classes, r = 0.5.
    np.testing.assert_array_equal(class_counts(np.repeat(np.arange(7), 20), 70, 7), [10] * 7)


def test_the_largest_class_takes_what_rounding_leaves():
    labels = np.repeat([0, 1, 2], [10, 45, 45])
    np.testing.assert_array_equal(class_counts(labels, 10, 3), [1, 4, 5])


def test_a_class_too_small_for_a_node_gets_one():
    np.testing.assert_array_equal(class_counts(np.repeat([0, 1], [1, 999]), 10, 2), [1, 9])


@pytest.mark.parametrize("seed", range(50))
def test_counts_sum_up_and_leave_no_class_out(seed):
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(1, 12))
    num_nodes = int(rng.integers(num_classes, 60))
    labels = np.concatenate([np.arange(num_classes), rng.geometric(0.4, 300) % num_classes])
    counts = class_counts(labels, num_nodes, num_classes)
    assert counts.sum() == num_nodes
    assert counts.min() >= 1


def test_fewer_nodes_than_classes_is_the_users_mistake():
    with pytest.raises(UserError, match=r"leaves 6 synthetic nodes for 7 classes; raise it") as caught:
        class_counts(np.arange(7), 6, 7)
    assert "\n" not in str(caught.value)


def test_random_nodes_are_distinct_members_of_their_class():
    nodes = random_nodes(np.random.default_rng(0), DATA.labels, DATA.train_idx, np.array([3, 1, 200]))
    of_class_two = np.sum(DATA.labels[DATA.train_idx] == 2)
    np.testing.assert_array_equal(np.bincount(DATA.labels[nodes]), [3, 1, of_class_two])
    assert len(set(nodes)) == len(nodes)
    assert set(nodes) <= set(DATA.train_idx)


def test_a_plain_sample_has_the_asked_size_and_follows_its_seed():
    first, again, other = (plain_sample(np.random.default_rng(s), DATA, DATA.train_idx, 12) for s in (0, 0, 1))
    assert len(first) == 12
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


@pytest.mark.parametrize("seed", range(5))
def test_an_ego_sample_is_centres_and_then_their_neighbours(seed):
    nodes, num_labelled = ego_sample(np.random.default_rng(seed), DATA, DATA.val_idx, 24)
    assert num_labelled == 12
    assert len(nodes) == len(set(nodes)) == 24
    centres, around = nodes[:num_labelled], nodes[num_labelled:]
    assert set(centres) <= set(DATA.val_idx)
    assert dense_adjacency(DATA)[around][:, centres].any(1).all()


def test_an_ego_sample_takes_neighbours_in_turn():
    # Two centres of many neighbours: neither spends the budget alone.
    data = block_graph(90, inside=0.9, isolated=0)
    nodes, num_labelled = ego_sample(np.random.default_rng(0), data, data.train_idx, 12)
    links = dense_adjacency(data)[nodes[num_labelled:]][:, nodes[:num_labelled]]
    assert links.any(0).all()


def test_an_ego_sample_ends_where_the_neighbours_end():
    data = block_graph(60, inside=0.02, isolated=0)  # hardly an edge
    nodes, num_labelled = ego_sample(np.random.default_rng(0), data, data.train_idx, 30)
    assert num_labelled == 15
    assert 15 <= len(nodes) == len(set(nodes)) < 30


def test_labels_outside_the_pool_are_never_read():
    outside = np.setdiff1d(np.arange(90), DATA.train_idx)
    hidden = DATA._replace(labels=np.where(np.isin(np.arange(90), outside), -1, DATA.labels))
    for data in (DATA, hidden):
        nodes, num_labelled = ego_sample(np.random.default_rng(3), data, DATA.train_idx, 20)
        start = induced_subgraph(data, nodes, num_labelled)
        if data is DATA:
            expected = start
    for a, b in zip(start, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sparse", [False, True])
def test_an_induced_subgraph_is_the_rows_of_the_graph(sparse):
    data = block_graph(90, inside=0.15, sparse=sparse)
    nodes = np.random.default_rng(0).permutation(90)[:30]
    start = induced_subgraph(data, nodes, 20)
    np.testing.assert_array_equal(start.adjacency, dense_adjacency(data)[nodes][:, nodes])
    np.testing.assert_array_equal(start.features, (data.features.toarray() if sparse else data.features)[nodes])
    np.testing.assert_array_equal(start.weights, np.arange(30) < 20)
    np.testing.assert_array_equal(start.labels[:20], data.labels[nodes[:20]])
    assert (start.labels[20:] == 0).all()
    assert [part.dtype for part in start] == [np.float32, np.float32, np.int32, np.float32]
