"""The report stage: the run folder's own tables and figures, and what a full training costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hcdc_jax import report
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.storage import files


def write_report(folder: Path) -> dict[str, Any]:
    """Writes the report of a run folder and returns the content of `report.json`.

    Raises:
      UserError: nothing was ranked yet, a file is damaged, or the disk is full.
    """
    path = folder / "results" / "info.json"
    if path.exists():
        info = json.loads(path.read_text(encoding="utf-8"))
        files.write_json(path, info | {"full_training_seconds": full_training_seconds(folder)})
    return report.assemble(folder)


def full_training_seconds(folder: Path) -> float | None:
    """Seconds of one training on the full data, without compilation; None where none was measured.

    The truth trains many candidates at once, the targets of HCDC are trained one by one. Which is faster depends on
    the device; the faster one is what a rival search on the full data would take.
    """
    found = []
    truth = folder / "results" / "truth.npz"
    if truth.exists():
        arrays = read_arrays(truth)
        if float(arrays["seconds"]):  # a published table took no time here
            found.append(float(arrays["seconds"]) / arrays["loss"].size)
    targets = sorted((folder / "checkpoints").glob("targets_seed*/*.npz"))
    trained = [float(read_arrays(path)["training_seconds"]) for path in targets]
    if any(trained):  # unrolled targets do not know what their training took alone
        found.append(float(np.mean(trained)))
    return min(found, default=None)
