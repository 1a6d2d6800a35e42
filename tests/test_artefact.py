"""Condensed data on disk, and the writers below it."""

from __future__ import annotations

import errno
import json
import os
import sys
import types
import zipfile

import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from hcdc_jax.condensed import load_condensed, read_card, save_condensed
from hcdc_jax.containers.graph import GraphVariables
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.storage import files
from hcdc_jax.types import Batch
from tests.errors import error_of


def test_an_archive_that_says_to_unpack_to_terabytes_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("a.npy", bytes(1000))
        archive.infolist()[0].file_size = 8 * 10**12
    assert "bomb.npz unpacks to 8,000 GB, and this machine has" in error_of(lambda: read_arrays(tmp_path / "bomb.npz"))


def test_a_card_cannot_name_files_outside_its_folder(tmp_path):
    save(tmp_path / "run")
    text = (tmp_path / "run" / "card.json").read_text()
    for changed in (text.replace("hcdc_seed0", "../../hcdc_seed0"), text.replace("hcdc", "../hcdc"), "[" * 100_000):
        (tmp_path / "run" / "card.json").write_text(changed)
        assert "card.json is damaged; condense anew" in error_of(lambda: read_card(tmp_path / "run"))


def graph_batch(seed: int, num_nodes: int = 5) -> Batch:
    """A dense graph with two filter terms, whose last node carries no label."""
    rng = np.random.default_rng(seed)
    nodes = rng.normal(size=(num_nodes, 2, 3)).astype(np.float32)
    nodes[:, 0, 0] = 10 * (np.arange(num_nodes) % 2)  # classes are told apart by the first feature
    graph = jraph.GraphsTuple(
        nodes=jnp.asarray(nodes),
        edges=jnp.asarray(rng.normal(size=(num_nodes, num_nodes, 2)), jnp.float32),
        senders=None,
        receivers=None,
        globals=None,
        n_node=jnp.array([num_nodes]),
        n_edge=jnp.array([num_nodes**2]),
    )
    return Batch(graph, jnp.arange(num_nodes) % 2, jnp.array([1.0] * (num_nodes - 1) + [0.0]))


def image_batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    labels = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    return Batch(jnp.asarray(rng.normal(size=(2, 4, 4, 1)), jnp.float32), jnp.asarray(labels), jnp.ones(2))


def save(folder, method="hcdc", seed=0, config_hash="c0ffee", make_batch=graph_batch, **changes):
    variables = {
        "train": GraphVariables(
            jnp.ones((5, 3)), {"Dense_0": {"kernel": jnp.ones((3, 2))}}, jnp.arange(5), jnp.ones(5)
        ),
        "val": GraphVariables(jnp.ones((5, 3)), (), jnp.arange(5), jnp.ones(5, jnp.bfloat16)),
    }
    arguments = {
        "method": method,
        "seed": seed,
        "train": make_batch(seed),
        "val": make_batch(seed + 1),
        "variables": variables,
        "config_hash": config_hash,
        "source": {"name": "toy", "checksum": "abc"},
        "preprocessing": "none",
    }
    return save_condensed(folder, **(arguments | changes))


def assert_same_batch(found: Batch, expected: Batch):
    assert type(found.inputs) is type(expected.inputs)
    pairs = zip(found.inputs, expected.inputs, strict=True) if isinstance(found.inputs, tuple) else [found[:1] * 2]
    for a, b in [*pairs, (found.labels, expected.labels), (found.weights, expected.weights)]:
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


class TestRoundTrip:
    def test_graphs(self, tmp_path):
        save(tmp_path)
        found = load_condensed(tmp_path)
        assert_same_batch(found.train, graph_batch(0))
        assert_same_batch(found.val, graph_batch(1))

    def test_images_with_soft_labels(self, tmp_path):
        save(tmp_path, make_batch=image_batch)
        found = load_condensed(tmp_path)
        np.testing.assert_array_equal(found.train.inputs, image_batch(0).inputs)
        np.testing.assert_array_equal(found.train.labels, image_batch(0).labels)

    def test_variables_come_back_by_name(self, tmp_path):
        save(tmp_path)
        variables = load_condensed(tmp_path).variables
        np.testing.assert_array_equal(variables["train"]["structure"]["Dense_0"]["kernel"], np.ones((3, 2)))
        assert "structure" not in variables["val"]
        assert variables["val"]["weights"].dtype == jnp.float32  # bfloat16, which .npz cannot hold

    def test_files_hold_no_pickles(self, tmp_path):
        save(tmp_path)
        with np.load(tmp_path / "condensed.npz", allow_pickle=False) as archive:
            assert {"train/inputs/nodes", "val/labels", "variables/train/structure/Dense_0/kernel"} <= set(archive)

    def test_keys_that_cannot_be_stored_are_refused(self, tmp_path):
        with pytest.raises(TypeError, match="keys must be words"):
            save(tmp_path, variables={"a/b": jnp.ones(1)})
        with pytest.raises(ValueError, match="method must be a word"):
            save(tmp_path, method="../evil")


class TestCard:
    def test_entry(self, tmp_path):
        entry = save(tmp_path)
        assert load_condensed(tmp_path).card == entry
        assert entry["ledger"] == {
            "variables/train/features": 15,
            "variables/train/structure/Dense_0/kernel": 6,
            "variables/train/labels": 5,
            "variables/train/weights": 5,
            "variables/val/features": 15,
            "variables/val/labels": 5,
            "variables/val/weights": 5,
        }
        assert entry["stored_scalars"] == 56
        assert entry["source"] == {"name": "toy", "checksum": "abc"}
        assert entry["sha256"] == files.sha256(tmp_path / "condensed" / "hcdc_seed0.npz")
        assert {"python", "hcdc_jax", "jax", "numpy"} <= entry["versions"].keys()

    def test_primary_is_hcdc_else_the_first(self, tmp_path):
        save(tmp_path, "gcond")
        save(tmp_path, "random", 1)
        assert load_condensed(tmp_path).card["method"] == "gcond"
        save(tmp_path, "hcdc", 3)
        save(tmp_path, "hcdc", 4)
        save(tmp_path, "gcond")
        assert (load_condensed(tmp_path).card["method"], load_condensed(tmp_path).card["seed"]) == ("hcdc", 3)
        assert list(read_card(tmp_path)["artefacts"]) == ["gcond_seed0", "random_seed1", "hcdc_seed3", "hcdc_seed4"]

    def test_every_artefact_can_be_picked(self, tmp_path):
        for method, seed in (("hcdc", 0), ("hcdc", 1), ("random", 5)):
            save(tmp_path, method, seed)
        for method, seed in (("hcdc", 1), ("random", 5)):
            assert_same_batch(load_condensed(tmp_path, method, seed).train, graph_batch(seed))
        assert load_condensed(tmp_path, "random").card["seed"] == 5
        assert load_condensed(tmp_path, seed=1).card["method"] == "hcdc"

    def test_two_files_are_enough_to_pass_on(self, tmp_path):
        save(tmp_path / "run")
        (tmp_path / "copy").mkdir()
        for name in ("card.json", "condensed.npz"):
            (tmp_path / "copy" / name).write_bytes((tmp_path / "run" / name).read_bytes())
        assert_same_batch(load_condensed(tmp_path / "copy").val, graph_batch(1))

    def test_saving_again_replaces(self, tmp_path):
        save(tmp_path)
        save(tmp_path, train=graph_batch(7))
        assert_same_batch(load_condensed(tmp_path).train, graph_batch(7))
        assert_same_batch(load_condensed(tmp_path, "hcdc", 0).train, graph_batch(7))


class TestMistakes:
    def test_folders_without_condensed_data(self, tmp_path):
        assert error_of(lambda: load_condensed(tmp_path / "no")) == f"{tmp_path}/no: no such run folder"
        message = f"{tmp_path} holds no condensed data (card.json is missing); condense first"
        assert error_of(lambda: load_condensed(tmp_path)) == message

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"artefacts": {}}', '{"artefacts": {"a": 3}}', "\x00"])
    def test_damaged_card(self, tmp_path, text):
        (tmp_path / "card.json").write_text(text)
        assert error_of(lambda: load_condensed(tmp_path)) == f"{tmp_path}/card.json is damaged; condense anew"

    def test_unknown_method_or_seed(self, tmp_path):
        save(tmp_path)
        save(tmp_path, "random")
        assert error_of(lambda: load_condensed(tmp_path, "dc")) == (
            f"{tmp_path} holds no artefact of method 'dc'; it holds hcdc_seed0, random_seed0"
        )
        assert error_of(lambda: load_condensed(tmp_path, seed=3)) == (
            f"{tmp_path} holds no artefact of method 'hcdc' with seed 3; it holds hcdc_seed0, random_seed0"
        )

    def test_changed_file(self, tmp_path):
        save(tmp_path)
        path = tmp_path / "condensed.npz"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        message = f"{path} is not the file that card.json describes (SHA-256 differs); condense anew"
        assert error_of(lambda: load_condensed(tmp_path)) == message
        path.unlink()
        message = f"{path} is missing, although {tmp_path}/card.json lists it; condense anew"
        assert error_of(lambda: load_condensed(tmp_path)) == message

    def test_card_of_another_file(self, tmp_path):
        save(tmp_path)
        path = tmp_path / "condensed.npz"
        np.savez(path, a=np.ones(1))
        card = json.loads((tmp_path / "card.json").read_text())
        card["artefacts"]["hcdc_seed0"]["sha256"] = files.sha256(path)
        (tmp_path / "card.json").write_text(json.dumps(card))
        message = error_of(lambda: load_condensed(tmp_path))
        assert message == f"{path} lacks the arrays of a condensed data set ('train'); condense anew"

    def test_another_configuration(self, tmp_path):
        save(tmp_path)
        assert load_condensed(tmp_path, config_hash="c0ffee")
        assert error_of(lambda: load_condensed(tmp_path, config_hash="decaf")) == (
            f"{tmp_path}: hcdc_seed0 was made with configuration c0ffee, not decaf; condense anew or choose another "
            "folder"
        )
        assert error_of(lambda: save(tmp_path, config_hash="decaf")) == (
            f"{tmp_path} belongs to a run with configuration c0ffee, not decaf; choose another folder or remove it"
        )


class TestExport:
    def test_scikit_learn_trains_on_train_and_scores_on_val(self, tmp_path):
        save(tmp_path)
        condensed = load_condensed(tmp_path)
        inputs, labels, split = condensed.as_sklearn()
        assert labels.tolist() == [0, 1, 0, 1] * 2  # the node of weight 0 is left out
        np.testing.assert_array_equal(inputs[:4], np.asarray(condensed.train.inputs.nodes[:4, 0]))
        assert [(train.tolist(), val.tolist()) for train, val in split.split()] == [([0, 1, 2, 3], [4, 5, 6, 7])]
        search = GridSearchCV(LogisticRegression(), {"C": [1.0, 10.0]}, cv=split).fit(inputs, labels)
        assert search.best_score_ == 1.0

    def test_images_are_flattened_and_soft_labels_hardened(self, tmp_path):
        save(tmp_path, make_batch=image_batch)
        inputs, labels, _ = load_condensed(tmp_path).as_sklearn()
        assert inputs.shape == (4, 16)
        assert labels.tolist() == [0, 1, 0, 1]

    def test_torch(self, tmp_path, monkeypatch):
        dataset = types.SimpleNamespace(TensorDataset=lambda *tensors: tensors)
        fake = types.SimpleNamespace(from_numpy=lambda array: array, utils=types.SimpleNamespace(data=dataset))
        monkeypatch.setitem(sys.modules, "torch", fake)
        save(tmp_path)
        train, val = load_condensed(tmp_path).as_torch()
        assert (train[0].shape, train[1].dtype, val[1].tolist()) == ((4, 3), np.int64, [0, 1, 0, 1])
        assert train[0].flags.writeable  # torch warns of memory that it must not write to

    def test_torch_is_missing(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        save(tmp_path)
        message = error_of(load_condensed(tmp_path).as_torch)
        assert message == "PyTorch is not installed; install it with: pip install 'hcdc-jax[torch]'"

    def test_graphs_have_no_images(self, tmp_path):
        save(tmp_path)
        message = error_of(lambda: load_condensed(tmp_path).save_images(tmp_path))
        assert message == "hcdc seed 0 is a condensed graph; it has no images"


# Writers --------------------------------------------------------------------------------------------------------------


def fail(code):
    def call(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return call


class TestAtomicWriters:
    @pytest.mark.parametrize("broken", ["fsync", "replace"])
    @pytest.mark.parametrize(
        "write",
        [
            lambda path: files.write_text(path, "new"),
            lambda path: files.write_json(path, {"a": "new"}),
            lambda path: files.write_npz(path, {"a": np.ones(3)}),
        ],
    )
    def test_a_full_disk_leaves_the_old_file(self, tmp_path, monkeypatch, broken, write):
        path = tmp_path / "file"
        path.write_text("old")
        monkeypatch.setattr(os, broken, fail(errno.ENOSPC))
        assert error_of(lambda: write(path)) == (
            f"cannot write {path}: No space left on device; free space on the disk that holds {tmp_path} and run the "
            "command again"
        )
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["file"]

    def test_an_interrupt_leaves_no_temporary_file(self, tmp_path, monkeypatch):
        def interrupt(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            files.write_text(tmp_path / "file", "new")
        assert os.listdir(tmp_path) == []

    def test_a_full_disk_leaves_the_artefact_before(self, tmp_path, monkeypatch):
        save(tmp_path)
        monkeypatch.setattr(os, "replace", fail(errno.ENOSPC))
        error_of(lambda: save(tmp_path, train=graph_batch(7)))
        assert_same_batch(load_condensed(tmp_path).train, graph_batch(0))

    def test_a_place_that_is_no_folder(self, tmp_path):
        (tmp_path / "file").write_text("")
        message = error_of(lambda: files.write_text(tmp_path / "file" / "inner", "x"))
        assert message.endswith("choose a folder that you can write to")

    def test_equal_arrays_give_equal_bytes(self, tmp_path):
        for name in ("a", "b"):
            files.write_npz(tmp_path / name, {"x": np.arange(10), "y": np.ones((2, 2))})
        assert files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b")

    def test_objects_are_refused(self, tmp_path):
        with pytest.raises(TypeError, match="without pickling"):
            files.write_npz(tmp_path / "a", {"x": np.array([{}])})

    def test_json_holds_plain_numbers(self, tmp_path):
        value = {"a": np.float32(1.5), "b": jnp.arange(2), "c": float("nan"), "d": (np.inf, None, True), "e": tmp_path}
        files.write_json(tmp_path / "a.json", value)
        found = json.loads((tmp_path / "a.json").read_text())
        assert found == {"a": 1.5, "b": [0, 1], "c": None, "d": [None, None, True], "e": str(tmp_path)}


class TestJsonLines:
    def test_lines_are_appended(self, tmp_path):
        path = tmp_path / "new" / "metrics.jsonl"
        for step in range(3):
            files.append_jsonl(path, {"step": step, "text": "a\nb"})
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2]

    @pytest.mark.parametrize("whole", ["", '{"step": 0}\n', '{"step": 0}\n' * 2000])
    def test_a_torn_line_is_cut_off(self, tmp_path, whole):
        path = tmp_path / "metrics.jsonl"
        path.write_text(whole + '{"step": 1, "te' + "x" * 9000)
        files.append_jsonl(path, {"step": 2})
        assert path.read_text() == whole + '{"step": 2}\n'

    def test_a_full_disk_leaves_whole_lines(self, tmp_path, monkeypatch):
        path = tmp_path / "metrics.jsonl"
        files.append_jsonl(path, {"step": 0})

        def write_half(file, data):
            file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files, "_write_all", write_half)
        message = error_of(lambda: files.append_jsonl(path, {"step": 1}))
        assert message.startswith(f"cannot write {path}: No space left on device; free space")
        assert path.read_text() == '{"step": 0}\n'
