"""From the columns of a table to the numbers that a network reads: learned on training rows, applied to any others."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax.data.table_columns import (
    MISSING,
    Column,
    Columns,
    Words,
    as_numbers,
    as_words,
    check_finite,
    is_missing,
    number,
    number_text,
    read_columns,
)
from hcdc_jax.errors import UserError, did_you_mean, nearest

MAX_LEVELS = 100
"""Inputs that one column of categories makes at most: enough for countries, and a million levels stay affordable."""
_IDENTIFIER_LEVELS = 20  # fewer different words than this may well differ in every row of a small table
_IDENTIFIER_SHARE = 0.95
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}.*")
_WORDY = 40  # characters; labels of categories are shorter


class NumberColumn(NamedTuple):
    """How a column of numbers becomes inputs: missing ones imputed by the median, then (x - mean) / std.

    Attributes:
      name: of the column.
      median: of the training rows that have a value.
      mean: of the training rows once imputed.
      std: of the same (of the population); 0 where all values are one, which is then no input.
      marked: whether a further input is 1 where the value was missing, 0 elsewhere.
    """

    name: str
    median: float
    mean: float
    std: float
    marked: bool

    @property
    def feature_names(self) -> tuple[str, ...]:
        return (self.name,) * (self.std > 0) + (f"{self.name}=(missing)",) * self.marked


class WordColumn(NamedTuple):
    """How a column of categories becomes inputs: one for each level, 1 in its rows and 0 elsewhere.

    Attributes:
      name: of the column.
      levels: of the training rows, sorted; those that are pooled are not among them.
      pooled: whether a further input is 1 for all other levels, known or not.
      marked: whether a further input is 1 where the value is missing; else all inputs are 0 there.
    """

    name: str
    levels: tuple[str, ...]
    pooled: bool
    marked: bool

    @property
    def feature_names(self) -> tuple[str, ...]:
        further = ("(other)",) * self.pooled + ("(missing)",) * self.marked
        return tuple(f"{self.name}={level}" for level in self.levels + further)


class Target(NamedTuple):
    """What is predicted.

    Attributes:
      name: of the column.
      classes: their names, numbered 0, 1, ...; none under regression.
      mean: of the training rows under regression, else 0.
      std: of the same, else 1.
    """

    name: str
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0


class Preparation(NamedTuple):
    """What was learned on the training rows of a table; goes to disk as plain arrays by `to_arrays`.

    Attributes:
      columns: those that become inputs, in their order.
      dropped: names of those that do not.
      target: what is predicted.
      missing: what stands for a missing value.
    """

    columns: tuple[NumberColumn | WordColumn, ...]
    dropped: tuple[str, ...]
    target: Target
    missing: tuple[str, ...] = MISSING

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the d inputs: that of the column, for categories `column=level`."""
        return tuple(name for column in self.columns for name in column.feature_names)

    def apply(self, table: Any) -> np.ndarray:
        """Inputs [n, d] float32 of the rows of a new table; its further columns are ignored.

        Args:
          table: as `table_columns.read_columns` takes it: path, data frame, or mapping from names to arrays.

        Raises:
          UserError: a column is missing, holds words for numbers, or an infinite number.
        """
        return self.apply_and_tell(table)[0]

    def apply_and_tell(self, table: Any) -> tuple[np.ndarray, tuple[str, ...]]:
        """As `apply`; and what is to be told of it, one sentence each."""
        words = [column.name for column in self.columns if isinstance(column, WordColumn)]
        table = read_columns(table, words=words, missing=self.missing)
        inputs = np.zeros((table.num_rows, len(self.feature_names)), np.float32)
        notes, start = list(table.notes), 0
        for column in self.columns:
            if column.name not in table.columns:
                hint = did_you_mean(nearest(column.name, table.columns))
                raise UserError(f"{table.where}: column {column.name!r} is missing; {hint or 'add it'}")
            end = start + len(column.feature_names)
            given, out = table.columns[column.name], inputs[:, start:end]
            if isinstance(column, NumberColumn):
                notes += _write_number(column, given, out, table.where)
            else:
                notes += _write_words(column, given, out)
            start = end
        known = {*self.dropped, self.target.name, *(column.name for column in self.columns)}
        extra = [name for name in table.columns if name not in known]
        if extra:
            notes.append(f"columns that the preparation does not know are ignored: {_listed(extra)}")
        return inputs, tuple(notes)

    def labels(self, column: Column, where: str = "the table") -> np.ndarray:
        """The target as a network learns it: [n] int32 class numbers, or [n] float32 standardised.

        Raises:
          UserError: a value is missing, of an unknown class, or no number.
        """
        if is_missing(column).any():
            raise UserError(f"{where}: row {np.argmax(is_missing(column)) + 1} has no {self.target.name!r}")
        if not self.target.classes:
            return ((as_numbers(self.target.name, column, where) - self.target.mean) / self.target.std).astype("f4")
        words = as_words(column)
        codes = _codes(words, self.target.classes, -1, by_value=not isinstance(column, Words))[words.codes]
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            raise UserError(
                f"{where}: row {row + 1} has the class {words.levels[words.codes[row]]!r} of {self.target.name!r}; "
                f"known are {_listed(self.target.classes)}"
            )
        return codes

    def invert_target(self, labels: np.ndarray) -> np.ndarray:
        """Labels or predictions as the table has them: names of classes of [n] numbers, or amounts of any shape."""
        if self.target.classes:
            return np.array(self.target.classes)[np.asarray(labels)]
        return np.asarray(labels, np.float64) * self.target.std + self.target.mean

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays of numbers and text, as an .npz holds them without pickles."""
        columns = self.columns
        numbers = [c[1:4] if isinstance(c, NumberColumn) else (0.0,) * 3 for c in columns]
        levels = [c.levels if isinstance(c, WordColumn) else () for c in columns]
        return {
            "names": _text([c.name for c in columns]),
            "is_number": np.array([isinstance(c, NumberColumn) for c in columns], bool),
            "statistics": np.array(numbers, np.float64).reshape(-1, 3),
            "pooled": np.array([isinstance(c, WordColumn) and c.pooled for c in columns], bool),
            "marked": np.array([c.marked for c in columns], bool),
            "num_levels": np.array(list(map(len, levels)), np.int64),
            "levels": _text([level for of_column in levels for level in of_column]),
            "dropped": _text(self.dropped),
            "missing": _text(self.missing),
            "target_name": _text([self.target.name]),
            "target_classes": _text(self.target.classes),
            "target_statistics": np.array(self.target[2:], np.float64),
        }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Preparation:
    """The preparation that `to_arrays` wrote.

    Raises:
      UserError: an array is missing.
    """
    lacking = [name for name in Preparation((), (), Target("")).to_arrays() if name not in arrays]
    if lacking:
        raise UserError(f"these arrays are no preparation of a table: {lacking[0]!r} is missing")
    values = {name: np.asarray(array).tolist() for name, array in arrays.items()}
    ends, columns = np.cumsum(values["num_levels"], dtype=int).tolist(), []
    for i, name in enumerate(values["names"]):
        if values["is_number"][i]:
            columns.append(NumberColumn(name, *values["statistics"][i], marked=values["marked"][i]))
        else:
            levels = tuple(values["levels"][ends[i] - values["num_levels"][i] : ends[i]])
            columns.append(WordColumn(name, levels, values["pooled"][i], values["marked"][i]))
    target = Target(values["target_name"][0], tuple(values["target_classes"]), *values["target_statistics"])
    return Preparation(tuple(columns), tuple(values["dropped"]), target, tuple(values["missing"]))


def fit_preparation(
    table: Columns, target: Target, *, max_levels: int = MAX_LEVELS, missing: Sequence[str] = MISSING
) -> tuple[Preparation, tuple[str, ...]]:
    """Learns how columns become inputs, on training rows alone.

    Args:
      table: the training rows, without the column of the target.
      target: goes along.
      max_levels: inputs that one column of categories makes at most; the rarest levels share one.
      missing: what stands for a missing value in tables to come.

    Returns:
      The preparation; and what is to be told of it, one sentence each.

    Raises:
      UserError: no column is left, or a number is infinite.
    """
    if max_levels < 2:
        raise UserError(f"max_levels must be at least 2, not {max_levels}")
    columns, dropped, notes = [], [], []
    for name, column in table.columns.items():
        check_finite(name, column, table.where)
        if isinstance(column, Words):
            fitted, told = _fit_words(name, column, max_levels)
        else:
            fitted, told = _fit_number(name, column, table.where)
        columns += [] if fitted is None else [fitted]
        dropped += [name] if fitted is None else []
        notes += told
    if not columns:
        reason = f"; {notes[0].removesuffix('.')}" if notes else ""
        raise UserError(f"{table.where}: no column is left to predict {target.name!r} from{reason}")
    return Preparation(tuple(columns), tuple(dropped), target, tuple(missing)), tuple(notes)


def _fit_number(name: str, values: np.ndarray, where: str) -> tuple[NumberColumn | None, list[str]]:
    gone = np.isnan(values)
    if gone.all():
        return None, [f"column {name!r} is dropped: all its training values are missing."]
    median, marked = float(np.median(values[~gone])), bool(gone.any())
    filled = np.where(gone, median, values)
    if filled.min() == filled.max():
        if marked:
            told = f"column {name!r} has the one value {number_text(median)}: only whether it is missing is an input."
            return NumberColumn(name, median, median, 0.0, True), [told]
        return None, [f"column {name!r} is dropped: it is {number_text(median)} in every training row."]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(filled.mean()), float(filled.std())
    if not 0 < std < np.inf:
        raise UserError(f"{where}: the numbers of column {name!r} are too large or too close to each other; rescale it")
    told = f"column {name!r}: {_counted(gone.sum(), 'missing number')} imputed by the median, and marked in a column."
    return NumberColumn(name, median, mean, std, marked), [told] if marked else []


def _fit_words(name: str, words: Words, max_levels: int) -> tuple[WordColumn | None, list[str]]:
    present = words.codes[words.codes >= 0]
    counts = np.bincount(present, minlength=len(words.levels))
    found = np.flatnonzero(counts)
    marked = len(present) < len(words.codes)
    levels = [words.levels[i] for i in found]
    if not levels or (len(levels) == 1 and not marked):
        return None, [
            f"column {name!r} is dropped: it is {repr(levels[0]) if levels else 'missing'} in every training row."
        ]
    if 1 < len(levels) == len(present) or len(levels) >= max(_IDENTIFIER_LEVELS, _IDENTIFIER_SHARE * len(present)):
        share = f"{len(levels):,} different words in {len(present):,} rows"
        return None, [f"column {name!r} is dropped: {share} are likely an identifier, a date or free text."]
    notes = []
    if all(map(_DATE.fullmatch, levels)):
        notes.append(f"column {name!r} holds dates, read as categories; make them numbers, such as days, to use order.")
    elif max(map(len, levels)) > _WORDY:
        notes.append(f"column {name!r} holds long texts, read as categories: nothing looks into them.")
    if len(levels) > max_levels:
        kept = np.sort(found[np.argsort(-counts[found], kind="stable")[: max_levels - 1]])
        notes.append(
            f"column {name!r}: the {len(levels) - len(kept):,} rarest of {len(levels):,} categories are pooled."
        )
        return WordColumn(name, tuple(words.levels[i] for i in kept), True, marked), notes
    return WordColumn(name, tuple(levels), False, marked), notes


def _write_number(column: NumberColumn, given: Column, out: np.ndarray, where: str) -> Iterator[str]:
    check_finite(column.name, given, where)
    values = as_numbers(column.name, given, where)
    gone = np.isnan(values)
    if column.std:
        with np.errstate(over="ignore"):
            out[:, 0] = (np.where(gone, column.median, values) - column.mean) / column.std
        if not np.isfinite(out[:, 0]).all():
            row = int(np.argmax(~np.isfinite(out[:, 0])))
            raise UserError(
                f"{where}: {values[row]:g} in column {column.name!r}, row {row + 1}, is too far from training"
            )
    if column.marked:
        out[:, -1] = gone
    elif gone.any():
        yield f"column {column.name!r}: {_counted(gone.sum(), 'missing number')} imputed by the median of training."


def _write_words(column: WordColumn, given: Column, out: np.ndarray) -> Iterator[str]:
    words, num_levels = as_words(given), len(column.levels)
    gone = words.codes < 0
    elsewhere = num_levels if column.pooled else -1
    places = _codes(words, column.levels, elsewhere, by_value=not isinstance(given, Words))[words.codes]
    rows = np.flatnonzero(~gone & (places >= 0))
    out[rows, places[rows]] = 1
    if column.marked:
        out[gone, -1] = 1
    elif gone.any():
        yield f"column {column.name!r}: missing in {_counted(gone.sum(), 'row')}, and never in training: inputs are 0."
    others = ~gone & (places < 0)
    if others.any():
        example = words.levels[words.codes[np.argmax(others)]]
        unseen = f"{_counted(others.sum(), 'row')} of categories unseen in training, such as {example!r}"
        yield f"column {column.name!r}: {unseen}: inputs are 0."


def _codes(words: Words, levels: Sequence[str], unseen: int, *, by_value: bool) -> np.ndarray:
    """[levels of words + 1] int32: the place of each among `levels`, and -1 for missing values, which come last.

    Where the words were numbers, 1 is found as 1.0 and 01, too.
    """
    place = {level: i for i, level in enumerate(levels)}
    if by_value:
        place |= {number_text(value): i for level, i in place.items() if (value := number(level)) is not None}
    return np.array([*(place.get(level, unseen) for level in words.levels), -1], np.int32)


def _text(words: Collection[str]) -> np.ndarray:
    return np.array(list(words), np.str_)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
