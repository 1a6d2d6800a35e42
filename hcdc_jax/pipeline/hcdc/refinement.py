"""More candidates to match, where it counts: the best that a search on S_val finds are trained in full and matched too.

Draws from the prior say little about its best corner, and a search goes where S_val flatters most. Asking there, as
sequential design does (Jones et al. 1998), corrects both.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from hcdc_jax.data.npz import read_arrays
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.hcdc.targets import Matched, found_targets
from hcdc_jax.pipeline.recipes.base import Cost, Request
from hcdc_jax.pipeline.scoring import descent_options, mean_scores, rank_keys
from hcdc_jax.pipeline.setup import REFINE, key_for
from hcdc_jax.search import SEARCHES
from hcdc_jax.storage import files
from hcdc_jax.training.candidates import Scores
from hcdc_jax.types import Array, Batch

APART = 0.3
"""Prior standard deviations within which candidates are one: a second full training there would say little more."""


def refined(
    request: Request,
    matched: Matched,
    name: str,
    learn: Callable[[Matched], Batch | None],
    placed: Callable[[Array], Array],
) -> Matched:
    """The matched candidates and those that `hcdc.refinements` searches found best, each on an S_val of its own.

    What was found and trained is kept, so an interrupted run learns at most one S_val anew.

    Args:
      request: of S_val.
      matched: the first ones.
      name: of the recipe; others find other candidates.
      learn: `learn(matched)`, S_val; None if it diverges, which ends the refinements.
      placed: where candidates [n, h] are trained on S_train.
    """
    run, seed = request.run, request.seed
    for i in range(run.setup.config.hcdc.refinements):
        path = run.folder / "checkpoints" / f"found_{name}_seed{seed}_{i}.npz"
        search_key, train_key = jax.random.split(jax.random.fold_in(key_for(REFINE, seed), i))
        if not path.exists():
            count = len(matched.hparams)
            run.progress.say(f"seed {seed}: refinement {i + 1}, searching on what {count} candidates say")
            with measured() as elapsed:
                val = learn(matched)
                if val is None:
                    run.progress.say(f"seed {seed}: S_val diverged, and is not searched on")
                    return matched
                found = _best(request, search_key, val, placed, np.asarray(matched.hparams))
            files.write_npz(path, {"hparams": found, "seconds": elapsed.run, "compile_seconds": elapsed.compile})
        record = read_arrays(path)
        cost = Cost(float(record["seconds"]), float(record["compile_seconds"]))
        matched = matched._replace(cost=matched.cost.plus(cost))
        if not len(record["hparams"]):
            run.progress.say(f"seed {seed}: refinement {i + 1} found nothing that is new and can be trained on S_train")
            continue
        label = f"full trainings of refinement {i + 1}, seed {seed}"
        matched = matched.plus(found_targets(run, path.with_suffix(""), train_key, record["hparams"], label))
    return matched


def _best(request: Request, key: Array, val: Batch, placed: Callable[[Array], Array], known: np.ndarray) -> np.ndarray:
    setup, train = request.run.setup, request.condensed_train
    options, keys = setup.config.hcdc, rank_keys(setup, request.seed)
    assert train is not None

    def evaluate_fn(candidates: Array) -> Scores:
        return mean_scores(setup, keys, placed(candidates), train, val)[0]

    extra = {}
    if options.refined_by == "hypergradient":
        extra = descent_options(setup, train, val, setup.proxy_training)
    history = SEARCHES[options.refined_by](key, setup.space, evaluate_fn, options.searched, **extra)
    radius = APART * np.asarray(setup.space.prior_std)
    places = history.best(options.found, radius, avoided=known, equivalents=setup.space.equivalents)
    return history.hparams[places]
