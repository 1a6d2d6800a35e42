"""A whole run on images, and what does not go with them."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from hcdc_jax import cli, pipeline
from hcdc_jax import config as configs
from hcdc_jax.condensed import load_condensed
from hcdc_jax.errors import UserError
from hcdc_jax.hypergradients.fixed_networks import Target
from hcdc_jax.pipeline.hcdc.matched_candidates import MatchedCandidates
from hcdc_jax.pipeline.hcdc.targets import believed, matched_targets
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.pipeline.recipes.hcdc_surrogate import power_law
from hcdc_jax.pipeline.setup import RANK
from hcdc_jax.storage import files
from hcdc_jax.training.candidates import evaluate
from tests.image_runs import config_with
from tests.runs import assert_same_arrays

METHODS = (
    "random",
    "herding",
    "kcenter",
    "hcdc",
    "hcdc_shifted",
    "hcdc_surrogate",
    "value_only",
    "real_val",
    "random_val",
    "lambda_shift",
    "surrogate_grad",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "run"
    with jax.numpy_rank_promotion("allow"):
        return folder, pipeline.run(config_with(METHODS), folder)


def test_every_method_is_reported(finished):
    folder, report = finished
    assert set(report["methods"]) == set(METHODS)
    for entry in report["methods"].values():
        assert np.isfinite(entry["spearman_loss"]["mean"])
    assert report["data"]["images"] == 280
    assert (folder / "figures" / "condensed_images.png").stat().st_size > 1000
    assert "Condensed images" in (folder / "report.html").read_text()


def test_the_artefact_stands_alone(finished):
    folder, _ = finished
    condensed = load_condensed(folder)
    assert condensed.card["method"] == "hcdc"
    assert condensed.train.inputs.shape == (20, 4, 4, 1)
    assert condensed.val.inputs.shape == (30, 4, 4, 1)
    np.testing.assert_array_equal(np.bincount(condensed.val.labels), np.full(10, 3))
    shown = condensed.preprocessing.invert(condensed.train.inputs)  # S_train is real: its pixels are those of digits
    assert shown.min() > -1e-5
    assert shown.max() < 1 + 1e-5
    np.testing.assert_allclose(condensed.preprocessing.apply(shown), condensed.train.inputs, atol=1e-5)
    inputs, labels, split = condensed.as_sklearn()
    assert inputs.shape == (50, 16)
    assert labels.shape == (50,)
    assert split.get_n_splits() == 1


def test_what_is_shifted_says_by_how_much(finished):
    folder, _ = finished
    setup = pipeline.prepare(config_with(METHODS))
    card = load_condensed(folder, "hcdc_shifted", 0).card
    with np.load(folder / "checkpoints" / "shift_seed0.npz") as learned:
        amount = learned["amount"]
    assert np.abs(amount).max() > 0
    np.testing.assert_allclose([card[f"shift_of_{name}"] for name in setup.space.hparam_names], amount, rtol=1e-6)
    for method in ("hcdc_shifted", "lambda_shift"):
        with np.load(folder / "results" / f"{method}_seed0.npz") as result:
            np.testing.assert_allclose(result["shift"], amount / np.asarray(setup.space.prior_std), rtol=1e-5)
    assert (folder / "figures" / "shifts.png").stat().st_size > 0


def test_shifted_artefacts_are_ranked_and_searched_at_shifted_candidates(finished):
    folder, _ = finished
    setup = pipeline.prepare(config_with(METHODS))
    condensed = load_condensed(folder, "hcdc_shifted", 0)
    amount = np.array([condensed.card[f"shift_of_{name}"] for name in setup.space.hparam_names], np.float32)
    moved = jax.vmap(setup.space.admit)(setup.candidates + amount[None])
    assert np.abs(moved - setup.candidates).max() > 0
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), RANK), 0)
    scores = evaluate(key, setup.problem, moved, condensed.train, condensed.val, training=setup.proxy_training)
    with np.load(folder / "results" / "hcdc_shifted_seed0.npz") as result:
        np.testing.assert_allclose(result["loss"], scores.loss, rtol=1e-6)
        np.testing.assert_array_equal(result["hparams"], setup.candidates)
    plan = pipeline.SearchPlan(num=3, top=0, artefact="hcdc_shifted")
    history = pipeline.search(setup, folder, plan)["history"]
    drawn = jax.vmap(setup.space.admit)(np.asarray(history["hparams"], np.float32) + amount[None])
    expected = evaluate(key, setup.problem, drawn, condensed.train, condensed.val, training=setup.proxy_training)
    np.testing.assert_allclose(history["loss"], expected.loss, rtol=1e-6)
    with pytest.raises(UserError, match="shift of hcdc_shifted"):
        pipeline.search(setup, folder, dataclasses.replace(plan, method="hypergradient"))


def test_images_are_exported_as_one_sees_them(finished, tmp_path):
    folder, _ = finished
    options = ["--format", "png", "--method", "random", "--out", str(tmp_path / "png")]
    assert cli.main(["export", str(folder), *options]) == 0
    names = sorted(path.name for path in (tmp_path / "png").iterdir())
    assert len(names) == 50
    assert names[0] == "train_000_class0.png"
    condensed = load_condensed(folder, "random")
    shown = np.asarray(condensed.preprocessing.invert(condensed.val.inputs))
    with Image.open(tmp_path / "png" / "val_029_class9.png") as image:
        np.testing.assert_allclose(np.asarray(image) / 255, shown[29, ..., 0], atol=0.5 / 255 + 1e-6)


def test_s_val_is_learned_and_s_train_shared(finished):
    folder, _ = finished
    hcdc, random, values = (load_condensed(folder, name, 0) for name in ("hcdc", "random", "value_only"))
    np.testing.assert_array_equal(hcdc.train.inputs, random.train.inputs)
    np.testing.assert_array_equal(hcdc.val.labels, random.val.labels)
    moved = np.abs(hcdc.val.inputs - random.val.inputs)
    assert 0 < moved.max() < 1
    assert np.abs(hcdc.val.inputs - values.val.inputs).max() > 0


def test_the_mean_with_a_surrogate_is_one_of_logarithms(finished):
    """What is left of its logarithm without the surrogate's is a rising line in that of the loss on S_val."""
    folder, _ = finished
    logs = {}
    for method in ("hcdc", "surrogate_grad", "hcdc_surrogate"):
        with np.load(folder / "results" / f"{method}_seed0.npz") as result:
            logs[method] = np.log(result["loss"].astype(np.float64))
            assert result["full_trainings_used"] == 3
    left = 2 * logs["hcdc_surrogate"] - logs["surrogate_grad"]
    exponent, offset = np.polyfit(logs["hcdc"], left, 1)
    np.testing.assert_allclose(left, offset + exponent * logs["hcdc"], atol=1e-5)
    assert exponent >= 0


def test_a_power_law_is_the_least_squares_line_unless_that_falls():
    rng = np.random.default_rng(0)
    given, noise = rng.normal(size=8), 0.1 * rng.normal(size=8)
    slope, start = np.polyfit(given, 2 * given + noise, 1)
    np.testing.assert_allclose(power_law(given, 2 * given + noise), (start, slope), rtol=1e-9)
    np.testing.assert_allclose(power_law(given, -given), (-given.mean(), 0))
    np.testing.assert_allclose(power_law(np.ones(3), np.arange(3.0)), (1, 0))
    assert power_law(np.zeros(0), np.zeros(0)) == (0, 0)


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path, finished):
    folder, _ = finished
    config = config_with(METHODS)
    with jax.numpy_rank_promotion("allow"):
        with pipeline.opened(config, tmp_path / "run") as run:
            pipeline.condense(run)
        pipeline.run(configs.load(tmp_path / "run" / "config.toml"), tmp_path / "run", resume=True)
    assert_same_arrays(tmp_path / "run", folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "spectral_gnn"}}, "digits_images holds images; choose model.name among convnet, mlp"),
        ({"space": {"name": "graph_filter"}}, "digits_images holds images, and the space 'graph_filter' is for graphs"),
        ({"data": {"name": "digits_graph"}}, "digits_graph holds nodes, and the space 'regularisation' is for images"),
        ({"methods": ("gcond",)}, "digits_images holds images, and the method 'gcond' is for other data; leave it out"),
        ({"data": {"shrink": 3}}, "data.shrink = 3 does not divide the 8 x 8 pixels of digits_images"),
        ({"data": {"train": 5}}, "5 images of train are too few for 10 classes"),
        ({"condense": {"images_per_class": 50}}, "condense.images_per_class = 50, but class 0 has 12 images"),
        (
            {"hcdc": {"sensitivity": "implicit"}},
            "searches log_input_noise, whose implicit hypergradient is 0: set hcdc.sens",
        ),
        ({"methods": ("hcdc_shared",)}, "whose implicit hypergradient is 0: leave out the method hcdc_shared"),
        (
            {"hcdc": {"theta": "shared", "sensitivity": "unroll"}},
            "whose implicit hypergradient is 0: set hcdc.theta = 'own'",
        ),
        (
            {"methods": ("hcdc", "hcdc_surrogate"), "hcdc": {"refinements": 1}},
            "hcdc_surrogate knows nothing of hcdc.refinements",
        ),
        ({"methods": ("hcdc_surrogate",)}, "hcdc_surrogate reads the S_val of hcdc with hcdc.theta = 'own': name hcdc"),
        ({"model": {"name": "convnet", "depth": 5}}, "the images are too small"),
        ({"space": {"name": "nas_bench_201"}}, "does not go with model.name = 'mlp': the cells of 'nas_bench_201' are"),
        (
            {"model": {"name": "nas_bench_201"}},
            "space.name = 'regularisation' does not go with model.name = 'nas_bench_201'",
        ),
        ({"condense": {"container": "pairwise"}}, "condense.container = 'pairwise' stores nodes"),
    ],
)
def test_what_does_not_go_with_images(changes, message):
    with pytest.raises(UserError) as caught:
        pipeline.prepare(config_with(**changes))
    assert message in str(caught.value)


FACTORIAL = {
    "full_trainings": 8,
    "candidates_per_match": 8,
    "design": "factorial",
    "side_by_side": 3,
    "adjoint_batch_size": 10,
}


def test_a_factorial_design_is_matched_side_by_side_and_resumed(tmp_path):
    config = config_with(hcdc=FACTORIAL)
    with jax.numpy_rank_promotion("allow"), pipeline.opened(config, tmp_path / "run") as run:
        pipeline.condense(run)
        folder = tmp_path / "run" / "checkpoints" / "targets_seed0"
        before = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
        expected = run.setup.space.factorial((0, 0), 8)
        np.testing.assert_array_equal(np.stack([record["hparams"] for record in before]), expected)
        assert all(np.isfinite(record["gradient"]).all() and record["gradient"].any() for record in before)
        (folder / "004.npz").unlink()
        matched_targets(run, 0, MatchedCandidates(expected, Cost(), 1.0))
        again = dict(np.load(folder / "004.npz"))
        files.write_npz(folder / "004.npz", again | {"gradient": 1e6 * again["gradient"]})
        files.write_npz(folder / "006.npz", before[6] | {"gradient": np.inf * before[6]["gradient"]})
        said = []
        run = run._replace(progress=run.progress._replace(say=said.append))
        matched = matched_targets(run, 0, MatchedCandidates(expected, Cost(), 1.0))
    assert len(said) == 1
    assert "2 of 8 hypergradients exploded" in said[0]
    target = believed(run.setup, matched)
    np.testing.assert_array_equal(target.value, [record["value"] for record in before])
    np.testing.assert_array_equal(np.isnan(target.gradient).any(1), np.isin(np.arange(8), (4, 6)))
    near = matched._replace(target=Target(np.full(8, 0.7), np.full_like(matched.target.gradient, 1e-3)))
    assert np.isfinite(believed(run.setup, near).gradient).all()  # equal losses, and slopes that hardly are any
    for name in ("hparams", "value", "gradient"):
        np.testing.assert_array_equal(again[name], before[4][name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensitivity": "implicit", "side_by_side": 2}, "go with hcdc.sensitivity = 'unroll'"),
        ({"sensitivity": "implicit", "adjoint_batch_size": 5}, "go with hcdc.sensitivity = 'unroll'"),
        ({"extended_space": "trajectories", "side_by_side": 2}, "set hcdc.side_by_side = 1"),
        ({"adjoint_batch_size": 31}, "is for fewer images than training.batch_size = 30"),
        ({"design": "factorial"}, "set hcdc.full_trainings = 8"),
    ],
)
def test_what_does_not_go_with_how_candidates_are_matched(options, message):
    with pytest.raises(UserError, match=message):
        pipeline.prepare(config_with(hcdc=options))
