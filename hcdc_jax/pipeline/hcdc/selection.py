"""The distance and the steps of a learned S_val, where `hcdc.selection` leaves them to the matched candidates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hcdc_jax.condense.leave_one_out import left_out_errors
from hcdc_jax.containers import Container
from hcdc_jax.pipeline.keeping import kept
from hcdc_jax.pipeline.recipes.base import Request, Work, part_key
from hcdc_jax.pipeline.setup import Setup

DISTANCES = ("value_gradient", "weighted_cosine", "value")
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Of `hcdc.steps`: whether fewer would do is what a matched candidate can tell; each more doubles the work."""

POOR = 0.5
"""An error from which on half of what tells candidates apart is not predicted."""


def settled(request: Request, work: Work, container: Container, name: str, distances: Sequence[str]) -> Work:
    """The work, with a setup of the best of `distances` and of `SHARES` of the steps unless both are fixed.

    Args:
      request: of S_val.
      work: its networks and targets.
      container: stores it.
      name: of its recipe, under which the errors are kept.
      distances: what it may be matched by.

    Raises:
      UserError: fewer than three matched candidates.
    """
    setup = request.run.setup
    options = setup.config.hcdc
    if options.selection == "fixed":
        return work
    steps = sorted({max(round(share * options.steps), 1) for share in SHARES})
    path = request.run.folder / "checkpoints" / f"leave_one_out_{name}_seed{request.seed}.npz"
    found, cost = kept(path, lambda: {"errors": _errors(request, work, container, distances, steps)})
    errors = found["errors"]
    best = tuple(map(int, np.unravel_index(errors.argmin(), errors.shape)))
    chosen = {"distance": distances[best[0]], "steps": steps[best[1]]}
    request.run.progress.say(
        f"seed {request.seed}: left-out candidates are predicted best by {chosen['distance']} after {chosen['steps']} "
        f"of {options.steps} steps (error {errors[best]:.2f}; their mean has 1)"
    )
    if errors[best] > POOR:
        request.run.progress.say(
            f"seed {request.seed}: that says little about candidates that were not matched; raise hcdc.full_trainings "
            "or training.proxy_steps"
        )
    facts = {"selected_steps": float(chosen["steps"]), "left_out_error": float(errors[best])}
    return work._replace(setup=_with(setup, **chosen), cost=work.cost.plus(cost), facts={**work.facts, **facts})


def _errors(
    request: Request, work: Work, container: Container, distances: Sequence[str], steps: Sequence[int]
) -> np.ndarray:
    """[num_distances, num_steps]."""
    setup, key = request.run.setup, part_key("val", request.seed)
    progress, direct = request.run.progress, setup.config.hcdc.direct
    count = len(np.unique(np.asarray(work.data.pool.hparams), axis=0))
    progress.start(f"leaving out candidates, seed {request.seed}", count * len(distances), 0)
    variables = container.init(key, request.start)
    errors = [
        left_out_errors(
            key, setup.matched_problem, container, variables, work.data,
            distance=distance, steps=steps, direct=direct,
            report=lambda done, before=place * count: progress.update(before + done),
        )
        for place, distance in enumerate(distances)
    ]  # fmt: skip
    return np.stack(errors)


def _with(setup: Setup, **hcdc: object) -> Setup:
    config = setup.config
    return setup._replace(config=dataclasses.replace(config, hcdc=dataclasses.replace(config.hcdc, **hcdc)))
