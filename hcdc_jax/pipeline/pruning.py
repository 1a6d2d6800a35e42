"""Pruning as part of a run: what was learned beyond the budget goes, and every finding on the way is kept on disk."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.epoch_training import even_batches, taught
from hcdc_jax.condense.pruning import Judge, Pruned, prune
from hcdc_jax.containers import Container
from hcdc_jax.pipeline.keeping import kept
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.pipeline.recipes.image_relays import relay, strategy
from hcdc_jax.pipeline.setup import PRUNE, Run, Setup, key_for
from hcdc_jax.training.train import Training, all_finite
from hcdc_jax.types import Array, Variables

WEIGHT_DECAY = 5e-4
"""Of the networks that judge, as all protocols of `evaluation` have it."""


class Outcome(NamedTuple):
    """What pruning leaves.

    Attributes:
      variables: of the container, within the budget.
      cost: of finding out what goes.
      facts: numbers by name, for the card.
      arrays: `margins` [n], `labels` [n] and `kept` [m] places of what was learned; `betas` and their `accuracies` on
        the real validation part. What a strategy does not look at is left out.
    """

    variables: Variables
    cost: Cost
    facts: dict[str, float]
    arrays: dict[str, np.ndarray]


def pruned(run: Run, seed: int, container: Container, variables: Variables, folder: Path, what: str) -> Outcome:
    """S_train without its surplus, as `[pruning]` says.

    Args:
      run: the run.
      seed: of the method.
      container: of S_train.
      variables: as they were learned.
      folder: keeps what is found out; a run that was killed goes on from there.
      what: is pruned, in words.
    """
    setup, options = run.setup, run.setup.config.pruning
    drop = setup.kind.surplus(setup, "train")
    labels = np.asarray(jax.jit(container.decode)(variables).labels)
    # Nothing is left to be judged where the condensation diverged.
    strategy = options.strategy if all_finite(variables) else "random"
    names = [] if strategy == "random" else ["margins"]
    names += [f"beta_{share:g}" for share in options.betas] if strategy == "double_end" else []
    if names:
        done = sum((folder / f"{name}.npz").exists() for name in names)
        run.progress.start(f"pruning {what}", len(names), done)

    costs = [Cost()]

    def keep(name: str, make: Callable[[], Array]) -> np.ndarray:
        found, cost = kept(folder / f"{name}.npz", lambda: {"value": make()})
        costs.append(cost)
        run.progress.update(names.index(name) + 1)
        return found["value"]

    found = prune(
        key_for(PRUNE, seed), container, variables, drop, strategy,
        judge=judge_of(setup, len(labels)), validation=setup.val, betas=options.betas, keep=keep,
    )  # fmt: skip
    return Outcome(
        found.variables, functools.reduce(Cost.plus, costs), _facts(found, drop), _arrays(setup, found, labels)
    )


def judge_of(setup: Setup, num_images: int) -> Judge:
    """New networks like that of the run, trained as protocols of the field train them."""
    options, network = setup.config.pruning, relay(setup)
    per_epoch, size = even_batches(num_images, options.batch_size)
    training = Training(
        jnp.float32(options.learning_rate), "momentum", options.epochs * per_epoch, batch_size=size, schedule="cosine"
    )
    problem = taught(network.problem, strategy(setup), 0.0, WEIGHT_DECAY, setup.data.num_classes)
    return Judge(problem, jnp.asarray(network.hparams, jnp.float32), training, options.inits)


def _facts(found: Pruned, drop: int) -> dict[str, float]:
    facts = {"pruned_per_class": float(drop)}
    return facts if found.beta is None else facts | {"pruning_beta": float(found.beta)}


def _arrays(setup: Setup, found: Pruned, labels: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {"labels": labels, "kept": found.kept, "margins": found.margins, "accuracies": found.accuracies}
    if found.accuracies is not None:
        arrays["betas"] = np.asarray(setup.config.pruning.betas)
    return {name: values for name, values in arrays.items() if values is not None}
