"""Cells of NAS-Bench-201: their operations, strings and numbers, exactly as the benchmark has them.

A cell is a graph of four nodes; node 0 is its input, node 3 its output, and each of the six edges carries one of five
operations (Dong and Yang, arXiv 2001.00326). Here it is a tuple of six places in `OPERATIONS`, by the order of `EDGES`.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from hcdc_jax.errors import UserError, check_name

Cell: TypeAlias = tuple[int, ...]

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONV_1X1, CONV_3X3, POOL = range(5)
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))
"""The ways from input to output, as places in `EDGES`."""
NUM_CELLS = len(OPERATIONS) ** len(EDGES)

_FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
_ORDER_SEED = 88
"""The benchmark numbers its cells in the order of a shuffle by this seed of Python's own generator."""


@functools.cache
def all_cells() -> np.ndarray:
    """All cells [15625, 6], row i the benchmark's number i. Read-only."""
    cells = list(itertools.product(range(len(OPERATIONS)), repeat=len(EDGES)))
    random.Random(_ORDER_SEED).shuffle(cells)
    array = np.array(cells, np.int8)
    array.flags.writeable = False
    return array


@functools.cache
def _numbers() -> dict[Cell, int]:
    return {tuple(cell): number for number, cell in enumerate(all_cells().tolist())}


def cell_of(given: str | int | Sequence[int]) -> Cell:
    """The cell that a string, a number of the benchmark, or six numbers of operations name.

    Raises:
      UserError: there is no such cell; the text says what is wrong with it.
    """
    if isinstance(given, str):
        return _of_string(given)
    if isinstance(given, int | np.integer):
        if not 0 <= given < NUM_CELLS:
            raise UserError(f"there is no cell number {given}; NAS-Bench-201 has 0 to {NUM_CELLS - 1}")
        return tuple(all_cells()[given].tolist())
    cell = tuple(int(operation) for operation in given)
    if len(cell) != len(EDGES) or not all(0 <= operation < len(OPERATIONS) for operation in cell):
        raise UserError(f"{cell} is no cell: it takes {len(EDGES)} numbers of operations, from 0 to 4")
    return cell


def string_of(cell: Sequence[int]) -> str:
    """The benchmark's string of a cell."""
    edges = [f"{OPERATIONS[operation]}~{source}" for operation, (source, _) in zip(cell, EDGES, strict=True)]
    nodes = (edges[:1], edges[1:3], edges[3:])
    return "+".join(f"|{'|'.join(node)}|" for node in nodes)


def number_of(cell: Sequence[int]) -> int:
    """The benchmark's number of a cell."""
    return _numbers()[tuple(int(operation) for operation in cell)]


def _of_string(text: str) -> Cell:
    found = re.findall(r"\|?([^|~+]+)~(\d)\|", text)
    for operation, _ in found:
        check_name("operation", operation, OPERATIONS, where=f"in the cell {text!r}")
    cell = tuple(OPERATIONS.index(operation) for operation, _ in found)
    if len(cell) != len(EDGES) or string_of(cell) != text:
        raise UserError(f"{text!r} is no cell of NAS-Bench-201; write it as {_FORM}")
    return cell


def is_connected(cells: ArrayLike) -> np.ndarray:
    """Whether anything but zeros reaches the output: [...] for cells [..., 6].

    341 of all cells have no way from input to output; their networks answer alike whatever they see.
    """
    present = np.asarray(cells) != NONE
    return np.any([present[..., path].all(-1) for path in map(list, PATHS)], axis=0)


def signature(cell: Sequence[int]) -> str:
    """Equal for cells that the benchmark counts as the same computation; 6,466 different ones among all cells.

    Its rule: an edge from zeros is zeros, a skip is its source, and the order of the terms of a sum does not matter.
    It does not look inside sums, so a few cells that compute the same keep different signatures.
    """
    zeros, nodes = "#", ["x"]
    for node in range(1, 4):
        terms = []
        for operation, (source, target) in zip(cell, EDGES, strict=True):
            if target != node:
                continue
            if operation == NONE or nodes[source] == zeros:
                terms.append(zeros)
            elif operation == SKIP:
                terms.append(nodes[source])
            else:
                terms.append(f"({nodes[source]})@{OPERATIONS[operation]}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]
