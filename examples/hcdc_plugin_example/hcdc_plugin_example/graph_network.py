"""A network of graphs: that of the library, wider and with another activation."""

from __future__ import annotations

from hcdc_jax.extend import Problem
from hcdc_jax.models import spectral_gnn


def wide_gnn(num_features, num_classes, *, basis, weight_decay, read) -> Problem:
    """The two layers of spectral_gnn with 64 hidden units and ELU."""
    # By name it is given what it has a parameter for; a function of its own would be cached, as `spectral_gnn` is.
    return spectral_gnn(
        num_features, num_classes, hidden=64, activation="elu", basis=basis, weight_decay=weight_decay, read=read
    )
