"""Hyperparameter-calibrated data set condensation in JAX."""

__version__ = "0.1.0"
