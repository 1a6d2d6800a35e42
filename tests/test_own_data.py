"""Data as people bring it: names of other tools, weights and directions of edges, layouts; nothing lost in silence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import graph_arrays, write_config

from hcdc_jax import config, pipeline
from hcdc_jax.batches.graphs import normalised_adjacency, real_batch
from hcdc_jax.batches.images import fit_raw_whitening, fit_standardisation, fit_whitening
from hcdc_jax.condense.coresets import induced_subgraph
from hcdc_jax.containers.graph import free
from hcdc_jax.data import load_dataset, read_dataset, summary
from hcdc_jax.data.images import Part, build_images
from hcdc_jax.pipeline.kinds import graphs
from hcdc_jax.progress import silent
from tests.errors import error_of
from tests.small_graphs import normalised, polynomials

NUM_NODES = 12
NODES = np.arange(NUM_NODES)
RING = np.stack([NODES[:-1], NODES[1:]])
WEIGHTS = np.linspace(0.25, 5, NUM_NODES - 1)


def own_graph(**changes) -> dict[str, np.ndarray]:
    """A path of twelve nodes; a change to None takes an array out."""
    arrays = {
        "features": np.random.default_rng(0).normal(size=(NUM_NODES, 3)),
        "edge_index": RING,
        "labels": NODES % 2,
        "train_idx": NODES[:4],
        "val_idx": NODES[4:8],
        "test_idx": NODES[8:],
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def own_images(**changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    arrays = {}
    for part, count in (("train", 20), ("val", 6), ("test", 8)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 6, 6, 3), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 2
    return {name: array for name, array in (arrays | changes).items() if array is not None}


@pytest.fixture
def saved(tmp_path):
    """Writes the arrays; returns the path."""

    def save(arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return tmp_path / "mine.npz"

    return save


@pytest.fixture
def refused(saved):
    """The line about arrays that cannot be read, without the file's name."""

    def line(arrays) -> str:
        path = saved(arrays)
        return error_of(lambda: read_dataset(path)).removeprefix(f"{path}: ")

    return line


@pytest.fixture
def notes(saved):
    """Lines about arrays that are read, without the file's name; `load_dataset` warns of the same."""

    def lines(arrays) -> list[str]:
        path = saved(arrays)
        data = read_dataset(path)
        if data.notes:
            with pytest.warns(UserWarning, match=r"mine\.npz: ") as caught:
                load_dataset(path)
            assert tuple(str(warning.message) for warning in caught) == data.notes
        return [note.removeprefix(f"{path}: ") for note in data.notes]

    return lines


def mask(nodes) -> np.ndarray:
    return np.isin(NODES, nodes)


# Names ----------------------------------------------------------------------------------------------------------------

OF_OTHER_TOOLS = {
    "OGB": {"train_idx": "train_idx", "val_idx": "valid_idx", "labels": "node_label", "features": "node_feat"},
    "PyTorch Geometric": {"features": "x", "labels": "y"},
    "DGL": {"features": "feat", "labels": "label"},
    "large letters": {"features": "X", "labels": "Y", "val_idx": "validation_index"},
}


@pytest.mark.parametrize("tool", OF_OTHER_TOOLS)
def test_names_of_other_tools_are_read(saved, tool):
    plain = own_graph()
    expected = read_dataset(saved(plain))
    named = {OF_OTHER_TOOLS[tool].get(name, name): array for name, array in plain.items()}
    if tool == "OGB":
        named["node_label"] = named["node_label"][:, None]
    if tool == "PyTorch Geometric":
        named |= {name.replace("idx", "mask"): mask(named.pop(name)) for name in ("train_idx", "val_idx", "test_idx")}
    data = read_dataset(saved(named))
    assert (data.checksum, data.notes) == (expected.checksum, ())


@pytest.mark.parametrize("words", [("x", "y"), ("X", "Y")])
def test_names_of_keras_are_read(saved, words):
    plain = own_images()
    expected = read_dataset(saved(plain))
    named = {}
    for name, array in plain.items():
        part, kind = name.split("_")
        of_keras = f"{words[kind == 'labels']}_{'valid' if part == 'val' else part}"
        named[of_keras] = array[:, None] if kind == "labels" else array
    assert read_dataset(saved(named)).checksum == expected.checksum


@pytest.mark.parametrize(
    ("arrays", "wrong", "right"),
    [
        (own_graph, "train_idxx", "train_idx"),
        (own_graph, "vlaid_idx", "valid_idx"),
        (own_graph, "edge_wieght", "edge_weight"),
        (own_graph, "edge_atr", "edge_attr"),
        (own_graph, "lables", "labels"),
        (own_images, "valid_image", "valid_images"),
        (own_images, "val_lables", "val_labels"),
        (own_images, "class_name", "class_names"),
    ],
)
def test_a_misspelt_array_is_an_error_even_where_nothing_misses_it(refused, arrays, wrong, right):
    line = refused(arrays(**{wrong: np.ones(NUM_NODES)}))
    assert line.startswith(f"array {wrong!r} is not read; did you mean '{right}'")


def test_misspelt_arrays_that_are_needed_are_named_as_such(refused):
    assert refused(own_graph(labels=None, lables=NODES % 2)).startswith("array 'lables' is not read; did you mean 'lab")
    images = own_images()
    images["train_image"], images["test_image"] = images.pop("train_images"), images.pop("test_images")
    images = {name: array for name, array in images.items() if not name.startswith("val")}
    assert refused(images).startswith("array 'train_image' is not read; did you mean 'train_images'")


@pytest.mark.parametrize("name", ["loss_weights", "sample_mask", "holdout_indices", "train20_nodes", "split_of_nodes"])
def test_what_may_decide_what_is_learned_is_never_left_out(refused, name):
    for arrays in (own_graph, own_images):
        line = refused(arrays(**{name: np.ones(NUM_NODES)}))
        assert line.startswith(f"array {name!r} looks like one that decides what is learned, and is not read")


def test_what_else_is_not_read_is_told(notes):
    assert notes(own_graph(year=NODES, label_names=np.array(["a", "b"]))) == ["not read: label_names, year"]
    assert notes(own_images(author=np.array("me"))) == ["not read: author"]
    assert notes(own_graph()) == notes(own_images()) == []


def test_two_arrays_for_one_thing_must_agree(refused, notes):
    assert notes(own_graph(x=own_graph()["features"], train_mask=mask(NODES[:4]))) == []
    assert refused(own_graph(y=1 - NODES % 2)) == (
        "'labels' and 'y' are two names of one array and differ; leave one of them out"
    )
    assert refused(own_graph(train_mask=mask(NODES[2:4]))) == (
        "train_idx and train_mask differ in 2 nodes, the first is node 0; leave one of them out"
    )
    csr = {"feat_data": np.ones(1), "feat_indices": np.zeros(1, int)}
    assert refused(own_graph(**csr)) == "there are both features and the CSR arrays feat_*; leave one of them out"


# Edges ----------------------------------------------------------------------------------------------------------------


def weighted_adjacency() -> np.ndarray:
    adjacency = np.zeros((NUM_NODES, NUM_NODES))
    for a, b, weight in zip(*RING, WEIGHTS, strict=True):
        adjacency[a, b] = adjacency[b, a] = weight
    return adjacency


@pytest.mark.parametrize("name", ["edge_weight", "edge_attr"])
def test_weights_are_entries_of_the_adjacency(saved, name):
    """In either direction, in any order, as [E] or [E, 1]; through both forms in which networks read a graph."""
    order = np.random.default_rng(2).permutation(2 * len(WEIGHTS))
    both = np.concatenate([RING, RING[::-1]], axis=1)[:, order]
    weights = np.tile(WEIGHTS, 2)[order][:, None]
    once, twice = (
        read_dataset(saved(own_graph(edge_index=edges, **{name: of_edges})))
        for edges, of_edges in ((RING, WEIGHTS), (both, weights))
    )
    assert once.checksum == twice.checksum != read_dataset(saved(own_graph())).checksum
    expected = normalised(weighted_adjacency())
    found = normalised_adjacency(once.edges, NUM_NODES, once.edge_weights).toarray()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    index = np.array([3, 9])
    for basis in ("laplacian", "chebyshev"):
        powers = polynomials(expected, 2, basis)
        dense = real_batch(once, index, order=2, basis=basis).inputs
        sparse = real_batch(once, index, order=2, basis=basis, max_dense_entries=0).inputs
        for graph in (dense, sparse):
            np.testing.assert_allclose(
                graph.nodes[:2], np.stack([power[index] @ once.features for power in powers], 1), atol=1e-4
            )
        reached = np.flatnonzero(np.abs(powers[2][index]).sum(0) > 0)
        np.testing.assert_allclose(
            np.abs(dense.edges).sum((1, 2)), sum(np.abs(power[index][:, reached]).sum(1) for power in powers), rtol=1e-4
        )
        entries = np.sort(np.asarray(sparse.edges))
        assert np.isin(np.round(entries, 5), np.round(expected[expected > 0], 5).astype(np.float32)).all()


def test_weights_reach_the_condensed_graph(saved):
    data = read_dataset(saved(own_graph(edge_weight=WEIGHTS)))
    nodes = np.array([5, 1, 4, 2])
    start = induced_subgraph(data, nodes, 2)
    expected = weighted_adjacency()[np.ix_(nodes, nodes)]
    np.testing.assert_allclose(start.adjacency, expected, rtol=1e-6)
    container = free(12.0, 5.0)
    built = container.build(container.init(jax.random.key(0), start), jnp.zeros((4, 1)))
    np.testing.assert_allclose(built, expected, atol=1e-4)
    assert summary(data)["mean_weight"] == pytest.approx(WEIGHTS.mean())


def test_weights_of_one_are_no_weights(saved):
    data = read_dataset(saved(own_graph(edge_weight=np.ones(len(WEIGHTS)))))
    assert data.edge_weights is None
    assert data.checksum == read_dataset(saved(own_graph())).checksum
    assert "mean_weight" not in summary(data)


def changed(place: int, value: float) -> np.ndarray:
    return np.where(np.arange(len(WEIGHTS)) == place, value, WEIGHTS)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"edge_weight": changed(3, -1)}, "1 weights in edge_weight are negative, the first of the edge from 3 to 4;"),
        ({"edge_weight": changed(2, np.nan)}, "1 weights in edge_weight are NaN or infinite, the first of the edge "),
        ({"edge_weight": changed(2, 1e300)}, "1 weights in edge_weight are NaN or infinite, the first of the edge "),
        ({"edge_weight": WEIGHTS[1:]}, "edge_weight must have shape [11], one per edge, got [10]"),
        ({"edge_weight": WEIGHTS.astype(str)}, "edge_weight must be real numbers, got dtype <U"),
        ({"edge_weight": np.zeros(11)}, "edge_index holds no edge between two nodes"),
        (
            {"edge_index": np.array([[0, 1, 4, 5], [1, 0, 5, 4]]), "edge_weight": np.array([1.0, 2.0, 3.0, 3.0])},
            "1 edges are listed more than once with different weights, the first between nodes 0 and 1 (1 and 2)",
        ),
    ],
)
def test_weights_that_cannot_be_used_are_named(refused, changes, line):
    assert refused(own_graph(**changes)).startswith(line)


def test_what_becomes_of_edges_is_told(notes):
    assert notes(own_graph(edge_index=RING[::-1])) == []
    assert notes(own_graph(edge_index=np.concatenate([RING, RING[::-1], RING], axis=1))) == []
    mixed = np.concatenate([RING, RING[::-1, :3]], axis=1)
    assert notes(own_graph(edge_index=mixed)) == [
        "8 of 11 edges are listed in one direction only; they are taken as undirected"
    ]
    assert notes(own_graph(edge_weight=changed(0, 0))) == ["1 edges of weight 0 are left out"]
    loops = {"edge_index": np.c_[RING, [3, 3]], "edge_weight": np.r_[WEIGHTS, 9]}
    assert notes(own_graph(**loops)) == ["1 weights of self-loops are not read; the filter gives each node one of 1"]
    assert notes(own_graph(edge_attr=np.ones((11, 4)))) == [
        "edge_attr is not read; filters know weights of edges alone"
    ]
    assert notes(own_graph(edge_attr=WEIGHTS)) == [
        "edge_attr, one number per edge, is read as the weights of the edges"
    ]


# Layouts of images ----------------------------------------------------------------------------------------------------


def each_image(arrays, change):
    return {name: change(array) if "images" in name else array for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda a: a.transpose(0, 3, 1, 2), "train images of shape [20, 3, 6, 6] look like channels first; give ["),
        (lambda a: a[..., :1].transpose(0, 3, 1, 2), "train images of shape [20, 1, 6, 6] look like channels first"),
        (lambda a: a.astype(np.float32), "train images are floats from 0 to 255, and pixels lie from 0 to 1; give by"),
        (lambda a: a - 127.5, "train images are floats from -127.5 to 127.5, and pixels lie from 0 to 1; give bytes"),
        (lambda a: a / 127.5 - 1, "train images are floats from -1 to 1, and pixels lie from 0 to 1; give (images + 1"),
        (lambda a: a / 255 * 16, "train images are floats from 0 to 16, and pixels lie from 0 to 1; divide them by"),
        (lambda a: a // 128, "train images are whole numbers of 0 and 1 alone, and whole numbers are pixels from 0 "),
    ],
)
def test_layouts_that_would_give_wrong_numbers_are_refused(refused, change, line):
    assert refused(each_image(own_images(), change)).startswith(line)


def test_one_part_that_is_laid_out_otherwise_is_refused(refused):
    floats = each_image(own_images(), lambda a: a / 255)
    assert refused(floats | {"test_images": floats["test_images"] * 255}).startswith("test images are floats from 0 to")
    standardised = (floats["train_images"] - 0.5) / 0.25
    line = refused(floats | {"train_images": standardised})
    assert line.startswith("images of train are floats from -2 to 2, those of val from 0 to 1; prepare all parts alike")


def test_layouts_that_may_be_meant_are_told(notes):
    floats = each_image(own_images(), lambda a: a / 255)
    assert notes(floats) == []
    assert notes(each_image(own_images(), lambda a: a > 127)) == []
    assert notes(each_image(floats, lambda a: (a - 0.5) / 0.25)) == [
        f"{part} images are floats from -2 to 2 and taken as they are; pixels usually lie from 0 to 1"
        for part in ("train", "val", "test")
    ]
    assert notes(each_image(own_images(), lambda a: np.concatenate([a, a], -1))) == [
        "images are read as 6 x 6 pixels of 6 channels each"
    ]


FITS = [fit_standardisation, fit_whitening, fit_raw_whitening]


@pytest.mark.parametrize("fit", FITS)
def test_new_images_may_be_bytes(fit):
    """What a user applies to new images reads bytes as the reader of the training images does, compiled or not."""
    arrays = own_images()
    images, labels = arrays["train_images"], arrays["train_labels"]
    data = build_images("x", {"train": Part(images, labels), "test": Part(images, labels)}, where="x")
    statistics = fit(data.images)
    expected = np.asarray(statistics.apply(images / np.float32(255)))
    for apply in (statistics.apply, jax.jit(statistics.apply)):
        for given in (images, images.astype(np.int32)):
            np.testing.assert_allclose(apply(given), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("fit", FITS[:3])
def test_new_images_of_another_layout_are_refused(fit, loaded):
    images = own_images()["train_images"] / 255
    statistics = fit(images)
    if loaded:  # from an artefact
        statistics, images = type(statistics)(*map(jnp.asarray, statistics)), jnp.asarray(images)
    assert error_of(lambda: statistics.apply(images * 255)).startswith("the images hold floats up to 255, far from")
    for other in (images[..., :1], images.transpose(0, 3, 1, 2)):
        assert "channels in their last axis, and the preprocessing is of 3" in error_of(
            lambda other=other: statistics.apply(other)
        )


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_run_tells_the_notes_and_condenses_with_weights(tmp_path):
    """From the file to the graph that condensing starts from, in the container that learns it."""
    graph = graph_arrays()
    weights = np.random.default_rng(3).uniform(0.2, 4, graph["edge_index"].shape[1]).astype(np.float32)
    settings = config.load(write_config(tmp_path, edge_weight=weights, year=np.zeros(200)))
    said = []
    with pipeline.opened(settings, tmp_path / "run", progress=silent()._replace(say=said.append)) as run:
        setup = run.setup
    assert said[0] == f"{tmp_path}/graph.npz: not read: year"
    start = graphs.sampled(setup, "train", 0)
    assert len(np.unique(start.adjacency)) > 2
    container = graphs.learned(setup, "train")
    inputs = container.decode(container.init(jax.random.key(0), start)).inputs
    whole = np.zeros((200, 200))
    whole[tuple(graph["edge_index"])] = weights
    whole = np.maximum(whole, whole.T)
    assert np.isin(start.adjacency.round(4), whole.astype(np.float32).round(4)).all()
    np.testing.assert_allclose(
        inputs.edges[..., 1], polynomials(normalised(start.adjacency), 1, "laplacian")[1], atol=2e-2
    )
    np.testing.assert_allclose(
        graphs.embeddings(setup, "train"), np.linalg.matrix_power(normalised(whole), 2) @ graph["features"], atol=1e-4
    )
