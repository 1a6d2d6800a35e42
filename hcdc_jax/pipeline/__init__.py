"""Runs: from a configuration to condensed data, rankings and a report in a folder, resumable at any point."""

from hcdc_jax.pipeline.condensing import condense
from hcdc_jax.pipeline.driver import opened, prepare, resolved, run
from hcdc_jax.pipeline.evaluating import EvaluationPlan, evaluate_condensed
from hcdc_jax.pipeline.progress import Progress, silent
from hcdc_jax.pipeline.ranking import rank
from hcdc_jax.pipeline.reporting import write_report
from hcdc_jax.pipeline.searching import SearchMethod, SearchPlan, search
from hcdc_jax.pipeline.true_scores import truth

__all__ = [
    "EvaluationPlan",
    "Progress",
    "SearchMethod",
    "SearchPlan",
    "condense",
    "evaluate_condensed",
    "opened",
    "prepare",
    "rank",
    "resolved",
    "run",
    "search",
    "silent",
    "truth",
    "write_report",
]
