"""A space: the weight decay of the first layer, and that of the others."""

from __future__ import annotations

from hcdc_jax.extend import Space, image_training


def two_decays() -> Space:
    """Two weight decays, of the first layer and of the others."""
    return image_training("two_decays", weight_decay_first=(1e-4, 1e-1, "log"), weight_decay=(1e-4, 1e-1, "log"))
