"""Files of PyTorch: tensors as they are, and the forms of GraphSlim and DD-Ranking."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hcdc_jax.condensed import Condensed
from hcdc_jax.errors import UserError
from hcdc_jax.exports.arrays import ddranking_arrays, graphslim_arrays
from hcdc_jax.storage import files


def write_tensors(condensed: Condensed, out: Path) -> None:
    """Inputs and labels of both parts: `torch.load(out)["train"]`."""
    train, val = condensed.as_torch()
    _save({"train": train.tensors, "val": val.tensors}, out)


def write_graphslim(condensed: Condensed, out: Path) -> None:
    """S_train where GraphSlim's `load_reduced` looks, if `save_path` is `out`.

    The files are `reduced_graph/<method>/adj_<data set>_<nodes>_<seed>.pt` and the like: where theirs has the
    `reduction_rate` of its own command, ours has the number of nodes.
    """
    arrays, card = graphslim_arrays(condensed), condensed.card
    name = f"{card['source']['name']}_{len(arrays['label'])}_{card['seed']}"
    folder = Path(out) / "reduced_graph" / card["method"]
    _save_each({f"{kind}_{name}": array for kind, array in arrays.items()}, folder)


def write_ddranking(condensed: Condensed, out: Path) -> None:
    """`images.pt` and, where there are such, `labels.pt` and `lr.pt` for DD-Ranking's evaluators."""
    _save_each(ddranking_arrays(condensed), Path(out))


def _save_each(arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    torch = _torch()
    for name, array in arrays.items():
        _save(torch.as_tensor(array), folder / f"{name}.pt")


def _save(content: Any, path: Path) -> None:
    buffer = io.BytesIO()
    _torch().save(content, buffer)
    files.write_bytes(path, buffer.getvalue())


def _torch() -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("PyTorch is not installed; install it with: pip install 'hcdc-jax[torch]'") from error
    return torch
