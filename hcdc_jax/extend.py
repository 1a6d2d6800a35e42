"""What authors of extensions need, in one place: `register`, and the names that methods and spaces are made of.

Names that stand here keep their meaning from release to release; docs/extending.md shows how they go together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hcdc_jax.batches.graphs import real_batch
from hcdc_jax.batches.images import image_batch
from hcdc_jax.condense.base import (
    AnyImageRates,
    Condenser,
    GraphRates,
    ImageRates,
    adam,
    descend,
    image_optimizer,
    learned_fields,
)
from hcdc_jax.condense.class_batches import ClassPool, class_pool, draw_per_class, siamese, sum_over_classes
from hcdc_jax.condense.gradient_matching import constant, drawn_from
from hcdc_jax.config import settings_of
from hcdc_jax.config.values import Count, NonNegative, NonNegativeInt, Positive, Probability, Range, Share
from hcdc_jax.containers import Container, GraphStart, GraphVariables, ImageStart, ImageVariables
from hcdc_jax.data import ArrayData, GraphData, ImageData, array_data, from_object, read_table
from hcdc_jax.data.image_files import images_from_arrays
from hcdc_jax.data.npz import graph_from_arrays
from hcdc_jax.data.registry import DATASETS
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.evaluation.protocols import PROTOCOLS, Protocol
from hcdc_jax.hypergradients.distances import DISTANCES
from hcdc_jax.models import GRAPH_NETS, IMAGE_NETS, ImageSetting, Setting
from hcdc_jax.models.image_nets import Head
from hcdc_jax.pipeline.clock import Elapsed, measured
from hcdc_jax.pipeline.kinds.image_containers import image_rates
from hcdc_jax.pipeline.kinds.named_containers import CONTAINERS, NamedContainer, per_class
from hcdc_jax.pipeline.kinds.starts import fixed, learned, sampled, stored, to_learn
from hcdc_jax.pipeline.recipes import METHODS
from hcdc_jax.pipeline.recipes.base import Cost, Learner, Method, RankRequest, RankResult, Recipe, Request, Work
from hcdc_jax.pipeline.recipes.image_relays import Relay, real_images, real_pool, relay, strategy
from hcdc_jax.pipeline.setup import Run, Setup, Start
from hcdc_jax.problem import Problem
from hcdc_jax.registry import Registry
from hcdc_jax.search import SEARCHES, EvaluateFn, History
from hcdc_jax.spaces import SPACES, Space, box, image_training
from hcdc_jax.training.candidates import Scores
from hcdc_jax.training.train import Training
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree, Variables

REGISTRIES: Mapping[str, Registry[Any]] = {
    registry.kind: registry
    for registry in (METHODS, SPACES, IMAGE_NETS, GRAPH_NETS, DATASETS, SEARCHES, DISTANCES, CONTAINERS, PROTOCOLS)
}
"""What can be registered, by kind; docs/extending.md says what each takes."""


def register(kind: str, name: str, entry: Any = None) -> Any:
    """Adds something under a name, for as long as this process runs:

        hc.register("space", "mine", hc.spaces.box("mine", {"weight_decay": (1e-5, 1e-2, "log")}))

        @hc.register("dataset", "my_images")
        def load(*, split, seed, data_dir): ...

    From then on it stands in `hcdc list` and is taken wherever a configuration names such things. A package says the
    same by an entry point in the group `hcdc_jax.<kind>s`.

    Args:
      kind: a name in `REGISTRIES`, such as "space"; docs/extending.md says what each takes.
      name: small letters, digits and _.
      entry: what is registered; without it `register` is a decorator.

    Returns:
      The entry.

    Raises:
      UserError: there is no such kind, the name is taken, or what is given is nothing of the kind.
    """
    return _of(kind).register(name, entry)


def unregister(kind: str, name: str) -> None:
    """Takes back what `register` added, as before it is registered anew in a notebook.

    Raises:
      UserError: there is no such kind or name, or the library or a plugin brought it.
    """
    _of(kind).unregister(name)


def _of(kind: str) -> Registry[Any]:
    check_name("kind of extension", kind, REGISTRIES)
    return REGISTRIES[kind]


__all__ = [
    "REGISTRIES",
    "AnyImageRates",
    "Array",
    "ArrayData",
    "Batch",
    "ClassPool",
    "Condenser",
    "Container",
    "Cost",
    "Count",
    "Elapsed",
    "EvaluateFn",
    "GraphData",
    "GraphRates",
    "GraphStart",
    "GraphVariables",
    "HParams",
    "Head",
    "History",
    "ImageData",
    "ImageRates",
    "ImageSetting",
    "ImageStart",
    "ImageVariables",
    "Learner",
    "Method",
    "NamedContainer",
    "NonNegative",
    "NonNegativeInt",
    "Params",
    "Positive",
    "Probability",
    "Problem",
    "Protocol",
    "PyTree",
    "Range",
    "RankRequest",
    "RankResult",
    "Recipe",
    "Registry",
    "Relay",
    "Request",
    "Run",
    "Scores",
    "Setting",
    "Setup",
    "Share",
    "Space",
    "Start",
    "Training",
    "UserError",
    "Variables",
    "Work",
    "adam",
    "array_data",
    "box",
    "class_pool",
    "constant",
    "descend",
    "draw_per_class",
    "drawn_from",
    "fixed",
    "from_object",
    "graph_from_arrays",
    "image_batch",
    "image_optimizer",
    "image_rates",
    "image_training",
    "images_from_arrays",
    "learned",
    "learned_fields",
    "measured",
    "per_class",
    "read_table",
    "real_batch",
    "real_images",
    "real_pool",
    "register",
    "relay",
    "sampled",
    "settings_of",
    "siamese",
    "stored",
    "strategy",
    "sum_over_classes",
    "to_learn",
    "unregister",
]
