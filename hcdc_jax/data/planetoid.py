"""Cora, Citeseer and Pubmed with the public split of Planetoid (Yang et al., 2016, arXiv:1603.08861).

The eight source files of each graph are Python 2 pickles. They are checked by SHA-256 before anything reads them, read
by an unpickler that knows a few harmless classes and nothing else, and stored as an .npz without pickles.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from hcdc_jax.data.download import DATA_DIR_VARIABLE, cache_dir, download
from hcdc_jax.data.graphs import UNKNOWN_LABEL, GraphData, normalize_rows
from hcdc_jax.data.npz import read_graph
from hcdc_jax.errors import UserError
from hcdc_jax.storage.files import write_npz

SOURCE = "https://raw.githubusercontent.com/kimiyoung/planetoid/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data"
NUM_VAL = 500

SHA256: Mapping[str, Mapping[str, str]] = {
    "cora": {
        "x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
        "y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
        "tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
        "ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
        "allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
        "ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
        "graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
        "test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    },
    "citeseer": {
        "x": "d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6",
        "y": "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924",
        "tx": "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21",
        "ty": "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce",
        "allx": "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668",
        "ally": "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95",
        "graph": "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7",
        "test.index": "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4",
    },
    "pubmed": {
        "x": "fbe9cb5c47200d1b7769a26e579be3b7130b556831f9d850e77c4c74f2599b33",
        "y": "e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3",
        "tx": "4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d",
        "ty": "ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd",
        "allx": "508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e",
        "ally": "0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e",
        "graph": "5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9",
        "test.index": "b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5",
    },
}


def load_planetoid(
    name: str, *, split: int = 0, seed: int = 0, data_dir: Path | None = None, source: str = SOURCE
) -> GraphData:
    """Reads a Planetoid graph from `data_dir`, else from the cache, else downloads it into the cache.

    Feature rows are divided by their sum, as is customary (Kipf and Welling, 2017; GCond, Jin et al., 2022).

    Args:
      name: "cora", "citeseer" or "pubmed".
      split: 0, the public split, unless the file in `data_dir` holds more.
      seed: draws a validation part where the file in `data_dir` lacks one.
      data_dir: folder that may hold `<name>/<name>.npz` with the features as in the source; read first.
      source: where the files `ind.<name>.*` lie.

    Raises:
      UserError: the data cannot be had, or a file of it is damaged.
    """
    cached = cache_dir() / name / f"{name}.npz"
    own = data_dir / name / f"{name}.npz" if data_dir else None
    path = own if own and own.exists() else cached
    if not path.exists():
        write_npz(cached, parse(_download_files(name, source), where=source))
    return normalize_rows(read_graph(path, name=name, split=split, seed=seed))


def parse(files: Mapping[str, bytes], *, where: str) -> dict[str, np.ndarray]:
    """The arrays of `data.npz.read_graph` from the eight raw files of one Planetoid graph.

    Nodes missing from the test list (fifteen in Citeseer) have edges, but no features and the label -1.

    Args:
      files: content of the files by the end of their names: x, y, tx, ty, allx, ally, graph, test.index.
      where: the source, for error messages.

    Raises:
      UserError: a file does not hold what a Planetoid file holds.
    """
    tx, ty, allx, ally, y = (_unpickle(files[part], f"{where}: {part}") for part in ("tx", "ty", "allx", "ally", "y"))
    neighbours = _unpickle(files["graph"], f"{where}: graph")
    test_idx = np.array(files["test.index"].split(), dtype=np.int64)
    # The last rows of tx and ty belong to the test nodes in the order of test.index; allx holds nodes 0, 1, ...
    num_nodes = int(test_idx.max()) + 1
    rows = np.concatenate([np.arange(allx.shape[0]), test_idx])
    stacked = sp.coo_matrix(sp.vstack([allx, tx]))
    features = sp.csr_matrix((stacked.data, (rows[stacked.row], stacked.col)), shape=(num_nodes, allx.shape[1]))
    features.sort_indices()
    labels = np.full(num_nodes, UNKNOWN_LABEL, np.int32)
    labels[rows] = np.concatenate([ally, ty]).argmax(axis=1)
    edges = np.array([(node, other) for node, others in neighbours.items() for other in others], np.int32).T
    return {
        "feat_indptr": features.indptr.astype(np.int32),
        "feat_indices": features.indices.astype(np.int32),
        "feat_data": features.data.astype(np.float32),
        "feat_shape": np.array(features.shape, np.int32),
        "edge_index": edges,
        "labels": labels,
        "train_idx": np.arange(len(y), dtype=np.int32),
        "val_idx": np.arange(len(y), len(y) + NUM_VAL, dtype=np.int32),
        "test_idx": np.sort(test_idx).astype(np.int32),
    }


def _download_files(name: str, source: str) -> dict[str, bytes]:
    mend = f"check the network connection, or put {name}/{name}.npz into a folder that {DATA_DIR_VARIABLE} names"
    return {part: download(f"{source}/ind.{name}.{part}", digest, mend=mend) for part, digest in SHA256[name].items()}


class _PickledCSR:
    """Stands in for `scipy.sparse.csr_matrix`, whose own unpickling would set any attribute unchecked."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.matrix = sp.csr_matrix((state["data"], state["indices"], state["indptr"]), shape=state["_shape"])


class _Unpickler(pickle.Unpickler):
    """Reads NumPy arrays, CSR matrices and dictionaries of lists; refuses every other class."""

    _ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("scipy.sparse.csr", "csr_matrix"): _PickledCSR,
        ("collections", "defaultdict"): collections.defaultdict,
        ("__builtin__", "list"): list,
    }

    def find_class(self, module: str, name: str) -> Any:
        # Python renames __builtin__ to builtins for old pickles before it asks.
        module = {"builtins": "__builtin__"}.get(module, module)
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self._ALLOWED[module, name]


def _unpickle(content: bytes, where: str) -> Any:
    try:
        value = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly any exception
        raise UserError(f"{where} is not a Planetoid file: {error}") from error
    return value.matrix if isinstance(value, _PickledCSR) else value
