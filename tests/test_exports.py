"""Condensed data as other software reads it; oracles are written out in NumPy, and packages are faked where missing."""

from __future__ import annotations

import io
import sys
import types

import jax
import numpy as np
import pytest

from hcdc_jax.cli.parser import EXPORTS as OFFERED
from hcdc_jax.condensed import Condensed
from hcdc_jax.containers import graph_container
from hcdc_jax.containers.graph import free
from hcdc_jax.errors import UserError
from hcdc_jax.exports import EXPORTS
from hcdc_jax.exports.arrays import adjacency_of, ddranking_arrays, graphslim_arrays
from hcdc_jax.exports.hugging_face import as_datasets
from hcdc_jax.types import Batch
from tests.small_graphs import small_start


def card(**facts):
    return {"method": "hcdc", "seed": 3, "source": {"name": "cora", "checksum": ""}, **facts}


def graph(basis="laplacian", order=2):
    container = graph_container(free(1.0), order, basis)
    variables = container.init(jax.random.key(0), small_start(6, num_features=5))
    return variables, Condensed(container.decode(variables), container.decode(variables), card(), {})


def images(labels, **facts):
    inputs = np.arange(len(labels) * 12, dtype=np.float32).reshape(len(labels), 2, 2, 3)
    batch = Batch(inputs, np.asarray(labels), np.ones(len(labels), np.float32))
    return Condensed(batch, batch, card(**facts), {})


@pytest.mark.parametrize("basis", ["laplacian", "adjacency", "chebyshev"])
def test_edges_are_read_off_the_filters_of_any_basis(basis):
    _, condensed = graph(basis)
    found = adjacency_of(condensed.train)
    assert (found > 0.1).sum() > 6, "the graph has edges"
    np.testing.assert_array_equal(found, found.T)
    # The oracle normalises what was found and filters by hand.
    looped = found + np.eye(6)
    operator = looped / np.sqrt(np.outer(looped.sum(1), looped.sum(1)))
    first = {"laplacian": np.eye(6) - operator, "adjacency": operator, "chebyshev": -operator}[basis]
    np.testing.assert_allclose(first, condensed.train.inputs.edges[..., 1], atol=1e-6)


@pytest.mark.parametrize(("basis", "own"), [("laplacian", 0.0), ("adjacency", 1.0), ("chebyshev", -1.0)])
def test_a_graph_without_edges_has_none(basis, own):
    _, condensed = graph(basis)
    terms = np.stack([np.eye(6), own * np.eye(6)], -1)
    bare = condensed.train._replace(inputs=condensed.train.inputs._replace(edges=terms))
    np.testing.assert_array_equal(adjacency_of(bare), 0)


def test_graphslim_reads_nodes_edges_and_classes():
    variables, condensed = graph()
    arrays, counts = graphslim_arrays(condensed), np.asarray(variables.weights) > 0
    assert 0 < counts.sum() < 6
    np.testing.assert_array_equal(arrays["feat"], variables.features[counts])
    np.testing.assert_array_equal(arrays["label"], variables.labels[counts])
    np.testing.assert_array_equal(arrays["adj"], adjacency_of(condensed.train)[counts][:, counts])
    assert arrays["label"].dtype == np.int64
    assert arrays["adj"].dtype == arrays["feat"].dtype == np.float32
    assert np.diag(arrays["adj"]).max() == 0


def test_ddranking_reads_images_by_class():
    condensed = images([1, 0, 1, 0], learned_learning_rate=0.5)
    arrays = ddranking_arrays(condensed)
    assert arrays["images"].shape == (4, 3, 2, 2)
    for place, number in enumerate([1, 3, 0, 2]):
        np.testing.assert_array_equal(arrays["images"][place, 2], condensed.train.inputs[number, :, :, 2])
    assert arrays["lr"] == 0.5
    assert "labels" not in arrays
    soft = ddranking_arrays(images(np.eye(2, dtype=np.float32)[[1, 0]]))
    np.testing.assert_array_equal(soft["labels"], [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ddranking_arrays(images([0, 0, 1])), "equally many images of each class; here are 1 to 2"),
        (lambda: ddranking_arrays(graph()[1]), "evaluates images alone"),
        (lambda: graphslim_arrays(images([0, 1])), "only a condensed graph has edges"),
        (lambda: graphslim_arrays(graph(order=0)[1]), "filters of order 0 read no edges"),
    ],
)
def test_what_another_form_cannot_hold_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.fixture
def torch(monkeypatch):
    def save(content, file):
        buffer = io.BytesIO()
        np.save(buffer, content)
        file.write(buffer.getvalue())

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(as_tensor=np.asarray, save=save))


def test_files_lie_where_graphslim_and_ddranking_look(torch, tmp_path):
    EXPORTS["graphslim"].write(graph()[1], tmp_path)
    EXPORTS["ddranking"].write(images([0, 1]), tmp_path / "dd")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.pt")}
    graphs = {f"reduced_graph/hcdc/{kind}_cora_5_3.pt" for kind in ("adj", "feat", "label")}
    assert found == graphs | {"dd/images.pt"}
    labels = np.load(tmp_path / "reduced_graph/hcdc/label_cora_5_3.pt")
    np.testing.assert_array_equal(labels, graphslim_arrays(graph()[1])["label"])


def test_datasets_have_two_splits(monkeypatch):
    fake = types.SimpleNamespace(DatasetDict=dict, Dataset=types.SimpleNamespace(from_dict=dict))
    monkeypatch.setitem(sys.modules, "datasets", fake)
    found = as_datasets(images([0, 1]))
    assert set(found) == {"train", "validation"}
    np.testing.assert_array_equal(found["train"]["label"], [0, 1])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        as_datasets(images([0, 1]))


def test_the_command_offers_every_form():
    assert tuple(EXPORTS) == OFFERED
