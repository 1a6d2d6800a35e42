"""Node-classification graphs of the Open Graph Benchmark (arXiv 2005.00687), as its own package downloads them.

A folder or the zip file itself, with

    raw/node-feat.csv.gz     n lines of d numbers
    raw/edge.csv.gz          one line `source,target` per directed edge
    raw/node-label.csv.gz    n lines of one class number
    raw/num-node-list.csv.gz, raw/num-edge-list.csv.gz    one count each; checked where they are there
    split/SCHEME/train.csv.gz, valid.csv.gz, test.csv.gz  one node number per line; SCHEME is `time` for ogbn-arxiv
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import TypeAlias

import numpy as np

from hcdc_jax.data.download import DATA_DIR_VARIABLE
from hcdc_jax.data.graphs import GraphData, build_graph, standardize_columns
from hcdc_jax.errors import UserError

_Root: TypeAlias = Path | zipfile.Path  # both have `/`, `exists`, `iterdir` and `read_bytes`

RAW = ("node-feat", "edge", "node-label")


def load_ogbn_arxiv(*, split: int = 0, seed: int = 0, data_dir: Path | None = None) -> GraphData:
    """ogbn-arxiv: 169,343 papers with 128 averaged word vectors, 40 subjects, split by year of publication.

    Raises:
      UserError: `data_dir` holds neither the unpacked folder `ogbn_arxiv` nor `arxiv.zip`, or what `read_ogb` refuses.
    """
    for place in (data_dir / "ogbn_arxiv", data_dir / "arxiv.zip") if data_dir else ():
        if holds_ogb(place):
            return read_ogb(place, name="ogbn_arxiv", split=split, seed=seed)
    raise UserError(
        "ogbn_arxiv is read from disk only: get arxiv.zip from https://ogb.stanford.edu/docs/nodeprop and put it into "
        f"a folder that {DATA_DIR_VARIABLE} names, as it is or unpacked as ogbn_arxiv/raw and ogbn_arxiv/split"
    )


def holds_ogb(path: Path) -> bool:
    """Whether a folder or zip file is laid out like a graph of OGB."""
    try:
        return _root(path) is not None
    except (OSError, zipfile.BadZipFile):
        return False


def read_ogb(path: Path, *, name: str | None = None, split: int = 0, seed: int = 0) -> GraphData:
    """Reads a graph in the layout of this module; features are standardised on the training nodes.

    Args:
      path: the folder or the zip file.
      name: of the graph in reports; by default that of the folder or file.
      split: 0, there is one.
      seed: unused, nothing is drawn.

    Raises:
      UserError: a file is missing or damaged, counts differ, or the parts make no graph.
    """
    del seed
    root = _root(path)
    if root is None:
        raise UserError(f"{path} holds no graph of OGB: there is no raw/node-feat.csv.gz in it")
    if split != 0:
        raise UserError(f"{path}: split {split} does not exist; graphs of OGB have one split, number 0")
    features, edges, labels = (_table(root, path, f"raw/{part}.csv.gz") for part in RAW)
    _check_count(root, path, "node", len(features))
    _check_count(root, path, "edge", len(edges))
    scheme = _scheme(root, path)
    train, val, test = (
        _integers(_table(root, path, f"split/{scheme}/{part}.csv.gz"), path, part)[:, 0]
        for part in ("train", "valid", "test")
    )
    if labels.shape[1] != 1:
        raise UserError(f"{path}: raw/node-label.csv.gz has {labels.shape[1]} labels per node; one class is needed")
    data = standardize_columns(
        build_graph(
            name or path.stem, features, _integers(edges, path, "edge").T, _integers(labels, path, "node-label")[:, 0],
            train, val, test, where=str(path),
        )
    )  # fmt: skip
    if not (root / "raw" / "edge-feat.csv.gz").exists():
        return data
    told = f"{path}: raw/edge-feat.csv.gz is not read; filters know no features of edges"
    return data._replace(notes=(told, *data.notes))


def _root(path: Path) -> _Root | None:
    """Where `raw` lies: the folder itself, or in a zip file the one folder that has it."""
    places: list[_Root] = [path]
    if path.is_file():
        top = zipfile.Path(path) if path.suffix == ".zip" else None
        places = [top, *(child for child in top.iterdir() if child.is_dir())] if top else []
    found = [place for place in places if (place / "raw" / "node-feat.csv.gz").exists()]
    return found[0] if found else None


def _scheme(root: _Root, where: Path) -> str:
    folder = root / "split"
    schemes = sorted(child.name for child in folder.iterdir() if child.is_dir()) if folder.exists() else []
    if len(schemes) != 1:
        raise UserError(f"{where}: split/ must hold one folder, such as time, with train.csv.gz; found {schemes}")
    return schemes[0]


def _table(root: _Root, where: Path, name: str) -> np.ndarray:
    """[rows, columns] float64 numbers of one file: exact for the integers among them."""
    file = root.joinpath(*name.split("/"))
    if not file.exists():
        raise UserError(f"{where}: {name} is missing")
    try:
        text = io.TextIOWrapper(gzip.GzipFile(fileobj=io.BytesIO(file.read_bytes())), encoding="ascii")
        table = np.loadtxt(text, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{where}: {name} is damaged and cannot be read ({error}); fetch it anew") from error
    return table


def _integers(table: np.ndarray, where: Path, part: str) -> np.ndarray:
    whole = table.astype(np.int64)
    if (whole != table).any():
        raise UserError(f"{where}: {part}.csv.gz holds {table[whole != table][0]}, which is no whole number")
    return whole


def _check_count(root: _Root, where: Path, part: str, found: int) -> None:
    name = f"raw/num-{part}-list.csv.gz"
    if root.joinpath(*name.split("/")).exists():
        expected = int(_table(root, where, name).sum())
        if expected != found:
            raise UserError(f"{where}: {name} says {expected} {part}s, but there are {found}; fetch the files anew")
