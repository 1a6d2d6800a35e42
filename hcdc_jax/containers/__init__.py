"""Containers: what stores condensed data. Each file returns a `Container`."""

from hcdc_jax.containers.base import Container
from hcdc_jax.containers.graph import ADJACENCIES, GraphStart, GraphVariables, graph_container

__all__ = ["ADJACENCIES", "Container", "GraphStart", "GraphVariables", "graph_container"]
