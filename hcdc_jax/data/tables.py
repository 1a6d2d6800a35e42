r"""Tables as data: a file or a data frame in, prepared training, validation and test parts out.

>>> rng = np.random.default_rng(0)
>>> frame = {"age": rng.normal(40, 9, 50), "city": rng.choice(["Basel", "Bern"], 50)}
>>> frame["ill"] = rng.choice(["no", "yes"], 50)
>>> data = read_table(frame, "ill")
>>> data.feature_names, data.train.inputs.shape, data.train.labels[:3].dtype.name, data.num_classes
(('age', 'city=Basel', 'city=Bern'), (30, 3), 'int32', 2)
>>> data.preparation.apply({"city": ["Bern"], "age": [data.preparation.columns[0].mean]}).tolist()
[[0.0, 0.0, 1.0]]
>>> print(*data.notes, sep="\n")
target 'ill' is predicted as one of 2 classes: 'no', 'yes'.
30, 10 and 10 rows to train, validate and test are drawn by seed 0, class by class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from hcdc_jax.data.images import PARTS, draw
from hcdc_jax.data.table_columns import (
    MISSING,
    Column,
    Columns,
    Words,
    as_numbers,
    as_words,
    check_finite,
    is_missing,
    num_values,
    number,
    read_columns,
    taken,
)
from hcdc_jax.data.table_preparation import MAX_LEVELS, Preparation, Target, fit_preparation
from hcdc_jax.errors import UserError, check_name

Task: TypeAlias = Literal["auto", "classification", "regression"]

FRACTIONS = (0.6, 0.2, 0.2)
"""Shares of the rows that are drawn to train, validate and test."""
MOST_CLASSES = 20
"""Different whole numbers that a target has at most to be taken for classes."""
_MOSTLY_NUMBERS = 0.9
_PART_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val"}


class TablePart(NamedTuple):
    """Rows of one part.

    Attributes:
      inputs: [n, d] float32, prepared.
      labels: [n] int32 class numbers, or [n] float32 standardised amounts under regression.
    """

    inputs: np.ndarray
    labels: np.ndarray


class TableData(NamedTuple):
    """A prepared table, as NumPy arrays on the host.

    Attributes:
      name: what the data is called in cards and reports.
      train: the training rows, from which alone the preparation is learned.
      val: the validation rows.
      test: the test rows.
      preparation: prepares new rows (`apply`) and reads predictions (`invert_target`).
      task: "classification" or "regression".
      num_classes: number of classes, each with a training row; None under regression.
      notes: what was decided on the way, one sentence each.
      checksum: SHA-256 over parts and names, 64 hexadecimal digits.
    """

    name: str
    train: TablePart
    val: TablePart
    test: TablePart
    preparation: Preparation
    task: str
    num_classes: int | None
    notes: tuple[str, ...]
    checksum: str

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the d inputs."""
        return self.preparation.feature_names


def read_table(
    source: Any,
    target: str | None = None,
    *,
    task: Task = "auto",
    name: str | None = None,
    split_column: str | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
    split: int = 0,
    seed: int = 0,
    categories: Sequence[str] = (),
    ignore: Sequence[str] = (),
    missing: Sequence[str] = MISSING,
    delimiter: str | None = None,
    max_levels: int = MAX_LEVELS,
) -> TableData:
    """Reads a table, divides its rows, and prepares them by what the training rows are like.

    Numbers are standardised, missing ones imputed by the median and marked; categories become one input for each level.
    Columns that tell nothing (constant, all missing, a counter of rows, an identifier) are dropped. `notes` says so.

    Args:
      source: path of a CSV, Parquet or .npz file, a data frame of pandas, polars or pyarrow, or a mapping from names
        to arrays; see `table_columns.read_columns`. An .npz holds `X` [n, d], `y` [n] and maybe `feature_names` [d].
      target: the column that is predicted; may be left out for an .npz. Rows without it are left out.
      task: "auto" is classification of words, of two values, and of at most `MOST_CLASSES` whole numbers.
      name: of the data; by default the file's name without its ending.
      split_column: the column that says train, val or test of each row; None draws the parts.
      fractions: shares of the drawn parts, class by class under classification.
      split: number of the draw, from 0.
      seed: of the draw.
      categories: columns of numbers that are categories, such as postal codes.
      ignore: columns that are left out.
      missing: what stands for a missing value, in large or small letters.
      delimiter: of a CSV file; None finds out.
      max_levels: inputs that one column of categories makes at most; the rarest levels share one.

    Raises:
      UserError: the table cannot be read, or is none that one can learn from; the text says what and where.
    """
    _check_asked(task, fractions, split)
    table = whole = read_columns(source, words=categories, missing=missing, delimiter=delimiter)
    target = _target_name(source, target, table)
    for column in (*categories, *ignore, *([split_column] if split_column is not None else [])):
        check_name("column", column, table.columns, where=f"in {table.where}")
    if {target, split_column} & {*ignore}:
        raise UserError(f"{table.where}: the columns of target and split cannot be ignored")
    table = table._replace(columns={**table.columns, **{name: as_words(table.columns[name]) for name in categories}})
    table, notes = _usable(table, target, {*ignore}, {target, split_column}, max_levels)
    values, where = table.columns[target], table.where
    chosen = _task(values) if task == "auto" else task
    if split_column is None:
        parts, drawn = _drawn(target, values, chosen, fractions, (seed, split), where)
    else:
        parts, drawn = _given(split_column, table.columns[split_column], where)
    inputs = {key: column for key, column in table.columns.items() if key not in (target, split_column)}
    goal = _target(target, taken(values, parts[0]), values, chosen, where)
    training = Columns(where, {key: taken(column, parts[0]) for key, column in inputs.items()})
    preparation, told = fit_preparation(training, goal, max_levels=max_levels, missing=missing)
    unused = [key for key in whole.columns if key not in inputs and key != target]
    preparation = preparation._replace(dropped=(*unused, *preparation.dropped))
    notes += [_sentence_on(goal), drawn, *told]
    made = {}
    for part, rows in zip(PARTS, parts, strict=True):
        of_part = Columns(where, {key: taken(column, rows) for key, column in inputs.items()})
        prepared, told = preparation.apply_and_tell(of_part)
        notes += [f"{part} part: {note}" for note in told]
        made[part] = TablePart(prepared, preparation.labels(taken(values, rows), where))
    name = name or (Path(source).stem if isinstance(source, (str, Path)) else "table")
    num_classes = len(goal.classes) or None
    data = TableData(
        name, **made, preparation=preparation, task=chosen, num_classes=num_classes, notes=tuple(notes), checksum=""
    )
    return _with_checksum(data)


def _check_asked(task: str, fractions: Sequence[float], split: int) -> None:
    check_name("task", task, ("auto", "classification", "regression"))
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"fractions must be three positive shares that sum to 1, such as {FRACTIONS}, got {fractions}")
    if split < 0:
        raise UserError(f"split {split} does not exist; splits count from 0")


def _target_name(source: Any, target: str | None, table: Columns) -> str:
    if target is None and isinstance(source, (str, Path)) and Path(source).suffix == ".npz":
        return next(reversed(table.columns))  # where the reader puts it
    if target is None:
        raise UserError(f"{table.where}: say which column is the target; its columns are {', '.join(table.columns)}")
    check_name("column", target, table.columns, where=f"as the target of {table.where}")
    return target


def _usable(
    table: Columns, target: str, ignore: set[str], kept: set[str | None], max_levels: int
) -> tuple[Columns, list[str]]:
    """The rows that have a target, and the columns that may tell something; checked where rows still have numbers."""
    notes, columns = list(table.notes), {name: column for name, column in table.columns.items() if name not in ignore}
    for name, column in columns.items():
        check_finite(name, column, table.where)
        if isinstance(column, Words) and len(column.levels) > max_levels:
            _check_not_numbers(name, column, table.where)
    counters = [name for name, column in columns.items() if name not in kept and _counts_rows(column)]
    notes += [f"column {name!r} is dropped: it counts the rows." for name in counters]
    gone = is_missing(columns[target])
    if gone.all():
        raise UserError(f"{table.where}: the target {target!r} is missing in every row")
    if gone.any():
        notes.append(f"{gone.sum():,} of {len(gone):,} rows have no target {target!r} and are left out.")
    rows = np.flatnonzero(~gone)
    return Columns(table.where, {n: taken(c, rows) for n, c in columns.items() if n not in counters}), notes


def _counts_rows(column: Column) -> bool:
    return not isinstance(column, Words) and len(column) > 2 and bool((np.diff(column) == 1).all())


def _check_not_numbers(name: str, words: Words, where: str) -> None:
    """Of a column that is numbers but for a few words these are likely mistakes, or a mark of what is missing."""
    others = [level for level in words.levels if number(level) is None]
    if others and len(others) <= (1 - _MOSTLY_NUMBERS) * len(words.levels):
        row = int(np.argmax(words.codes == words.levels.index(others[0]))) + 1
        raise UserError(
            f"{where}: {others[0]!r} in column {name!r}, row {row}, is no number, as most of its values are; mend it, "
            f"count it as missing (missing=[..., {others[0]!r}]), or name the column in `categories`"
        )


def _task(values: Column) -> str:
    if isinstance(values, Words):
        return "classification"
    different = np.unique(values)
    if len(different) <= 2:
        return "classification"
    # Each class needs three rows, so a small table with as good as no value twice holds amounts.
    few = len(different) <= min(MOST_CLASSES, len(values) // 3)
    return "classification" if few and (different == np.round(different)).all() else "regression"


def _check_strata(target: str, values: Column, task: str, where: str) -> None:
    if num_values(values) < 3:
        raise UserError(f"{where}: {num_values(values)} rows with a target are too few; each of three parts needs one")
    if task == "regression":
        return
    words = as_words(values)
    counts = np.bincount(words.codes, minlength=len(words.levels))
    few = np.flatnonzero((counts > 0) & (counts < 3))
    if few.size:
        raise UserError(
            f"{where}: class {words.levels[few[0]]!r} of {target!r} has {counts[few[0]]} of the 3 rows that it needs, "
            f"one for each part ({len(few)} such of {np.count_nonzero(counts)}); merge rare classes, or ask for "
            "task='regression' if the target is an amount"
        )


def _drawn(
    target: str, values: Column, task: str, fractions: Sequence[float], seeds: tuple[int, int], where: str
) -> tuple[list[np.ndarray], str]:
    """Sorted rows of the three parts, and what is to be told."""
    _check_strata(target, values, task, where)
    rng, train = np.random.default_rng(seeds), np.arange(num_values(values))
    strata = np.unique(as_words(values).codes, return_inverse=True)[1] if task == "classification" else 0 * train
    test = draw(strata, train, fractions[2], rng, where=where)
    train = np.setdiff1d(train, test)
    val = draw(strata, train, fractions[1] / (fractions[0] + fractions[1]), rng, where=where)
    parts = [np.setdiff1d(train, val), val, test]
    by_class = ", class by class" if task == "classification" else ""
    counts = "{:,}, {:,} and {:,}".format(*map(len, parts))
    return parts, f"{counts} rows to train, validate and test are drawn by seed {seeds[0]}{by_class}."


def _given(name: str, column: Column, where: str) -> tuple[list[np.ndarray], str]:
    words = as_words(column)
    parts = [_PART_NAMES.get(level.lower(), level.lower()) for level in words.levels]
    for level, part in zip(words.levels, parts, strict=True):
        check_name("part", part, PARTS, where=f"({level!r}) in column {name!r} of {where}")
    if is_missing(column).any():
        raise UserError(f"{where}: {is_missing(column).sum()} rows with a target have no part in column {name!r}")
    of_rows = np.array([PARTS.index(part) for part in parts])[words.codes]
    rows = [np.flatnonzero(of_rows == i) for i in range(3)]
    empty = next((part for part, index in zip(PARTS, rows, strict=True) if not len(index)), None)
    if empty is not None:
        raise UserError(
            f"{where}: column {name!r} calls no row with a target {empty!r}; name all of {', '.join(PARTS)}"
        )
    counts = "{:,}, {:,} and {:,}".format(*map(len, rows))
    return rows, f"{counts} rows to train, validate and test are those that column {name!r} calls so."


def _target(name: str, training: Column, values: Column, task: str, where: str) -> Target:
    """Classes, or mean and standard deviation, of the training rows."""
    if task == "regression":
        amounts = as_numbers(name, training, where)
        if amounts.min() == amounts.max():
            raise UserError(f"{where}: the target {name!r} is {amounts[0]:g} in every training row: nothing to predict")
        return Target(name, (), float(amounts.mean()), float(amounts.std()))
    words, everywhere = as_words(training), as_words(values)
    classes = [words.levels[i] for i in np.unique(words.codes)]
    if len(classes) < 2:
        raise UserError(f"{where}: the target {name!r} is {classes[0]!r} in every training row: nothing to predict")
    unseen = {everywhere.levels[i] for i in np.unique(everywhere.codes)} - {*classes}
    if unseen:
        raise UserError(
            f"{where}: class {min(unseen)!r} of {name!r} has no training row; move one there, leave it out, or ask for "
            "task='regression' if the target is an amount"
        )
    if not isinstance(training, Words):
        classes.sort(key=float)
    return Target(name, tuple(classes))


def _sentence_on(target: Target) -> str:
    if not target.classes:
        return f"target {target.name!r} is predicted as an amount, of mean {target.mean:.4g} and std {target.std:.4g}."
    some = ", ".join(map(repr, target.classes[:5])) + (", ..." if len(target.classes) > 5 else "")
    return f"target {target.name!r} is predicted as one of {len(target.classes)} classes: {some}."


def _with_checksum(data: TableData) -> TableData:
    digest = hashlib.sha256("\0".join([data.task, *data.feature_names, *data.preparation.target.classes]).encode())
    for part in (data.train, data.val, data.test):
        for array in part:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data.cast("B"))
    return data._replace(checksum=digest.hexdigest())
