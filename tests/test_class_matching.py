"""Condensers that match class by class: on trees of arrays, uneven classes and numbers to predict; a study of each."""

from __future__ import annotations

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcdc_jax as hc
from hcdc_jax import config as configs
from hcdc_jax import pipeline
from hcdc_jax.condense.base import PixelRates
from hcdc_jax.condense.class_batches import class_pool, sum_over_classes, synthetic_table
from hcdc_jax.condense.dm import DMData, dm
from hcdc_jax.condense.gradient_matching import constant
from hcdc_jax.containers import ImageStart, image_container
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.recipes.base import Request
from hcdc_jax.pipeline.setup import Run
from hcdc_jax.problem import Problem
from hcdc_jax.progress import silent

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(11, 3)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0, 2, 2, 1, 0, 1, 1, 2])
WEIGHTS = np.array([1, 2, 1, 0, 1, 1, 1, 3, 1, 1, 1], np.float32)
SYNTHETIC = RNG.normal(size=(6, 3)).astype(np.float32)
OF = np.array([1, 0, 1, 2, 1, 0])
CONTAINER = image_container()


def as_tree(rows: np.ndarray) -> dict:
    return {"a": rows[:, :1], "rest": [rows[:, 1:]]}


def rows_of(tree) -> jax.Array:
    return jnp.concatenate([tree["a"], tree["rest"][0]], 1)


def test_uneven_classes_in_trees_have_the_sum_and_the_slopes_that_are_worked_out_by_hand():
    pool = class_pool(as_tree(REAL), LABELS, 3, WEIGHTS)
    assert 3 not in np.asarray(pool.members)  # of weight 0
    variables = CONTAINER.init(KEY, ImageStart(as_tree(SYNTHETIC), OF))
    exists = np.arange(pool.members.shape[1])[None] < np.asarray(pool.sizes)[:, None]
    inputs = jax.tree.map(lambda leaf: leaf[pool.members], pool.images)
    real = hc.Batch(inputs, jnp.zeros(exists.shape, int), pool.weights[pool.members] * jnp.asarray(exists))

    def loss(key, real, synthetic):
        means = [batch.weights @ rows_of(batch.inputs) / batch.weights.sum() for batch in (real, synthetic)]
        return ((means[0] - means[1]) ** 2).sum()

    value, gradient = sum_over_classes(loss, KEY, real, CONTAINER, variables, table=synthetic_table(OF, 3))
    slopes = np.zeros_like(SYNTHETIC)
    expected = 0.0
    for c in range(3):
        real_ones, ours = np.flatnonzero(LABELS == c), np.flatnonzero(OF == c)  # noqa: SIM300
        apart = SYNTHETIC[ours].mean(0) - np.average(REAL[real_ones], axis=0, weights=WEIGHTS[real_ones])
        expected += (apart**2).sum()
        slopes[ours] = 2 * apart / len(ours)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(rows_of(gradient["pixels"]), slopes, rtol=1e-4, atol=1e-6)


def test_sorted_equal_classes_need_no_table():
    assert synthetic_table(np.array([0, 0, 1, 1]), 2) is None
    for labels in ([0, 1, 0, 1], [0, 0, 1], [1, 1, 0, 0]):
        assert synthetic_table(np.array(labels), 2) is not None
    with pytest.raises(hc.UserError, match="class 2 has no example"):
        class_pool(REAL, LABELS, 3, WEIGHTS * (LABELS != 2))


def test_numbers_to_predict_are_matched_with_the_features_that_go_with_them():
    numbers, of = RNG.normal(size=11).astype(np.float32), RNG.normal(size=6).astype(np.float32)
    pool = class_pool(REAL, numbers, None)
    start = CONTAINER.init(KEY, ImageStart(SYNTHETIC, of))
    network = Problem(lambda key, h: jnp.eye(3), *[None] * 3)  # pyright: ignore[reportArgumentType]
    condenser = dm(network, lambda params, h, x: x @ params, CONTAINER, constant(()))
    data = DMData(pool, PixelRates(jnp.float32(0.01)), synthetic_table(of, None))
    _, info = condenser.step(KEY, condenser.init(KEY, start, data), data)

    def means(rows, labels):
        return np.concatenate([rows.mean(0), (rows * labels[:, None]).mean(0)])

    np.testing.assert_allclose(info.distance, ((means(REAL, numbers) - means(SYNTHETIC, of)) ** 2).sum(), rtol=1e-5)


SPACE = hc.spaces.box("matched", {"decay": (1e-4, 1e-1, "log"), "gain": (0.5, 2.0)})
SETTINGS = {
    "condense": {"examples": 5, "val_factor": 1.0, "val": "random"}, "dm": {"steps": 2},
    "dc": {"networks": 1, "outer_steps": 2, "inner_epochs": 1},
}  # fmt: skip


@contextlib.contextmanager
def quiet():
    yield silent()


def linear(params, inputs, h):
    return h["gain"] * rows_of(inputs) @ params["w"]


def study_in(folder, labels, **options) -> hc.Study:
    problem = hc.make_problem(lambda key: {"w": jnp.zeros((3, 3 if labels.dtype.kind == "i" else 1))}, linear,
                              space=SPACE, weight_decay="decay", **options)  # fmt: skip
    rows = np.random.default_rng(1).normal(size=(40, 3))
    return hc.Study(
        problem, SPACE, train=(as_tree(rows), labels), training=hc.Training(steps=3), folder=folder, progress=quiet,
        settings=SETTINGS,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_a_study_of_trees_is_condensed_though_its_network_begins_at_zero(kind, tmp_path):
    labels = np.arange(40) % 3 if kind == "classes" else np.random.default_rng(2).normal(size=40)
    options = {} if kind == "classes" else {"loss": "squared"}
    study = study_in(tmp_path / "run", labels, **options)
    methods = ("dm", "dc") if kind == "classes" else ("dc",)
    study.condense(["random", *methods])
    start = study.condensed("random")
    for method in methods:
        made = study.condensed(method)
        np.testing.assert_array_equal(made.train.labels, start.train.labels)
        assert made.train.inputs.keys() == start.train.inputs.keys()
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), made.train.inputs, start.train.inputs)
        assert all(0 < size < 0.1 for size in jax.tree.leaves(moved))


def test_vectors_have_no_gradients_to_compare(tmp_path):
    problem = hc.make_problem(
        lambda key: {"w": jax.random.normal(key, (2,))}, lambda p, x, h: h["gain"] * x @ p["w"], space=SPACE,
        loss="squared",
    )  # fmt: skip
    study = hc.Study(
        problem, SPACE, train=(REAL[:, :2], REAL[:, 2]), folder=tmp_path / "run", settings=SETTINGS, progress=quiet
    )
    with pytest.raises(hc.UserError, match="dc compares gradients of matrices"):
        study.condense("dc", examples=3)


@pytest.mark.parametrize("table", ["wine", "diabetes"])  # classes, and amounts
def test_rows_of_a_table_are_matched_under_its_own_network(table):
    file = Path(hc.__file__).parents[1] / "configs" / "tables" / f"{table}.toml"
    setup = pipeline.prepare(configs.apply_overrides(configs.load(file), ["--methods", "dm", "dc"]))
    for method in ("dm", "dc"):
        recipe = recipes.get(setup.config, method).train
        assert recipe is not None
        assert recipe.learner is not None
        start, container = recipe.start(setup, "train", 0), recipe.container(setup, "train")
        data = recipe.learner.work(Request(Run(setup, file, silent()), "train", 0, start, None)).data
        condenser, variables = recipe.learner.condenser(setup, container), container.init(KEY, start)
        state = jax.eval_shape(condenser.init, KEY, variables, data)
        after, info = jax.eval_shape(condenser.step, KEY, state, data)
        assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
        assert info.distance.shape == ()
