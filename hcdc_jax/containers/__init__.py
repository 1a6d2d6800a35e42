"""Containers: what stores condensed data. Each file returns a `Container`."""

from hcdc_jax.containers.base import Container, stored_scalars
from hcdc_jax.containers.graph import ADJACENCIES, GraphStart, GraphVariables, graph_container
from hcdc_jax.containers.hmn import HMNVariables, MemoryShapes, hmn_container
from hcdc_jax.containers.hmn_budget import Ledger, hmn_sizes, ledger, planned_ledger, usual_shapes
from hcdc_jax.containers.images import ImageStart, ImageVariables, image_container
from hcdc_jax.containers.multi_formation import multi_formation_container
from hcdc_jax.containers.views import ViewStart, ViewVariables, view_container

__all__ = [
    "ADJACENCIES",
    "Container",
    "GraphStart",
    "GraphVariables",
    "HMNVariables",
    "ImageStart",
    "ImageVariables",
    "Ledger",
    "MemoryShapes",
    "ViewStart",
    "ViewVariables",
    "graph_container",
    "hmn_container",
    "hmn_sizes",
    "image_container",
    "ledger",
    "multi_formation_container",
    "planned_ledger",
    "stored_scalars",
    "usual_shapes",
    "view_container",
]
