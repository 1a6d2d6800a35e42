"""Pictures decoded in batches: the numbers of the path through memory, and never more of them than was promised."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from hcdc_jax import pipeline
from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.batches.images import (
    fit_standardisation,
    image_batch,
    places_in_order,
    read_batches,
    standardisation_of,
    streamed_batch,
)
from hcdc_jax.condense.epoch_training import EpochTraining
from hcdc_jax.condense.observers import observer, train_observer, train_observer_streamed
from hcdc_jax.condense.statistics import statistics, statistics_of_batches
from hcdc_jax.data import load_dataset, read_image_stream, subset
from hcdc_jax.data.image_streams import Pictures, stream_subset
from hcdc_jax.data.pictures import Cut, cut_picture
from hcdc_jax.pipeline import condensed_parts, recipes
from hcdc_jax.pipeline.recipes.edc import observers_of, observing_teacher
from tests.errors import error_of
from tests.test_image_methods import small

KEY = jax.random.key(5)
CLASSES, PER_CLASS = 3, 24


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A folder per class of pictures of 8 x 8 pixels, of which one is grey."""
    root, rng = tmp_path_factory.mktemp("pictures") / "pets", np.random.default_rng(0)
    for name in ("cat", "ant", "bee"):
        (root / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            pixels = rng.integers(0, 256, (8, 8) if (name, number) == ("bee", 3) else (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def both(tree):
    """The training images through memory and as a stream, both standardised by what they are themselves."""
    data, stream = load_dataset(path=tree), read_image_stream(tree)
    whole = fit_standardisation(data.images[data.train_idx])
    return image_batch(data, data.train_idx, whole), streamed_batch(stream, stream.train_idx, whole)


def test_a_stream_is_the_data_in_memory(tree):
    data, stream = load_dataset(path=tree), read_image_stream(tree)
    chosen = subset(data, train=12, val=3, test=6), stream_subset(stream, train=12, val=3, test=6)
    for one, other in ((data, stream), chosen):
        assert other.class_names == ("ant", "bee", "cat")
        assert (one.num_classes, one.image_shape, one.num_images) == (
            other.num_classes, other.image_shape, other.num_images,
        )  # fmt: skip
        for name in ("labels", "train_idx", "val_idx", "test_idx"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(other.images[np.arange(other.num_images)[::-1]], one.images[::-1])
    train = stream.images.take(stream.train_idx)
    ours = standardisation_of(train.batches(places_in_order(len(train), 7)))
    for found, expected in zip(ours, fit_standardisation(data.images[data.train_idx]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_statistics_are_those_of_the_images_in_memory_in_any_order(both):
    whole, stream = both
    net = observer("convnet:width=3,depth=1", (8, 8, 3), CLASSES)
    params, count = net.problem.init(KEY, ()), len(whole.labels)
    expected = statistics(net.look, params, whole, CLASSES, batch_size=count)
    for order in (np.arange(count), np.random.default_rng(1).permutation(count)):
        places = (order[places] for places in places_in_order(count, 8))
        found = statistics_of_batches(net.look, params, read_batches(stream, places), CLASSES)
        assert float(found[0].whole.weight) == count
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def test_observers_trained_from_the_stream_are_those_trained_in_memory(both):
    whole, stream = both
    net = observer("convnet:width=3,depth=1", (8, 8, 3), CLASSES)
    training = EpochTraining(jnp.float32(0.05), 3, 8, Augmentation(("crop", "flip")))
    found = train_observer_streamed(KEY, net, stream, training)
    expected = train_observer(KEY, net, whole, training)
    start = net.problem.init(KEY, ())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    assert any(np.abs(a - b).max() > 1e-2 for a, b in zip(*map(jax.tree.leaves, (found, start)), strict=True))


def test_no_more_pictures_are_held_than_batches_under_way():
    lock, counts = threading.Lock(), {"decoded": 0, "most": 0, "taken": 0}

    def decode(number, rng):
        with lock:
            counts["decoded"] += 1
            counts["most"] = max(counts["most"], counts["decoded"] - counts["taken"])
        return np.full((2, 2, 3), number, np.uint8)

    pictures = Pictures(decode, np.arange(240), (2, 2, 3), prefetch=3, threads=4)
    seen = []
    for batch in pictures.batches(places_in_order(240, 5)):
        counts["taken"] += len(batch)
        seen.append(batch[:, 0, 0, 0])
    np.testing.assert_allclose(np.concatenate(seen), np.arange(240) / 255, rtol=1e-6)
    assert counts["most"] <= 3 * 5 + 5, "and the batch that was handed over and is being counted"

    endless = pictures.batches(np.arange(5) for _ in iter(int, 1))
    next(endless)
    endless.close()  # threads end with who asked for them
    assert counts["decoded"] <= 240 + 3 * 5


def test_pictures_of_any_size_are_cut_to_squares(tmp_path):
    rows, columns = np.mgrid[:40, :60]
    pixels = np.stack([rows * 6, columns * 4, 0 * rows], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    as_it_is = cut_picture(tmp_path / "wide.png", Cut(20, 40))
    np.testing.assert_array_equal(as_it_is, pixels[10:30, 20:40])
    halved = cut_picture(tmp_path / "wide.png", Cut(10, 20)).astype(float)
    # Away from the border a ramp stays a ramp: the middle of 2 x 2 pixels.
    np.testing.assert_allclose(halved, pixels[10:30, 20:40].reshape(10, 2, 10, 2, 3).mean((1, 3)), atol=1)

    cut = Cut(12, 12, least_area=0.25)
    drawn = [cut_picture(tmp_path / "wide.png", cut, np.random.default_rng(seed)).astype(float) for seed in range(40)]
    again = cut_picture(tmp_path / "wide.png", cut, np.random.default_rng(3))
    np.testing.assert_array_equal(again, drawn[3])
    # The ramps tell which part was shown: 11 steps between the centres of 12 pixels.
    sides = np.array([[np.ptp(one[:, 0, 0]) / 6, np.ptp(one[0, :, 1]) / 4] for one in drawn]) * 12 / 11
    areas, ratios = sides.prod(1) / (40 * 60), sides[:, 1] / sides[:, 0]
    assert 0.2 < areas.min() < 0.4 < 0.7 < areas.max() <= 1.01
    assert 0.7 < ratios.min() < 0.9 < 1.1 < ratios.max() < 1.4


def test_crops_are_drawn_by_their_seed(tree):
    pictures = read_image_stream(tree, cut=Cut(6, 6, 0.1)).images

    def matched_candidates(crops, threads):
        read = dataclasses.replace(pictures, threads=threads).batches([np.arange(9), np.arange(9)], crops=crops)
        return np.stack(list(read))

    first, second = matched_candidates(1, 1)
    np.testing.assert_array_equal(matched_candidates(1, 5), [first, second])
    assert np.abs(first - second).max() > 0.1
    assert np.abs(matched_candidates(2, 1)[0] - first).max() > 0.1
    np.testing.assert_array_equal(*matched_candidates(None, 3))


def test_mistakes_are_one_line(tree, tmp_path):
    assert "is no folder" in error_of(lambda: read_image_stream(tmp_path / "none"))
    assert "cannot be cut from pictures of 6" in error_of(lambda: read_image_stream(tree, cut=Cut(8, 6)))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (6, 5)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "b" / "2.png").write_bytes(b"nothing")
    Image.new("RGB", (7, 5)).save(tmp_path / "b" / "3.png")
    stream = read_image_stream(tmp_path)  # nothing but the first picture was decoded
    for number, message in ((6, "b/2.png cannot be read as a picture"), (7, "b/3.png 5 x 7; give the side")):
        assert message in error_of(lambda number=number: stream.images[np.array([0, number])])
    batch = streamed_batch(stream, stream.train_idx)
    assert "read in batches (data.stream)" in error_of(lambda: jax.jit(lambda batch: batch.labels)(batch))


ONE = {
    "observers": ("convnet:width=2,depth=1",),
    "observer_epochs": 1,
    "iterations": 2,
    "mosaic_images": 5,
    "flatness": "none",
}


def of_folder(tree, **changes):
    data = {"path": str(tree), "train": 24, "val": 6, "test": 6, **changes.pop("data", {})}
    return small(("random", "edc"), data=data, edc=changes.pop("edc", ONE), **changes)


def condensed(config, folder):
    with jax.numpy_rank_promotion("allow"), pipeline.opened(config, folder) as run:
        return [
            condensed_parts.make_part(run, recipes.train_recipe(config, method), "train", 0, method=method).batch
            for method in config.methods
        ]


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_a_run_on_a_stream_is_the_run_on_the_images_in_memory(tree, tmp_path, mode):
    made, edc = [], ONE | {"statistics": mode}
    for stream in (False, True):
        config = of_folder(tree, data={"stream": stream}, condense={"init": "mosaics", "images_per_class": 2}, edc=edc)
        made.append(condensed(config, tmp_path / str(stream)))
    for found, expected in zip(made[1], made[0], strict=True):
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.inputs, expected.inputs, atol=1e-4)


def test_a_run_cuts_its_pictures_and_refuses_what_needs_them_all(tree, tmp_path):
    config = of_folder(
        tree, data={"stream": True, "side": 6, "resize": 7, "crop_area": 0.5, "preprocessing": "imagenet"}
    )
    with jax.numpy_rank_promotion("allow"), pipeline.opened(config, tmp_path / "run") as run:
        assert recipes.train_recipe(config, "random").start(run.setup, "train", 0).images.shape == (3, 6, 6, 3)
        assert run.setup.test.inputs.shape == (6, 6, 6, 3)
        teacher = observing_teacher(run)
        folder = observers_of(run.folder, "train")
        kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        jax.tree.map(np.testing.assert_array_equal, observing_teacher(run).params, teacher.params)
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == kept
        for refused in (
            lambda: pipeline.evaluate_condensed(run.setup, run.folder, pipeline.EvaluationPlan(whole=True)),
            lambda: pipeline.search(run.setup, run.folder, pipeline.SearchPlan()),
            lambda: run.setup.train.inputs[:1],
        ):
            assert "all " in error_of(refused)
            assert "data.stream = false" in error_of(refused)
    mistakes = [
        ({"data": {"stream": True}, "truth": {"enabled": True}}, "the truth takes all of them in memory"),
        ({"data": {"stream": True, "preprocessing": "zca"}}, "whitening takes all of them"),
        ({"data": {"stream": True, "path": None}}, "set data.path to it"),
        ({"data": {"stream": True, "shrink": 2}}, "with data.stream set data.side"),
        ({"data": {"side": 6}}, "data.side is for pictures that are streamed"),
        ({"data": {"stream": True, "crop_area": 0.5}}, "go with data.side"),
        (
            {"data": {"stream": True}, "edc": {"observers": ("convnet:width=2,depth=1,norm=batch",)}},
            "the batch norm of observer 'convnet:width=2,depth=1,norm=batch' takes all training images",
        ),
    ]
    for changes, message in mistakes:
        assert message in error_of(lambda changes=changes: pipeline.prepare(of_folder(tree, **changes)))
    other = dataclasses.replace(of_folder(tree, data={"stream": True}), methods=("dm",))
    assert "the method 'dm' takes all of them in memory: choose among random, edc" in error_of(
        lambda: pipeline.prepare(other)
    )
