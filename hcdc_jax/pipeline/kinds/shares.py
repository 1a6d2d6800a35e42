"""How many examples of S_train and S_val each class gets, as `condense.per_class` says."""

from __future__ import annotations

import numpy as np

from hcdc_jax.condense.coresets import class_counts
from hcdc_jax.config import Config
from hcdc_jax.errors import UserError

_NAMED = 3
"""Classes that a line names before it only counts them."""


def scaled(config: Config, part: str, amount: int) -> int:
    """An amount of S_train ("train"), or what S_val ("val") has for it, at least one."""
    return amount if part == "train" else max(round(config.condense.val_factor * amount), 1)


def asked_of(config: Config, part: str, labels: np.ndarray, num_classes: int, each: int) -> np.ndarray:
    """[num_classes] examples that each class is asked for, whether it has them or not.

    Args:
      config: `condense.per_class` is "auto", equally many; "proportional", as many in all, by the class sizes and at
        least one each, as GCond gives out nodes (`coresets.class_counts`); or the numbers themselves.
      part: "train" or "val".
      labels: of the real examples that the part stands for.
      num_classes: number of classes.
      each: examples of the part per class, where all get as many.

    Raises:
      UserError: numbers for more or fewer classes than there are.
    """
    table = config.condense.per_class
    if isinstance(table, tuple):
        if len(table) != num_classes:
            raise UserError(
                f"condense.per_class has {len(table)} numbers, and the data {num_classes} classes: give one for each, "
                "in the order of their numbers"
            )
        return np.array([scaled(config, part, count) for count in table])
    if table == "proportional":
        return class_counts(labels, each * num_classes, num_classes)
    return np.full(num_classes, each)


def check_equal(config: Config, what: str) -> None:
    """Refuses budgets by class where something needs equally many of each.

    Raises:
      UserError: `condense.per_class` asks for other numbers.
    """
    if config.condense.per_class != "auto":
        raise UserError(f"{what} takes equally many examples of each class: leave out condense.per_class")


def told_short(asked: np.ndarray, sizes: np.ndarray, unit: str) -> str:
    """A clause about classes that have fewer examples than they are asked for; empty if there are none."""
    short = np.flatnonzero(sizes < asked)
    if not len(short):
        return ""
    named = ", ".join(f"class {c}: {sizes[c]} of {asked[c]}" for c in short[:_NAMED])
    more = f" and {len(short) - _NAMED} more" if len(short) > _NAMED else ""
    return f"; smaller classes give all {unit} that they have ({named}{more})"
