"""More candidates to match, where it counts: the best that a search on S_val finds are trained in full and matched too.

Draws from the prior say little about its best corner, and a search goes where S_val flatters most. Asking there, as
sequential design does (Jones et al. 1998), corrects both.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from hcdc_jax import files
from hcdc_jax.candidates import Scores
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.recipes.base import Cost, Request
from hcdc_jax.pipeline.scoring import descent_options, mean_scores, rank_keys
from hcdc_jax.pipeline.setup import REFINE, key_for
from hcdc_jax.pipeline.targets import Matched, found_targets
from hcdc_jax.search import SEARCHES
from hcdc_jax.types import Array, Batch

APART = 0.3
"""Prior standard deviations within which found candidates are one: a second training there would say little more."""


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
      learn: `learn(matched)`, S_val.
      placed: where candidates [n, h] are trained on S_train.
    """
    run, seed = request.run, request.seed
    for i in range(run.setup.config.hcdc.refinements):
        path = run.folder / "checkpoints" / f"found_{name}_seed{seed}_{i}.npz"
        key = jax.random.fold_in(key_for(REFINE, seed), i)
        if not path.exists():
            run.progress.say(
                f"seed {seed}: refinement {i + 1}, searching on what {len(matched.hparams)} candidates say"
            )
            with measured() as elapsed:
                found = _best(request, key, learn(matched), placed)
            files.write_npz(path, {"hparams": found, "seconds": elapsed.run, "compile_seconds": elapsed.compile})
        record = read_arrays(path)
        if not len(record["hparams"]):
            run.progress.say(f"seed {seed}: refinement {i + 1} found no candidate that can be trained on S_train")
            continue
        label = f"full trainings of refinement {i + 1}, seed {seed}"
        more = found_targets(run, path.with_suffix(""), key, record["hparams"], label)
        cost = Cost(float(record["seconds"]), float(record["compile_seconds"]))
        matched = matched.plus(more._replace(cost=more.cost.plus(cost)))
    return matched


def _best(request: Request, key: Array, val: Batch, placed: Callable[[Array], Array]) -> np.ndarray:
    setup, train = request.run.setup, request.condensed_train
    options, keys = setup.config.hcdc, rank_keys(setup, request.seed)
    assert train is not None

    def evaluate_fn(candidates: Array) -> Scores:
        return mean_scores(setup, keys, placed(candidates), train, val)[0]

    extra = descent_options(setup, train, val) if options.refined_by == "hypergradient" else {}
    history = SEARCHES[options.refined_by](key, setup.space, evaluate_fn, options.searched, **extra)
    places = history.best(options.found, APART * np.asarray(setup.space.prior_std))
    return history.hparams[places]
