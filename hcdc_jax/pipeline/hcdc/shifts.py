"""A constant shift of the hyperparameters, learned once per seed from the full trainings that hcdc pays for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import run as run_condenser
from hcdc_jax.condense.lambda_shift import ShiftData, lambda_shift, moved
from hcdc_jax.condensed import Condensed
from hcdc_jax.pipeline.hcdc.targets import Matched
from hcdc_jax.pipeline.keeping import kept
from hcdc_jax.pipeline.recipes.base import Cost, part_key
from hcdc_jax.pipeline.setup import Run, Setup
from hcdc_jax.types import Array, Batch

STEPS, RATE = 20, 0.2
"""Two prior standard deviations can be covered; more is no longer a shift of this space."""
EVERY = 4
"""Steps between two words of progress."""


class Shift(NamedTuple):
    """A learned shift.

    Attributes:
      amount: [h], in units of the hyperparameters.
      cost: of learning it, without the full trainings.
    """

    amount: np.ndarray
    cost: Cost


def file_of(folder: Path, seed: int) -> Path:
    """Where the shift of one seed lies in a run folder."""
    return folder / "checkpoints" / f"shift_seed{seed}.npz"


def learned_shift(run: Run, seed: int, matched: Matched, condensed_train: Batch) -> Shift:
    """Learns the shift of one seed, or reads it.

    Args:
      run: the run.
      seed: of the method.
      matched: the full trainings.
      condensed_train: S_train.
    """
    setup = run.setup

    def tell(step: int, state: Any, info: Any) -> None:
        jax.block_until_ready((state, info))  # JAX returns before anything is computed
        run.progress.update(step)

    def learned() -> dict[str, Array]:
        scale, key = jnp.asarray(setup.space.prior_std), part_key("val", seed)
        data = ShiftData(
            matched.hparams, matched.target.value, scale, condensed_train, setup.val, setup.proxy_training,
            jnp.float32(RATE),
        )  # fmt: skip
        condenser = lambda_shift(setup.problem_on(condensed_train), setup.space, steps=STEPS)
        run.progress.start(f"shift of the hyperparameters, seed {seed}", STEPS, 0)
        state = condenser.init(key, jnp.zeros_like(scale), data)
        state = run_condenser(key, condenser, state, data, steps=STEPS, every=EVERY, report=tell)
        return {"amount": scale * state.variables}

    found, cost = kept(file_of(run.folder, seed), learned)
    return Shift(found["amount"], cost)


def shifted(setup: Setup, hparams: Array, amount: np.ndarray) -> Array:
    """Hyperparameters [n, h], shifted, as far as models can be trained there."""
    return jax.vmap(lambda one: moved(setup.space, one, jnp.asarray(amount)))(hparams)


def facts(setup: Setup, amount: np.ndarray) -> dict[str, float]:
    """A shift as the card of an artefact states it."""
    return {_fact(name): float(value) for name, value in zip(setup.space.hparam_names, amount, strict=True)}


def stated(setup: Setup, condensed: Condensed) -> np.ndarray | None:
    """The shift [h] that the card of an artefact asks for; None if it asks for none."""
    names = [_fact(name) for name in setup.space.hparam_names]
    if not any(name in condensed.card for name in names):
        return None
    return np.array([condensed.card[name] for name in names], np.float32)


def on_condensed(setup: Setup, condensed: Condensed, candidates: Array) -> Array:
    """Where candidates [n, h] are trained on S_train: where they are, or shifted as the card says."""
    amount = stated(setup, condensed)
    return candidates if amount is None else shifted(setup, candidates, amount)


def _fact(name: str) -> str:
    return f"shift_of_{name}"
