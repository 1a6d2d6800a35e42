"""Reader of graphs in .npz files: the user's own, and the named sets once they lie on disk."""

from __future__ import annotations

import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from hcdc_jax.data.graphs import Features, GraphData, build_graph
from hcdc_jax.data.names import GRAPH_NAMES, PARTS, read_names
from hcdc_jax.errors import UserError

_CSR_NAMES = ("feat_indptr", "feat_indices", "feat_data", "feat_shape")


def read_graph(path: str | Path, *, name: str | None = None, split: int = 0, seed: int = 0) -> GraphData:
    """Reads one graph from an .npz file and checks it.

    The file holds `features` [n, d] or the CSR arrays `feat_indptr`, `feat_indices`, `feat_data`, `feat_shape`;
    `edge_index` [2, E]; `labels` [n] (-1 = unknown); and for each of train, val and test either `*_idx` (node numbers)
    or `*_mask` (booleans [n], or [n, k] for k splits), which must not differ where both are there. A missing validation
    part is drawn from the labelled nodes outside train and test. Features are taken as they are, without any
    normalisation. `edge_weight` [E], at least 0, are the entries of the adjacency, ones by default. The names that
    PyTorch Geometric, DGL and OGB give these arrays are read too (`names.GRAPH_NAMES`); what is not read is told in the
    notes of the graph, or refused where it may have been meant to be.

    Args:
      path: the file.
      name: name of the graph in reports; by default the file's name without its ending.
      split: which column of two-dimensional masks to read.
      seed: draws a missing validation part.

    Raises:
      UserError: the file is missing, damaged, or not a graph; the text says what and where.
    """
    path = Path(path)
    return graph_from_arrays(read_arrays(path), name=name or path.stem, where=str(path), split=split, seed=seed)


def graph_from_arrays(
    arrays: Mapping[str, np.ndarray], *, name: str, where: str, split: int = 0, seed: int = 0
) -> GraphData:
    """The graph that the arrays of `read_graph` describe; `where` names their source in errors.

    Raises:
      UserError: as `read_graph`.
    """
    arrays, notes = read_names(arrays, GRAPH_NAMES, where=where)
    features = _features(arrays, where=where)
    labels = _array(arrays, "labels", where=where)
    train, val, test = (_part(arrays, part, split=split, where=where) for part in PARTS)
    _check_split_exists(arrays, split, where=where)
    if train is None or test is None:
        part = "train" if train is None else "test"
        raise UserError(f"{where}: no {part} nodes; add an array {part}_idx or {part}_mask")
    edges = _array(arrays, "edge_index", where=where)
    weights, more = _weights(arrays, where=where)
    graph = build_graph(
        name, features, edges, labels, train, val, test, where=where, seed=seed, edge_weights=weights
    )  # fmt: skip
    return graph._replace(notes=(*notes, *more, *graph.notes))


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, read without pickles.

    Raises:
      UserError: the file is missing, damaged, no .npz, or holds Python objects.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the .npz file")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":  # the start of every zip file, also of one that was cut off
                raise UserError(f"{path} is not an .npz file; save the arrays with numpy.savez")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                _check_unpacked(path, archive.zip)
                return {name: archive[name] for name in archive.files}
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error
    except _DAMAGED as error:
        if "allow_pickle" in str(error):
            raise UserError(f"{path} holds Python objects; save plain numeric arrays instead") from error
        raise UserError(
            f"{path} is damaged and cannot be read ({error}); delete it and make or fetch it anew"
        ) from error


# Also what headers of flipped bits raise: sizes that no memory has, methods of compression that nobody knows.
_DAMAGED = (
    OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError, OverflowError, MemoryError, NotImplementedError,
    RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError,
)  # fmt: skip


def _check_unpacked(path: Path, archive: zipfile.ZipFile | None) -> None:
    """Refuses archives that say to unpack to more than the machine has: a few kilobytes of zeros may fill any memory.

    A file cannot hold more than it says, since reading stops there.
    """
    declared = sum(entry.file_size for entry in archive.infolist()) if archive else 0
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if declared > memory:
        raise UserError(
            f"{path} unpacks to {declared / 1e9:,.0f} GB, and this machine has {memory / 1e9:,.0f} GB of memory; get "
            "it from where you trust it, or store less"
        )


def _features(arrays: Mapping[str, np.ndarray], *, where: str) -> Features:
    sparse = any(name in arrays for name in _CSR_NAMES)
    if "features" in arrays:
        if sparse:
            raise UserError(f"{where}: there are both features and the CSR arrays feat_*; leave one of them out")
        return arrays["features"]
    if not sparse:
        raise UserError(f"{where}: no features; add an array features [nodes, features] or the CSR arrays feat_*")
    indptr, indices, values, shape = (_array(arrays, name, where=where) for name in _CSR_NAMES)
    if shape.shape != (2,) or any(array.dtype.kind not in "iu" for array in (indptr, indices, shape)):
        raise UserError(f"{where}: feat_shape must be two integers, feat_indptr and feat_indices integers")
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where}: feat_data must be real numbers, got dtype {values.dtype}")
    try:
        features = sp.csr_matrix((values, indices, indptr), shape=tuple(int(size) for size in shape))
        features.check_format(full_check=True)
    except ValueError as error:
        raise UserError(f"{where}: the arrays feat_* are not a CSR matrix: {error}") from error
    features.sum_duplicates()  # sorts the columns of each row too, so equal matrices have equal checksums
    return features


def _part(arrays: Mapping[str, np.ndarray], part: str, *, split: int, where: str) -> np.ndarray | None:
    """Node numbers of one part, from its index array or its mask; None where the file has neither."""
    index_name, mask_name = f"{part}_idx", f"{part}_mask"
    masked = _masked(arrays, mask_name, split=split, where=where) if mask_name in arrays else None
    if index_name not in arrays:
        return masked
    index = arrays[index_name]
    if masked is not None:
        differing = np.setxor1d(index, masked)
        if differing.size:
            raise UserError(
                f"{where}: {index_name} and {mask_name} differ in {differing.size} nodes, the first is node "
                f"{differing[0]}; leave one of them out"
            )
    return index


def _masked(arrays: Mapping[str, np.ndarray], name: str, *, split: int, where: str) -> np.ndarray:
    mask, num_nodes = arrays[name], len(_array(arrays, "labels", where=where))
    if mask.ndim not in (1, 2) or mask.shape[0] != num_nodes:
        raise UserError(
            f"{where}: {name} must have shape [{num_nodes}] or [{num_nodes}, splits], got {list(mask.shape)}"
        )
    if mask.dtype.kind not in "biu" or not np.isin(mask, (0, 1)).all():
        raise UserError(f"{where}: {name} must hold booleans, got dtype {mask.dtype}")
    if mask.ndim == 2:
        _check_column(name, mask.shape[1], split, where=where)
        mask = mask[:, split]
    return np.flatnonzero(mask).astype(np.int32)


def _weights(arrays: Mapping[str, np.ndarray], *, where: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Weights of the edges, if there are any, and what is to be told about them."""
    attributes = arrays.get("edge_attr")
    if attributes is None:
        return arrays.get("edge_weight"), ()
    if "edge_weight" in arrays or (attributes.ndim == 2 and attributes.shape[1] > 1):
        return arrays.get("edge_weight"), (f"{where}: edge_attr is not read; filters know weights of edges alone",)
    return attributes, (f"{where}: edge_attr, one number per edge, is read as the weights of the edges",)


def _check_column(name: str, num_splits: int, split: int, *, where: str) -> None:
    if not 0 <= split < num_splits:
        raise UserError(f"{where}: split {split} does not exist; {name} holds splits 0 to {num_splits - 1}")


def _check_split_exists(arrays: Mapping[str, np.ndarray], split: int, *, where: str) -> None:
    several = any(arrays[name].ndim == 2 for name in (f"{part}_mask" for part in PARTS) if name in arrays)
    if split != 0 and not several:
        raise UserError(f"{where}: split {split} does not exist; the file holds one split, number 0")


def _array(arrays: Mapping[str, np.ndarray], name: str, *, where: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{where}: array {name!r} is missing; the file holds {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays[name]
