"""Runs: from a configuration to condensed data, rankings and a report in a folder, resumable at any point."""

from hcdc_jax.config.plans import EvaluationPlan, SearchPlan
from hcdc_jax.pipeline.checks import resolved
from hcdc_jax.pipeline.condensing import condense
from hcdc_jax.pipeline.driver import opened, prepare, run
from hcdc_jax.pipeline.evaluating import evaluate_condensed
from hcdc_jax.pipeline.outcomes import nothing_condensed, nothing_found, nothing_ranked, nothing_true
from hcdc_jax.pipeline.ranked import Ranking, candidates_of, rank_on
from hcdc_jax.pipeline.ranking import rank
from hcdc_jax.pipeline.reporting import write_report
from hcdc_jax.pipeline.searching import check_search, search, searches
from hcdc_jax.pipeline.setup import Source
from hcdc_jax.pipeline.true_scores import truth
from hcdc_jax.progress import Progress, silent

__all__ = [
    "EvaluationPlan",
    "Progress",
    "Ranking",
    "SearchPlan",
    "Source",
    "candidates_of",
    "check_search",
    "condense",
    "evaluate_condensed",
    "nothing_condensed",
    "nothing_found",
    "nothing_ranked",
    "nothing_true",
    "opened",
    "prepare",
    "rank",
    "rank_on",
    "resolved",
    "run",
    "search",
    "searches",
    "silent",
    "truth",
    "write_report",
]
