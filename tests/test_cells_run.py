"""Runs that rank cells of NAS-Bench-201."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from hcdc_jax import pipeline, spaces
from hcdc_jax.data.cells import OPERATIONS, all_cells, cell_of, number_of, string_of
from hcdc_jax.errors import UserError
from hcdc_jax.models.nas_bench_201 import size_of
from hcdc_jax.pipeline import silent, true_scores
from hcdc_jax.pipeline.hcdc import targets
from hcdc_jax.pipeline.hcdc.matched_candidates import MatchedCandidates
from hcdc_jax.pipeline.recipes import zero_cost
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.pipeline.setup import Run
from tests.errors import error_of
from tests.image_runs import config_with

PROXIES = ("num_parameters", "flops", "synflow", "naswot", "jacob_cov", "grad_norm", "snip")
TRAINED = ("random", "hcdc", "value_only", "real_val", "real_val_hard", "teacher_val", "train_loss", "train_loss_hard")
CELLS = {
    "space": {"name": "nas_bench_201", "candidates": 12},
    "model": {"name": "nas_bench_201", "width": 2, "depth": 1, "norm": "batch"},
    "training": {"steps": 6, "proxy_steps": 4},
}


def test_proxies_see_every_image_once():
    setup = pipeline.prepare(config_with(PROXIES, **CELLS))
    draws = [zero_cost.shown(setup, seed) for seed in range(3)]
    assert [len(np.unique(numbers)) for numbers in draws] == [zero_cost.IMAGES] * 3
    assert set(draws[0]) <= set(setup.data.train_idx)
    assert not np.array_equal(draws[0], draws[1])


@pytest.mark.slow  # a minute of compilation
def test_cells_are_ranked_from_end_to_end(tmp_path):
    config = config_with(
        TRAINED + PROXIES,
        **CELLS,
        labels={"teachers": 2, "views": 2, "augmentation": "crop_cutmix"},
        hcdc={"sensitivity": "direct", "oversampling": 1, "start": "train", "extended_space": "mixes"},
        condense={"val_factor": 1.0},
    )
    with jax.numpy_rank_promotion("allow"):
        report = pipeline.run(config, tmp_path / "run")
    sizes = np.array(report["space"]["num_parameters"])
    with np.load(tmp_path / "run" / "results" / "truth.npz") as truth:
        losses = truth["loss"].mean(0)
    for method, entry in report["methods"].items():
        assert np.isfinite(entry["spearman_loss"]["mean"]), method
        assert np.isfinite(entry["beyond_size"]["spearman_of_rank_mean"]["mean"]), method
        assert entry["full_trainings_used"] == (0 if method in PROXIES or method.endswith("_hard") else 3)
    expected = scipy.stats.spearmanr(losses, -sizes).statistic
    assert report["methods"]["num_parameters"]["spearman_loss"]["mean"] == pytest.approx(expected)
    assert "Beyond size" in (tmp_path / "run" / "report.html").read_text()
    header, *rows = (tmp_path / "run" / "ranking.csv").read_text().splitlines()
    assert "0-1 nor_conv_3x3" in header
    assert len(rows) == 12
    # The first of three matched candidates is a cell, the second a mixture.
    with np.load(tmp_path / "run" / "checkpoints" / "targets_seed0" / "001.npz") as target:
        assert np.count_nonzero(target["gradient"].reshape(6, 5)[:, 1:]) == 24
    with np.load(tmp_path / "run" / "checkpoints" / "targets_seed0" / "000.npz") as target:
        slopes, cell = target["gradient"].reshape(6, 5), target["hparams"].reshape(6, 5)
    absent = [(edge, place) for edge in range(6) for place in (2, 3) if cell[edge, place] == 0]
    assert absent
    assert all(slopes[place] == 0 for place in absent)
    assert np.abs(slopes).max() > 0


def test_cells_are_ranked_that_were_named():
    text = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
    config = config_with(("random",), **CELLS | {"space": {"name": "nas_bench_201", "cells": ("0", text, "15624")}})
    found = [number_of(spaces.discrete_cell(hparams)) for hparams in pipeline.prepare(config).candidates]
    assert found == [0, number_of(cell_of(text)), 15624]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"cells": ("0", "15625")}, "space.cells: there is no cell number 15625"),
        (
            {"cells": ("0", "|nor_conv_3x3|")},
            "space.cells: '|nor_conv_3x3|' is no cell of NAS-Bench-201; write it as |op~0|+",
        ),
        ({"cells": ("0", "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")}, "nothing reaches the output"),
        ({"cells": ("0", "1", string_of(all_cells()[0]))}, "at least two different cells, each once"),
        ({"cells": ("7",)}, "at least two different cells, each once"),
    ],
)
def test_lists_of_cells_that_cannot_be_ranked(space, message):
    config = config_with(("random",), **CELLS | {"space": {"name": "nas_bench_201", **space}})
    assert message in error_of(lambda: pipeline.prepare(config))


def test_other_spaces_have_no_cells():
    config = config_with(("random",), space={"name": "regularisation", "cells": ("0", "1")})
    assert "space.cells lists cells of 'nas_bench_201'" in error_of(lambda: pipeline.prepare(config))


def test_matched_candidates_may_lie_between_cells(tmp_path, monkeypatch):
    def without_training(setup, key, hparams):
        nothing = {name: np.zeros(()) for name in ("training_seconds", "target_seconds", "compile_seconds")}
        slopes = np.arange(30, dtype=np.float32)
        return {"hparams": hparams, "value": np.ones(()), "gradient": slopes, "diverged": np.zeros((), bool)} | nothing

    monkeypatch.setattr(targets, "_one", without_training)
    config = config_with(("hcdc",), **CELLS, hcdc={"full_trainings": 6, "oversampling": 1, "sensitivity": "direct"})
    setup = pipeline.prepare(config)
    cells = np.asarray(spaces.one_hot([5, 77, 400, 1000, 8000, 15000]))

    def matched(name, **options):
        own = setup._replace(config=dataclasses.replace(config, hcdc=dataclasses.replace(config.hcdc, **options)))
        run = Run(own, tmp_path / name, silent())
        found = np.asarray(targets.matched_targets(run, 0, MatchedCandidates(cells, Cost(), 1.0)).hparams)
        np.testing.assert_allclose(found.reshape(6, 6, 5).sum(-1), 1, rtol=1e-5)
        return found, [i for i in range(6) if not np.array_equal(found[i], cells[i])]

    assert matched("samples")[1] == []
    found, mixed = matched("mixes", extended_space="mixes")
    assert mixed == [1, 3, 5]
    assert (found[mixed] > 0).all()
    np.testing.assert_array_equal(found.reshape(6, 6, 5).argmax(-1), cells.reshape(6, 6, 5).argmax(-1))
    for length, expected in ((2, [1, 3, 5]), (4, [1, 2, 3, 5])):
        found, stepped = matched(f"of {length}", extended_space="trajectories", trajectory_length=length)
        assert stepped == expected
        for i in stepped:  # downhill from the point before
            assert found[i] @ np.arange(30) < found[i - 1] @ np.arange(30)


ALL_FLAWS = ("softmax", "narrow", "no_affine", "unshuffled")


def test_flaws_of_dcbench_are_those_of_trainings_on_condensed_images_alone():
    def setup_with(flaws):
        training = CELLS["training"] | {"dcbench_compat": flaws}
        return pipeline.prepare(config_with(("random",), **CELLS | {"training": training}))

    setup, clean = setup_with(ALL_FLAWS), setup_with(None)
    assert setup.problem is clean.problem  # of the truth
    assert (setup.training, setup.proxy_training.order) == (clean.training, "stored")
    assert clean.problem_on(clean.train) is clean.problem
    assert clean.proxy_training.order == "shuffled"
    shapes = jax.eval_shape(setup.problem_on(setup.train).init, jax.random.key(0), jnp.zeros(30))
    assert set(shapes["stage_0"]["nor_conv_1x1"]) == {"kernel"}
    assert {"scale", "bias"} <= set(shapes["reduction_1"]["first"])


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        (("random", "hcdc"), CELLS, "training.dcbench_compat is for baselines, and hcdc matches networks"),
        (("lambda_shift",), CELLS, "training.dcbench_compat is for baselines, and lambda_shift matches networks"),
        (("random",), {}, "training.dcbench_compat is about cells, not the space 'regularisation'"),
        (("random",), CELLS | {"flaws": ("narrow",)}, "'narrow' changes nothing without 'softmax'; add that"),
        (("random",), CELLS | {"flaws": ("narow",)}, "'training.dcbench_compat' must be"),
        (("random",), CELLS | {"batch_size": None}, "'unshuffled' changes nothing in batches of all images; set"),
    ],
)
def test_flaws_that_do_not_fit(methods, changes, message):
    training = {"dcbench_compat": changes.get("flaws", ALL_FLAWS), "batch_size": changes.get("batch_size", 30)}
    config = config_with(
        methods, **{key: changes[key] for key in ("space", "model") if key in changes}, training=training
    )
    assert message in error_of(lambda: pipeline.prepare(config))


def test_other_spaces_have_no_mixtures():
    config = config_with(("hcdc",), hcdc={"extended_space": "mixes"})
    assert "between which there are mixtures; the space 'regularisation'" in error_of(lambda: pipeline.prepare(config))


def test_sizes_of_cells_are_those_of_their_networks():
    setup = pipeline.prepare(config_with(("random",), **CELLS))
    sizes = setup.kind.num_parameters(setup)
    expected = [
        size_of(np.asarray(h).reshape(6, 5), (4, 4, 1), 10, width=2, depth=1).parameters for h in setup.candidates
    ]
    np.testing.assert_array_equal(sizes, expected)
    assert len(set(expected)) > 3


def test_a_published_table_stands_for_the_truth(tmp_path, monkeypatch):
    (tmp_path / "nasbench201").mkdir()
    val, test = np.random.default_rng(0).uniform(10, 90, (2, 15625))
    arrays = {"ops": all_cells(), "op_names": np.array(OPERATIONS, "S")}
    np.savez(tmp_path / "nasbench201" / "nasbench201.npz", cifar10_valid_val_acc=val, cifar10_test_acc=test, **arrays)
    monkeypatch.setenv("HCDC_DATA_DIR", str(tmp_path))
    candidates = spaces.one_hot([5, 15624, 5])
    truth = true_scores._published(SimpleNamespace(candidates=candidates, data=SimpleNamespace(name="cifar10")))
    np.testing.assert_allclose(truth["loss"], [1 - val[[5, 15624, 5]] / 100])
    np.testing.assert_allclose(truth["test_accuracy"], [test[[5, 15624, 5]] / 100])
    assert truth["status"].all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("nasbench201", "unknown table 'nasbench201' in 'truth.table'; did you mean 'nas_bench_201'?"),
        ("nas_bench_201", "there are no published accuracies for 'digits_images', 'val'; known are cifar10 val"),
    ],
)
def test_tables_that_do_not_fit(table, message):
    with pytest.raises(UserError) as caught:
        pipeline.prepare(config_with(("random",), **CELLS, truth={"table": table}))
    assert message in str(caught.value)


def test_a_table_without_its_test_half_is_found_before_any_work(tmp_path, monkeypatch):
    arrays = {"ops": all_cells(), "op_names": np.array(OPERATIONS, "S")}
    (tmp_path / "nasbench201").mkdir()
    np.savez(tmp_path / "nasbench201" / "nasbench201.npz", cifar10_valid_val_acc=np.linspace(0, 90, 15625), **arrays)
    monkeypatch.setenv("HCDC_DATA_DIR", str(tmp_path))
    config = config_with(("random",), **CELLS, data={"name": "cifar10"}, truth={"table": "nas_bench_201"})
    assert "array 'cifar10_test_acc' is missing" in error_of(lambda: pipeline.prepare(config))
    own = config_with(("random",), **CELLS, data={"path": "mine.npz"}, truth={"table": "nas_bench_201"})
    assert "no published accuracies for 'mine'" in error_of(lambda: pipeline.prepare(own))
