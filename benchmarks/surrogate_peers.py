"""Well-kept models of other libraries that learn a function from a few values, on inputs in standard deviations."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.linear_model import RidgeCV

Peer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""`peer(points [n, h], values [n], queries [q, h])`: predicted values [q]."""

RESTARTS = 5
BOUNDS = (1e-2, 1e3)
"""Of length scales, in standard deviations; scikit-learn's own upper bound of 1e5 changes nothing but the time."""


def gaussian_process(kernel_of: Callable[[int], kernels.Kernel]) -> Peer:
    """scikit-learn's, with a signal and white noise, at the maximum likelihood of six starts; no prior."""

    def peer(points: np.ndarray, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
        kernel = kernels.ConstantKernel() * kernel_of(points.shape[1]) + kernels.WhiteKernel(1e-2, (1e-6, 1.0))
        process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=RESTARTS, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # parameters at their bounds are usual where points are few
            return process.fit(points, values).predict(queries)

    return peer


def forest(points: np.ndarray, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """100 bootstrapped trees, each split over five sixths of the coordinates as in SMAC's, for which it stands in."""
    trees = RandomForestRegressor(100, max_features=5 / 6, min_samples_split=3, random_state=0)
    return trees.fit(points, values).predict(queries)


def ridge(points: np.ndarray, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """A linear model, its penalty chosen by leaving one point out."""
    return RidgeCV(np.logspace(-3, 3, 13)).fit(points, values).predict(queries)


def botorch(points: np.ndarray, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """BoTorch's SingleTaskGP as it stands, whose prior of lengths grows with the dimension, on the unit cube."""
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    def tensor(x: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(x, dtype=torch.float64)

    inputs, width = tensor(points), 12**0.5  # the standard deviations of a uniform draw in the width of its interval
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SingleTaskGP(inputs / width, tensor(values)[:, None])
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        return model.posterior(tensor(queries) / width).mean.detach().numpy()[:, 0]


PEERS: dict[str, Peer] = {
    "GP, RBF": gaussian_process(lambda h: kernels.RBF(np.ones(h), BOUNDS)),
    "GP, RBF, one length": gaussian_process(lambda h: kernels.RBF(1.0, BOUNDS)),
    "GP, Matern 5/2": gaussian_process(lambda h: kernels.Matern(np.ones(h), BOUNDS, nu=2.5)),
    "forest": forest,
    "ridge": ridge,
}
OPTIONAL: dict[str, Peer] = {"botorch": botorch}
"""By the name of the package that has to be installed."""


def installed() -> tuple[dict[str, Peer], list[str]]:
    """All peers whose packages are there, and the names of the packages that are not."""
    found = {name: peer for name, peer in OPTIONAL.items() if importlib.util.find_spec(name)}
    return PEERS | found, sorted(OPTIONAL.keys() - found.keys())
