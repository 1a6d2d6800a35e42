"""An evaluation protocol: how networks are trained on condensed images before they are tested."""

from __future__ import annotations

from hcdc_jax.extend import Protocol

SHORT = Protocol("thirty epochs, three networks; a quick look", epochs=30, drops=(20,), networks=3)
