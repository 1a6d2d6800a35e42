"""Figures, tables and a page that say how well a run ranks, what it cost, and when it pays."""

from hcdc_jax.report.assemble import assemble

__all__ = ["assemble"]
