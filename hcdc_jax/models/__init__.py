"""Networks. Each file returns a `Problem`; flax is imported here and in `containers` only."""

from hcdc_jax.models.graph import gcn_coefficients, sgc, spectral_gnn

__all__ = ["gcn_coefficients", "sgc", "spectral_gnn"]
