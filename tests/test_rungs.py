"""Trainings that are looked at midway: the same as in one go, and what is foretold of those that stop."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcdc_jax as hc
from hcdc_jax.config import Config
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.checks import check_config
from hcdc_jax.pipeline.hcdc.rungs import climb, curves_of
from hcdc_jax.problem import Problem
from hcdc_jax.training.train import Training, train


def loss(params, hparams, batch):
    return jnp.mean((batch.inputs @ params - batch.labels) ** 2) + hparams[0] * jnp.sum(params**2)


X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
PART = hc.as_batch((X, X @ np.array([1.0, -2.0, 0.5], np.float32)))
PROBLEM = Problem(lambda key, hparams: jax.random.normal(key, (3,)), lambda params, hparams, x: x @ params, loss, loss)
SETUP = types.SimpleNamespace(problem=PROBLEM, training=Training(steps=18), train=PART, val=PART)
HPARAMS = jnp.array([0.1])


def test_from_rung_to_rung_it_is_one_training():
    key = jax.random.key(0)
    whole = climb(SETUP, key, HPARAMS)
    np.testing.assert_allclose(whole.params, train(key, PROBLEM, HPARAMS, PART, SETUP.training)[0], rtol=1e-5)
    assert whole.share == 1
    asked = []
    part = climb(SETUP, key, HPARAMS, lambda rung, loss: bool(asked.append((rung, loss)) or rung == 1))
    assert part.share == pytest.approx(1 / 3)
    np.testing.assert_array_equal(part.midway, whole.midway)
    assert asked == list(enumerate(whole.midway.tolist()))
    assert np.isnan(climb(SETUP, key, HPARAMS, lambda rung, loss: True).midway[1])


def test_what_is_foretold_is_on_the_line_of_those_that_ended():
    midway = np.exp(np.array([[2.0, 1.0], [3.0, 2.0], [4.0, 3.0], [5.0, np.inf]]))
    ended = np.exp(np.array([-1.0, 0.0, 1.0, 2.0]))
    records = [{"midway": one, "value": end} for one, end in zip(midway, ended, strict=True)]
    curves = curves_of([*records, {"value": np.exp(-9.0)}, {"midway": midway[0], "value": np.nan}], 0.9)
    assert curves.ended.shape == (4,)
    assert np.log(curves.foretold(np.exp([9.0, 1.5]))) == pytest.approx(-0.5)
    assert np.log(curves.foretold(np.array([np.exp(3.5), np.nan]))) == pytest.approx(0.5)
    assert np.isnan(curves.foretold(np.array([np.nan, np.nan])))
    assert curves.hopeless(0, np.exp(5.0))
    assert not curves.hopeless(0, np.exp(1.5))
    assert not curves_of([], 0.9).hopeless(0, 100.0), "nobody to compare with"


def test_trainings_that_are_unrolled_cannot_stop():
    config = Config()
    config = dataclasses.replace(config, hcdc=dataclasses.replace(config.hcdc, sensitivity="unroll", stop_sure=0.9))
    with pytest.raises(UserError, match=r"which cannot stop midway: leave out hcdc\.stop_sure"):
        check_config(config)
