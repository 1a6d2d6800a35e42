"""The social graph of Flickr users from the attributed-network papers (not GraphSAINT's "Flickr")."""

from __future__ import annotations

from pathlib import Path

from hcdc_jax.data.download import DATA_DIR_VARIABLE
from hcdc_jax.data.graphs import GraphData
from hcdc_jax.data.npz import graph_from_arrays, read_arrays
from hcdc_jax.errors import UserError

TRAIN_PER_CLASS = (20, 40, 60)
"""Training nodes per class of splits 0, 1 and 2 (AM-GCN; Wang et al., 2020, arXiv:2007.02265)."""


def load_flickr_social(*, split: int = 0, seed: int = 0, data_dir: Path | None = None) -> GraphData:
    """7,575 users with binary tags as features and joined groups as classes; the validation part is drawn by `seed`.

    Raises:
      UserError: there is no such split, or `data_dir` does not hold the file (the set is not downloaded).
    """
    path = data_dir / "flickr_social" / "flickr_social.npz" if data_dir else None
    if path is None or not path.exists():
        raise UserError(
            f"flickr_social is read from disk only: put flickr_social/flickr_social.npz into a folder that "
            f"{DATA_DIR_VARIABLE} names"
        )
    if not 0 <= split < len(TRAIN_PER_CLASS):
        raise UserError(f"{path}: split {split} does not exist; the file holds splits 0 to {len(TRAIN_PER_CLASS) - 1}")
    arrays = read_arrays(path)
    size = TRAIN_PER_CLASS[split]
    chosen = {f"{part}_idx": arrays[f"{part}{size}_idx"] for part in ("train", "test")}
    of_splits = {f"{part}{other}_idx" for part in ("train", "test") for other in TRAIN_PER_CLASS}
    arrays = {name: array for name, array in arrays.items() if name not in of_splits} | chosen
    return graph_from_arrays(arrays, name="flickr_social", seed=seed, where=str(path))
