"""Containers by name, as `condense.container` says them: what stores condensed data, and what a run must know of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from hcdc_jax.condense.base import MemoryRates
from hcdc_jax.config import Config
from hcdc_jax.containers import (
    Container,
    MemoryShapes,
    graph_container,
    hmn_container,
    hmn_sizes,
    image_container,
    multi_formation_container,
    planned_ledger,
    usual_shapes,
)
from hcdc_jax.containers.graph import Adjacency, free, identity, pairwise
from hcdc_jax.containers.hmn import Fit
from hcdc_jax.containers.images import as_they_are
from hcdc_jax.data import GraphData
from hcdc_jax.pipeline.kinds.shares import check_equal, scaled
from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.registry import Registry

AUTO = "auto"
"""Name, in a configuration, of the first container of the kind of data."""


class NamedContainer(NamedTuple):
    """A container that configurations can name.

    Attributes:
      about: one line for `hcdc list`.
      unit: of the only kind of data that it is for, as `DataKind.unit` has it.
      container: `container(setup, part)`, of S_train ("train") or S_val ("val"); cached: of equal arguments one object.
      per_class: of images: `per_class(setup, part, factor)`, how many of each class are decoded from `factor` times the
        numbers of the budget, whole or not; None where an image takes the numbers of an image.
      rates: `rates(config)`, Adam step sizes of the fields of its variables, a NamedTuple with some of their names;
        None for images whose field `pixels` every method moves at its own rate, and for graphs.
      ledger: `ledger(setup, part, count)`, in words what the numbers of so many of each class are; None for nothing.
    """

    about: str
    unit: Literal["images", "nodes", "examples"]
    container: Callable[[Setup, str], Container]
    per_class: Callable[[Setup, str, float], float] | None = None
    rates: Callable[[Config], Any] | None = None
    ledger: Callable[[Setup, str, int], str] | None = None


def per_class(config: Config, part: str) -> int:
    """Images of each class whose numbers S_train ("train") or S_val ("val") may store."""
    return scaled(config, part, config.condense.images_per_class)


def num_nodes(config: Config, data: GraphData, part: str) -> int:
    """Nodes of S_train ("train") or of S_val ("val")."""
    nodes = round(config.condense.ratio * data.num_nodes)
    return nodes if part == "train" else round(config.condense.val_factor * nodes)


def as_given(setup: Setup, part: str) -> Container:
    """The container of images, or other arrays, as they are."""
    del setup, part
    return image_container()


def _formations(setup: Setup, part: str) -> Container:
    del part
    return multi_formation_container(setup.data.image_shape, setup.config.condense.formation_factor)


def _memories(setup: Setup, part: str) -> Container:
    config, data = setup.config, setup.data
    return hmn_container(
        data.image_shape,
        data.num_classes,
        shapes(setup, part),
        start="noise" if config.condense.init == "noise" else "fit_real",
        to_inputs=as_they_are if setup.preprocessing is None else setup.preprocessing.apply,
        fit=Fit(config.hmn.fit_steps, config.hmn.fit_rate),
    )


def _of_memories(setup: Setup, part: str, factor: float) -> int:
    """Raises `UserError` where a memory network of one image per class stores more, or for unequal budgets."""
    check_equal(setup.config, "condense.container = 'hmn'")
    images, data = factor * per_class(setup.config, part), setup.data
    return hmn_sizes(images, data.image_shape, data.num_classes, shapes(setup, part))


def _of_formations(setup: Setup, part: str, factor: float) -> float:
    return factor * setup.config.condense.formation_factor**2 * per_class(setup.config, part)


def _memory_rates(config: Config) -> MemoryRates:
    memory, network = jnp.float32(config.hmn.memory_rate), jnp.float32(config.hmn.network_rate)
    return MemoryRates(memory, memory, memory, network, network)


def _memory_ledger(setup: Setup, part: str, count: int) -> str:
    return str(planned_ledger(setup.data.image_shape, setup.data.num_classes, shapes(setup, part), count))


def shapes(setup: Setup, part: str) -> MemoryShapes:
    """The memories and networks that `[hmn]` describes; what it leaves out is usual for the budget."""
    options = setup.config.hmn
    given = {
        "dataset": options.dataset_channels,
        "extracted": options.extracted_channels,
        "per_class": options.class_channels,
        "instance": options.instance_channels,
        "width": options.decoder_width,
        "side": options.side,
    }
    usual = usual_shapes(per_class(setup.config, part), setup.data.image_shape)
    return usual._replace(**{name: value for name, value in given.items() if value is not None})


def container_of(adjacency: Adjacency) -> Callable[[Setup, str], Container]:
    """Containers whose adjacency does not depend on settings."""
    return lambda setup, part: graph_container(adjacency, setup.config.space.order, setup.config.space.basis)


# Containers are cached by their adjacency, so equal ones must be one object.
_free = functools.cache(free)


def _free_graph(setup: Setup, part: str) -> Container:
    logit, weights = setup.config.hcdc.edge_logit, setup.data.edge_weights
    largest, usual = (1.0, 1.0) if weights is None else (max(1.0, float(weights.max())), float(weights.mean()))
    if not isinstance(logit, float):  # "auto"
        # All absent edges of a node together start with the weight of one hundredth of an edge.
        logit = math.log(100 * num_nodes(setup.config, setup.data, part) * largest / usual)
    return graph_container(_free(logit, largest), setup.config.space.order, setup.config.space.basis)


_BUILT_IN: dict[str, NamedContainer] = {
    "pixels": NamedContainer("images as free pixels", "images", as_given),
    "multi_formation": NamedContainer(
        "IDC's tiles: images stored with shorter sides, more of them", "images", _formations, _of_formations
    ),
    "hmn": NamedContainer(
        "HMN's memories, shared by images and classes, and their decoder", "images", _memories, _of_memories,
        _memory_rates, _memory_ledger,
    ),
    "graph": NamedContainer("graphs whose edges are learned one by one", "nodes", _free_graph),
    "pairwise": NamedContainer("graphs whose edges a network makes of features", "nodes", container_of(pairwise())),
    "identity": NamedContainer("graphs without edges", "nodes", container_of(identity())),
    "arrays": NamedContainer("rows of tables and other arrays as they are", "examples", as_given),
}  # fmt: skip
CONTAINERS: Registry[NamedContainer] = Registry(
    "container",
    _BUILT_IN,
    group="hcdc_jax.containers",
    wanted="a NamedContainer",
    accept=lambda entry: entry if isinstance(entry, NamedContainer) else None,
    reserved=(AUTO,),
)
"""What `condense.container` can name."""

PAIRWISE, IDENTITY = CONTAINERS["pairwise"].container, CONTAINERS["identity"].container


def of_kind(unit: str) -> list[str]:
    """What `condense.container` can name for one kind of data; the usual one of it is the first after "auto"."""
    return [AUTO, *(name for name in CONTAINERS if CONTAINERS[name].unit == unit)]


def chosen(setup: Setup) -> NamedContainer:
    """The container that `condense.container` names."""
    name, unit = setup.config.condense.container, setup.kind.unit
    if name == AUTO:
        return next(container for container in _BUILT_IN.values() if container.unit == unit)
    return CONTAINERS.look_up(name, where="in 'condense.container'")


def containers() -> dict[str, str]:
    """What `condense.container` can name, each with one line about it."""
    return {name: container.about for name, container in CONTAINERS.items()}
