"""Graphs and images that other packages hold in memory, by what their objects can do: none of them is imported.

Graphs: `Data` of PyTorch Geometric, graphs of DGL and of networkx, node data sets of OGB, and dictionaries with the
arrays of an .npz. Images: dictionaries likewise, pairs (images, labels) for each part as Keras returns them, data sets
of Hugging Face, torchvision and MedMNIST.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from hcdc_jax.data.graphs import GraphData
from hcdc_jax.data.image_files import holds_images, images_from_arrays
from hcdc_jax.data.images import ImageData, Part, build_images
from hcdc_jax.data.names import GRAPH_NAMES, IMAGE_NAMES, PARTS, check_unread, numbered, part_of
from hcdc_jax.data.networkx_graphs import holds_networkx, networkx_arrays
from hcdc_jax.data.npz import graph_from_arrays
from hcdc_jax.data.pictures import picture_of
from hcdc_jax.errors import UserError
from hcdc_jax.storage.files import write_npz

_IMAGE_COLUMNS, _LABEL_COLUMNS = ("image", "img", "images"), ("label", "labels")
_PAIRS = (("data", "targets"), ("data", "labels"), ("imgs", "labels"))
"""Attributes of the image data sets of torchvision and MedMNIST."""
_OF_GRAPHS = ("ndata", "edge_index", "get_idx_split")
_WEIGHTS = ("edge_weight", "weight", "w")


def from_object(value: Any, *, name: str = "data", split: int = 0, seed: int = 0) -> GraphData | ImageData:
    """The data set that an object of another package holds; see this module for which.

    Arrays, tensors and sparse matrices are copied to the host. Names, checks, draws of missing parts and notes are
    those of an .npz file, see `npz.read_graph` and `image_files.images_from_arrays`.

    Args:
      value: the object. Parts of images are a dictionary such as `{"train": ..., "test": ...}`, or a pair or triple of
        them in the order train, (validation,) test.
      name: of the data in reports and errors.
      split: see `load_dataset`.
      seed: see `load_dataset`.

    Raises:
      UserError: the object is none of those, or what it holds makes no data set.
    """
    if isinstance(value, GraphData | ImageData):
        return value
    parts = _image_parts(value)
    if parts is not None:
        return _images(parts, name, split=split, seed=seed)
    arrays, notes = _graph(value, name) if not isinstance(value, Mapping) else (dict(value), ())
    arrays = {key: _array(array) for key, array in arrays.items() if array is not None}
    unread = sorted(key for key, array in arrays.items() if not _is_plain(key, array))
    if unread:
        _check_unread(unread, name)
        notes = (*notes, f"{name}: not read: {', '.join(unread)}")
    arrays = _with_csr({key: array for key, array in arrays.items() if key not in unread})
    for key in GRAPH_NAMES["labels"]:
        if key in arrays:
            arrays[key], told = numbered(arrays[key], where=name)
            notes = (*notes, *told)
    read = images_from_arrays if holds_images(arrays) else graph_from_arrays
    data = read(arrays, name=name, where=name, split=split, seed=seed)
    return data._replace(notes=(*notes, *data.notes))


def save_dataset(data: GraphData | ImageData | Any, path: str | Path) -> None:
    """Writes a data set, or an object that `from_object` reads, as the .npz that `--data.path` takes.

    Raises:
      UserError: as `from_object`; the graph is inductive, which an .npz cannot say; or the file cannot be written.
    """
    data = from_object(data, name=Path(path).stem)
    if isinstance(data, ImageData):
        arrays = {"class_names": np.array(data.class_names)} if data.class_names else {}
        for part in PARTS:
            index = getattr(data, f"{part}_idx")
            arrays |= {f"{part}_images": data.images[index], f"{part}_labels": data.labels[index]}
    else:
        if data.train_edges is not None:
            raise UserError(f"{data.name}: training sees other edges than tests, which an .npz file cannot say")
        arrays = {"features": data.features, "edge_index": data.edges, "labels": data.labels}
        arrays |= {f"{part}_idx": getattr(data, f"{part}_idx") for part in PARTS}
        if data.edge_weights is not None:
            arrays["edge_weight"] = data.edge_weights
        arrays = _with_csr(arrays)
    write_npz(path, arrays)


# Graphs ---------------------------------------------------------------------------------------------------------------


def _graph(value: Any, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The arrays of a graph by whatever name they have, and lines about what is not read."""
    if hasattr(value, "get_idx_split"):
        return _of_ogb(value, where)
    if hasattr(value, "edge_types") and not hasattr(value, "x"):
        raise UserError(
            f"{where} has several kinds of nodes or edges; give a graph of one kind, such as to_homogeneous()"
        )
    if hasattr(value, "ndata") and callable(getattr(value, "edges", None)):
        return _of_dgl(value, where)
    if hasattr(value, "edge_index") and (hasattr(value, "to_dict") or not hasattr(value, "__getitem__")):
        return _of_pyg(value, where)  # and not a data set, which has the attributes of its graph
    if holds_networkx(value):
        return networkx_arrays(value, where=where), ()
    if hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, str | bytes | np.ndarray):
        if len(value) != 1:
            raise UserError(
                f"{where}: {type(value).__name__} holds {len(value)} things; give one graph, or image parts"
            )
        return _graph(value[0], where)
    raise UserError(
        f"{where}: cannot read a {type(value).__name__}; known are graphs of PyTorch Geometric, DGL, networkx and OGB, "
        "pairs of images and labels, data sets of Hugging Face, and dictionaries of arrays"
    )


def _of_pyg(value: Any, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    arrays = dict(value.to_dict() if hasattr(value, "to_dict") else vars(value))
    if arrays.get("edge_index") is None:
        raise UserError(f"{where}: edge_index is empty (an adj_t may be there); give the graph with its edge_index")
    return {key: array for key, array in arrays.items() if key != "num_nodes"}, ()


def _of_dgl(value: Any, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    if not getattr(value, "is_homogeneous", True):
        raise UserError(
            f"{where} has several kinds of nodes or edges; give a graph of one kind, such as to_homogeneous()"
        )
    arrays = dict(value.ndata) | {"edge_index": np.stack([_array(ends) for ends in value.edges()])}
    unread = []
    for key, array in dict(getattr(value, "edata", {})).items():
        if key in _WEIGHTS:
            arrays["edge_weight"] = array
        else:
            unread.append(key)
    notes = (f"{where}: data of edges that is not read: {', '.join(sorted(unread))}",) if unread else ()
    return arrays, notes


def _of_ogb(value: Any, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    if len(value) != 1:
        raise UserError(f"{where} holds {len(value)} graphs; one graph with labelled nodes is needed")
    first = value[0]
    graph, labels = first if isinstance(first, tuple) else (first, None)
    arrays, notes = (dict(graph), ()) if isinstance(graph, Mapping) else _graph(graph, where)
    arrays.pop("num_nodes", None)
    if labels is not None:
        arrays["labels"] = labels
    index = {part_of(key): nodes for key, nodes in value.get_idx_split().items()}
    return arrays | {f"{part}_idx": index[part] for part in PARTS if part in index}, notes


def _with_csr(arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays with a sparse matrix of features as its CSR arrays."""
    plain = {}
    for key, array in arrays.items():
        if sp.issparse(array):
            matrix = sp.csr_matrix(array)
            plain |= {f"feat_{part}": getattr(matrix, part) for part in ("indptr", "indices", "data")}
            plain["feat_shape"] = np.array(matrix.shape)
        else:
            plain[key] = array
    return plain


# Images ---------------------------------------------------------------------------------------------------------------


def _image_parts(value: Any) -> dict[str, Any] | None:
    """What holds each part of images; None where the object is something else."""
    if isinstance(value, Mapping):
        return dict(value) if any(part_of(str(key)) and _is_image_part(part) for key, part in value.items()) else None
    if any(hasattr(value, name) for name in _OF_GRAPHS):
        return None
    if _is_image_part(value) and not _is_pair_of_pairs(value):
        return {"train": value}
    if _is_pair_of_pairs(value):
        return dict(zip(("train", "test") if len(value) == 2 else PARTS, value, strict=True))
    return None


def _is_pair_of_pairs(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) in (2, 3) and all(_is_image_part(part) for part in value)


def _is_image_part(value: Any) -> bool:
    """Whether a thing holds images with labels: a pair of arrays, or an image data set of another package."""
    if isinstance(value, tuple | list):
        return len(value) == 2 and all(hasattr(array, "shape") for array in value)
    return hasattr(value, "column_names") or any(all(hasattr(value, name) for name in pair) for pair in _PAIRS)


def _images(parts: dict[str, Any], name: str, *, split: int, seed: int) -> ImageData:
    found: dict[str, Part] = {}
    names: tuple[str, ...] = ()
    changes, notes = collections.Counter[str](), []
    for key, value in parts.items():
        part = part_of(str(key))
        if part is None:
            notes.append(f"{name}: left out: {key!r}, which is no part")
            continue
        if not _is_image_part(value):
            raise UserError(f"{name}: {key!r} is a {type(value).__name__}; give a pair of images and labels")
        if part in found:
            raise UserError(f"{name} has two parts for {part}; join them, or leave one out")
        images, labels = _pair(value, f"{name} {key}", changes)
        labels, told = numbered(labels, where=f"{name} {key}")
        notes += told
        found[part] = Part(images, labels)
        names = names or _class_names(value)
    if "train" not in found:
        raise UserError(f"{name} has no training part; known are {', '.join(map(repr, parts))}")
    notes += [f"{name}: {count} pictures {what}" for what, count in changes.items()]
    found = {part: found[part] for part in PARTS if part in found}
    data = build_images(name, found, where=name, class_names=names, split=split, seed=seed)
    return data._replace(notes=(*notes, *data.notes))


def _pair(value: Any, where: str, changes: collections.Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one part; what is done to pictures is counted in `changes`."""
    if isinstance(value, tuple | list):
        images, labels = value
        return _array(images), _array(labels)
    if hasattr(value, "column_names"):
        if not hasattr(value, "__getitem__"):
            raise UserError(f"{where} is read as a stream; load it whole (streaming=False)")
        image, label = (_column(value, known, where) for known in (_IMAGE_COLUMNS, _LABEL_COLUMNS))
        return _stacked(value[image], where, changes), np.asarray(value[label])
    images, labels = next(pair for pair in _PAIRS if all(hasattr(value, name) for name in pair))
    return _array(getattr(value, images)), _array(getattr(value, labels))


def _column(value: Any, known: tuple[str, ...], where: str) -> str:
    found = [name for name in known if name in value.column_names]
    if len(found) != 1:
        raise UserError(
            f"{where} must have one column of {', '.join(known)}; it has {', '.join(value.column_names)}: rename one"
        )
    return found[0]


def _stacked(column: Any, where: str, changes: collections.Counter[str]) -> np.ndarray:
    images = []
    for number, image in enumerate(column):
        if hasattr(image, "getexif"):  # Pillow's
            image, done = picture_of(image, f"{where}, image {number},")
            changes.update(done)
        image = _array(image)
        image = image[..., None] if image.ndim == 2 else image
        if images and image.shape[:2] != images[0].shape[:2]:
            sizes = [f"{height} x {width}" for height, width in (images[0].shape[:2], image.shape[:2])]
            raise UserError(
                f"{where}: images must have one size, but {number} has {sizes[1]} and 0 {sizes[0]}; resize them"
            )
        images.append(image)
    if not images:
        raise UserError(f"{where} holds no image")
    if {image.shape[-1] for image in images} == {1, 3}:
        images = [np.broadcast_to(image, (*image.shape[:2], 3)) for image in images]
    if len({image.shape for image in images}) > 1:
        raise UserError(f"{where}: images must have the same channels; convert them")
    return np.stack(images)


def _class_names(value: Any) -> tuple[str, ...]:
    """Of a data set of Hugging Face or torchvision, where it knows them."""
    features = getattr(value, "features", None)
    label = next((name for name in _LABEL_COLUMNS if isinstance(features, Mapping) and name in features), None)
    names = (
        getattr(features[label], "names", None) if features is not None and label else getattr(value, "classes", None)
    )
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


# Arrays ---------------------------------------------------------------------------------------------------------------


def _array(value: Any) -> Any:
    """On the host: a NumPy array, or a SciPy matrix where the value is sparse."""
    if sp.issparse(value):
        return value
    if hasattr(value, "detach"):  # a tensor of PyTorch
        value = value.detach().cpu()
        if getattr(value, "is_sparse", False):
            value = value.coalesce()
            return sp.csr_matrix((value.values().numpy(), value.indices().numpy()), shape=tuple(value.shape))
        return value.numpy()
    return np.asarray(value)


def _is_plain(name: str, array: Any) -> bool:
    """Whether an .npz could hold it as more than a single number or word."""
    if sp.issparse(array):
        return name.lower() in GRAPH_NAMES["features"]
    return array.dtype.kind in "biufSU" and array.ndim > 0


def _check_unread(unread: list[str], where: str) -> None:
    known = {**GRAPH_NAMES, **IMAGE_NAMES}
    for name in unread:
        if any(name.lower() in others for others in known.values()):
            raise UserError(f"{where}: {name!r} is no array of numbers; convert it, or leave it out")
    check_unread(unread, known, where=where)
