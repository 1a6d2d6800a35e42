"""Hyperparameter-calibrated data set condensation in JAX (arXiv 2405.17535).

Condense a data set into a tiny synthetic training and validation set on which the ranking of hyperparameters is kept,
then search on it in seconds. The command is `hcdc`; everything it does is a function here.
"""

from hcdc_jax import condense, containers, evaluation, extend, models, search, spaces
from hcdc_jax.batches.graphs import real_batch
from hcdc_jax.batches.images import image_batch
from hcdc_jax.condensed import Condensed, load_condensed
from hcdc_jax.data import GraphData, ImageData, datasets, from_object, load_dataset, save_dataset
from hcdc_jax.errors import UserError
from hcdc_jax.evaluation import evaluate_networks, protocols
from hcdc_jax.evaluation.protocols import Protocol
from hcdc_jax.extend import register, unregister
from hcdc_jax.hypergradients import distances
from hcdc_jax.hypergradients.fixed_networks import (
    Pool,
    Target,
    frozen_hypergradient,
    frozen_matching,
    unrolled_hypergradient,
    unrolled_response,
)
from hcdc_jax.hypergradients.implicit import hypergradient, hypergradient_matching, matching_distance, response
from hcdc_jax.hypergradients.solvers import LinearSolver, chebyshev, conjugate_gradient, dense, identity, neumann
from hcdc_jax.metrics import rank_report
from hcdc_jax.models import make_problem
from hcdc_jax.pipeline.recipes import methods
from hcdc_jax.problem import Problem
from hcdc_jax.study import Study
from hcdc_jax.training.candidates import Scores, evaluate
from hcdc_jax.training.train import Training, train
from hcdc_jax.types import Batch, as_batch
from hcdc_jax.version import __version__

__all__ = [
    "Batch",
    "Condensed",
    "GraphData",
    "ImageData",
    "LinearSolver",
    "Pool",
    "Problem",
    "Protocol",
    "Scores",
    "Study",
    "Target",
    "Training",
    "UserError",
    "__version__",
    "as_batch",
    "chebyshev",
    "condense",
    "conjugate_gradient",
    "containers",
    "datasets",
    "dense",
    "distances",
    "evaluate",
    "evaluate_networks",
    "evaluation",
    "extend",
    "from_object",
    "frozen_hypergradient",
    "frozen_matching",
    "hypergradient",
    "hypergradient_matching",
    "identity",
    "image_batch",
    "load_condensed",
    "load_dataset",
    "make_problem",
    "matching_distance",
    "methods",
    "models",
    "neumann",
    "protocols",
    "rank_report",
    "real_batch",
    "register",
    "response",
    "save_dataset",
    "search",
    "spaces",
    "train",
    "unregister",
    "unrolled_hypergradient",
    "unrolled_response",
]
