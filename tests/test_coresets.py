"""Which real nodes a condensed graph starts from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hcdc_jax.condense.coresets import (
    class_counts,
    ego_sample,
    herding,
    induced_subgraph,
    k_center,
    plain_sample,
    repeated_sample,
    uniform,
)
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


EMBEDDINGS = np.random.default_rng(1).normal(size=(DATA.num_nodes, 4))
SELECTIONS = {"uniform": uniform, "herding": herding(EMBEDDINGS), "k_center": k_center(EMBEDDINGS)}


@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
def test_selections_are_distinct_members(select):
    members = np.flatnonzero(DATA.labels == 1)
    for count in (1, 7, len(members)):
        chosen = select(np.random.default_rng(0), members, count)
        assert len(chosen) == len(set(chosen)) == count
        assert set(chosen) <= set(members)


@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
def test_a_plain_sample_takes_all_of_a_class_that_has_too_few(select):
    nodes = plain_sample(np.random.default_rng(0), DATA, DATA.train_idx, len(DATA.train_idx), select)
    np.testing.assert_array_equal(np.sort(nodes), np.sort(DATA.train_idx))


def test_a_repeated_sample_has_the_asked_size_whatever_there_is():
    few, many = (repeated_sample(np.random.default_rng(0), DATA, DATA.train_idx, count) for count in (9, 400))
    np.testing.assert_array_equal(few, plain_sample(np.random.default_rng(0), DATA, DATA.train_idx, 9))
    assert len(many) == 400
    assert set(many) <= set(DATA.train_idx)
    repeats = np.unique(many, return_counts=True)[1]
    assert repeats.min() >= 400 // len(DATA.train_idx) - 1


def test_herding_is_the_greedy_choice_for_the_class_mean():
    members = np.arange(12)
    points = EMBEDDINGS[members]
    chosen = list(herding(EMBEDDINGS)(np.random.default_rng(0), members, 5))
    for size in range(5):
        before = points[chosen[:size]].sum(0)
        left = [i for i in range(12) if i not in chosen[:size]]
        errors = [np.linalg.norm((before + points[i]) / (size + 1) - points.mean(0)) for i in left]
        assert left[int(np.argmin(errors))] == chosen[size]


def test_k_center_covers_equal_points_once():
    embeddings = np.repeat(np.eye(3), 4, 0)  # three places, four members at each
    chosen = k_center(embeddings)(np.random.default_rng(0), np.arange(12), 3)
    assert set(chosen // 4) == {0, 1, 2}


def test_k_center_is_within_twice_the_best_radius():
    points = np.random.default_rng(2).normal(size=(9, 2))
    chosen = k_center(points)(np.random.default_rng(0), np.arange(9), 3)

    def radius(centres):
        return np.linalg.norm(points[:, None] - points[list(centres)][None], axis=-1).min(1).max()

    best = min(radius(centres) for centres in itertools.combinations(range(9), 3))
    assert radius(chosen) <= 2 * best


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
