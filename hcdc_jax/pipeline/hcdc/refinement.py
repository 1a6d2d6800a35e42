"""More candidates to match, where it counts: the best that a search on S_val finds are trained in full and matched too.

Draws from the prior say little about its best corner, and a search goes where S_val flatters most. Asking there, as
sequential design does (Jones et al. 1998), corrects both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from hcdc_jax.errors import DivergedError
from hcdc_jax.pipeline.hcdc.targets import Matched, found_targets
from hcdc_jax.pipeline.keeping import kept
from hcdc_jax.pipeline.recipes.base import Request
from hcdc_jax.pipeline.scoring import descent_options, mean_scores, rank_keys
from hcdc_jax.pipeline.setup import REFINE, key_for
from hcdc_jax.search import SEARCHES
from hcdc_jax.training.candidates import Scores
from hcdc_jax.types import Array, Batch

APART = 0.3
"""Prior standard deviations within which candidates are one: a second full training there would say little more."""


def refined(
    request: Request,
    matched: Matched,
    name: str,
    learn: Callable[[Matched], Batch],
    placed: Callable[[Array], Array],
) -> Matched:
    """The matched candidates and those that `hcdc.refinements` searches found best, each on an S_val of its own.

    What was found and trained is kept, so an interrupted run learns at most one S_val anew.

    Args:
      request: of S_val.
      matched: the first ones.
      name: of the recipe; others find other candidates.
      learn: `learn(matched)`, S_val; raises `DivergedError` where it diverges, which ends the refinements.
      placed: where candidates [n, h] are trained on S_train.
    """
    run, seed = request.run, request.seed
    for i in range(run.setup.config.hcdc.refinements):
        path = run.folder / "checkpoints" / f"found_{name}_seed{seed}_{i}.npz"
        search_key, train_key = jax.random.split(jax.random.fold_in(key_for(REFINE, seed), i))
        try:
            record, cost = kept(path, functools.partial(_searched, request, i, search_key, matched, learn, placed))
        except DivergedError as error:
            run.progress.say(f"seed {seed}: {error}, and is not searched on")
            return matched
        matched = matched._replace(cost=matched.cost.plus(cost))
        if not len(record["hparams"]):
            run.progress.say(f"seed {seed}: refinement {i + 1} found nothing that is new and can be trained on S_train")
            continue
        label = f"full trainings of refinement {i + 1}, seed {seed}"
        matched = matched.plus(found_targets(run, path.with_suffix(""), train_key, record["hparams"], label))
    return matched


def _searched(
    request: Request,
    number: int,
    key: Array,
    matched: Matched,
    learn: Callable[[Matched], Batch],
    placed: Callable[[Array], Array],
) -> dict[str, np.ndarray]:
    """The best new candidates on an S_val of what was matched so far; there may be none."""
    request.run.progress.say(
        f"seed {request.seed}: refinement {number + 1}, searching on what {len(matched.hparams)} candidates say"
    )
    setup, train, val = request.run.setup, request.condensed_train, learn(matched)
    options, keys = setup.config.hcdc, rank_keys(setup, request.seed)
    assert train is not None

    def evaluate_fn(candidates: Array) -> Scores:
        return mean_scores(setup, keys, placed(candidates), train, val)[0]

    extra = {}
    if options.refined_by == "hypergradient":
        extra = descent_options(setup, train, val, setup.proxy_training)
    history = SEARCHES[options.refined_by](key, setup.space, evaluate_fn, options.searched, **extra)
    radius = APART * np.asarray(setup.space.prior_std)
    known = np.asarray(matched.hparams)
    places = history.best(options.found, radius, avoided=known, equivalents=setup.space.equivalents)
    return {"hparams": history.hparams[places]}
