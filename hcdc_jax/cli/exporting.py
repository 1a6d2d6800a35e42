"""How a condensed data set is written for others to read."""

from __future__ import annotations

import io
from pathlib import Path

from hcdc_jax.condensed import Condensed
from hcdc_jax.storage import files
from hcdc_jax.storage.codec import to_arrays


def _export_npz(condensed: Condensed, out: Path) -> None:
    parts = {"train": condensed.train, "val": condensed.val, "variables": condensed.variables}
    files.write_npz(out, to_arrays(parts))


def _export_torch(condensed: Condensed, out: Path) -> None:
    train, val = condensed.as_torch()
    import torch  # pyright: ignore[reportMissingImports]

    buffer = io.BytesIO()
    torch.save({"train": train.tensors, "val": val.tensors}, buffer)
    files.write_bytes(out, buffer.getvalue())


EXPORTS = {"npz": (_export_npz, ".npz"), "png": (Condensed.save_images, ""), "torch": (_export_torch, ".pt")}
"""By format: `write(condensed, out)`, and how the name of what it writes ends."""
