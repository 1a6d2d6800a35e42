"""Graphs in the layouts of OGB and GraphSAINT, and the graph of arXiv with features of its own; all of them tiny."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pytest
import scipy.sparse as sp

from hcdc_jax.batches.graphs import real_batch
from hcdc_jax.config import Config, apply_overrides
from hcdc_jax.data import load_dataset, read_dataset
from hcdc_jax.data.graphs import seen_from
from hcdc_jax.data.structure import NUM_SIGNALS, structural_features
from hcdc_jax.pipeline import prepare
from hcdc_jax.pipeline.recipes import METHODS
from tests.errors import error_of

NUM_NODES = 12
EDGES = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 6]])
LABELS = np.arange(NUM_NODES) % 2
PARTS = {"train": np.arange(6), "valid": np.arange(6, 9), "test": np.arange(9, 12)}
FEATURES = np.random.default_rng(0).normal(3.0, 2.0, (NUM_NODES, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def no_data_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HCDC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HCDC_DATA_DIR", raising=False)


def standardised() -> np.ndarray:
    training = FEATURES[PARTS["train"]]
    return (FEATURES - training.mean(0)) / training.std(0)


def write_table(path, table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(",".join(map(str, np.atleast_1d(row).tolist())) + "\n" for row in table)
    path.write_bytes(gzip.compress(lines.encode()))


@pytest.fixture
def ogb(tmp_path):
    """A folder as `arxiv.zip` unpacks, under the name that OGB's own package gives it."""
    root = tmp_path / "ogbn_arxiv"
    write_table(root / "raw" / "node-feat.csv.gz", FEATURES)
    write_table(root / "raw" / "edge.csv.gz", EDGES.T)
    write_table(root / "raw" / "node-label.csv.gz", LABELS)
    write_table(root / "raw" / "node_year.csv.gz", np.full(NUM_NODES, 2017))
    write_table(root / "raw" / "num-node-list.csv.gz", [NUM_NODES])
    write_table(root / "raw" / "num-edge-list.csv.gz", [EDGES.shape[1]])
    for part, nodes in PARTS.items():
        write_table(root / "split" / "time" / f"{part}.csv.gz", nodes)
    return root


class TestOGB:
    def test_all_of_it_is_read(self, ogb):
        data = load_dataset("ogbn_arxiv", data_dir=ogb.parent)
        assert (data.name, data.num_classes) == ("ogbn_arxiv", 2)
        np.testing.assert_allclose(data.features, standardised(), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(data.labels, LABELS)
        for found, nodes in zip((data.train_idx, data.val_idx, data.test_idx), PARTS.values(), strict=True):
            np.testing.assert_array_equal(found, nodes)
        assert {frozenset(edge) for edge in data.edges.T.tolist()} == {frozenset(edge) for edge in EDGES.T.tolist()}
        assert data.train_edges is None
        assert not any("edge-feat" in note for note in read_dataset(path=ogb).notes)
        write_table(ogb / "raw" / "edge-feat.csv.gz", np.ones((EDGES.shape[1], 3)))
        assert "raw/edge-feat.csv.gz is not read" in read_dataset(path=ogb).notes[0]

    def test_the_zip_file_and_a_path_give_the_same(self, ogb, tmp_path):
        folder = load_dataset("ogbn_arxiv", data_dir=ogb.parent)
        (tmp_path / "packed").mkdir()
        shutil.copytree(ogb, tmp_path / "top" / "arxiv")
        archive = shutil.make_archive(str(tmp_path / "packed" / "arxiv"), "zip", tmp_path / "top")
        for other in (
            load_dataset("ogbn_arxiv", data_dir=tmp_path / "packed"), read_dataset(path=archive), read_dataset(path=ogb)
        ):  # fmt: skip
            assert other.checksum == folder.checksum
        with pytest.warns(UserWarning, match="13 of 13 edges are listed in one direction only"):
            load_dataset(path=ogb)

    def test_what_to_get_is_said(self, tmp_path):
        for data_dir in (None, tmp_path):
            text = error_of(lambda data_dir=data_dir: load_dataset("ogbn_arxiv", data_dir=data_dir))
            assert "arxiv.zip" in text
            assert "HCDC_DATA_DIR" in text

    @pytest.mark.parametrize("name", ["raw/edge.csv.gz", "raw/node-label.csv.gz", "split/time/valid.csv.gz"])
    def test_a_missing_file_is_named(self, ogb, name):
        (ogb / name).unlink()
        assert f"{name} is missing" in error_of(lambda: load_dataset(path=ogb))

    def test_wrong_counts(self, ogb):
        write_table(ogb / "raw" / "num-edge-list.csv.gz", [99])
        assert "says 99 edges, but there are 13" in error_of(lambda: load_dataset(path=ogb))
        write_table(ogb / "raw" / "num-edge-list.csv.gz", [13])
        write_table(ogb / "raw" / "node-label.csv.gz", LABELS[:-1])
        assert "labels must have shape [12]" in error_of(lambda: load_dataset(path=ogb))

    def test_damage(self, ogb):
        path = ogb / "raw" / "edge.csv.gz"
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], b"no gzip", gzip.compress(b"1,2\n3\n"), gzip.compress(b"1,x\n")):
            path.write_bytes(content)
            assert "raw/edge.csv.gz is damaged" in error_of(lambda: load_dataset(path=ogb))
        write_table(path, EDGES.T + 0.5)
        assert "0.5, which is no whole number" in error_of(lambda: load_dataset(path=ogb))
        write_table(path, EDGES.T + 1)
        assert "names node 12" in error_of(lambda: load_dataset(path=ogb))

    def test_other_mistakes(self, ogb, tmp_path):
        assert "split 1 does not exist" in error_of(lambda: load_dataset(path=ogb, split=1))
        write_table(ogb / "raw" / "node-label.csv.gz", np.stack([LABELS, LABELS], 1))
        assert "2 labels per node" in error_of(lambda: load_dataset(path=ogb))
        shutil.rmtree(ogb / "split" / "time")
        write_table(ogb / "raw" / "node-label.csv.gz", LABELS)
        assert "split/" in error_of(lambda: load_dataset(path=ogb))
        (tmp_path / "arxiv.zip").write_bytes(b"no zip")
        assert "arxiv.zip" in error_of(lambda: load_dataset(path=tmp_path / "arxiv.zip"))


@pytest.fixture
def graphsaint(tmp_path):
    folder = tmp_path / "reddit"
    folder.mkdir()
    ends = np.concatenate([EDGES, EDGES[::-1]], 1)
    inside = ends[:, np.isin(ends, PARTS["train"]).all(0)]
    for name, (rows, columns) in (("adj_full.npz", ends), ("adj_train.npz", inside)):
        matrix = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(NUM_NODES, NUM_NODES))
        sp.save_npz(folder / name, matrix)
    np.save(folder / "feats.npy", FEATURES.astype(np.float64))
    (folder / "class_map.json").write_text(json.dumps({str(node): int(LABELS[node]) for node in range(NUM_NODES)}))
    roles = dict(zip(("tr", "va", "te"), (nodes.tolist() for nodes in PARTS.values()), strict=True))
    (folder / "role.json").write_text(json.dumps(roles))
    return folder


class TestGraphSAINT:
    def test_all_of_it_is_read(self, graphsaint):
        data = load_dataset("reddit", data_dir=graphsaint.parent)
        assert (data.name, data.num_classes) == ("reddit", 2)
        np.testing.assert_allclose(data.features, standardised(), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(data.labels, LABELS)
        np.testing.assert_array_equal(data.val_idx, PARTS["valid"])
        assert data.edges.shape == (2, 13)
        assert load_dataset(path=graphsaint).checksum == data.checksum

    def test_training_sees_the_edges_between_training_nodes_alone(self, graphsaint):
        data = load_dataset("reddit", data_dir=graphsaint.parent)
        np.testing.assert_array_equal(data.train_edges, [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
        np.testing.assert_array_equal(seen_from(data, "train").edges, data.train_edges)
        assert seen_from(data, "val") is data

    @pytest.mark.parametrize("sampling", ["plain", "ego"])
    def test_a_run_trains_on_the_training_graph_and_validates_on_the_whole(self, graphsaint, sampling):
        data = load_dataset(path=graphsaint)
        config = apply_overrides(
            Config(methods=("random",)), ["--condense.ratio=0.5", f"--condense.sampling={sampling}"]
        )
        config = apply_overrides(config, [f"--data.path={graphsaint}", "--condense.val_factor=0.5"])
        setup = prepare(config)
        of_training = real_batch(seen_from(data, "train"), data.train_idx, order=2, basis="laplacian")
        of_all = real_batch(data, data.val_idx, order=2, basis="laplacian")
        for batch, expected in ((setup.train, of_training), (setup.val, of_all)):
            np.testing.assert_array_equal(batch.inputs.nodes, expected.inputs.nodes)
            np.testing.assert_array_equal(batch.inputs.edges, expected.inputs.edges)
        start = METHODS["random"].train.start(setup, "train", 0)
        known = {row.tobytes() for row in data.features[data.train_idx]}
        assert {row.tobytes() for row in start.features} <= known

    def test_the_checksum_knows_the_training_edges(self, graphsaint):
        before = load_dataset(path=graphsaint).checksum
        matrix = sp.load_npz(graphsaint / "adj_train.npz").tolil()
        matrix[0, 5] = matrix[5, 0] = 1
        sp.save_npz(graphsaint / "adj_train.npz", matrix.tocsr())
        assert load_dataset(path=graphsaint).checksum != before

    def test_what_to_get_is_said(self, tmp_path):
        text = error_of(lambda: load_dataset("reddit", data_dir=tmp_path))
        assert "adj_full.npz, adj_train.npz, feats.npy, class_map.json, role.json" in text

    @pytest.mark.parametrize("name", ["adj_train.npz", "feats.npy", "role.json"])
    def test_a_missing_file_is_named(self, graphsaint, name):
        (graphsaint / name).unlink()
        assert f"{name} is missing" in error_of(lambda: load_dataset(path=graphsaint))

    @pytest.mark.parametrize("name", ["adj_full.npz", "feats.npy", "role.json", "class_map.json"])
    def test_a_damaged_file_is_named(self, graphsaint, name):
        (graphsaint / name).write_bytes((graphsaint / name).read_bytes()[:20])
        text = error_of(lambda: load_dataset(path=graphsaint))
        assert name in text
        assert "damaged" in text

    def test_wrong_counts(self, graphsaint):
        np.save(graphsaint / "feats.npy", FEATURES[:-1])
        assert "feats.npy has 11 nodes" in error_of(lambda: load_dataset(path=graphsaint))
        np.save(graphsaint / "feats.npy", FEATURES)
        classes = {str(node): 0 for node in range(NUM_NODES - 1)}
        (graphsaint / "class_map.json").write_text(json.dumps(classes))
        assert "classes of 11 nodes" in error_of(lambda: load_dataset(path=graphsaint))
        (graphsaint / "class_map.json").write_text(json.dumps(classes | {"twelve": 1}))
        assert "no class for node 11" in error_of(lambda: load_dataset(path=graphsaint))

    def test_several_labels_per_node(self, graphsaint):
        (graphsaint / "class_map.json").write_text(json.dumps({str(node): [0, 1] for node in range(NUM_NODES)}))
        assert "several labels" in error_of(lambda: load_dataset(path=graphsaint))

    def test_other_mistakes(self, graphsaint):
        assert "split 1 does not exist" in error_of(lambda: load_dataset(path=graphsaint, split=1))
        shutil.copy(graphsaint / "adj_full.npz", graphsaint / "adj_train.npz")
        assert "edge at node 6, which is no training node" in error_of(lambda: load_dataset(path=graphsaint))
        (graphsaint / "role.json").write_text(json.dumps({"tr": [0, 1.5]}))
        assert "'tr' must be a list of whole numbers" in error_of(lambda: load_dataset(path=graphsaint))
        np.savez(graphsaint / "adj_full.npz", nothing=np.zeros(1))
        assert "no CSR matrix" in error_of(lambda: load_dataset(path=graphsaint))


class TestArxivGraph:
    @pytest.fixture
    def data_dir(self, tmp_path):
        (tmp_path / "ogbn_arxiv_graph").mkdir()
        parts = {"train_idx": PARTS["train"], "val_idx": PARTS["valid"], "test_idx": PARTS["test"]}
        arrays = {"edge_index": EDGES, "labels": LABELS, **parts}
        np.savez(tmp_path / "ogbn_arxiv_graph" / "ogbn_arxiv_graph.npz", **arrays)
        return tmp_path

    def test_features_come_from_the_edges(self, data_dir):
        data = load_dataset("arxiv_graph", data_dir=data_dir)
        np.testing.assert_array_equal(data.features, structural_features(EDGES, NUM_NODES))
        np.testing.assert_array_equal(data.labels, LABELS)

    def test_no_label_enters_the_features(self, data_dir):
        before = load_dataset("arxiv_graph", data_dir=data_dir).features
        path = data_dir / "ogbn_arxiv_graph" / "ogbn_arxiv_graph.npz"
        with np.load(path) as archive:
            np.savez(path, **{**archive, "labels": 1 - LABELS})
        np.testing.assert_array_equal(load_dataset("arxiv_graph", data_dir=data_dir).features, before)

    def test_what_is_missing_is_said(self, data_dir, tmp_path_factory):
        empty = tmp_path_factory.mktemp("empty")
        assert "HCDC_DATA_DIR" in error_of(lambda: load_dataset("arxiv_graph", data_dir=empty))
        assert "split 3 does not exist" in error_of(lambda: load_dataset("arxiv_graph", data_dir=data_dir, split=3))
        np.savez(data_dir / "ogbn_arxiv_graph" / "ogbn_arxiv_graph.npz", labels=LABELS)
        assert "edge_index or labels is missing" in error_of(lambda: load_dataset("arxiv_graph", data_dir=data_dir))


def test_structural_features_are_propagated_signs_without_the_degrees():
    # Two cliques of different size, joined by one edge.
    cliques = [np.stack(np.triu_indices(10, 1)), 10 + np.stack(np.triu_indices(14, 1)), np.array([[0], [10]])]
    edges, n = np.concatenate(cliques, 1), 24
    features = structural_features(edges, n, powers=(1, 3, 8))
    assert features.shape == (n, 3 * NUM_SIGNALS)
    adjacency = np.eye(n)
    adjacency[edges[0], edges[1]] = adjacency[edges[1], edges[0]] = 1
    half = np.diag(adjacency.sum(1) ** -0.5)
    operator = half @ adjacency @ half
    leading = np.sqrt(adjacency.sum(1, keepdims=True))
    np.testing.assert_allclose(operator @ leading, leading, atol=1e-12)
    for block, power in zip(np.split(features, 3, axis=1), (1, 3, 8), strict=True):
        np.testing.assert_allclose(np.linalg.norm(block, axis=1), np.sqrt(NUM_SIGNALS), rtol=1e-5)
        # A block is a random projection of the rows of S^k without its leading eigenvector: cosines agree.
        exact = np.linalg.matrix_power(operator - leading @ leading.T / (leading**2).sum(), power)
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        np.testing.assert_allclose(block @ block.T / NUM_SIGNALS, exact @ exact.T, atol=0.45)
    late = features[:, -NUM_SIGNALS:] @ features[:, -NUM_SIGNALS:].T / NUM_SIGNALS
    assert late[:10, :10].min() > 0.9  # one community, whatever the degree
    assert late[:10, 10:].max() < -0.9
    np.testing.assert_array_equal(features, structural_features(edges, n, powers=(1, 3, 8)))
    assert not np.array_equal(features, structural_features(edges, n, powers=(1, 3, 8), seed=1))
