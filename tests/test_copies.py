"""Copies of condensed data: other examples, the same full trainings, one mean."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import small_config

from hcdc_jax import pipeline
from hcdc_jax.condensed import load_condensed
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.copies import condensed_copies, copies, copy_seed
from hcdc_jax.progress import silent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    sections = {"condense": {"copies": 2}, "truth": {"enabled": False}, "hcdc": {"stop_sure": 0.5, "steps": 4}}
    config = small_config(folder, methods=("hcdc",), space={"candidates": 6}, **sections)
    with jax.numpy_rank_promotion("allow"), pipeline.opened(config, folder / "run") as opened:
        pipeline.condense(opened)
        pipeline.rank(opened)
    return opened


def test_copies_share_the_full_trainings_and_nothing_else(run):
    (copy,) = copies(run)
    assert (copy.of, copy.seed) == (0, 1)
    made, found = (
        [read_arrays(path) for path in sorted((one.folder / "checkpoints" / f"targets_seed{seed}").glob("*.npz"))]
        for one, seed in ((run, 0), (copy.run, 1))
    )
    assert len(made) == len(found) == 3
    for ours, theirs in zip(made, found, strict=True):
        for name in ("hparams", "value", "gradient"):
            np.testing.assert_array_equal(ours[name], theirs[name])
        assert theirs["training_seconds"] == theirs["target_seconds"] == 0 < ours["training_seconds"]
    ours = load_condensed(run.folder, "hcdc")
    ((theirs, seed),) = condensed_copies(run, ours)
    assert seed == 1
    assert np.abs(np.asarray(ours.train.inputs.nodes) - np.asarray(theirs.train.inputs.nodes)).max() > 0.1


def test_a_ranking_is_the_mean_of_copies_and_its_cost_their_sum(run):
    (copy,) = copies(run)
    merged = read_arrays(run.folder / "results" / "hcdc_seed0.npz")
    other = read_arrays(copy.run.folder / "results" / "hcdc_seed1.npz")
    assert merged["full_trainings_used"] == 3, "shared ones are counted once"
    assert merged["stored_scalars"] == 2 * other["stored_scalars"]
    assert merged["seconds_condense"] > other["seconds_condense"]
    assert np.abs(merged["loss"] - other["loss"]).max() > 1e-3
    alone = load_condensed(run.folder, "hcdc")
    with jax.numpy_rank_promotion("allow"):
        first = pipeline.rank_on(run.setup, alone, run.setup.candidates).scores.loss
    np.testing.assert_allclose(merged["loss"], (np.asarray(first) + other["loss"]) / 2, rtol=1e-4)


def test_a_search_asks_all_copies_and_pays_for_each(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    with jax.numpy_rank_promotion("allow"):
        found = pipeline.search(run.setup, folder, pipeline.SearchPlan(num=8, top=0))
    assert found["method"] == "calibrated"
    assert found["full_trainings"] == {"condense": 3, "retrain": 0}
    assert json.loads((folder / "search_calibrated.json").read_text())["calibration"]["matched"] == 3
    shutil.rmtree(folder / "copies")
    with pytest.raises(UserError, match=r"does not hold all copies that condense\.copies = 2 asks for"):
        pipeline.search(run.setup, folder, pipeline.SearchPlan(num=8, top=0))


def test_trainings_that_cannot_win_are_given_up_and_counted_as_far_as_they_went(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    for path in (folder / "checkpoints" / "targets_seed0").glob("*.npz"):
        assert np.isfinite(read_arrays(path)["midway"]).all()
    said, found = [], []
    with jax.numpy_rank_promotion("allow"):
        for _ in range(2):
            progress = silent()._replace(say=said.append)
            found.append(pipeline.search(run.setup, folder, pipeline.SearchPlan(num=8, top=2), progress))
    for one in found:
        story, records = one["calibration"], [read_arrays(path) for path in folder.rglob("searched/*.npz")]
        shares = [float(record["share"]) for record in records]
        assert len(story["asked_for"]) + len(story["given_up"]) == len(shares)
        assert sum(share < 1 for share in shares) == len(story["given_up"])
        assert one["full_trainings"]["retrain"] == pytest.approx(sum(shares))
        assert len(one["finalists"]) == len(story["asked_for"])
        assert one["selected"] is not None
    assert found[0]["calibration"] == found[1]["calibration"], "what is kept is read again"


def test_a_copy_that_was_interrupted_goes_on_to_the_same(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    again = run._replace(folder=Path(folder), progress=silent())
    (copy,) = copies(again)
    path = copy.run.folder / "checkpoints" / "hcdc_val_seed1.npz"
    before = read_arrays(path)
    path.unlink()
    kept = {one: one.stat().st_mtime_ns for one in folder.rglob("targets_seed*/*.npz")}
    with jax.numpy_rank_promotion("allow"):
        pipeline.condense(again)
    after = read_arrays(path)
    for name in before:
        if name.startswith(("variables/", "batch/", "matched")):
            np.testing.assert_array_equal(before[name], after[name])
    assert all(one.stat().st_mtime_ns == at for one, at in kept.items()), "nothing is trained in full again"


def test_seeds_of_copies_are_nobody_elses(tmp_path):
    config = small_config(tmp_path, seeds=(0, 3), condense={"copies": 3})
    seeds = [copy_seed(config, seed, number) for number in range(3) for seed in config.seeds]
    assert len(set(seeds)) == 6
    refined = dataclasses.replace(config, hcdc=dataclasses.replace(config.hcdc, refinements=1))
    with pytest.raises(UserError, match=r"with them set condense\.copies = 1"):
        pipeline.checks.check_config(refined)
