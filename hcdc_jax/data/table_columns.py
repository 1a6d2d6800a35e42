"""Columns of tables, out of files and data frames: numbers, or words as numbered levels."""

from __future__ import annotations

import csv
import importlib
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError

MISSING = ("", "NA", "N/A", "NaN", "?", "null")
"""What stands for a missing value, in large or small letters."""
DELIMITERS = (",", ";", "\t")
_ROWS_AT_ONCE = 4096  # few enough to lie in the cache while they become columns
_SNIFFED = 1 << 16  # characters of a file that its delimiter is read off
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?\d{1,3}([,' ]\d{3})+(\.\d+)?|[+-]?\d{1,3}(\.\d{3})+,\d+")
# What a missing value of these types is called in text.
_MISSING_OBJECTS = {"NoneType": "None", "float": "nan", "NAType": "<NA>", "NaTType": "NaT"}


class Words(NamedTuple):
    """A column of categories.

    Attributes:
      codes: [n] int32 numbers of levels; -1 where the value is missing.
      levels: the different words, sorted.
    """

    codes: np.ndarray
    levels: tuple[str, ...]


Column: TypeAlias = np.ndarray | Words
"""Numbers [n] float64 with NaN where one is missing, or `Words`."""


class Columns(NamedTuple):
    """A table by columns.

    Attributes:
      where: what errors call the table.
      columns: of equal length, by name, in the order of the table.
      notes: what was decided in reading them, one sentence each.
    """

    where: str
    columns: dict[str, Column]
    notes: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        return next((num_values(column) for column in self.columns.values()), 0)


class _Reading(NamedTuple):
    """How values become columns: names that stay words, small letters of missing values, whether 1,5 is a number."""

    words: frozenset[str]
    missing: frozenset[str]
    decimal_comma: bool = False


def read_columns(
    source: Any, *, words: Collection[str] = (), missing: Sequence[str] = MISSING, delimiter: str | None = None
) -> Columns:
    """Columns of a table; one in which every value is a number, or true or false, is one of numbers.

    Args:
      source: path of a .csv, .tsv, .parquet or .npz file, a data frame (anything with `columns` whose
        `frame[column].to_numpy()` is an array, as pandas and polars have it), or a mapping from names to arrays.
      words: columns whose text stays words even where every value is a number; numbers stay numbers.
      missing: see `MISSING`.
      delimiter: of a CSV file; None finds it out among comma, semicolon and tab.

    Raises:
      UserError: the file is missing or damaged, or no table; the text says what and where.
    """
    reading = _Reading(frozenset(words), frozenset(text.strip().lower() for text in missing))
    if isinstance(source, Columns):
        return source
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.suffix == ".npz":
            return _from_arrays(_npz_columns(path), str(path), reading)
        if not path.is_file():
            raise UserError(f"{path}: no such file" if not path.exists() else f"{path} is a folder; give the file")
        if path.suffix in (".parquet", ".pq"):
            return _from_frame(_read_parquet(path), str(path), reading)
        return _read_csv(path, delimiter, reading)
    return _from_frame(source, "the table", reading)


def num_values(column: Column) -> int:
    """How many values a column has, missing ones among them."""
    return len(column.codes if isinstance(column, Words) else column)


def taken(column: Column, rows: np.ndarray) -> Column:
    """The column at those rows; words keep all levels."""
    return column._replace(codes=column.codes[rows]) if isinstance(column, Words) else column[rows]


def is_missing(column: Column) -> np.ndarray:
    """Where a value is missing: [n] booleans."""
    return column.codes < 0 if isinstance(column, Words) else np.isnan(column)


def as_words(column: Column) -> Words:
    """Numbers as their shortest text, whole ones without a point; words as they are."""
    if isinstance(column, Words):
        return column
    values, codes = np.unique(column, return_inverse=True)  # one NaN for all, and it comes last
    found = [number_text(value) for value in values[~np.isnan(values)].tolist()]
    levels = sorted(found)
    place = np.array([*map({level: i for i, level in enumerate(levels)}.__getitem__, found), -1], np.int32)
    return Words(place[np.where(np.isnan(column), -1, codes)], tuple(levels))


def as_numbers(name: str, column: Column, where: str) -> np.ndarray:
    """Numbers [n] of words that all are such; numbers as they are.

    Raises:
      UserError: a word is no number; names its row.
    """
    if not isinstance(column, Words):
        return column
    values = [number(level) for level in column.levels]
    used = np.bincount(column.codes[column.codes >= 0], minlength=len(values)) > 0
    wrong = next((i for i in np.flatnonzero(used) if values[i] is None), None)
    if wrong is not None:
        row = int(np.argmax(column.codes == wrong)) + 1
        raise UserError(f"{where}: {column.levels[wrong]!r} in column {name!r}, row {row}, is no number")
    return np.array([*(np.nan if value is None else value for value in values), np.nan])[column.codes]


def number_text(value: float) -> str:
    """The shortest text of a number; whole ones without a point."""
    return str(int(value)) if value.is_integer() else repr(value)


def number(text: str) -> float | None:
    """The number that a text is, or None; 1_000 is none."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def check_finite(name: str, column: Column, where: str) -> None:
    """Checks that numbers are finite or missing.

    Raises:
      UserError: one is not; names its row, counted from 1 below the header.
    """
    if not isinstance(column, Words) and np.isinf(column).any():
        row = int(np.flatnonzero(np.isinf(column))[0]) + 1
        raise UserError(f"{where}: column {name!r} is infinite in row {row}; leave the cell empty if it is missing")


def _read_csv(path: Path, delimiter: str | None, reading: _Reading) -> Columns:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if delimiter is None:
                delimiter = _sniffed(file.read(_SNIFFED))
                file.seek(0)
            header, cells = _cells(csv.reader(file, delimiter=delimiter))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as CSV in UTF-8") from error
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error
    except (csv.Error, TypeError) as error:
        raise UserError(f"{path} cannot be read as CSV with the delimiter {delimiter!r}: {error}") from error
    except ValueError as error:  # of zip: rows differ in length
        raise _ragged(path, delimiter) from error
    if not header:
        raise UserError(f"{path} is empty; it needs a line with the names of the columns, and a line for each row")
    if all(number(name) is not None for name in header):
        raise UserError(f"{path}: the first line must name the columns, and it holds numbers ({', '.join(header[:3])})")
    if not cells[0]:
        raise UserError(f"{path} has no rows below the names of its columns")
    # A first column without a name is what pandas writes for the numbers of its rows.
    header = [name or f"unnamed_{i}" for i, name in enumerate(header, 1)]
    return _parsed(zip(header, cells, strict=True), header, str(path), reading._replace(decimal_comma=delimiter != ","))


def _cells(reader: Iterator[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The first line, and the cells of all others by columns; blank lines are left out."""
    rows = filter(None, reader)
    header = [name.strip() for name in next(rows, [])]
    cells: list[list[str]] = [[] for _ in header]
    while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        # With the header, so that zip sees rows that all are longer than it.
        for column, values in zip(cells, zip(header, *some, strict=True), strict=True):
            column.extend(values[1:])
    return header, cells


def _sniffed(text: str) -> str:
    """The delimiter that parts the first lines into equally many cells, the most of those that do."""

    def cells(delimiter: str) -> tuple[bool, int]:
        rows = [row for row in itertools.islice(csv.reader(text.splitlines(keepends=True), delimiter=delimiter), 20)]
        widths = [len(row) for row in rows[: len(rows) - 1 or 1] if row] or [0]  # the last line may be cut off
        return widths[0] > 1 and len(set(widths)) == 1, widths[0]

    return max(DELIMITERS, key=cells)


def _ragged(path: Path, delimiter: str | None) -> UserError:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter or ",")
        width = next(len(row) for row in reader if row)
        found, line = next((len(row), reader.line_num) for row in reader if row and len(row) != width)
    return UserError(
        f"{path}: line {line} has {found} cells, and the header names {width} columns (delimiter {delimiter!r}); quote "
        "cells that hold the delimiter"
    )


def _read_parquet(path: Path) -> Any:
    """A frame of whatever library for it is there."""
    for module, function in (("pyarrow.parquet", "read_table"), ("polars", "read_parquet"), ("pandas", "read_parquet")):
        try:
            read = getattr(importlib.import_module(module), function)
        except ImportError:
            continue
        try:
            return read(path)
        except Exception as error:  # each library has its own
            raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    raise UserError(f"{path}: reading Parquet needs pyarrow (pip install pyarrow), polars or pandas")


def _npz_columns(path: Path) -> dict[str, np.ndarray]:
    """Columns of the arrays `X` or `features` [n, d], `y` or `target` [n], and `feature_names` [d] if there are any."""
    arrays = read_arrays(path)
    inputs = next((arrays[name] for name in ("X", "features") if name in arrays), None)
    target = next((name for name in ("y", "target") if name in arrays), None)
    if inputs is None or target is None:
        raise UserError(f"{path} needs the arrays X (or features) and y (or target); it holds {', '.join(arrays)}")
    if inputs.ndim != 2:
        raise UserError(f"{path}: X must have shape [rows, columns], got {list(inputs.shape)}")
    names = [str(name) for name in arrays.get("feature_names", [f"x{i}" for i in range(inputs.shape[1])])]
    if len(names) != inputs.shape[1]:
        raise UserError(f"{path}: feature_names has {len(names)} names, X has {inputs.shape[1]} columns")
    _check_names([*names, target], str(path))
    return {**dict(zip(names, inputs.T, strict=True)), target: arrays[target]}


def _from_frame(frame: Any, where: str, reading: _Reading) -> Columns:
    if isinstance(frame, Mapping):
        return _from_arrays(frame, where, reading)
    names = getattr(frame, "column_names", None)  # of pyarrow, whose `columns` are the columns themselves
    if names is None:
        names = getattr(frame, "columns", None)
    if names is None:
        raise UserError(f"a table is the path of a file, a data frame or a mapping, not {type(frame).__name__}")
    names = list(names)
    _check_names(list(map(str, names)), where)
    return _from_arrays({str(name): _array(frame[name]) for name in names}, where, reading)


def _array(column: Any) -> np.ndarray:
    """A column of a data frame as an array."""
    if hasattr(getattr(column, "type", None), "index_type"):  # pyarrow 26 gives the last category for missing ones
        column = column.cast(column.type.value_type)
    return column.to_numpy()


def _from_arrays(arrays: Mapping[Any, Any], where: str, reading: _Reading) -> Columns:
    arrays = {str(name): values if isinstance(values, Words) else np.asarray(values) for name, values in arrays.items()}
    for name, values in arrays.items():
        if not isinstance(values, Words) and values.ndim != 1:
            raise UserError(f"{where}: column {name!r} must have shape [rows], got {list(values.shape)}")
    if len({num_values(values) for values in arrays.values()}) > 1:
        raise UserError(f"{where}: the columns differ in length")
    if not arrays or not num_values(next(iter(arrays.values()))):
        raise UserError(f"{where} has no rows")
    return _parsed(arrays.items(), list(arrays), where, reading)


def _check_names(names: list[str], where: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: two columns are called {twice!r}; rename one")


def _parsed(values: Iterable[tuple[str, Any]], names: list[str], where: str, reading: _Reading) -> Columns:
    _check_names(names, where)
    columns, notes = {}, []
    for name, of_column in values:
        columns[name], note = _column(name, of_column, where, reading)
        notes += [note] if note else []
    return Columns(where, columns, tuple(notes))


def _column(name: str, values: Any, where: str, reading: _Reading) -> tuple[Column, str]:
    """A column of text, of an array of any dtype, or of `Words`; and what is to be told of it."""
    if isinstance(values, Words):
        return values, ""
    kind = values.dtype.kind if isinstance(values, np.ndarray) else "text"
    if kind == "c":
        raise UserError(f"{where}: column {name!r} holds complex numbers")
    if kind == "m":
        return values / np.timedelta64(1, "s"), f"column {name!r}: time spans are read as seconds"
    if kind in "biuf":
        return _without(values.astype(np.float64), reading.missing), ""
    if kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if kind == "M":
        values = np.datetime_as_string(values)
        reading = reading._replace(missing=reading.missing | {"nat"})
    if kind == "O":
        kinds = {type(value).__name__ for value in values}
        nested = kinds & {"list", "dict", "ndarray", "tuple", "set"}
        if nested:
            raise UserError(f"{where}: column {name!r} holds a {nested.pop()} in each cell; give it numbers or words")
        gone = {text.lower() for kind, text in _MISSING_OBJECTS.items() if kind in kinds}
        reading, values = reading._replace(missing=reading.missing | gone), list(map(str, values))
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if name not in reading.words:
        numbers = _quick_numbers(values, reading.missing)
        if numbers is not None:
            return _without(numbers, reading.missing), ""
    words = _words(values, reading.missing)
    if name in reading.words:
        return words, ""
    column, note = _numbers_or_words(name, words, where, reading.decimal_comma)
    return (column if isinstance(column, Words) else _without(column, reading.missing)), note


def _without(numbers: np.ndarray, missing: frozenset[str]) -> np.ndarray:
    """The numbers, NaN in the place of those that stand for a missing value, such as -999 if the user says so."""
    markers = [value for text in missing if (value := number(text)) is not None]
    return np.where(np.isin(numbers, markers), np.nan, numbers) if markers else numbers


def _quick_numbers(values: Sequence[str], missing: frozenset[str]) -> np.ndarray | None:
    """The numbers of a column with points for commas, if it is one; a pass in C, or two where some are missing."""
    try:
        numbers = np.fromiter(map(float, values), np.float64, len(values))
    except ValueError:
        gone = {value: "nan" for value in set(values) if value.strip().lower() in missing}
        try:
            numbers = np.fromiter(map(float, map(gone.get, values, values)), np.float64, len(values))
        except ValueError:
            return None
    return None if "_" in "".join(values) else numbers


def _words(values: Sequence[str], missing: frozenset[str]) -> Words:
    stripped = {value: value.strip() for value in dict.fromkeys(values)}
    levels = sorted({level for level in stripped.values() if level.lower() not in missing})
    place = {level: i for i, level in enumerate(levels)}
    codes = {value: place.get(level, -1) for value, level in stripped.items()}
    return Words(np.fromiter(map(codes.__getitem__, values), np.int32, len(values)), tuple(levels))


def _numbers_or_words(name: str, words: Words, where: str, decimal_comma: bool) -> tuple[Column, str]:
    """A column of text with gaps, with numbers in it or without."""
    levels, note = words.levels, ""
    others = [level for level in levels if number(level) is None]
    if others and all(_DECIMAL_COMMA.fullmatch(level) or _GROUPED.fullmatch(level) for level in others):
        if not decimal_comma or not all(map(_DECIMAL_COMMA.fullmatch, levels)):
            raise _ambiguous(name, words, max(others, key=lambda level: not _DECIMAL_COMMA.fullmatch(level)), where)
        levels = [level.replace(",", ".") for level in levels]
        note = f"column {name!r}: the comma in numbers such as {others[0]!r} is read as a decimal point."
    if {level.lower() for level in levels} <= {"true", "false"}:
        levels = ["1" if level.lower() == "true" else "0" for level in levels]
    numbers = [number(level) for level in levels]
    if None in numbers:
        return words, ""
    return np.array([*numbers, np.nan])[words.codes], note


def _ambiguous(name: str, words: Words, level: str, where: str) -> UserError:
    row = int(np.argmax(words.codes == words.levels.index(level))) + 1
    return UserError(
        f"{where}: {level!r} in column {name!r}, row {row}, may have a decimal comma or a mark of thousands; write "
        f"numbers with a decimal point alone, or read the column as categories ({name!r} in `categories`)"
    )
