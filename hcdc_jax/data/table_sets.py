"""Tables by name: those that come with scikit-learn, and a large one that is made from a seed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax.data.table_columns import Words
from hcdc_jax.data.tables import TableData, read_table
from hcdc_jax.errors import check_name

GENERATED_ROWS = 200_000
_GENERATED_NUMBERS = 20
_GENERATED_LEVELS = (2, 3, 5, 8, 12)
_NUM_CLASSES = 3
_WRONG_LABELS = 0.1
_GAPS = 0.02


class _Entry(NamedTuple):
    description: str
    columns: Callable[[], Mapping[str, Any]]  # with a column "target"


def generated_columns(num_rows: int = GENERATED_ROWS, *, seed: int = 0) -> dict[str, Any]:
    """A table of 20 columns of numbers, 5 of categories, and a target of three classes; the same for the same seed.

    Three scores add waves and products of some numbers, a threshold, and effects of categories; the largest is the
    class. Then a tenth of the rows take a class at random. One number in fifty is missing in three of the columns; ten
    columns tell nothing.

    Args:
      num_rows: of the table.
      seed: of all draws.

    Returns:
      "number_0" ... [num_rows] float64, "category_0" ... and "target" as `Words`.
    """
    rules, rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    numbers = rng.standard_normal((num_rows, _GENERATED_NUMBERS))
    codes = [rng.integers(count, size=num_rows, dtype=np.int32) for count in _GENERATED_LEVELS]
    scores = np.zeros((num_rows, _NUM_CLASSES))
    for c in range(_NUM_CLASSES):
        first, second, third, fourth = rules.permutation(10)[:4]
        scores[:, c] = (
            np.sin(2 * numbers[:, first]) + numbers[:, second] * numbers[:, third] + (numbers[:, fourth] > 0.5)
        )
        for of_column, count in zip(codes, _GENERATED_LEVELS, strict=True):
            scores[:, c] += rules.normal(0, 0.5, count)[of_column]
    labels = ((scores - scores.mean(0)) / scores.std(0)).argmax(1).astype(np.int32)
    wrong = rng.random(num_rows) < _WRONG_LABELS
    labels[wrong] = rng.integers(_NUM_CLASSES, size=wrong.sum())
    for j in range(3):
        numbers[rng.random(num_rows) < _GAPS, 5 * j] = np.nan
    return {
        **{f"number_{j}": numbers[:, j] for j in range(_GENERATED_NUMBERS)},
        **{f"category_{j}": _lettered(of_column) for j, of_column in enumerate(codes)},
        "target": _lettered(labels),
    }


def _lettered(codes: np.ndarray) -> Words:
    return Words(codes, tuple("abcdefghijkl"[: codes.max() + 1]))


def _bundled(loader: str) -> dict[str, np.ndarray]:
    from sklearn import datasets  # only here: it takes longer to import than the rest of the package

    bunch = getattr(datasets, loader)()
    names, target = map(str, bunch.feature_names), bunch.target
    labels = np.asarray(bunch.target_names)[target] if "target_names" in bunch else target
    return {**dict(zip(names, bunch.data.T, strict=True)), "target": labels}


_REGISTRY: Mapping[str, _Entry] = {
    "breast_cancer": _Entry(
        "tumours by their cell nuclei; 569 rows, 30 numbers, 2 classes",
        functools.partial(_bundled, "load_breast_cancer"),
    ),
    "wine": _Entry(
        "growers by chemical analysis; 178 rows, 13 numbers, 3 classes", functools.partial(_bundled, "load_wine")
    ),
    "digits_table": _Entry(
        "pixels of scikit-learn digits; 1,797 rows, 64 numbers, 10 classes", functools.partial(_bundled, "load_digits")
    ),
    "diabetes": _Entry(
        "progression after a year; 442 rows, 10 numbers, regression", functools.partial(_bundled, "load_diabetes")
    ),
    "generated_table": _Entry(
        "made from a seed; 200,000 rows, 20 numbers and 5 categories, 3 classes, a tenth of the labels drawn at random",
        generated_columns,
    ),
}


def tables() -> dict[str, str]:
    """The names that `table` knows, each with a one-line description."""
    return {name: entry.description for name, entry in _REGISTRY.items()}


def table(name: str, *, split: int = 0, seed: int = 0) -> TableData:
    """A table by its name; needs no files.

    Args:
      name: one of `tables()`.
      split: number of the draw of the parts, from 0.
      seed: of the draw; the rows of "generated_table" are the same for all.

    Raises:
      UserError: there is no such table or split.
    """
    check_name("table", name, _REGISTRY)
    entry = _REGISTRY[name]
    task = "regression" if name == "diabetes" else "classification"
    return read_table(entry.columns(), "target", task=task, name=name, split=split, seed=seed)
