"""Containers: what stores condensed data. Each file returns a `Container`."""

from hcdc_jax.containers.base import Container
from hcdc_jax.containers.graph import ADJACENCIES, GraphStart, GraphVariables, graph_container
from hcdc_jax.containers.images import ImageStart, ImageVariables, image_container

__all__ = [
    "ADJACENCIES",
    "Container",
    "GraphStart",
    "GraphVariables",
    "ImageStart",
    "ImageVariables",
    "graph_container",
    "image_container",
]
