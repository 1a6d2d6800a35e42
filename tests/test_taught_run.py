"""Runs in which networks that were trained on the full data label S_train."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from hcdc_jax import pipeline
from hcdc_jax.condense.hcdc import fit
from hcdc_jax.condensed import load_condensed
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.condensed_parts import Place, read_part
from hcdc_jax.pipeline.scoring import rank_keys
from hcdc_jax.pipeline.setup import TARGETS
from hcdc_jax.problem import mean_loss
from hcdc_jax.training.candidates import train_each
from hcdc_jax.training.soft_labels import SoftLoss, soft_label_loss
from tests.image_runs import config_with
from tests.runs import assert_same_arrays

METHODS = (
    "random",
    "value_only",
    "real_val",
    "real_val_hard",
    "teacher_val",
    "train_loss",
    "train_loss_hard",
    "random_choice",
)
LABELS = {"teachers": 2, "views": 3, "val": "teachers", "augmentation": "crop_cutmix"}
# "direct" solves and unrolls nothing: the cheapest match, and values are all that is matched here.
CONFIG = config_with(
    METHODS, labels=LABELS, hcdc={"oversampling": 1, "sensitivity": "direct"}, truth={"enabled": False}
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught") / "run"
    with jax.numpy_rank_promotion("allow"):
        return folder, pipeline.run(CONFIG, folder)


def result(folder, method):
    with np.load(folder / "results" / f"{method}_seed0.npz") as arrays:
        return dict(arrays)


def test_the_best_full_trainings_label_every_view(finished):
    folder, _ = finished
    setup = pipeline.prepare(CONFIG)
    records = [dict(np.load(path)) for path in sorted((folder / "checkpoints" / "targets_seed0").glob("*.npz"))]
    best = np.argsort([record["value"] for record in records])[:2]
    key = jax.random.fold_in(jax.random.key(0), TARGETS)
    given = read_part(Place(folder, "random", "train", 0)).batch
    taught = read_part(Place(folder, "random_taught", "train", 0)).batch
    assert taught.inputs.shape == (60, 4, 4, 1)
    np.testing.assert_array_equal(taught.inputs[:20], given.inputs)
    assert not np.array_equal(taught.inputs[20:40], given.inputs)
    logits = []
    for i in best:
        hparams = jax.numpy.asarray(records[i]["hparams"])
        params = fit(jax.random.fold_in(key, i), setup.problem, hparams, setup.train, setup.training)
        logits.append(setup.problem.apply(params, hparams, taught.inputs[20:40]))
    np.testing.assert_allclose(taught.labels[20:40], jax.nn.softmax(np.mean(logits, 0)), rtol=1e-3, atol=1e-5)


def test_full_trainings_that_teach_are_paid_for_once(finished):
    _, report = finished
    used = {method: entry["full_trainings_used"] for method, entry in report["methods"].items()}
    assert used == dict.fromkeys(METHODS, 3) | {"real_val_hard": 0, "train_loss_hard": 0, "random_choice": 0}


def test_what_is_stored_counts_images_once_and_all_labels(finished):
    folder, _ = finished
    images, soft = 20 * (16 + 1 + 1), 3 * 20 * 10
    card = load_condensed(folder, "random").card
    train = sum(size for name, size in card["ledger"].items() if name.startswith("variables/train/"))
    assert train == images + soft + 2  # and a key
    assert result(folder, "train_loss")["stored_scalars"] == train
    assert result(folder, "train_loss_hard")["stored_scalars"] == images


def test_rows_differ_by_labels_and_by_what_validates(finished):
    folder, _ = finished
    losses = {method: result(folder, method)["loss"] for method in METHODS}
    assert len({tuple(loss) for loss in losses.values()}) == len(METHODS)
    assert all(np.isfinite(loss).all() for loss in losses.values())


def test_labels_of_s_val_are_those_of_teachers_and_stay(finished):
    folder, _ = finished
    learned, start = (load_condensed(folder, name).val for name in ("value_only", "random"))
    assert start.labels.shape == (30, 10)
    np.testing.assert_allclose(start.labels.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(learned.labels, start.labels)
    assert np.abs(learned.inputs - start.inputs).max() > 0


def test_a_taught_run_is_taken_up_again(tmp_path, finished):
    folder, _ = finished
    with jax.numpy_rank_promotion("allow"):
        with pipeline.opened(CONFIG, tmp_path / "run") as run:
            pipeline.condense(run)
        taught = tmp_path / "run" / "checkpoints" / "random_taught_train_seed0.npz"
        taught.unlink()  # as a kill leaves it between the full trainings and the labels
        pipeline.run(CONFIG, tmp_path / "run", resume=True)
    assert_same_arrays(tmp_path / "run", folder)


def test_s_val_may_start_from_the_images_of_s_train():
    setup = pipeline.prepare(config_with(("hcdc",), hcdc={"start": "train"}, condense={"val_factor": 0.5}))
    recipe = recipes.get(setup.config, "hcdc").val
    start, whole = recipe.start(setup, "val", 0), recipes.METHODS["random"].train.start(setup, "train", 0)
    first = np.arange(0, 20, 2)  # of each class, of which S_train has two
    np.testing.assert_array_equal(start.labels, whole.labels[first])
    np.testing.assert_array_equal(start.images, whole.images[first])


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        (("teacher_val",), {}, "the method 'teacher_val' needs teachers: set labels.teachers = 3"),
        (("real_val_hard",), {}, "the method 'real_val_hard' needs teachers"),
        (("random",), {"labels": {"val": "teachers"}}, "labels.val = 'teachers' needs teachers"),
        (("random",), {"labels": {"teachers": 9}}, "labels.teachers = 9, but hcdc.full_trainings = 3 are all that can"),
        (
            ("hcdc",),
            {"labels": {"teachers": 1}, "hcdc": {"theta": "shared"}},
            "which labels of teachers are not: leave",
        ),
        (("dm",), {"labels": {"teachers": 1, "val": "teachers"}}, "the S_val of dm is learned class by class"),
        (("random",), {"labels": {"teachers": 1, "augmentation": "flop"}}, "unknown operation 'flop'"),
        (("hcdc",), {"hcdc": {"start": "train"}}, "set condense.val_factor = 1 or less"),
        (("hcdc",), {"hcdc": {"sensitivity": "direct", "direct": False}}, "leave no hypergradient"),
        (("synflow",), {}, "the method 'synflow' scores cells, not the space 'regularisation': leave it out"),
    ],
)
def test_what_does_not_go_together(methods, changes, message):
    with pytest.raises(UserError) as caught:
        pipeline.prepare(config_with(methods, **changes))
    assert message in str(caught.value)


def test_graphs_have_no_teachers():
    config = config_with(("random",), labels={"teachers": 1}, space={"name": "graph_filter"})
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, name="digits_graph", train=None, val=None, test=None, shrink=1),
        model=dataclasses.replace(config.model, name="spectral_gnn", width=None),
        training=dataclasses.replace(config.training, batch_size=None),
    )
    with pytest.raises(UserError, match=r"labels\.teachers label images"):
        pipeline.prepare(config)


@pytest.mark.parametrize("loss", ["kl", "logit_mse"])
def test_answers_to_labels_of_teachers_may_have_a_loss_of_their_own(finished, loss):
    """On labels of classes, the truth's among them, the loss stays what it was."""
    folder, _ = finished
    setup = pipeline.prepare(config_with(METHODS, labels=LABELS | {"val_loss": loss}))
    taught, hparams = load_condensed(folder, "random").val, setup.candidates[0]
    params = setup.problem.init(jax.random.key(0), hparams)
    logits = setup.problem.apply(params, hparams, taught.inputs)
    expected = soft_label_loss(logits, taught, SoftLoss(loss, 2.0))
    of_classes = mean_loss(setup.problem.apply(params, hparams, setup.val.inputs), setup.val)
    for problem in (setup.problem, setup.taught_problem, setup.proxy_problem):
        np.testing.assert_allclose(problem.val_loss(params, hparams, taught), expected, rtol=1e-5)
        np.testing.assert_allclose(problem.val_loss(params, hparams, setup.val), of_classes, rtol=1e-5)


def test_s_val_is_matched_and_asked_by_that_loss_and_jointly(tmp_path):
    changes = {"labels": LABELS | {"val_loss": "logit_mse"}, "truth": {"enabled": False}}
    asked = {"proxy_average": "logits", "proxy_inits": 2}
    config = config_with(
        ("random", "value_only"),
        training=asked,
        hcdc={"oversampling": 1, "sensitivity": "direct", "inits": 2},
        **changes,
    )
    with jax.numpy_rank_promotion("allow"):
        pipeline.run(config, tmp_path / "run")
    setup = pipeline.prepare(config)
    condensed = load_condensed(tmp_path / "run", "value_only")
    params = [
        train_each(key, setup.taught_problem, setup.candidates, condensed.train, training=setup.proxy_training)
        for key in rank_keys(setup, 0)
    ]
    answer = jax.vmap(lambda one, hparams: setup.problem.apply(one, hparams, condensed.val.inputs))
    logits = np.mean([answer(one, setup.candidates) for one in params], axis=0)
    losses = [soft_label_loss(jax.numpy.asarray(one), condensed.val, SoftLoss("logit_mse")) for one in logits]
    np.testing.assert_allclose(result(tmp_path / "run", "value_only")["loss"], losses, rtol=2e-3)
