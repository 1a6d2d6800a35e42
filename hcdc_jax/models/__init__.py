"""Networks. Each file returns a `Problem`; flax is imported here and in `containers` only."""

from hcdc_jax.models.checks import check_losses
from hcdc_jax.models.graph import Setting, gcn_coefficients, sgc, spectral_gnn
from hcdc_jax.models.image import (
    ImageSetting,
    described_net,
    image_embedding,
    image_net,
    image_net_options,
    image_nets,
    image_problem,
    num_parameters,
    sign_agreement,
)
from hcdc_jax.models.learning_rate import with_learning_rate
from hcdc_jax.models.regularisers import expected_dropout
from hcdc_jax.models.tables import TABLE_NETS, table_embedding, table_problem

__all__ = [
    "TABLE_NETS",
    "ImageSetting",
    "Setting",
    "check_losses",
    "described_net",
    "expected_dropout",
    "gcn_coefficients",
    "image_embedding",
    "image_net",
    "image_net_options",
    "image_nets",
    "image_problem",
    "num_parameters",
    "sgc",
    "sign_agreement",
    "spectral_gnn",
    "table_embedding",
    "table_problem",
    "with_learning_rate",
]
