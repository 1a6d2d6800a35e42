"""Readers of data: what they give, and what they say about data that cannot be used."""

from __future__ import annotations

import collections
import functools
import http.server
import io
import os
import pickle
import struct
import threading
from typing import ClassVar

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph

from hcdc_jax.data import GraphData, datasets, load_dataset, planetoid, summary
from hcdc_jax.data.graphs import normalize_rows
from hcdc_jax.storage.files import sha256
from tests.errors import error_of

# Labels 0, 1 alternate; nodes 0-3 train, 4-5 val, 6-7 test, 8-9 in no part.
NUM_NODES = 10


@pytest.fixture(autouse=True)
def no_data_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HCDC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HCDC_DATA_DIR", raising=False)


def own_graph() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ring = np.arange(NUM_NODES)
    return {
        "features": rng.normal(size=(NUM_NODES, 3)),
        "edge_index": np.sort(np.stack([ring, (ring + 1) % NUM_NODES]), axis=0),
        "labels": ring % 2,
        "train_idx": np.arange(4),
        "val_idx": np.array([4, 5]),
        "test_idx": np.array([6, 7]),
    }


def save(folder, arrays, name="mine.npz"):
    path = folder / name
    np.savez(path, **arrays)
    return path


class TestDigitsGraph:
    def test_edges_are_those_of_scikit_learn(self):
        data = load_dataset("digits_graph")
        directed = kneighbors_graph(load_digits().data, 8, include_self=False)
        expected = sp.triu(directed.maximum(directed.T)).toarray() > 0
        found = np.zeros_like(expected)
        found[data.edges[0], data.edges[1]] = True
        # Equally near images may be chosen differently; there are few of them.
        assert (found != expected).sum() <= 0.002 * expected.sum()

    def test_features_are_centred_pixels(self):
        features = load_dataset("digits_graph").features
        np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-6)
        # 0.035 x this is the feature step 0.0095 that worked in the prototypes.
        np.testing.assert_allclose(0.035 * np.sqrt((features**2).mean()), 0.0095, rtol=0.01)

    def test_summary(self):
        found = summary(load_dataset("digits_graph"))
        assert found["nodes"] == 1797
        assert (found["train"], found["val"], found["test"]) == (200, 400, 800)
        assert found["isolated"] == 0
        assert found["homophily"] == pytest.approx(0.96, abs=0.005)

    def test_split_is_drawn_by_split_and_seed(self):
        first, again = load_dataset("digits_graph"), load_dataset("digits_graph")
        assert first.checksum == again.checksum
        assert np.bincount(first.labels[first.train_idx]).tolist() == [20] * 10
        others = [load_dataset("digits_graph", split=1), load_dataset("digits_graph", seed=1)]
        assert len({first.checksum, *(other.checksum for other in others)}) == 3


class TestOwnFile:
    def test_dense_features_are_kept(self, tmp_path):
        arrays = own_graph()
        data = load_dataset(save(tmp_path, arrays))
        np.testing.assert_array_equal(data.features, arrays["features"].astype(np.float32))
        assert (data.name, data.num_nodes, data.num_features, data.num_classes) == ("mine", NUM_NODES, 3, 2)

    def test_sparse_features_are_kept(self, tmp_path):
        arrays = own_graph()
        dense = arrays.pop("features") * (np.arange(3) == 1)
        csr = sp.csr_matrix(dense)
        arrays |= {"feat_indptr": csr.indptr, "feat_indices": csr.indices, "feat_data": csr.data}
        data = load_dataset(save(tmp_path, arrays | {"feat_shape": np.array(dense.shape)}))
        np.testing.assert_array_equal(data.features.toarray(), dense.astype(np.float32))

    def test_each_undirected_edge_is_kept_once(self, tmp_path):
        plain = own_graph()
        both = np.concatenate([plain["edge_index"], plain["edge_index"][::-1], [[3, 3], [3, 3]]], axis=1)
        redundant = load_dataset(save(tmp_path, plain | {"edge_index": both}, "redundant.npz"))
        data = load_dataset(save(tmp_path, plain))
        assert data.checksum == redundant.checksum
        assert data.edges.shape == (2, NUM_NODES)
        assert (data.edges[0] < data.edges[1]).all()

    def test_path_wins_over_name(self, tmp_path):
        assert load_dataset("digits_graph", path=save(tmp_path, own_graph())).name == "mine"

    def test_split_picks_a_column_of_the_masks(self, tmp_path):
        arrays = own_graph()
        masks = {}
        for part in ("train", "val", "test"):
            mask = np.zeros((NUM_NODES, 2), bool)
            mask[arrays[f"{part}_idx"], 0] = True
            mask[(arrays[f"{part}_idx"] + 2) % NUM_NODES, 1] = True
            masks[f"{part}_mask"] = mask
            del arrays[f"{part}_idx"]
        path = save(tmp_path, arrays | masks)
        assert load_dataset(path, split=1).train_idx.tolist() == [2, 3, 4, 5]
        assert load_dataset(path, split=0).test_idx.tolist() == [6, 7]
        assert error_of(lambda: load_dataset(path, split=2)) == (
            f"{path}: split 2 does not exist; train_mask holds splits 0 to 1"
        )

    def test_missing_validation_part_is_drawn_outside_train_and_test(self, tmp_path):
        arrays = own_graph()
        del arrays["val_idx"]
        arrays["labels"][9] = -1
        path = save(tmp_path, arrays)
        assert load_dataset(path, seed=3).val_idx.tolist() == [4, 5, 8]

    def test_isolated_and_unlabelled_nodes_are_counted(self, tmp_path):
        arrays = own_graph()
        arrays["edge_index"] = np.array([[0, 1], [2, 9]])
        arrays["labels"][[8, 9]] = -1
        found = summary(load_dataset(save(tmp_path, arrays)))
        assert (found["isolated"], found["unlabelled"], found["homophily"]) == (6, 2, 1.0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"features": None}, "no features; add an array features [nodes, features] or the CSR arrays feat_*"),
            ({"labels": None}, "array 'labels' is missing; the file holds edge_index, features, test_idx, train_idx"),
            ({"edge_index": None}, "array 'edge_index' is missing"),
            ({"train_idx": None}, "no train nodes; add an array train_idx or train_mask"),
            ({"test_idx": None}, "no test nodes; add an array test_idx or test_mask"),
            ({"features": np.ones(NUM_NODES)}, "the features must have shape [nodes, features], got [10]"),
            ({"features": np.full((NUM_NODES, 2), "a")}, "the features must be real numbers, got dtype <U1"),
            ({"features": np.where(np.eye(NUM_NODES), np.nan, 1)}, "the features of node 0 hold NaN or infinite"),
            ({"features": np.full((NUM_NODES, 2), 1e300)}, "the features of node 0 hold NaN or infinite"),
            ({"labels": np.arange(9)}, "labels must have shape [10], one per feature row, got [9]"),
            ({"labels": np.ones(NUM_NODES)}, "labels must be integers, got dtype float64"),
            ({"labels": np.full(NUM_NODES, -2)}, "the label of node 0 is -2, out of range"),
            ({"labels": np.arange(10) + 1}, "the label of node 9 is 10, out of range"),
            ({"labels": np.zeros(NUM_NODES, int)}, "labels name fewer than two classes"),
            ({"labels": np.arange(10) % 2 * 2}, "no node has class 1 of 0 to 2; renumber the labels"),
            ({"labels": np.repeat([0, 1, 2], [3, 4, 3])}, "class 2 has no training node"),
            ({"edge_index": np.ones((5, 2), int)}, "edge_index must have shape [2, edges], got [5, 2]"),
            ({"edge_index": np.ones((2, 5))}, "edge_index must be integers, got dtype float64"),
            ({"edge_index": np.array([[0], [10]])}, "edge_index names node 10, but there are nodes 0 to 9 only"),
            ({"edge_index": np.array([[-1], [3]])}, "edge_index names node -1"),
            ({"edge_index": np.array([[3], [3]])}, "edge_index holds no edge between two nodes"),
            ({"edge_index": np.zeros((2, 0), int)}, "edge_index holds no edge between two nodes"),
            ({"train_idx": np.array([0, 1, 10])}, "train_idx names node 10, but there are nodes 0 to 9 only"),
            ({"train_idx": np.array([0, 1, 1])}, "train_idx names node 1 more than once"),
            ({"train_idx": np.zeros(0, int)}, "train_idx holds no node"),
            ({"train_idx": np.array([0.0, 1.0])}, "train_idx must be a list of node numbers"),
            ({"val_idx": np.array([3, 4])}, "train_idx and val_idx share 1 nodes, the first is node 3"),
            ({"test_idx": np.array([4, 5])}, "val_idx and test_idx share 2 nodes, the first is node 4"),
            (
                {"labels": np.array([0, 1] * 4 + [-1, -1]), "val_idx": np.array([8])},
                "val_idx holds node 8, whose label",
            ),
            ({"val_idx": None, "test_idx": np.arange(4, 10)}, "no labelled node is left outside train and test"),
            ({"train_idx": None, "train_mask": np.ones(3, bool)}, "train_mask must have shape [10] or [10, splits]"),
            ({"train_idx": None, "train_mask": np.full(10, 2)}, "train_mask must hold booleans, got dtype int64"),
            ({"features": None, "feat_data": np.ones(1)}, "array 'feat_indptr' is missing"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(self, tmp_path, change, message):
        arrays = {name: array for name, array in (own_graph() | change).items() if array is not None}
        path = save(tmp_path, arrays)
        assert error_of(lambda: load_dataset(path)).startswith(f"{path}: {message}")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"feat_indices": np.full(5, 99)}, "the arrays feat_* are not a CSR matrix"),
            ({"feat_indptr": np.arange(3)}, "the arrays feat_* are not a CSR matrix"),
            ({"feat_shape": np.array([10])}, "feat_shape must be two integers"),
            ({"feat_data": np.full(5, "a")}, "feat_data must be real numbers, got dtype <U1"),
            ({"feat_data": np.array([1, 1, np.inf, 1, 1])}, "the features of node 2 hold NaN or infinite"),
        ],
    )
    def test_damaged_csr_is_said_in_one_line(self, tmp_path, change, message):
        arrays = own_graph()
        del arrays["features"]
        csr = {"feat_indptr": np.minimum(np.arange(11), 5), "feat_indices": np.zeros(5, int), "feat_data": np.ones(5)}
        path = save(tmp_path, arrays | csr | {"feat_shape": np.array([10, 3])} | change)
        assert error_of(lambda: load_dataset(path)).startswith(f"{path}: {message}")

    def test_one_split_only(self, tmp_path):
        path = save(tmp_path, own_graph())
        message = error_of(lambda: load_dataset(path, split=1))
        assert message == f"{path}: split 1 does not exist; the file holds one split, number 0"

    def test_files_that_are_no_npz(self, tmp_path):
        text, npy, cut = tmp_path / "text.npz", tmp_path / "one.npy", tmp_path / "cut.npz"
        text.write_text("hello")
        np.save(npy, np.ones(3))
        cut.write_bytes(save(tmp_path, own_graph()).read_bytes()[:700])
        for path in (text, npy):
            assert error_of(lambda path=path: load_dataset(path)) == (
                f"{path} is not an .npz file; save the arrays with numpy.savez"
            )
        assert error_of(lambda: load_dataset(cut)).startswith(f"{cut} is damaged and cannot be read")
        assert error_of(lambda: load_dataset(tmp_path)).startswith(f"{tmp_path} holds no images; expected are")
        assert error_of(lambda: load_dataset("no/such.npz")) == "no/such.npz: no such file"

    def test_pickled_objects_are_never_loaded(self, tmp_path):
        path = save(tmp_path, own_graph() | {"labels": np.array([{}] * NUM_NODES, dtype=object)})
        assert error_of(lambda: load_dataset(path)) == f"{path} holds Python objects; save plain numeric arrays instead"


def test_unknown_name_is_answered_with_the_nearest():
    assert error_of(lambda: load_dataset("citeser")) == "unknown data set 'citeser'; did you mean 'citeseer'?"
    assert error_of(lambda: load_dataset("xyz")).endswith(f"{[*datasets()][-1]}, or the path of an .npz file")


def test_missing_data_dir_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HCDC_DATA_DIR", str(tmp_path / "gone"))
    assert error_of(lambda: load_dataset("cora")) == f"HCDC_DATA_DIR names {tmp_path}/gone, which is not a folder"


def test_normalized_rows_sum_to_one():
    sparse = sp.csr_matrix(np.array([[1.0, 3.0], [0.0, 0.0]]))
    empty = np.zeros(0, np.int32)
    graph = GraphData("g", sparse, np.zeros((2, 0), np.int32), empty, empty, empty, empty, 0, "")
    expected = [[0.25, 0.75], [0.0, 0.0]]
    np.testing.assert_array_equal(normalize_rows(graph).features.toarray(), expected)
    np.testing.assert_array_equal(normalize_rows(graph._replace(features=sparse.toarray())).features, expected)


# Planetoid ------------------------------------------------------------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Writes pickles as Python 2 and the old SciPy wrote them: raw strings and old module names."""

    def save_bytes(self, content):
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: save_bytes}


def python2_pickle(value) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    old = file.getvalue().replace(b"scipy.sparse._csr", b"scipy.sparse.csr")
    return old.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def planetoid_files() -> dict[str, bytes]:
    """511 nodes: 0-5 train, 6-505 val, 507, 510, 508 test in this order; 506 and 509 are missing from the test list."""
    one_hot = np.eye(2, dtype=np.int32)
    allx = sp.csr_matrix(np.stack([np.ones(506), np.arange(506)], axis=1).astype(np.float32))
    neighbours = collections.defaultdict(list, {i: [(i + 1) % 511, (i - 1) % 511, i] for i in range(511)})
    files = {
        "x": allx[:6],
        "y": one_hot[np.arange(6) % 2],
        "tx": sp.csr_matrix(np.array([[0, 7], [0, 10], [0, 8]], np.float32)),
        "ty": one_hot[[1, 0, 1]],
        "allx": allx,
        "ally": one_hot[np.arange(506) % 2],
        "graph": neighbours,
    }
    return {name: python2_pickle(value) for name, value in files.items()} | {"test.index": b"507\n510\n508\n"}


def test_planetoid_files_are_put_in_order():
    arrays = planetoid.parse(planetoid_files(), where="here")
    features = sp.csr_matrix((arrays["feat_data"], arrays["feat_indices"], arrays["feat_indptr"]), arrays["feat_shape"])
    np.testing.assert_array_equal(features.toarray()[506:], [[0, 0], [0, 7], [0, 8], [0, 0], [0, 10]])
    np.testing.assert_array_equal(features.toarray()[:506], [[1, i] for i in range(506)])
    assert arrays["labels"][506:].tolist() == [-1, 1, 1, -1, 0]
    assert arrays["train_idx"].tolist() == list(range(6))
    assert (arrays["val_idx"][0], arrays["val_idx"][-1], len(arrays["val_idx"])) == (6, 505, 500)
    assert arrays["test_idx"].tolist() == [507, 508, 510]


def test_planetoid_pickles_cannot_run_code():
    files = planetoid_files() | {"graph": b"cos\nsystem\n(S'touch harmed'\ntR."}
    message = error_of(lambda: planetoid.parse(files, where="here"))
    assert message == "here: graph is not a Planetoid file: os.system is not allowed"
    assert not os.path.exists("harmed")


@pytest.fixture
def planetoid_server(tmp_path, monkeypatch):
    """The address of a local copy of a made-up Cora, whose checksums the library expects."""
    files = planetoid_files()
    folder = tmp_path / "server"
    folder.mkdir()
    for part, content in files.items():
        (folder / f"ind.cora.{part}").write_bytes(content)
    monkeypatch.setattr(planetoid, "SHA256", {"cora": {part: sha256(content) for part, content in files.items()}})

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


UNREACHABLE = "http://127.0.0.1:9"


def test_download_is_cached(planetoid_server, tmp_path):
    address, _ = planetoid_server
    data = planetoid.load_planetoid("cora", source=address)
    assert data.edges.shape[1] == 511
    np.testing.assert_allclose(data.features.toarray()[505], [1 / 506, 505 / 506], rtol=1e-6)
    again = planetoid.load_planetoid("cora", source=UNREACHABLE)
    assert again.checksum == data.checksum
    assert [path.name for path in (tmp_path / "cache").rglob("*")] == ["cora", "cora.npz"]


def test_data_dir_comes_before_the_cache(planetoid_server, tmp_path):
    address, _ = planetoid_server
    planetoid.load_planetoid("cora", source=address)
    (tmp_path / "own" / "cora").mkdir(parents=True)
    save(tmp_path / "own" / "cora", own_graph(), "cora.npz")
    assert load_dataset("cora", data_dir=tmp_path / "own").num_nodes == NUM_NODES
    assert load_dataset("cora").num_nodes == 511


def test_failed_downloads_leave_nothing_behind(planetoid_server, tmp_path, monkeypatch):
    address, folder = planetoid_server
    mend = "check the network connection, or put cora/cora.npz into a folder that HCDC_DATA_DIR names"

    message = error_of(lambda: planetoid.load_planetoid("cora", source=UNREACHABLE))
    assert message.startswith(f"cannot download {UNREACHABLE}/ind.cora.x: ")
    assert message.endswith(mend)

    (folder / "ind.cora.ty").write_bytes(b"something else")
    message = error_of(lambda: planetoid.load_planetoid("cora", source=address))
    assert message.startswith(f"{address}/ind.cora.ty has SHA-256 ")
    assert message.endswith(f"nothing was kept; {mend}")

    (folder / "ind.cora.ty").unlink()
    message = error_of(lambda: planetoid.load_planetoid("cora", source=address))
    assert message == f"cannot download {address}/ind.cora.ty: HTTP 404 File not found; {mend}"
    assert not (tmp_path / "cache").exists()


def test_file_sources_work(planetoid_server):
    _, folder = planetoid_server
    assert planetoid.load_planetoid("cora", source=folder.as_uri()).num_nodes == 511


def test_checksums_are_there_for_every_planetoid_file():
    assert {"cora", "citeseer", "pubmed"} == planetoid.SHA256.keys()
    digests = [digest for files in planetoid.SHA256.values() for digest in files.values()]
    assert len(set(digests)) == 24
    assert all(len(digest) == 64 for digest in digests)


def test_flickr_social_splits(tmp_path):
    labels = np.repeat(np.arange(2), 100)
    train = {f"train{size}_idx": np.r_[:size, 100 : 100 + size] for size in (20, 40, 60)}
    test = {f"test{size}_idx": np.r_[60:70, 160:170] for size in (20, 40, 60)}
    graph = own_graph() | {"features": np.ones((200, 2)), "labels": labels} | train | test
    for part in ("train_idx", "val_idx", "test_idx"):
        del graph[part]
    (tmp_path / "flickr_social").mkdir()
    path = save(tmp_path / "flickr_social", graph, "flickr_social.npz")
    for split, size in enumerate((20, 40, 60)):
        data = load_dataset("flickr_social", split=split, data_dir=tmp_path)
        assert (len(data.train_idx), len(data.val_idx)) == (2 * size, 180 - 2 * size)
    assert error_of(lambda: load_dataset("flickr_social", split=3, data_dir=tmp_path)) == (
        f"{path}: split 3 does not exist; the file holds splits 0 to 2"
    )
    assert error_of(lambda: load_dataset("flickr_social")) == (
        "flickr_social is read from disk only: put flickr_social/flickr_social.npz into a folder that HCDC_DATA_DIR "
        "names"
    )


# The real files, where there are any ----------------------------------------------------------------------------------

DATA_DIR = os.environ.get("HCDC_DATA_DIR", "")


@pytest.mark.parametrize(
    ("name", "checksum", "edges", "isolated", "unlabelled"),
    [
        ("cora", "2e8f929354a18028b34263c01cf3f2e1884d2c1b27d0a3ece7724d77f44b3bb4", 5278, 0, 0),
        ("citeseer", "72c97e7823de9f214dafcde4c0711e08248ec9becffddfe8b3e4d9456978a92a", 4552, 48, 15),
    ],
)
def test_real_planetoid(name, checksum, edges, isolated, unlabelled):
    if not os.path.exists(os.path.join(DATA_DIR, name)):
        pytest.skip(f"HCDC_DATA_DIR holds no {name}")
    data = load_dataset(name, data_dir=DATA_DIR)
    found = summary(data)
    assert (found["edges"], found["isolated"], found["unlabelled"]) == (edges, isolated, unlabelled)
    assert data.checksum == checksum
    sums = np.asarray(data.features.sum(axis=1)).reshape(-1)
    np.testing.assert_allclose(sums[data.labels >= 0], 1, rtol=1e-5)


def test_every_set_has_a_description():
    assert {"digits_graph", "cora", "citeseer", "pubmed", "flickr_social", "arxiv_graph"} <= datasets().keys()
    assert {"digits_images", "mnist", "fashion_mnist", "svhn", "cifar10", "cifar100"} <= datasets().keys()
    assert all(datasets().values())
