"""The published accuracies of all cells of NAS-Bench-201, from a file on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hcdc_jax.data.cells import NUM_CELLS, OPERATIONS, all_cells
from hcdc_jax.data.download import DATA_DIR_VARIABLE
from hcdc_jax.data.download import data_dir as find_data_dir
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError

TABLES = {
    ("cifar10", "val"): "cifar10_valid_val_acc",
    ("cifar10", "test"): "cifar10_test_acc",
    ("cifar100", "val"): "cifar100_val_acc",
    ("cifar100", "test"): "cifar100_test_acc",
    ("imagenet16_120", "val"): "imagenet16_120_val_acc",
    ("imagenet16_120", "test"): "imagenet16_120_test_acc",
}
"""Arrays of the file by data set and part. On CIFAR-10 "val" are networks trained on half of the training images and
scored on the other half, "test" are networks trained on all of them."""


def table_path(data_dir: Path) -> Path:
    """Where the accuracies lie in a folder of data."""
    return data_dir / "nasbench201" / "nasbench201.npz"


def published_accuracies(dataset: str, part: str, *, data_dir: str | Path | None = None) -> np.ndarray:
    """Accuracies after 200 epochs in per cent, averaged over the benchmark's runs: [15625], by its numbers of cells.

    Dong and Yang, arXiv 2001.00326; Dong et al., arXiv 2009.00437. Search on "val", report on "test".

    Args:
      dataset: "cifar10", "cifar100" or "imagenet16_120".
      part: "val" or "test".
      data_dir: folder with `nasbench201/nasbench201.npz`; by default the environment variable HCDC_DATA_DIR.

    Raises:
      UserError: there is no such table, no such file, or it is not of this space.
    """
    if (dataset, part) not in TABLES:
        known = ", ".join(f"{name} {half}" for name, half in TABLES)
        raise UserError(f"there are no published accuracies for {dataset!r}, {part!r}; known are {known}")
    folder = find_data_dir(data_dir)
    path = table_path(folder) if folder else None
    if path is None or not path.exists():
        raise UserError(
            "the accuracies of NAS-Bench-201 are read from disk only: put nasbench201/nasbench201.npz into a folder "
            f"that {DATA_DIR_VARIABLE} names; `hcdc convert` makes it from the benchmark's files"
        )
    arrays = read_arrays(path)
    for name in ("ops", "op_names", TABLES[dataset, part]):
        if name not in arrays:
            raise UserError(
                f"{path}: array {name!r} is missing; the file holds {', '.join(sorted(arrays)) or 'nothing'}"
            )
    names = tuple(np.asarray(arrays["op_names"]).astype("U").tolist())
    if names != OPERATIONS or not np.array_equal(arrays["ops"], all_cells()):
        raise UserError(f"{path} does not list the {NUM_CELLS} cells of NAS-Bench-201 in the benchmark's order")
    accuracies = np.asarray(arrays[TABLES[dataset, part]], np.float64)
    if accuracies.shape != (NUM_CELLS,) or not ((accuracies >= 0) & (accuracies <= 100)).all():
        raise UserError(f"{path}: {TABLES[dataset, part]} must hold {NUM_CELLS} numbers from 0 to 100")
    if accuracies.max() <= 1:
        raise UserError(f"{path}: {TABLES[dataset, part]} must be in per cent, and its largest number is at most 1")
    return accuracies
