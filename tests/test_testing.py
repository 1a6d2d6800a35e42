"""The checks for authors of plugins: what keeps its promises passes, and each broken promise is told by its check."""

from __future__ import annotations

import functools
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcdc_jax
from hcdc_jax import spaces, testing
from hcdc_jax.condense import Condenser
from hcdc_jax.condense.base import ImageRates
from hcdc_jax.containers import ImageStart, image_container
from hcdc_jax.models import spectral_gnn
from tests.small_images import blobs


class Numbers(NamedTuple):
    pixels: jax.Array
    labels: jax.Array
    weights: jax.Array


class State(NamedTuple):
    variables: Numbers


class Info(NamedTuple):
    distance: jax.Array


class Other(NamedTuple):
    numbers: Numbers


def numbers(seed: int) -> Numbers:
    return Numbers(1.0 + jax.random.uniform(jax.random.key(seed), (4,)), jnp.arange(4), jnp.ones(4))


DATA = jnp.float32(0.1)


def moved(state: State, amount) -> State:
    return State(state.variables._replace(pixels=state.variables.pixels * (1 - amount)))


def start(key, variables, data):
    del key, data
    return State(variables)


def step(key, state, data):
    noise = 0.01 * jax.random.normal(key, state.variables.pixels.shape)
    return moved(state, data * (1 + noise)), Info(state.variables.pixels.sum())


def with_step(changed):
    return Condenser(start, changed)


def tells_vectors(key, state, data):
    return step(key, state, data)[0], Info(state.variables.pixels)


def changes_dtype(key, state, data):
    variables = step(key, state, data)[0].variables
    return State(variables._replace(pixels=variables.pixels.astype(jnp.float16))), Info(data)


def moves_labels(key, state, data):
    variables = step(key, state, data)[0].variables
    return State(variables._replace(labels=variables.labels + 1)), Info(data)


def explodes(key, state, data):
    return moved(state, data / jnp.where(jax.random.uniform(key) < 2, 0.0, 1.0)), Info(data)


def stands_still(key, state, data):
    del key
    return state, Info(data)


_DRAWN = itertools.count()


def draws_outside(key, state, data):
    return moved(state, data * next(_DRAWN)), step(key, state, data)[1]


def test_the_one_of_the_example_passes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(hcdc_jax.__file__).parents[1] / "examples" / "hcdc_plugin_example"))
    from hcdc_plugin_example.class_means import MeansData, class_means

    images, labels = blobs(6)
    container = image_container()
    means = np.stack([images[labels == c].mean(0) for c in range(3)])
    start = ImageStart(images, labels)
    testing.check_condenser(
        lambda: class_means(container),
        MeansData(jnp.asarray(means, jnp.float32), ImageRates(0.3)),
        lambda seed: container.init(jax.random.key(seed), start),
    )
    for name in [name for name in sys.modules if name.startswith("hcdc_plugin_example")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("condenser", "check", "promise"),
    [
        (
            Condenser(lambda key, variables, data: Other(variables), step),
            "forms",
            "a state must be a NamedTuple with a",
        ),
        (with_step(tells_vectors), "forms", "info must hold scalars alone"),
        (with_step(lambda key, state, data: (state, {"distance": data})), "forms", "info must be a NamedTuple with a"),
        (with_step(changes_dtype), "forms", "a step must keep the structure, shapes and dtypes"),
        (with_step(draws_outside), "jit", "a step must be the same with and without jit"),
        (with_step(moves_labels), "learns", "steps must leave the labels as they were given"),
        (with_step(stands_still), "learns", "steps must move what is learned"),
        (with_step(explodes), "learns", "what is learned must stay finite"),
    ],
)
def test_broken_condensers(condenser, check, promise):
    with pytest.raises(AssertionError, match=promise):
        getattr(testing, f"check_{check}")(condenser, DATA, numbers)


def test_a_factory_without_cache_compiles_anew():
    def build():
        return Condenser(start, functools.partial(step))

    with pytest.raises(AssertionError, match="the factory must be cached"):
        testing.check_compiles_once(build, DATA, numbers)


BOX = spaces.box("mine", {"a": (0.5, 2.0), "b": (1e-3, 1.0, "log")})


@pytest.mark.parametrize("space", [BOX, spaces.get("graph_filter")], ids=lambda space: space.name)
def test_good_spaces_pass(space):
    testing.check_space(space)


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"prior_std": (1.0, 1.0)}, "prior_std must be that of draws"),
        ({"prior_std": (1.0,)}, "one number for each hyperparameter"),
        ({"hparam_names": ("a", "a")}, "each its own"),
        ({"project": lambda hparams: hparams + 1}, "what is drawn must be what it is projected to"),
        ({"domain": lambda hparams: hparams * 2}, "a model must be trainable at what is drawn"),
        ({"orbit": lambda hparams: -hparams[None]}, "begin with the point"),
        ({"from_unit": lambda u: BOX.from_unit(u[..., ::-1] if u.ndim == 3 else u)}, "must take leading axes"),
        ({"orbit": lambda hparams: jnp.stack([hparams, hparams + 1])}, "must have the same orbit"),
        ({"choices": ((0, 1), (1,))}, "belong to one choice"),
        ({"choices": ((0, 7),)}, "choices must be places"),
    ],
)
def test_broken_spaces(changes, promise):
    with pytest.raises(AssertionError, match=promise):
        testing.check_space(BOX._replace(**changes), draws=512)


def test_containers_and_networks_of_graphs(monkeypatch):
    images, labels = blobs(6)
    start = ImageStart(images, labels)
    container = image_container()
    testing.check_container(container, start)
    nothing = container._replace(decode=lambda v: container.decode(v)._replace(inputs=0.0 * v.pixels))
    swapped = container._replace(decode_at=lambda v, places: container.decode_at(v, places[::-1]))
    for broken, promise in ((nothing, "must depend on what is learned"), (swapped, "decode_at must give the examples")):
        with pytest.raises(AssertionError, match=promise):
            testing.check_container(broken, start)
    testing.check_graph_network(spectral_gnn)
    for network, promise in (
        (lambda num_features, num_classes: 3, "must return a Problem, got int"),
        (lambda num_features: 3, "does not go with its own parameters"),
        (spectral_gnn.__wrapped__, "cache the function"),
    ):
        with pytest.raises(AssertionError, match=promise):
            testing.check_graph_network(network)
