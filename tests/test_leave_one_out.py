"""Candidates left out of a match: the prediction against a plain fit, and that nobody peeks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import pipeline
from hcdc_jax.condense.base import run
from hcdc_jax.condense.hcdc import hcdc
from hcdc_jax.condense.leave_one_out import left_out_errors, prediction_errors
from hcdc_jax.condensed import load_condensed
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.pipeline.hcdc.matched_candidates import choose_candidates
from hcdc_jax.pipeline.hcdc.selection import SHARES
from hcdc_jax.pipeline.hcdc.targets import matched_targets
from hcdc_jax.progress import silent
from tests.errors import error_of
from tests.runs import process_settings, small_config
from tests.test_hcdc import CONTAINER, KEY, PROBLEM, made_up_data, started


def test_the_prediction_is_a_line_through_the_others():
    rng = np.random.default_rng(0)
    losses, target = np.exp(rng.normal(size=(2, 7)))
    target = losses**0.5 * target**0.1
    left_out = np.arange(7) == 3
    error, around_mean = prediction_errors(losses, target, left_out)
    slope, level = np.polyfit(np.log(losses[~left_out]), np.log(target[~left_out]), 1)
    assert error == pytest.approx((np.log(target[3]) - slope * np.log(losses[3]) - level) ** 2)
    assert around_mean == pytest.approx((np.log(target[3]) - np.log(target[~left_out]).mean()) ** 2)


def test_losses_that_fall_where_the_target_rises_predict_no_better_than_the_mean():
    target = np.array([1.0, 2.0, 4.0, 8.0])
    error, around_mean = prediction_errors(1 / target, target, np.arange(4) == 0)
    assert error == around_mean
    assert prediction_errors(np.ones(4), target, np.arange(4) == 0) == (around_mean, around_mean)
    assert prediction_errors(target**3, target, np.arange(4) == 0)[0] == pytest.approx(0, abs=1e-20)


def errors_of(data, steps=(1, 2)):
    variables = started(hcdc(PROBLEM, CONTAINER, distance="value"), data).variables
    return left_out_errors(KEY, PROBLEM, CONTAINER, variables, data, distance="value", steps=steps)


def test_errors_are_those_of_matches_that_never_saw_the_candidate():
    data, condenser = made_up_data(), hcdc(PROBLEM, CONTAINER, distance="value")
    variables, predicted, spread = started(condenser, data).variables, 0.0, 0.0
    target = np.asarray(data.target.value)
    for i in range(4):
        rest = np.delete(np.arange(4), i)
        pool, kept = jax.tree.map(lambda leaf, rest=rest: leaf[rest], (data.pool, data.target))
        others = data._replace(pool=pool, target=kept)
        state = run(KEY, condenser, condenser.init(KEY, variables, others), others, steps=2)
        batch = CONTAINER.decode(state.variables)
        losses = [float(PROBLEM.val_loss(jax.tree.map(lambda x, j=j: x[j], data.pool.params), data.pool.hparams[j],
                                         batch)) for j in range(4)]  # fmt: skip
        error, around_mean = prediction_errors(np.array(losses), target, np.arange(4) == i)
        predicted, spread = predicted + error, spread + around_mean
    np.testing.assert_allclose(errors_of(data)[1], predicted / spread, rtol=1e-3)


def test_networks_of_one_candidate_are_left_out_together():
    data = made_up_data()
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), (data.pool, data.target))
    # Twins say nothing new, so the errors stay; a twin left behind would predict its other half nearly exactly.
    np.testing.assert_allclose(errors_of(data._replace(pool=twice[0], target=twice[1])), errors_of(data), rtol=2e-2)


def test_two_candidates_are_too_few():
    data = made_up_data()
    pool, target = jax.tree.map(lambda leaf: leaf[:2], (data.pool, data.target))
    message = error_of(lambda: errors_of(data._replace(pool=pool, target=target)))
    assert "at least 3" in message
    assert "hcdc.full_trainings" in message


def test_a_run_takes_what_left_out_candidates_choose_and_hears_of_networks_that_feel_nothing(tmp_path):
    config = small_config(
        tmp_path,
        methods=("hcdc",),
        hcdc={"selection": "leave_one_out", "full_trainings": 4, "steps": 2, "damping": 1.0},
    )
    with process_settings(tmp_path / "cache"), pipeline.opened(config, tmp_path / "run") as at_work:
        pipeline.condense(at_work)
    found = read_arrays(tmp_path / "run" / "checkpoints" / "leave_one_out_hcdc_seed0.npz")
    card = load_condensed(tmp_path / "run", "hcdc").card
    assert card["left_out_error"] == pytest.approx(found["errors"].min())
    steps = sorted({max(round(share * config.hcdc.steps), 1) for share in SHARES})
    assert card["selected_steps"] == steps[found["errors"].min(0).argmin()]

    said = []
    listening = at_work._replace(progress=silent()._replace(say=said.append))
    candidates = choose_candidates(listening, 0, load_condensed(tmp_path / "run", "hcdc").train)
    matched_targets(listening, 0, candidates._replace(spread=1.0))
    assert not said
    matched_targets(listening, 0, candidates._replace(spread=1e-6))
    assert "hardly feel" in said[0]
