"""What candidates are ranked by, beside what they are trained on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_runs import config_with
from runs import small_config
from sklearn.metrics import brier_score_loss

from hcdc_jax import pipeline
from hcdc_jax.condensed import load_condensed
from hcdc_jax.models import image_problem
from hcdc_jax.pipeline.scoring import rank_keys
from hcdc_jax.problem import brier_score, joint, judged_by, mean_loss
from hcdc_jax.training.candidates import train_each
from hcdc_jax.types import Batch

LOGITS = np.random.default_rng(0).normal(size=(7, 3))
LABELS = np.array([0, 1, 2, 2, 0])
WEIGHTS = np.array([1.0, 2.0, 0.0, 1.0, 0.5])


def expected_score(labels: np.ndarray) -> float:
    exponentials = np.exp(LOGITS[: len(labels)])
    squares = ((exponentials / exponentials.sum(1, keepdims=True) - labels) ** 2).sum(1)
    return float(np.average(squares, weights=WEIGHTS))


def test_brier_score_of_classes_and_of_probabilities():
    hard, logits = Batch(None, jnp.asarray(LABELS), jnp.asarray(WEIGHTS)), jnp.asarray(LOGITS)
    np.testing.assert_allclose(brier_score(logits, hard), expected_score(np.eye(3)[LABELS]), rtol=1e-6)
    soft = np.random.default_rng(1).dirichlet(np.ones(3), size=5)
    found = brier_score(logits, hard._replace(labels=jnp.asarray(soft)))
    np.testing.assert_allclose(found, expected_score(soft), rtol=1e-6)


def test_brier_score_of_two_classes_is_twice_the_binary_one():
    batch = Batch(None, jnp.array([0, 1, 1]), jnp.ones(3))
    logits = jnp.asarray(LOGITS[:3, :2])
    binary = brier_score_loss([0, 1, 1], jax.nn.softmax(logits)[:, 1])
    np.testing.assert_allclose(brier_score(logits, batch), 2 * binary, rtol=1e-6)


def test_brier_score_has_the_slope_of_its_differences():
    with jax.enable_x64(True):
        batch = Batch(None, jnp.asarray(LABELS), jnp.asarray(WEIGHTS))
        logits, direction = jnp.asarray(LOGITS), jnp.asarray(np.random.default_rng(2).normal(size=LOGITS.shape))
        slope = jnp.vdot(jax.jit(jax.grad(brier_score))(logits, batch), direction)
        steps = jnp.array([1e-5, -1e-5])
        ahead, behind = jax.vmap(lambda step: brier_score(logits + step * direction, batch))(steps)
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-8)


def test_a_judged_problem_trains_as_before_and_is_traced_once():
    problem = image_problem("mlp", (4, 4, 1), 3, width=5)
    judged = judged_by(problem, brier_score)
    assert judged_by(problem, brier_score) == judged, "equal problems share their compiled programs"
    assert judged._replace(val_loss=problem.val_loss) == problem
    params = problem.init(jax.random.key(1), ())
    images = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    batch = Batch(images, jnp.asarray(LABELS), jnp.asarray(WEIGHTS, jnp.float32))
    found = judged.val_loss(params, (), batch)
    np.testing.assert_allclose(found, brier_score(problem.apply(params, (), images), batch))


@pytest.mark.parametrize("kind", ["graph", "images"])
def test_a_run_ranks_by_it_and_its_condensers_match_what_is_trained_on(kind, tmp_path):
    images = config_with(model={"val_loss": "brier"})
    setup = pipeline.prepare(images if kind == "images" else small_config(tmp_path, model={"val_loss": "brier"}))
    hparams = setup.candidates[0]
    params = setup.problem.init(jax.random.key(0), hparams)
    logits = setup.problem.apply(params, hparams, setup.val.inputs)
    for problem in (setup.problem, setup.proxy_problem):
        np.testing.assert_allclose(
            problem.val_loss(params, hparams, setup.val), brier_score(logits, setup.val), rtol=1e-5
        )
    matched = setup.relay_problem.val_loss(params, hparams, setup.val)
    np.testing.assert_allclose(matched, mean_loss(logits, setup.val), rtol=1e-5)
    assert setup.relay_problem.train_loss is setup.problem.train_loss


def test_a_whole_run_by_the_brier_score(tmp_path):
    config = config_with(("hcdc", "hcdc_surrogate", "real_val"), model={"val_loss": "brier"})
    report = pipeline.run(config, tmp_path / "run")
    truth = np.load(tmp_path / "run" / "results" / "truth.npz")["loss"]
    assert ((truth > 0) & (truth < 2)).all()
    assert report["truth"]["spearman_of_loss_with_accuracy"] is not None
    assert all(entry["failed"] == 0 for entry in report["methods"].values())


def test_joint_networks_answer_with_the_mean_of_their_logits():
    problem = image_problem("mlp", (4, 4, 1), 3, width=5)
    together = joint(problem, brier_score, 3)
    images = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    batch = Batch(images, jnp.asarray(LABELS), jnp.asarray(WEIGHTS, jnp.float32))
    params = together.init(jax.random.key(1), ())
    each = [jax.tree.map(lambda leaf: leaf[i], params) for i in range(3)]  # noqa: B023
    logits = np.mean([problem.apply(one, (), images) for one in each], axis=0)
    np.testing.assert_allclose(together.apply(params, (), images), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together.val_loss(params, (), batch), brier_score(jnp.asarray(logits), batch), rtol=1e-5)
    gradient = jax.jit(jax.grad(together.train_loss))(params, (), batch)
    for i, one in enumerate(each):
        alone = jax.grad(problem.train_loss)(one, (), batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6), gradient, alone)  # noqa: B023


@pytest.mark.parametrize("kind", ["graph", "images"])
def test_one_network_is_asked_alike_either_way(kind, tmp_path):
    """With one network for each candidate there is nothing to average, neither in a match nor in a ranking."""
    found = {}
    for average in ("losses", "logits"):
        training = {"proxy_average": average}
        if kind == "graph":
            config = small_config(tmp_path, training=training)
        else:
            config = config_with(("hcdc", "hcdc_surrogate", "real_val"), training=training)
        pipeline.run(config, tmp_path / average)
        results = tmp_path / average / "results"
        found[average] = {name: np.load(results / f"{name}_seed0.npz") for name in config.methods}
    for name, arrays in found["losses"].items():
        for field in ("loss", "accuracy", "status"):
            np.testing.assert_allclose(found["logits"][name][field], arrays[field], rtol=2e-3, err_msg=name)


def test_a_run_that_averages_logits(tmp_path):
    """Ranks are those of the mean logits of all networks on S_val, which was matched for them together."""
    training = {"proxy_average": "logits", "proxy_inits": 3}
    config = config_with(("random", "hcdc"), training=training, hcdc={"inits": 2})
    pipeline.run(config, tmp_path / "run")
    setup = pipeline.prepare(config)
    for name in config.methods:
        condensed = load_condensed(tmp_path / "run", name, 0)
        params = [
            train_each(key, setup.problem, setup.candidates, condensed.train, training=setup.proxy_training)
            for key in rank_keys(setup, 0)
        ]
        answer = jax.vmap(lambda one, hparams: setup.problem.apply(one, hparams, condensed.val.inputs))  # noqa: B023
        logits = np.mean([answer(one, setup.candidates) for one in params], axis=0)
        losses = [mean_loss(jnp.asarray(one), condensed.val) for one in logits]
        found = np.load(tmp_path / "run" / "results" / f"{name}_seed0.npz")
        np.testing.assert_allclose(found["loss"], losses, rtol=2e-3, err_msg=name)
