"""Networks. Each file returns a `Problem`; flax is imported here and in `containers` only."""

from hcdc_jax.models.checks import check_losses
from hcdc_jax.models.graph import Setting, gcn_coefficients, sgc, spectral_gnn
from hcdc_jax.models.learning_rate import with_learning_rate
from hcdc_jax.models.regularisers import expected_dropout

__all__ = [
    "Setting",
    "check_losses",
    "expected_dropout",
    "gcn_coefficients",
    "sgc",
    "spectral_gnn",
    "with_learning_rate",
]
