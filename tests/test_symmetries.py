"""What a space says of itself: its symmetries hold for its models, and all who look at distances read them."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import spaces
from hcdc_jax.batches.graphs import real_batch
from hcdc_jax.condense.lambda_shift import moved
from hcdc_jax.errors import UserError
from hcdc_jax.models import spectral_gnn
from hcdc_jax.search import History
from hcdc_jax.spaces import Space
from tests.small_graphs import block_graph

BOX = spaces.box("box", dict.fromkeys("abcd", (-1.0, 1.0)))
FREE_SIGN = ("graph_filter", "chebnet", "gprgnn", "filter_training")


def random_symmetries(seed: int) -> tuple[Space, list[np.ndarray]]:
    """A box of four dimensions with a group of signed permutations, and its matrices: the powers of a draw."""
    rng = np.random.default_rng(seed)
    generator = np.eye(4)[rng.permutation(4)] * rng.choice([-1.0, 1.0], 4)
    group = [np.eye(4)]
    while not np.array_equal(power := group[-1] @ generator, np.eye(4)):
        group.append(power)
    matrices = jnp.asarray(np.stack(group), jnp.float32)
    return BOX._replace(orbit=lambda hparams: matrices @ hparams), group


@pytest.mark.parametrize("seed", range(6))
def test_one_point_stands_for_all_of_an_orbit(seed):
    space, group = random_symmetries(seed)
    point = space.sample(jax.random.key(seed), 1)[0]
    orbit = jnp.asarray(np.stack([matrix @ np.asarray(point) for matrix in group]), jnp.float32)
    chosen = np.asarray(jax.jit(jax.vmap(space.representative))(orbit))
    for other in chosen:
        np.testing.assert_allclose(other, chosen[0], atol=1e-6)
    assert max(map(tuple, orbit.tolist())) == tuple(chosen[0].tolist())
    _, distinct = np.unique(np.round(orbit, 5), axis=0, return_index=True)
    assert np.sum(jax.jit(jax.vmap(space.represents))(orbit[distinct])) == 1


@pytest.mark.parametrize("seed", range(6))
def test_even_draws_hold_one_point_of_each_orbit_and_are_as_even(seed):
    space, group = random_symmetries(seed)
    draws = np.asarray(space.spread(seed, 32))
    assert draws.shape == (32, 4)
    assert jax.jit(jax.vmap(space.represents))(draws).all()
    unfolded = np.concatenate([draws @ matrix.T for matrix in group])
    # All points of all orbits fill the whole box: the means of such a draw are near 0, closer than chance has them.
    assert np.abs(unfolded.mean(0)).max() < 0.1
    np.testing.assert_allclose(unfolded.std(0), space.prior_std, rtol=0.15)


def test_points_whose_equals_lie_outside_stand_for_themselves():
    one_sided = spaces.box("one_sided", {"a": (-0.2, 1.0)})._replace(orbit=spaces.either_sign)
    kept = jax.vmap(one_sided.represents)(jnp.array([[-0.2], [-0.1], [0.0], [0.1], [0.9]]))
    assert kept.tolist() == [False, False, True, True, True]
    away = spaces.box("away", {"a": (-1.0, 0.2)})._replace(orbit=spaces.either_sign)
    assert bool(away.represents(jnp.array([-0.9])))


@pytest.mark.parametrize("name", FREE_SIGN)
def test_filters_of_either_sign_make_the_same_networks(name):
    """C(-lambda) X W = C(lambda) X (-W): a network with its kernels negated has the very same losses."""
    space, data = spaces.get(name, order=2), block_graph(20)
    problem = spectral_gnn(5, 3, hidden=4, weight_decay=0.01, read=space.read)
    train, val = (real_batch(data, index, order=2, basis=space.basis) for index in (data.train_idx, data.val_idx))
    hparams = space.sample(jax.random.key(0), 1)[0]
    first, second = space.equivalents(hparams)
    np.testing.assert_array_equal(first, hparams)
    params = problem.init(jax.random.key(1), hparams)
    mirrored = jax.tree_util.tree_map_with_path(lambda path, leaf: -leaf if path[-1].key == "kernel" else leaf, params)
    for loss, batch in ((problem.train_loss, train), (problem.val_loss, val)):
        np.testing.assert_allclose(loss(params, first, batch), loss(mirrored, second, batch), rtol=1e-5)
    # The rest, here the hyperparameters of training, stays as it is.
    np.testing.assert_array_equal(first[3:], second[3:])
    np.testing.assert_array_equal(first[:3], -second[:3])


def test_spaces_whose_coefficients_are_bound_have_no_such_symmetry():
    for name in ("appnp", "bernnet", "regularisation", "nas_bench_201"):
        assert spaces.get(name).orbit is None


def test_what_is_near_to_an_equal_of_a_better_one_is_passed_over():
    space = spaces.get("graph_filter", order=1)
    hparams = np.array([[0.5, -0.5], [-0.51, 0.5], [0.9, 0.1], [0.2, -0.9], [-0.9, -0.1]], np.float32)
    history = History(hparams, np.arange(5.0), np.zeros(5), np.ones(5, bool))
    np.testing.assert_array_equal(history.best(5, 0.1), [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(history.best(5, 0.1, equivalents=space.equivalents), [0, 2, 3])
    avoided = [[-0.2, 0.9]]
    np.testing.assert_array_equal(history.best(5, 0.1, avoided, space.equivalents), [0, 2])


@pytest.mark.parametrize("seed", range(3))
def test_a_shift_means_the_same_for_all_of_an_orbit(seed):
    space, group = random_symmetries(seed)
    point, amount = space.sample(jax.random.key(seed), 1)[0], jnp.array([0.3, -0.2, 0.1, 0.4])
    orbit = jnp.asarray(np.stack([matrix @ np.asarray(point) for matrix in group]), jnp.float32)
    ends = jax.jit(jax.vmap(lambda member: moved(space, member, amount)))(orbit)
    for end in ends:
        np.testing.assert_allclose(end, ends[0], atol=1e-6)
    np.testing.assert_allclose(moved(BOX, point, amount), BOX.admit(point + amount), atol=1e-6)


def test_a_factorial_design_of_equals_is_refused():
    with pytest.raises(UserError, match="come in groups of equals"):
        spaces.get("graph_filter").factorial(0, 8)


def test_choices_are_the_coordinates_of_one_edge():
    choices = spaces.get("nas_bench_201").choices
    assert list(itertools.chain(*choices)) == list(range(30))
    names = spaces.get("nas_bench_201").hparam_names
    assert [len({names[i].split()[0] for i in choice}) for choice in choices] == [1] * 6
