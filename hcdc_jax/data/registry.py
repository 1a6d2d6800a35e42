"""Data sets by name: one line per set in `_REGISTRY`, one reader file per source."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from hcdc_jax.data.digits import load_digits_graph
from hcdc_jax.data.download import data_dir as find_data_dir
from hcdc_jax.data.flickr_social import load_flickr_social
from hcdc_jax.data.graphs import GraphData
from hcdc_jax.data.npz import read_graph
from hcdc_jax.data.planetoid import load_planetoid
from hcdc_jax.errors import UserError


class _Entry(NamedTuple):
    description: str
    load: Callable[..., GraphData]  # load(split=, seed=, data_dir=)


_REGISTRY: Mapping[str, _Entry] = {
    "digits_graph": _Entry("scikit-learn digits, 8 nearest neighbours; 1,797 nodes, 10 classes", load_digits_graph),
    "cora": _Entry("citations, public split; 2,708 nodes, 7 classes", functools.partial(load_planetoid, "cora")),
    "citeseer": _Entry(
        "citations, public split; 3,327 nodes, 6 classes", functools.partial(load_planetoid, "citeseer")
    ),
    "pubmed": _Entry("citations, public split; 19,717 nodes, 3 classes", functools.partial(load_planetoid, "pubmed")),
    "flickr_social": _Entry("Flickr users; 7,575 nodes, 9 classes; from disk only", load_flickr_social),
}


def datasets() -> dict[str, str]:
    """The names that `load_dataset` knows, each with a one-line description."""
    return {name: entry.description for name, entry in _REGISTRY.items()}


def load_dataset(
    name_or_path: str | Path = "",
    *,
    path: str | Path | None = None,
    split: int = 0,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> GraphData:
    """Loads a data set by its name, or from the user's own .npz file.

    Named sets are looked for in `data_dir`, then in the download cache (HCDC_CACHE_DIR, by default
    ~/.cache/hcdc_jax), and are downloaded into the cache otherwise. The layout of own files is that of
    `data.npz.read_graph`.

    Args:
      name_or_path: one of `datasets()`, or the path of an .npz file.
      path: path of an .npz file; wins over `name_or_path`.
      split: which of several splits.
      seed: draws what is random: the split of `digits_graph`, a missing validation part.
      data_dir: folder with `<name>/<name>.npz`; by default the environment variable HCDC_DATA_DIR.

    Raises:
      UserError: no such data set or file, it cannot be downloaded, or it fails a check.
    """
    if path is not None:
        return read_graph(path, split=split, seed=seed)
    name = os.fspath(name_or_path)
    if name in _REGISTRY:
        return _REGISTRY[name].load(split=split, seed=seed, data_dir=find_data_dir(data_dir))
    if name.endswith(".npz") or os.sep in name or Path(name).exists():
        return read_graph(name, split=split, seed=seed)
    near = difflib.get_close_matches(name, _REGISTRY, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_REGISTRY)}, or the path of an .npz file"
    raise UserError(f"unknown data set {name!r}; {hint}")
