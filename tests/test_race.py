"""The race: replays on made-up tables, tables that are killed and go on, what is reported."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import small_config

from hcdc_jax import pipeline
from hcdc_jax.condense.hcdc import fit
from hcdc_jax.pipeline.setup import TRUTH, key_for
from hcdc_jax.progress import silent
from hcdc_jax.search.calibrated import Proxy
from hcdc_jax.spaces import graph_filter

curves = pytest.importorskip("benchmarks.race.curves")  # not in every distribution
cheap = pytest.importorskip("benchmarks.race.cheap")
methods = pytest.importorskip("benchmarks.race.methods")
outcome = pytest.importorskip("benchmarks.race.outcome")
main = pytest.importorskip("benchmarks.race.__main__")

N, SHARE = 120, np.array([1 / 9, 1 / 3, 1.0])
WANTED = np.array([0.6, -0.3, 0.4])


def log_loss(hparams):
    """Smooth, the same for a filter and its mirror image, lowest at `WANTED`."""
    apart = jnp.minimum(((hparams - WANTED) ** 2).sum(), ((hparams + WANTED) ** 2).sum())
    return jnp.log(0.2 + apart)


@pytest.fixture(scope="module")
def table():
    space, rng = graph_filter(2), np.random.default_rng(0)
    unit = rng.uniform(size=(N, 3)).astype(np.float32)
    hparams = np.asarray(space.from_unit(jnp.asarray(unit)))
    logs, slopes = (np.asarray(jax.vmap(f)(hparams)) for f in (log_loss, jax.grad(log_loss)))
    loss = np.exp(logs[:, None] + (1 - SHARE) * (1 + 0.3 * rng.normal(size=(N, 1))))
    loss[3] = np.inf  # one that diverged
    accuracy = np.exp(-loss)
    pool = curves.Curves(
        hparams, unit, np.array([2, 7, 20]), loss, accuracy, accuracy, loss[:, -1:] * slopes, 2.0, 0.5, 10.0, 5.0
    )
    noisy = logs + 0.2 * rng.normal(size=N)
    proxies = dict.fromkeys(("hcdc", "value_only", "real_val"), Proxy(noisy, slopes))
    seconds = {"networks": 3.0, "hcdc": 1.0, "value_only": 1.0, "real_val": 1.0}
    design = cheap.nearest(space, hparams, space.spread(0, 8), np.isfinite(loss[:, -1]))
    return methods.Table(space, pool, cheap.Cheap(design, proxies, seconds, 7.0), seed=0)


@pytest.fixture(scope="module")
def replays(table):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "MORE", 4)
        patch.setattr(methods, "LONG", 16)
        return {name: method.replay(table) for name, method in methods.METHODS.items()}


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_search_replays(name, table, replays):
    trail, method = replays[name], methods.METHODS[name]
    found = outcome.outcome(table, method, trail)
    assert len(set(trail.places.tolist())) == len(trail.places)  # nothing is trained twice
    assert (np.diff(trail.cost) > 0).all()
    assert (np.diff(found["log_regret"]) <= 0).all()
    assert (found["log_regret"] >= 0).all()
    assert (np.diff(found["seconds"]) > 0).all()
    assert (found["seconds"] >= 2.0 * trail.cost).all()
    assert (found["seconds_with_compilation"] > found["seconds"]).all()


@pytest.mark.parametrize("name", ["calibrated", "no_condensed", "no_hypergradients", "hcdc_best", "tpe_first"])
def test_who_begins_with_the_design_pays_for_it(name, table, replays):
    trail = replays[name]
    np.testing.assert_array_equal(trail.places[:8], table.cheap.design)
    np.testing.assert_array_equal(trail.cost, np.arange(1, len(trail.places) + 1))


def test_a_bracket_costs_what_its_trainings_take(table, replays):
    trail = replays["successive_halving"]
    # Of 20 steps 120 candidates take 2, 40 of them 5 more, and 13 of these the last 13, one after the other.
    before = (120 * 2 + 40 * 5) / 20
    np.testing.assert_allclose(trail.cost, before + 13 / 20 * np.arange(1, 14))
    loss = table.pool.loss
    first = np.argsort(loss[:, 0])[:40]
    second = first[np.argsort(loss[first, 1])[:13]]
    assert set(trail.places) == set(second)


def test_brackets_of_hyperband_never_share_a_candidate(table, replays):
    trail = replays["hyperband"]
    # Of three rungs: 9 candidates (1 reaches the end), 5 (1) and 3 (3).
    first = (9 * 2 + 3 * 5 + 13) / 20
    np.testing.assert_allclose(trail.cost[:2], [first, first + (5 * 7 + 13) / 20])
    np.testing.assert_allclose(trail.cost[2:5], trail.cost[1] + np.arange(1, 4))


def test_calibrated_search_finds_the_best_of_a_smooth_surface(table, replays):
    assert outcome.outcome(table, methods.METHODS["calibrated"], replays["calibrated"])["log_regret"][-1] < 0.05


def test_what_is_read_of_the_past(table):
    found = {"cost": [1.0, 2.0, 3.5], "regret": [5.0, 0.2, 0.1]}
    np.testing.assert_array_equal(outcome.at_costs(found, "regret", [0.5, 1, 2.9, 3.5, 9]), [np.nan, 5, 0.2, 0.1, 0.1])
    assert outcome.held_from(found) == 2.0
    assert outcome.held_from({"cost": [1.0], "regret": [5.0]}) == np.inf


def test_nearest_takes_nobody_twice_and_knows_mirror_images():
    space, pool = graph_filter(1), np.array([[0.5, 0.5], [-0.4, -0.4], [0.9, -0.9]], np.float32)
    places = cheap.nearest(space, pool, np.array([[0.4, 0.4], [0.4, 0.4]]), np.ones(3, bool))
    np.testing.assert_array_equal(places, [1, 0])


class Stopped(Exception):
    pass


def test_a_table_that_was_killed_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "PIECE", 5)
    setup = pipeline.prepare(small_config(tmp_path))

    def stop():
        raise Stopped

    whole = curves.curves(setup, tmp_path / "whole", silent())
    with pytest.raises(Stopped):
        curves.curves(setup, tmp_path / "parts", silent()._replace(between=stop))
    assert len(list((tmp_path / "parts").glob("*.npz"))) == 1
    parts = curves.curves(setup, tmp_path / "parts", silent())
    for ours, theirs in zip(parts[:7], whole[:7], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert whole.loss.shape == (12, 3)
    np.testing.assert_array_equal(setup.space.from_unit(whole.unit), whole.hparams)


def test_curves_end_where_full_trainings_do(tmp_path):
    setup = pipeline.prepare(small_config(tmp_path))
    found = curves.curves(setup, tmp_path / "curves", silent())
    key = key_for(TRUTH, 0)
    params = fit(key, setup.problem, setup.candidates[4], setup.train, setup.training)
    loss = setup.problem.val_loss(params, setup.candidates[4], setup.val)
    np.testing.assert_allclose(found.loss[4, -1], loss, rtol=1e-4)


def test_an_unknown_task_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["race", "coral"])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("no such task: coral; known are cora, digits, cora_order6, citeseer, fashion")
    )


def test_a_whole_race_on_a_small_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "MORE", 2)
    config = small_config(tmp_path, methods=("hcdc", "value_only"), seeds=(0,))
    found = main.race(config, Path(tmp_path / "race"), silent(), ("calibrated", "tpe", "no_hypergradients"), False)
    assert found["first"] == 3
    assert set(found["methods"]) == {"calibrated", "tpe", "no_hypergradients"}
    again = main.race(config, Path(tmp_path / "race"), silent(), ("calibrated",), False)
    assert again["methods"]["calibrated"] == found["methods"]["calibrated"]
    text = outcome.page({"small": found}, "Seeds 0.")
    assert "| calibrated |" in text
