"""What every registered condenser, container, space and distance promises, tested for all of them from the registries.

A new entry is tested as soon as it is registered; a condenser also needs a line in `CASES` that says how to build it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import condense, spaces, testing
from hcdc_jax.batches.graphs import real_batch
from hcdc_jax.condense import Condenser
from hcdc_jax.condense.base import GraphRates, ImageRates
from hcdc_jax.condense.class_batches import class_pool
from hcdc_jax.condense.dc import DCData
from hcdc_jax.condense.dm import DMData
from hcdc_jax.condense.edc import EDCData, ObserverTarget
from hcdc_jax.condense.epoch_training import EpochTraining
from hcdc_jax.condense.experts import expert_trajectory
from hcdc_jax.condense.gradient_matching import MatchingData, constant, drawn_from
from hcdc_jax.condense.hcdc import HCDCData, condensed_pool
from hcdc_jax.condense.hcdc_shared import SharedData
from hcdc_jax.condense.idc import IDCData
from hcdc_jax.condense.kernels import always, fully_connected
from hcdc_jax.condense.kip import KIPData
from hcdc_jax.condense.mtt import MTTData
from hcdc_jax.condense.observers import observer
from hcdc_jax.condense.statistics import statistics
from hcdc_jax.containers import ADJACENCIES, Container, ImageStart, graph_container, image_container
from hcdc_jax.containers.graph import fixed, free
from hcdc_jax.hypergradients import distances
from hcdc_jax.hypergradients.fixed_networks import Target
from hcdc_jax.hypergradients.solvers import identity, neumann
from hcdc_jax.models import spectral_gnn
from hcdc_jax.spaces import graph_filter
from hcdc_jax.testing import assert_close
from hcdc_jax.training.train import Training
from hcdc_jax.types import Batch
from tests.small_graphs import block_graph, small_start
from tests.small_images import blobs, conv_net

KEY = jax.random.key(3)
PROBLEM = spectral_gnn(5, 3, hidden=4, activation="tanh")
START = small_start(6, num_features=5)
RATES = GraphRates(jnp.float32(0.02), jnp.float32(0.1))
CONTAINERS = {name: graph_container(make(), 2, "laplacian") for name, make in ADJACENCIES.items()}
LEARNED = graph_container(free(3.0), 2, "laplacian")
IMAGES = image_container()
NET = conv_net(1, 3, width=2)


@functools.cache
def real(part: str):
    data = block_graph(18)
    return real_batch(data, getattr(data, f"{part}_idx"), order=2, basis="laplacian")


def graph_variables(seed: int):
    return LEARNED.init(jax.random.key(seed), small_start(6, num_features=5, seed=seed))


def image_variables(seed: int):
    images, labels = blobs(6, seed=seed)
    order = np.argsort(labels, kind="stable")
    return IMAGES.init(jax.random.key(seed), ImageStart(images[order], labels[order]))


class Case(NamedTuple):
    """A condenser on a problem of seconds, what its steps read, and variables to start from."""

    condenser: Condenser
    data: Any
    variables: Callable[[int], Any] = graph_variables


def matching_case() -> Case:
    factory = condense.get("gradient_matching")
    condenser = factory(PROBLEM, LEARNED, drawn_from(graph_filter(2)), num_classes=3, outer_steps=2, inner_steps=2)
    return Case(condenser, MatchingData(real("train"), jnp.ones(3), RATES))


def hcdc_case() -> Case:
    hparams = graph_filter(2).sample(KEY, 3)
    pool = condensed_pool(KEY, PROBLEM, hparams, real("train"), Training(steps=5), solver=identity())
    target = Target(jnp.array([1.0, 0.5, 0.8]), jax.random.normal(KEY, (3, 3)))
    return Case(condense.get("hcdc")(PROBLEM, LEARNED), HCDCData(pool, target, jnp.full(3, 0.6), RATES))


def shared_case() -> Case:
    condenser = condense.get("hcdc_shared")(
        PROBLEM, LEARNED, graph_filter(2), solver=neumann(2, step_size=0.1), points=2
    )  # fmt: skip
    small = graph_container(fixed(), 2, "laplacian")
    s_train = small.decode(small.init(KEY, small_start(9, num_features=5, seed=1)))
    hparams = graph_filter(2).sample(KEY, 2)
    return Case(condenser, SharedData(hparams, s_train, real("train"), real("val"), Training(steps=4), RATES))


def class_case(name: str) -> Case:
    pool, rates = class_pool(*blobs(18), 3), ImageRates(jnp.float32(0.1), jnp.float32(0.5))
    factory = functools.partial(condense.get(name), NET.problem)
    if name == "dm":
        return Case(factory(NET.embed, IMAGES, constant(()), batch_size=4), DMData(pool, rates), image_variables)
    condenser = factory(IMAGES, constant(()), outer_steps=2, inner_epochs=2, batch_size=4)
    return Case(condenser, DCData(pool, rates), image_variables)


def idc_case() -> Case:
    pool, rates = class_pool(*blobs(18), 3), ImageRates(jnp.float32(0.1), jnp.float32(0.5))
    images, labels = blobs(18)
    real = Batch(jnp.asarray(images, jnp.float32), jnp.asarray(labels), jnp.ones(18))
    condenser = condense.get("idc")(
        NET.problem, IMAGES, constant(()), num_classes=3, outer_steps=2, relay_steps=2, batch_size=4, cutmix=0.0
    )
    return Case(condenser, IDCData(pool, real, rates, jnp.float32(4)), image_variables)


def kip_case() -> Case:
    data = KIPData(class_pool(*blobs(18), 3), jnp.float32(0.01), jnp.float32(1e-2))
    return Case(
        condense.get("kip")(always(fully_connected(1)), IMAGES, num_classes=3, batch_size=12), data, image_variables
    )


def mtt_case() -> Case:
    images, labels = blobs(12)
    batch = Batch(jnp.asarray(images, jnp.float32), jnp.asarray(labels), jnp.ones(12))
    hparams = jnp.zeros(0)
    experts = expert_trajectory(KEY, NET.problem, hparams, batch, EpochTraining(0.3, epochs=4, batch_size=6))[None]
    condenser = condense.get("mtt")(NET.problem, IMAGES, student_steps=2, max_start=2)
    rates = ImageRates(jnp.float32(1.0), jnp.float32(0.5))
    data = MTTData(experts, hparams, rates, jnp.float32(0.1), jnp.float32(0.1), jnp.float32(0.1))
    return Case(condenser, data, image_variables)


def edc_case() -> Case:
    net = observer("convnet:width=2,depth=1", (6, 6, 1), 3)
    images, labels = blobs(12)
    batch = Batch(jnp.asarray(images, jnp.float32), jnp.asarray(labels), jnp.ones(12))
    params = net.problem.init(KEY, ())
    found = ObserverTarget(params, statistics(net.look, params, batch, 3))
    condenser = condense.get("edc")((net.look,), 3, iterations=3, batch_size=3, flatness="none")
    return Case(condenser, EDCData((found,), jnp.full(1, -9.0), jnp.full(1, 9.0)), image_variables)


CASES = {
    "dc": functools.partial(class_case, "dc"),
    "dm": functools.partial(class_case, "dm"),
    "dsa": functools.partial(class_case, "dsa"),
    "edc": edc_case,
    "gradient_matching": matching_case,
    "hcdc": hcdc_case,
    "hcdc_shared": shared_case,
    "idc": idc_case,
    "kip": kip_case,
    "mtt": mtt_case,
}


OP_BY_OP = ("dc", "dm", "dsa", "idc")
"""Whose steps run without `jit` in each run of the suite; the others take half a minute, and are marked slow."""


@pytest.fixture(params=condense.names(), name="name", scope="module")
def _name(request) -> str:
    assert request.param in CASES, f"say in CASES how to build the condenser {request.param!r}"
    return request.param


@pytest.fixture(name="case", scope="module")
def _case(name) -> Case:
    return CASES[name]()


def test_a_step_keeps_structure_shapes_and_dtypes(case):
    testing.check_forms(case.condenser, case.data, case.variables)


@pytest.mark.parametrize("name", [name for name in condense.names() if name in OP_BY_OP], scope="module")
def test_a_step_is_the_same_with_and_without_jit(case):
    testing.check_jit(case.condenser, case.data, case.variables)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in condense.names() if name not in OP_BY_OP], scope="module")
def test_a_long_step_is_the_same_with_and_without_jit(case):
    testing.check_jit(case.condenser, case.data, case.variables)


def test_the_driver_is_a_loop_of_steps_however_it_is_cut(case):
    testing.check_driver(case.condenser, case.data, case.variables)


def test_compilations_are_seen():
    with testing.compilations() as compiled:
        jax.jit(lambda number: number + 1)(1.0)
    assert len(compiled) == 1


def test_a_run_with_other_numbers_compiles_nothing(name, case):
    """Nor does one whose condenser is built anew, as that of the next seed is."""
    testing.check_compiles_once(lambda: CASES[name]().condenser, case.data, case.variables)


def test_vmap_is_a_loop_over_seeds_and_data(case):
    testing.check_vmap(case.condenser, case.data, case.variables)


def test_a_step_learns_and_leaves_labels_and_weights(case):
    testing.check_learns(case.condenser, case.data, case.variables)


@pytest.fixture(params=CONTAINERS, name="container")
def _container(request) -> Container:
    return CONTAINERS[request.param]


def test_decoding_is_the_same_under_jit_and_vmap(container):
    seeds = [container.init(jax.random.key(seed), small_start(6, seed=seed)) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    together = jax.jit(jax.vmap(container.decode))(stacked)
    for seed, variables in enumerate(seeds):
        alone = container.decode(variables)
        assert_close(alone, jax.jit(container.decode)(variables), "jit", rtol=1e-5)
        assert_close(alone, jax.tree.map(lambda leaf, seed=seed: leaf[seed], together), "vmap", rtol=1e-5)


def test_a_decoded_batch_has_the_dtypes_of_a_real_one(container):
    decoded = jax.eval_shape(container.decode, container.init(KEY, START))
    assert decoded.inputs.nodes.dtype == decoded.inputs.edges.dtype == decoded.weights.dtype == jnp.float32
    assert decoded.labels.dtype == jnp.int32
    assert decoded.labels.shape == decoded.weights.shape == (6,)


def test_containers_follow_float64(container, x64):
    variables = container.init(KEY, START)
    variables = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, variables)
    decoded = jax.eval_shape(container.decode, variables)
    assert decoded.inputs.nodes.dtype == decoded.inputs.edges.dtype == decoded.weights.dtype == jnp.float64


@pytest.mark.parametrize("name", spaces.names())
def test_spaces_draw_what_they_project_to(name):
    space = spaces.get(name)
    assert space.name == name
    testing.check_space(space)
    assert hash(space) == hash(spaces.get(name))


@pytest.mark.parametrize("name", distances.names())
def test_distances_vanish_at_agreement_and_are_finite_at_zero(name):
    distance = distances.get(name)
    keys = jax.random.split(KEY, 2)
    values, gradients = 0.5 + jax.random.uniform(keys[0], (4,)), jax.random.normal(keys[1], (4, 3))
    np.testing.assert_allclose(distance(values, gradients, values, gradients), 0, atol=1e-5)
    zeros = jnp.zeros(4), jnp.zeros((4, 3))
    slopes = jax.jit(jax.value_and_grad(distance, argnums=(0, 1)))
    for said, target in [(zeros, zeros), (zeros, (values, gradients)), ((values, gradients), zeros)]:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes(*said, *target)))
