"""Data sets by name: one line per set in `_BUILT_IN`, one reader file per source."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hcdc_jax.data.arrays import ArrayData, from_table
from hcdc_jax.data.arxiv_graph import load_arxiv_graph
from hcdc_jax.data.digits import load_digits_graph, load_digits_images
from hcdc_jax.data.download import data_dir as find_data_dir
from hcdc_jax.data.flickr_social import load_flickr_social
from hcdc_jax.data.graphs import GraphData
from hcdc_jax.data.graphsaint import holds_graphsaint, load_reddit, read_graphsaint
from hcdc_jax.data.image_files import holds_images, images_from_arrays, read_image_folder
from hcdc_jax.data.image_sets import load_image_set
from hcdc_jax.data.images import ImageData
from hcdc_jax.data.npz import graph_from_arrays, read_arrays
from hcdc_jax.data.objects import from_object
from hcdc_jax.data.ogb import holds_ogb, load_ogbn_arxiv, read_ogb
from hcdc_jax.data.planetoid import load_planetoid
from hcdc_jax.data.table_sets import table
from hcdc_jax.data.table_sets import tables as table_sets
from hcdc_jax.data.tables import read_table
from hcdc_jax.errors import UserError
from hcdc_jax.registry import Registry, first_line, function


class _Entry(NamedTuple):
    description: str
    load: Callable[..., ArrayData | GraphData | ImageData]  # load(split=, seed=, data_dir=)


def _load_table(name: str, *, split: int, seed: int, data_dir: Path | None) -> ArrayData:
    del data_dir  # these need no files
    return from_table(table(name, split=split, seed=seed))


def _accept(entry: Any) -> _Entry | None:
    """A function that reads a data set, as the registry stores it."""
    reader = function(entry)
    return reader and _Entry(first_line(entry), reader)


_BUILT_IN: Mapping[str, _Entry] = {
    "digits_graph": _Entry("scikit-learn digits, 8 nearest neighbours; 1,797 nodes, 10 classes", load_digits_graph),
    "cora": _Entry("citations, public split; 2,708 nodes, 7 classes", functools.partial(load_planetoid, "cora")),
    "citeseer": _Entry(
        "citations, public split; 3,327 nodes, 6 classes", functools.partial(load_planetoid, "citeseer")
    ),
    "pubmed": _Entry("citations, public split; 19,717 nodes, 3 classes", functools.partial(load_planetoid, "pubmed")),
    "flickr_social": _Entry("Flickr users; 7,575 nodes, 9 classes; from disk only", load_flickr_social),
    "arxiv_graph": _Entry(
        "graph of ogbn-arxiv, features made from it (not the official ones); 169,343 nodes, 40 classes; from disk only",
        load_arxiv_graph,
    ),
    "ogbn_arxiv": _Entry("citations, split by year; 169,343 nodes, 40 classes; from disk only", load_ogbn_arxiv),
    "reddit": _Entry("posts, inductive split; 232,965 nodes, 41 classes; from disk only", load_reddit),
    "digits_images": _Entry("scikit-learn digits; 1,797 images 8 x 8 x 1, 10 classes", load_digits_images),
    "mnist": _Entry("digits; 70,000 images 28 x 28 x 1, 10 classes", functools.partial(load_image_set, "mnist")),
    "fashion_mnist": _Entry(
        "clothes; 70,000 images 28 x 28 x 1, 10 classes", functools.partial(load_image_set, "fashion_mnist")
    ),
    "svhn": _Entry("house numbers; 99,289 images 32 x 32 x 3, 10 classes", functools.partial(load_image_set, "svhn")),
    "cifar10": _Entry(
        "animals and vehicles; 60,000 images 32 x 32 x 3, 10 classes", functools.partial(load_image_set, "cifar10")
    ),
    "cifar100": _Entry(
        "a hundred things; 60,000 images 32 x 32 x 3, 100 classes", functools.partial(load_image_set, "cifar100")
    ),
    **{name: _Entry(about, functools.partial(_load_table, name)) for name, about in table_sets().items()},
}
DATASETS: Registry[_Entry] = Registry(
    "data set",
    _BUILT_IN,
    group="hcdc_jax.datasets",
    wanted="a function load(split, seed, data_dir)",
    accept=_accept,
    reserved=("study",),
)
"""Readers of named data sets, called with the keywords `split`, `seed` and `data_dir`."""


TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")
"""Of files that hold tables; an .npz holds one where a target is named."""


def datasets() -> dict[str, str]:
    """The names that `load_dataset` knows, each with a one-line description."""
    return {name: entry.description for name, entry in DATASETS.items()}


def load_dataset(
    name_or_path: Any = "",
    *,
    path: str | Path | None = None,
    target: str | None = None,
    split: int = 0,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> ArrayData | GraphData | ImageData:
    """Loads a data set by its name, or from the user's own files or objects.

    Named sets are looked for in `data_dir`, then in the download cache (HCDC_CACHE_DIR, by default
    ~/.cache/hcdc_jax), and are downloaded into the cache otherwise. An own .npz file holds a graph as
    `data.npz.read_graph` describes or images as `data.image_files.images_from_arrays` does; a folder holds a graph as
    `data.ogb` or `data.graphsaint` describe, or images, see `data.image_files.read_image_folder`.

    What was changed or left out of own data stands in its `notes`, and each of them is a `UserWarning`.

    Args:
      name_or_path: one of `datasets()`, or the path of an .npz file or of a folder of images, or an object of another
        package, see `data.objects`.
      path: path of such a file or folder; wins over `name_or_path`.
      target: of a table (.csv, .tsv, .parquet, or .npz), the column that is predicted; see `data.read_table`.
      split: which of several splits.
      seed: draws what is random: the split of `digits_graph` and `digits_images`, a missing validation part.
      data_dir: folder with `<name>/<name>.npz`, for images `<name>/<name>_train*.npz` and `<name>_test*.npz`; by
        default the environment variable HCDC_DATA_DIR.

    Raises:
      UserError: no such data set or file, it cannot be downloaded, or it fails a check.
    """
    data = read_dataset(name_or_path, path=path, target=target, split=split, seed=seed, data_dir=data_dir)
    for note in data.notes:
        warnings.warn(note, stacklevel=2)
    return data


def read_dataset(
    name_or_path: Any = "",
    *,
    path: str | Path | None = None,
    target: str | None = None,
    split: int = 0,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> ArrayData | GraphData | ImageData:
    """`load_dataset` for those who tell the notes of the data themselves."""
    if path is not None:
        return _read_own(Path(path), target, split, seed)
    if not isinstance(name_or_path, str | os.PathLike):
        return from_object(name_or_path, split=split, seed=seed)
    name = os.fspath(name_or_path)
    is_path = name.endswith(".npz") or os.sep in name
    if is_path or (name not in DATASETS and Path(name).exists()):
        return _read_own(Path(name), target, split, seed)
    entry = DATASETS.look_up(name, also=["or the path of an .npz file"])
    data = entry.load(split=split, seed=seed, data_dir=find_data_dir(data_dir))
    if not isinstance(data, ArrayData | GraphData | ImageData):
        raise UserError(
            f"the reader of the data set {name!r} must return GraphData, ImageData or ArrayData, got "
            f"{type(data).__name__}"
        )
    # What graphs and images of the library hold is known, and said where it is described.
    return data if name not in _BUILT_IN or isinstance(data, ArrayData) else data._replace(notes=())


def _read_own(path: Path, target: str | None, split: int, seed: int) -> ArrayData | GraphData | ImageData:
    if path.suffix.lower() in TABLE_SUFFIXES or target is not None:
        return from_table(read_table(path, target, split=split, seed=seed))
    if holds_ogb(path):
        return read_ogb(path, split=split, seed=seed)
    if holds_graphsaint(path):
        return read_graphsaint(path, split=split, seed=seed)
    if path.is_dir():
        return read_image_folder(path, split=split, seed=seed)
    arrays = read_arrays(path)
    read = images_from_arrays if holds_images(arrays) else graph_from_arrays
    return read(arrays, name=path.stem, where=str(path), split=split, seed=seed)
