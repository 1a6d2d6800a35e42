"""Condensed data in the forms that other software reads: `hcdc export DIR --format NAME`.

hc.exports.EXPORTS["graphslim"].write(condensed, Path("out"))
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hcdc_jax.condensed import Condensed
from hcdc_jax.exports import torch_files
from hcdc_jax.exports.hugging_face import write_datasets
from hcdc_jax.storage import files
from hcdc_jax.storage.codec import to_arrays

__all__ = ["EXPORTS", "Export"]


class Export(NamedTuple):
    """One form.

    Attributes:
      write: `write(condensed, out)`.
      suffix: of the file that it writes; "" where it is a folder.
    """

    write: Callable[[Condensed, Path], None]
    suffix: str


def _write_npz(condensed: Condensed, out: Path) -> None:
    parts = {"train": condensed.train, "val": condensed.val, "variables": condensed.variables}
    files.write_npz(out, to_arrays(parts))


EXPORTS = {
    "npz": Export(_write_npz, ".npz"),
    "png": Export(Condensed.save_images, ""),
    "torch": Export(torch_files.write_tensors, ".pt"),
    "graphslim": Export(torch_files.write_graphslim, ""),
    "ddranking": Export(torch_files.write_ddranking, ""),
    "datasets": Export(write_datasets, ""),
}
"""By the name of `--format`."""
