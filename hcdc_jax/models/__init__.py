"""Networks, each a `Problem`, your own by `make_problem`; flax is imported here and in `containers` only."""

from hcdc_jax.models.checks import check_losses
from hcdc_jax.models.graph import GRAPH_NETS, Setting, gcn_coefficients, graph_nets, graph_problem, sgc, spectral_gnn
from hcdc_jax.models.image import (
    IMAGE_NETS,
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
from hcdc_jax.models.own import Keyed, make_problem
from hcdc_jax.models.own_checks import acts_through, check_problem
from hcdc_jax.models.perturbations import gaussian_dropout
from hcdc_jax.models.regularisers import expected_dropout
from hcdc_jax.models.tables import TABLE_NETS, table_embedding, table_problem

__all__ = [
    "GRAPH_NETS",
    "IMAGE_NETS",
    "TABLE_NETS",
    "ImageSetting",
    "Keyed",
    "Setting",
    "acts_through",
    "check_losses",
    "check_problem",
    "described_net",
    "expected_dropout",
    "gaussian_dropout",
    "gcn_coefficients",
    "graph_nets",
    "graph_problem",
    "image_embedding",
    "image_net",
    "image_net_options",
    "image_nets",
    "image_problem",
    "make_problem",
    "num_parameters",
    "sgc",
    "sign_agreement",
    "spectral_gnn",
    "table_embedding",
    "table_problem",
    "with_learning_rate",
]
