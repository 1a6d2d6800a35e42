"""Objects of other packages: stand-ins with their attributes, and the packages themselves where they are installed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from PIL import Image

import hcdc_jax as hc
from hcdc_jax.data import read_dataset
from tests.errors import error_of

N = 12
NODES = np.arange(N)
FEATURES = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
EDGES = np.stack([NODES[:-1], NODES[1:]])
WEIGHTS = np.linspace(0.5, 3, N - 1)
LABELS = NODES % 2
PARTS = {"train": NODES[:4], "val": NODES[4:8], "test": NODES[8:]}
MASKS = {f"{part}_mask": np.isin(NODES, nodes) for part, nodes in PARTS.items()}
BOTH = np.concatenate([EDGES, EDGES[::-1]], axis=1)


def expected(**changes):
    arrays = {"features": FEATURES, "edge_index": EDGES, "labels": LABELS, "edge_weight": WEIGHTS}
    arrays |= {f"{part}_idx": nodes for part, nodes in PARTS.items()} | changes
    return hc.from_object({name: array for name, array in arrays.items() if array is not None})


def same(data, other) -> bool:
    return (data.checksum, data.notes) == (other.checksum, ())


class Tensor:
    """As far as a tensor of PyTorch goes here."""

    def __init__(self, array):
        self.array = np.asarray(array)
        self.shape = self.array.shape

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


class SparseTensor(Tensor):
    is_sparse = True

    def coalesce(self):
        return self

    def indices(self):
        return Tensor(np.stack(np.nonzero(self.array)))

    def values(self):
        return Tensor(self.array[np.nonzero(self.array)])


# Graphs ---------------------------------------------------------------------------------------------------------------


class PygData(SimpleNamespace):
    def to_dict(self):
        return dict(vars(self))


def pyg(**changes) -> PygData:
    fields = {"x": FEATURES, "edge_index": BOTH, "y": LABELS, "edge_weight": np.tile(WEIGHTS, 2), **MASKS} | changes
    fields = {name: array if array is None else Tensor(array) for name, array in fields.items()}
    return PygData(**fields, num_nodes=N)


def test_pytorch_geometric():
    assert same(hc.from_object(pyg()), expected())
    column = pyg(edge_weight=None, edge_attr=np.tile(WEIGHTS, 2)[:, None], y=LABELS[:, None])
    assert hc.from_object(column).checksum == expected().checksum
    assert "data: edge_attr, one number per edge, is read" in hc.from_object(column).notes[0]
    several = pyg(edge_weight=None, edge_attr=np.ones((2 * N - 2, 4)))
    assert hc.from_object(several).checksum == expected(edge_weight=None).checksum
    sparse = pyg()
    sparse.x = SparseTensor(np.maximum(FEATURES, 0))
    np.testing.assert_array_equal(hc.from_object(sparse).features.toarray(), np.maximum(FEATURES, 0))


def test_a_pytorch_geometric_data_set_of_one_graph_is_that_graph():
    class Planetoid(list):
        def __getattr__(self, name):  # as InMemoryDataset
            if name in vars(self[0]):
                return getattr(self[0], name)
            raise AttributeError(name)

    assert same(hc.from_object(Planetoid([pyg()])), expected())
    assert "holds 2 things; give one graph" in error_of(lambda: hc.from_object(Planetoid([pyg(), pyg()])))


def test_what_a_graph_has_beside_is_never_lost_in_silence():
    assert error_of(lambda: hc.from_object(pyg(train_maskk=NODES))).startswith(
        "data: array 'train_maskk' is not read; did you mean 'train_mask'"
    )
    assert hc.from_object(pyg(year=NODES)).notes == ("data: not read: year",)
    listed = pyg()
    listed.names = [{"a": 1}] * N
    assert hc.from_object(listed).notes == ("data: not read: names",)
    listed.train_mask = [{}] * N
    assert error_of(lambda: hc.from_object(listed)).startswith("data: 'train_mask' is no array of numbers")
    assert "edge_index is empty" in error_of(lambda: hc.from_object(pyg(edge_index=None)))
    hetero = SimpleNamespace(edge_types=["a"], node_types=["b"])
    assert "several kinds of nodes or edges" in error_of(lambda: hc.from_object(hetero))


def dgl(**edata):
    ends = tuple(Tensor(of) for of in BOTH)
    ndata = {"feat": FEATURES, "label": LABELS, **MASKS}
    return SimpleNamespace(
        ndata={name: Tensor(array) for name, array in ndata.items()}, is_homogeneous=True, edges=lambda: ends,
        edata={name: Tensor(array) for name, array in edata.items()},
    )  # fmt: skip


def test_dgl():
    for name in ("weight", "w", "edge_weight"):
        assert same(hc.from_object(dgl(**{name: np.tile(WEIGHTS, 2)})), expected())
    norm = hc.from_object([dgl(norm=np.ones(2 * N - 2))])
    assert norm.checksum == expected(edge_weight=None).checksum
    assert norm.notes == ("data: data of edges that is not read: norm",)
    several = dgl()
    several.is_homogeneous = False
    assert "several kinds of nodes or edges" in error_of(lambda: hc.from_object(several))


class Ogb(list):
    def get_idx_split(self):
        return {name: Tensor(PARTS[part]) for name, part in (("train", "train"), ("valid", "val"), ("test", "test"))}


def test_ogb():
    graph = {"edge_index": EDGES, "edge_feat": None, "node_feat": FEATURES, "num_nodes": N}
    column, plain = LABELS[:, None], expected(edge_weight=None)
    assert same(hc.from_object(Ogb([(graph, column)])), plain)
    with_year = Ogb([(graph | {"node_year": NODES[:, None]}, column)])
    assert hc.from_object(with_year).notes == ("data: not read: node_year",)
    data = pyg(edge_weight=None, y=column, **dict.fromkeys(MASKS))
    assert same(hc.from_object(Ogb([data])), plain)
    of_dgl = dgl()
    of_dgl.ndata = {"feat": FEATURES}
    assert same(hc.from_object(Ogb([(of_dgl, Tensor(column))])), plain)
    assert "holds 2 graphs; one graph" in error_of(lambda: hc.from_object(Ogb([(graph, column)] * 2)))


class Networkx:
    """As far as a graph of networkx goes here."""

    def __init__(self, nodes, edges, directed=False):
        self._nodes, self._edges, self._directed = nodes, edges, directed

    def nodes(self, data=False):
        return self._nodes.items() if data else self._nodes

    def edges(self, data=False):
        return [(a, b, data) for a, b, data in self._edges] if data else [(a, b) for a, b, _ in self._edges]

    def is_directed(self):
        return self._directed

    def is_multigraph(self):
        return False


NAMES = [f"node {k}" for k in NODES]


def attributes(**changes):
    part = {node: part for part, nodes in PARTS.items() for node in nodes}
    every = [{"x": FEATURES[k].tolist(), "y": int(LABELS[k]), "split": part[k]} for k in NODES]
    for name, values in changes.items():
        for k, value in enumerate(values):
            every[k][name] = value
    return dict(zip(NAMES, every, strict=True))


def networkx(nodes=None, weights=WEIGHTS, **options):
    backwards = [(NAMES[b], NAMES[a]) if a % 3 else (NAMES[a], NAMES[b]) for a, b in EDGES.T]
    of_edges = [{"weight": weight} for weight in weights] + [{}] * (len(backwards) - len(weights))
    edges = [(*ends, weight) for ends, weight in zip(backwards, of_edges, strict=True)]
    return Networkx(attributes() if nodes is None else nodes, edges, **options)


def test_networkx():
    assert same(hc.from_object(networkx()), expected())
    directed = hc.from_object(networkx(directed=True))
    assert directed.checksum == expected().checksum
    assert directed.notes == ("data: 11 of 11 edges are listed in one direction only; they are taken as undirected",)
    assert "1 of 11 edges have no weight" in error_of(lambda: hc.from_object(networkx(weights=WEIGHTS[:-1])))
    words = hc.from_object(networkx(attributes(y=["cat", "ant"] * 6)))
    np.testing.assert_array_equal(words.labels, 1 - LABELS)
    assert words.notes == ("data: labels are words and numbered by the alphabet: ant = 0, cat = 1",)
    coloured = attributes()
    coloured[NAMES[3]]["colour"] = "red"
    assert hc.from_object(networkx(coloured)).notes == ("data: not read: colour",)
    masked = attributes()
    for k, name in enumerate(NAMES):
        masked[name][f"{masked[name].pop('split')}_mask"] = True
        if k == 11:
            del masked[name]["y"], masked[name]["test_mask"]
    data = hc.from_object(networkx(masked))
    assert (data.labels[11], data.test_idx.tolist()) == (-1, [8, 9, 10])


def test_networkx_nodes_that_lack_something_are_named():
    nodes = attributes()
    del nodes[NAMES[5]]["x"]
    assert error_of(lambda: hc.from_object(networkx(nodes))) == (
        "data: 1 nodes have no 'x', the first is 'node 5'; give all one"
    )
    line = error_of(lambda: hc.from_object(networkx(attributes(split=["trian"] * N))))
    assert line.startswith("data: the split of node 'node 0' is 'trian'; known are train, val and test")
    assert "'x' must have the same length at all nodes" in error_of(
        lambda: hc.from_object(networkx(attributes(x=[[1.0], [1.0, 2.0]] * 6)))
    )


def test_networkx_itself():
    nx = pytest.importorskip("networkx")
    graph = nx.Graph()
    graph.add_nodes_from(attributes().items())
    graph.add_weighted_edges_from((NAMES[b], NAMES[a], w) for a, b, w in zip(*EDGES, WEIGHTS, strict=True))
    assert same(hc.from_object(graph), expected())


def test_pytorch_geometric_itself():
    data = pytest.importorskip("torch_geometric.data")
    torch = pytest.importorskip("torch")
    fields = {
        name: torch.from_numpy(np.array(value.array)) for name, value in vars(pyg()).items() if name != "num_nodes"
    }
    assert same(hc.from_object(data.Data(**fields)), expected())


# Images ---------------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(1)
PIXELS = {part: RNG.integers(0, 256, (n, 6, 6, 3), np.uint8) for part, n in (("train", 20), ("val", 6), ("test", 8))}
CLASSES = {part: np.arange(len(images)) % 2 for part, images in PIXELS.items()}


def expected_images(*parts):
    arrays = {f"{part}_images": PIXELS[part] for part in parts}
    return hc.from_object(arrays | {f"{part}_labels": CLASSES[part] for part in parts})


def test_pairs_of_images_and_labels():
    """As Keras returns them; labels [n, 1] as it has them for CIFAR."""
    train, val, test = ((PIXELS[part], CLASSES[part][:, None]) for part in ("train", "val", "test"))
    assert same(hc.from_object((train, test)), expected_images("train", "test"))
    assert same(hc.from_object((train, val, test)), expected_images("train", "val", "test"))
    named = {"train": train, "valid": val, "test": (Tensor(PIXELS["test"]), Tensor(CLASSES["test"]))}
    assert same(hc.load_dataset(named), expected_images("train", "val", "test"))
    alone = hc.from_object(train)
    assert (alone.num_images, len(alone.test_idx)) == (20, 4)
    assert hc.from_object(named | {"extra": train}).notes == ("data: left out: 'extra', which is no part",)
    assert "data: 'test' is a int" in error_of(lambda: hc.from_object(named | {"test": 3}))
    assert "data has two parts for val" in error_of(lambda: hc.from_object(named | {"dev": val}))
    first = PIXELS["train"].transpose(0, 3, 1, 2)
    assert "train images of shape [20, 3, 6, 6] look like channels first" in error_of(
        lambda: hc.from_object((first, CLASSES["train"]))
    )


def test_medmnist_and_torchvision():
    """MedMNIST's file, and data set objects with the attributes of both packages."""
    parts = ("train", "val", "test")
    file = {f"{part}_images": PIXELS[part] for part in parts} | {
        f"{part}_labels": CLASSES[part][:, None] for part in parts
    }
    assert same(hc.from_object(file), expected_images(*parts))
    for images, labels in (("imgs", "labels"), ("data", "targets"), ("data", "labels")):
        objects = {part: SimpleNamespace(**{images: PIXELS[part], labels: CLASSES[part].tolist()}) for part in parts}
        assert same(hc.from_object(objects), expected_images(*parts))


class HuggingFace:
    def __init__(self, part, names=("cat", "dog"), column="image"):
        images = [Image.fromarray(pixels) for pixels in PIXELS[part]]
        self._columns = {column: images, "label": CLASSES[part].tolist()}
        self.column_names = list(self._columns)
        self.features = {column: None, "label": SimpleNamespace(names=list(names))}

    def __getitem__(self, name):
        return self._columns[name]


def test_hugging_face():
    splits = {
        "train": HuggingFace("train"),
        "validation": HuggingFace("val"),
        "test": HuggingFace("test", column="img"),
    }
    data = hc.from_object(splits)
    assert same(data, expected_images("train", "val", "test"))
    assert data.class_names == ("cat", "dog")
    assert hc.from_object(HuggingFace("train")).num_images == 20
    see_through = Image.fromarray(np.dstack([PIXELS["train"][2], np.zeros((6, 6), np.uint8)]))
    splits["train"]["image"][2] = see_through
    changed = hc.from_object(splits)
    assert (changed.images[2] == 1).all()
    assert changed.notes == ("data: 1 pictures have transparent pixels, which are shown on white",)
    splits["train"]["image"][3] = see_through.resize((5, 6))
    assert "data train: images must have one size, but 3 has 6 x 5 and 0 6 x 6" in error_of(
        lambda: hc.from_object(splits)
    )
    assert "data train must have one column of image, img, images; it has picture, label" in error_of(
        lambda: hc.from_object(HuggingFace("train", column="picture"))
    )


def test_hugging_face_itself():
    datasets = pytest.importorskip("datasets")
    columns = {"image": [Image.fromarray(pixels) for pixels in PIXELS["train"]], "label": CLASSES["train"].tolist()}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    data = hc.from_object(datasets.Dataset.from_dict(columns, features=features))
    assert (data.num_images, data.class_names) == (20, ("cat", "dog"))


# Files of them --------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_read_as_it_was(tmp_path):
    for data in (expected(), expected(edge_weight=None), expected_images("train", "val", "test")):
        hc.save_dataset(data, tmp_path / "mine.npz")
        assert same(read_dataset(tmp_path / "mine.npz"), data)
    sparse = expected(features=None, x=sp.csr_array(np.maximum(FEATURES, 0)))
    hc.save_dataset(sparse, tmp_path / "sparse.npz")
    assert same(read_dataset(tmp_path / "sparse.npz"), sparse)
    hc.save_dataset(dgl(), tmp_path / "dgl.npz")
    assert read_dataset(tmp_path / "dgl.npz").checksum == expected(edge_weight=None).checksum
    inductive = expected()._replace(train_edges=EDGES[:, :2])
    assert "which an .npz file cannot say" in error_of(lambda: hc.save_dataset(inductive, tmp_path / "no.npz"))
    assert not (tmp_path / "no.npz").exists()


@pytest.mark.parametrize("value", [3, None, b"", np.ones(3), object()])
def test_other_objects_are_named_by_their_kind(value):
    assert error_of(lambda: hc.load_dataset(value)).startswith(f"data: cannot read a {type(value).__name__}; known are")
