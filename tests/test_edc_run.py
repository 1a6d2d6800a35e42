"""EDC as a method of a run: observers are made once, mosaics and batches, what does not go with it."""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pytest

from hcdc_jax import config as configs
from hcdc_jax import pipeline
from hcdc_jax.config import Config
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.pipeline import condensed_parts, recipes
from hcdc_jax.pipeline.recipes.edc import observers_of, shown_to_observers
from hcdc_jax.storage.files import write_npz
from tests.errors import error_of
from tests.test_image_methods import small

pytestmark = pytest.mark.usefixtures("broadcasting")

ONE = {"observers": ("convnet:width=2,depth=1",), "observer_epochs": 1, "iterations": 2, "mosaic_images": 5}


def condensed(config, folder):
    with pipeline.opened(config, folder) as run:
        return condensed_parts.make_part(
            run, recipes.train_recipe(config, "edc"), "train", config.seeds[0], method="edc"
        )


def test_mosaics_are_moved_batch_by_batch_and_observers_serve_all_seeds(tmp_path):
    config = small(("edc",), condense={"init": "mosaics", "images_per_class": 2}, edc={**ONE, "batch_size": 10})
    config = dataclasses.replace(config, seeds=(0, 1))
    condensed_part = condensed(config, tmp_path / "run")
    np.testing.assert_array_equal(condensed_part.batch.labels, np.repeat(np.arange(10), 2))
    assert np.isfinite(condensed_part.batch.inputs).all()
    steps = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if '"edc"' in line]
    assert '"step": 4' in steps[-1], "two batches of two steps"
    folder = observers_of(tmp_path / "run", "train")
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(kept) == 3, "manifest, observer, statistics"
    with pipeline.opened(config, tmp_path / "run") as run:
        condensed_parts.make_part(run, recipes.train_recipe(config, "edc"), "train", 1, method="edc")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == kept

    observer = folder / "observer_00.npz"
    observer.write_bytes(b"")
    condensed_parts.Place(tmp_path / "run", "edc", "train", 1).finished.unlink()
    with pipeline.opened(config, tmp_path / "run") as run:
        recipe = recipes.train_recipe(config, "edc")
        message = error_of(lambda: condensed_parts.make_part(run, recipe, "train", 1, method="edc"))
    assert "missing or not what was written" in message


def test_in_mode_code_observers_learn_and_are_measured_under_all_that_is_done_to_images(tmp_path):
    config, folder = small(("edc",), edc={**ONE, "statistics": "code"}), tmp_path / "run"
    images = np.asarray(condensed(config, folder).batch.inputs)
    assert np.isfinite(images).all()
    kept = observers_of(folder, "train")
    made = json.loads((kept / "observers.json").read_text())["0"]["made_by"]["augmentation"]
    assert (made["operations"], made["acting"]) == (["crop"], "all"), "digits have no mirror"

    # Statistics of images as they are, which older versions left there, are not read.
    path = kept / "statistics_code_00.npz"
    arrays = read_arrays(path)
    assert "crop" in str(arrays["seen"])
    write_npz(path, {name: 0 * x if x.dtype.kind == "f" else x for name, x in arrays.items() if name != "seen"})
    condensed_parts.Place(folder, "edc", "train", 0).finished.unlink()
    np.testing.assert_array_equal(condensed(config, folder).batch.inputs, images)
    np.testing.assert_array_equal(read_arrays(path)["0000/whole/mean"], arrays["0000/whole/mean"])

    for mode in ("paper", "code"):
        setup = pipeline.prepare(small(("edc",), edc={**ONE, "statistics": mode}))
        photographs = setup._replace(data=setup.data._replace(name="photographs"))
        shown = shown_to_observers(photographs, setup.train.inputs)
        assert (shown.operations, shown.acting) == (("crop", "flip"), "all" if mode == "code" else "one")


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        (("dm",), {"condense": {"init": "mosaics"}}, "condense.init = 'mosaics' is how edc starts"),
        (("edc",), {"condense": {"container": "hmn"}}, "edc moves pixels, batch by batch"),
    ],
)
def test_what_does_not_go_with_it_is_refused(methods, changes, message):
    assert message in error_of(lambda: pipeline.prepare(small(methods, **changes)))


def test_mistakes_are_told_before_anything_is_written(tmp_path):
    mistakes = [
        ({"observers": 2 * ONE["observers"]}, "'edc.observers' holds 'convnet:width=2,depth=1' twice"),
        ({"observers": ("convnett",)}, "did you mean 'convnet' or 'convnext_tiny'?"),
        ({"batch_size": 15}, "edc.batch_size = 15 does not divide into 10 classes"),
        ({"mosaic_factor": 3}, "mosaics of 3 x 3 tiles take 9 images of each class"),
    ]
    for number, (changes, message) in enumerate(mistakes):
        config = small(("edc",), condense={"init": "mosaics"}, edc={**ONE, **changes})
        folder = tmp_path / str(number)
        assert message in error_of(functools.partial(condensed, config, folder))
        assert not observers_of(folder, "train").exists()
    assert "'edc.alpha' must be at least 0 and at most 1" in error_of(
        lambda: configs.apply_overrides(Config(), ["--edc.alpha", "1.5"])
    )
