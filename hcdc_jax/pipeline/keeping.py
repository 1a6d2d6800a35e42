"""What a stage has measured lies in the run folder, with what it took: made once, read ever after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcdc_jax.data.npz import read_arrays
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.progress import Progress
from hcdc_jax.storage import files


def kept(path: Path, make: Callable[[], Mapping[str, Any]]) -> tuple[dict[str, np.ndarray], Cost]:
    """The arrays of a file, and what they took; where the file is missing they are made and written first.

    Args:
      path: of the .npz, written whole or not at all.
      make: gives the arrays by name. Its time is kept beside them as `seconds` and `compile_seconds`, unless it has
        these itself. Where it raises nothing is written.

    Raises:
      UserError: the file is damaged, or cannot be written.
    """
    if not path.exists():
        with measured() as elapsed:
            arrays = jax.block_until_ready(make())
        files.write_npz(path, {"seconds": elapsed.run, "compile_seconds": elapsed.compile, **arrays})
    arrays = read_arrays(path)
    # Labels of older versions have no time of compilation.
    return arrays, Cost(float(arrays["seconds"]), float(arrays.get("compile_seconds", 0.0)))


def each_kept(
    paths: Sequence[Path], make: Callable[[int], Mapping[str, Any]], progress: Progress, what: str
) -> list[dict[str, np.ndarray]]:
    """`kept` of one file after the other, `make(i)` for path i: a kill loses the one at work.

    Args:
      paths: of the files.
      make: see `kept`.
      progress: told how many are there.
      what: they are, in words.
    """
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    for i in progress.track(missing, what, len(paths) - len(missing)):
        kept(paths[i], lambda i=i: make(i))
    return [read_arrays(path) for path in paths]
