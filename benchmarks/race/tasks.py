"""What is raced on: pools of candidates whose learning curves are all known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.command import CONFIGS
from hcdc_jax import config as configs
from hcdc_jax import pipeline
from hcdc_jax.config import Config
from hcdc_jax.errors import UserError

SEEDS = ("0", "1", "2", "3", "4")
"""For development; the final figures are made on others, which nothing was chosen by."""
LEARNED = ("hcdc", "value_only")
"""Methods whose S_val is learned."""


class Task(NamedTuple):
    """What is searched.

    Attributes:
      config: name of the configuration.
      candidates: of the pool.
      overrides: of the configuration.
    """

    config: str
    candidates: int
    overrides: tuple[str, ...] = ()


TASKS = {
    "cora": Task("cora_1.8", 1000),
    "digits": Task("digits_graph", 1000),
    "cora_order6": Task("cora_1.8", 400, ("--space.order", "6")),
    "citeseer": Task("citeseer_1.3", 400),
    "fashion": Task("fashion_regularisation", 600),
}


def config_of(task: Task, overrides: Sequence[str]) -> Config:
    """The configuration of a task; `overrides` come last, and win.

    Raises:
      UserError: what is wrong with them.
    """
    base = configs.load(CONFIGS / f"{task.config}.toml")
    planned = ["--methods", *LEARNED, "--seeds", *SEEDS, "--space.candidates", str(task.candidates), *task.overrides]
    config = pipeline.resolved(configs.apply_overrides(base, [*planned, *overrides]))
    if config.methods != LEARNED:
        raise UserError(f"the race condenses by {' and '.join(LEARNED)}: leave out --methods")
    return config
