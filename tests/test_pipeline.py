"""Stages and recipes: what they measure, what they do with candidates that diverge, and every option once."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import finished_run, process_settings, small_config

import hcdc_jax as hc
from hcdc_jax import pipeline
from hcdc_jax.condense.hcdc import condensed_pool
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline import checks, clock, recipes
from hcdc_jax.pipeline.hcdc import matched_networks, targets
from hcdc_jax.pipeline.hcdc.matched_candidates import choose_candidates, stratified
from hcdc_jax.pipeline.kinds import graphs
from hcdc_jax.pipeline.recipes.base import Recipe
from hcdc_jax.pipeline.reporting import full_training_seconds
from hcdc_jax.pipeline.setup import POOL, key_for, solver_of
from hcdc_jax.progress import Progress, saying_once, silent
from tests.bilevel import relative_error
from tests.errors import error_of


@pytest.fixture
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory)


@pytest.fixture
def in_process(finished):
    with process_settings(finished.parent / "cache"):
        yield


class TestClock:
    def test_compilation_is_kept_apart(self):
        @jax.jit
        def inner(x):
            return jnp.sin(x) @ x

        @jax.jit
        def outer(x):
            return jax.lax.scan(lambda x, _: (inner(x) / jnp.linalg.norm(x), None), x, length=20)[0]

        x = jnp.ones((50, 50))
        with clock.measured() as first:
            jax.block_until_ready(outer(x))
        with clock.measured() as second:
            jax.block_until_ready(outer(x))
        assert first.compile > 0
        assert first.run >= 0
        assert second.compile == 0
        assert second.run > 0

    def test_the_rest_is_running(self):
        with clock.measured() as elapsed:
            time.sleep(0.01)
        assert elapsed.compile == 0
        assert elapsed.run >= 0.01

    @pytest.mark.parametrize(
        ("spans", "seconds"),
        [
            ([], 0),
            ([(1, 2), (3, 5)], 3),
            ([(1, 5), (2, 3)], 4),  # a function that is compiled within another
            ([(2, 3), (1, 5), (4, 6)], 5),
            ([(-4, 2)], 2),  # begun before the block
        ],
    )
    def test_seconds_count_once(self, spans, seconds):
        assert clock.covered(spans, 0.0) == seconds


class TestTrack:
    def test_counts_what_was_done_before(self):
        events = []
        progress = Progress(lambda *event: events.append(event), events.append, events.append)
        assert list(progress.track("ab", "letters", 3)) == ["a", "b"]
        assert events == [("letters", 5, 3), 4, 5]

    def test_who_stops_between_two_pieces_stops_after_one_that_is_done(self):
        done, told = [], []

        def stop():
            if told[-1] == 5:
                raise TimeoutError

        progress = silent()._replace(update=told.append, between=stop)
        pieces = saying_once(progress).track("abc", "letters", 3)
        with pytest.raises(TimeoutError):
            done.extend(pieces)
        assert (done, told) == (["a", "b"], [4, 5])

    def test_says_nothing_if_nothing_is_left(self):
        events = []
        assert list(Progress(lambda *event: events.append(event), events.append, events.append).track([], "x", 3)) == []
        assert events == []


def test_a_line_that_was_said_is_not_said_again():
    said = []
    progress = saying_once(silent()._replace(say=said.append))
    for line in ("a", "b", "a"):
        progress.say(line)
    assert said == ["a", "b"]


class TestCandidatesThatDiverge:
    """A learning rate at which gradient descent diverges for some filters and not for others."""

    @pytest.fixture
    def config(self, tmp_path):
        return small_config(
            tmp_path, methods=("random",), training={"optimizer": "sgd", "learning_rate": 60.0, "steps": 60}
        )

    def test_are_reported_as_failed(self, in_process, config, tmp_path):
        report = pipeline.run(config, tmp_path / "run")
        with np.load(tmp_path / "run" / "results" / "truth.npz") as truth:
            failed = ~truth["status"][0]
            assert np.isinf(truth["loss"][0][failed]).all()
            assert np.isfinite(truth["loss"][0][~failed]).all()
        assert 0 < failed.sum() < 12
        assert report["truth"]["failed"] == failed.sum()
        assert report["methods"]["random"]["spearman_loss"]["mean"] is not None

    def test_leave_the_others_unchanged_to_the_bit(self, in_process, config):
        setup = pipeline.prepare(config)

        def scores(candidates):
            return hc.evaluate(
                jax.random.key(0), setup.problem, candidates, setup.train, setup.val, training=setup.training
            )

        with_failures = scores(setup.candidates)
        good = np.asarray(with_failures.status)
        assert 0 < good.sum() < 12
        calm = jnp.where(good[:, None], setup.candidates, setup.candidates[np.flatnonzero(good)[0]])
        without = scores(calm)
        assert np.asarray(without.status).all()
        np.testing.assert_array_equal(with_failures.loss[good], without.loss[good])
        np.testing.assert_array_equal(with_failures.accuracy[good], without.accuracy[good])


def test_targets_that_all_diverge_are_told(in_process, tmp_path):
    training = {"optimizer": "sgd", "learning_rate": 1e6, "steps": 60}
    methods = ("hcdc", "surrogate", "random")
    config = small_config(tmp_path, methods=methods, training=training, hcdc={"full_trainings": 2})
    with pipeline.opened(config, tmp_path / "run") as run:
        said = []
        run = run._replace(progress=run.progress._replace(say=said.append))
        pipeline.condense(run)
        pipeline.rank(run)
    told = "all 2 trainings on the real data diverged; lower training.learning_rate and run in a new folder"
    assert f"surrogate, seed 0, ranks nothing: {told}" in said
    assert str(read_arrays(tmp_path / "run" / "results" / "surrogate_seed0.npz")["why"]) == told
    with pytest.raises(UserError, match=f"S_val of hcdc, seed 0, learns nothing: {told}$"):
        hc.load_condensed(tmp_path / "run")
    assert hc.load_condensed(tmp_path / "run", "random"), "which another method does not take with it"


def test_a_training_whose_hypergradient_diverged_counts_by_its_loss(in_process, tmp_path):
    """Twenty steps end far from a minimum, where Chebyshev iteration grows and says so; losses are as good as ever."""
    config = small_config(tmp_path, methods=("hcdc", "surrogate"))
    said = []
    with pipeline.opened(config, tmp_path / "run") as run:
        run = run._replace(progress=run.progress._replace(say=said.append))
        pipeline.condense(run)
        kept = [read_arrays(path) for path in sorted(tmp_path.glob("run/checkpoints/targets_seed0/*.npz"))]
        matched = targets.matched_targets(run, 0, choose_candidates(run, 0, run.setup.train))
    diverged = np.array([record["diverged"] for record in kept])
    assert diverged.any()
    np.testing.assert_array_equal(matched.target.value, [record["value"] for record in kept])
    np.testing.assert_array_equal(np.isnan(matched.target.gradient).all(1), diverged)
    assert any("hypergradients of" in line and "their losses count" in line for line in said)
    cosine = dataclasses.replace(config, hcdc=dataclasses.replace(config.hcdc, distance="cosine"))
    if diverged.all():
        with pipeline.opened(cosine, tmp_path / "cosine") as run:
            pipeline.condense(run)
        with pytest.raises(UserError, match="no network has a hypergradient that did not diverge on both sides"):
            hc.load_condensed(tmp_path / "cosine")


def test_a_network_that_diverges_on_the_condensed_data_is_left_out(in_process, tmp_path, monkeypatch):
    made = matched_networks.condensed_pool

    def one_diverged(*args, **kwargs):
        made_pool = made(*args, **kwargs)
        return made_pool._replace(params=jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), made_pool.params))

    monkeypatch.setattr(matched_networks, "condensed_pool", one_diverged)
    config = small_config(tmp_path, methods=("hcdc",), hcdc={"steps": 2})
    with pipeline.opened(config, tmp_path / "run") as run:
        pipeline.condense(run)
    val = hc.load_condensed(tmp_path / "run").val
    assert np.isfinite(val.inputs.nodes).all()
    assert np.isfinite(val.inputs.edges).all()


class TestNetworksOfTheMatch:
    @pytest.fixture
    def calls(self, monkeypatch):
        """The first initialisations that were asked for; the third call is interrupted."""
        made, calls = matched_networks.condensed_pool, []

        def counted(*args, first, **kwargs):
            calls.append(first)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return made(*args, first=first, **kwargs)

        monkeypatch.setattr(matched_networks, "condensed_pool", counted)
        return calls

    def test_are_trained_once_for_all_and_not_again_after_an_interruption(self, in_process, tmp_path, calls):
        hcdc = {"steps": 2, "inits": 4}
        config = small_config(tmp_path, methods=("hcdc", "value_only"), hcdc=hcdc)
        with pipeline.opened(config, tmp_path / "run") as run:
            with pytest.raises(KeyboardInterrupt):
                pipeline.condense(run)
            pipeline.condense(run)
        m = calls[1]
        assert m > 0
        # Who matches values alone asks for networks without responses.
        assert calls == [0, m, 2 * m, 2 * m, 3 * m, 0, m, 2 * m, 3 * m]
        assert not list((tmp_path / "run").glob("checkpoints/networks_*"))

    def test_of_several_calls_are_those_of_one(self, in_process, tmp_path):
        config = small_config(tmp_path, methods=("hcdc",), hcdc={"inits": 2})
        with pipeline.opened(config, tmp_path / "run") as run:
            setup = run.setup
            hparams, train = setup.candidates[:2], setup.train
            found = matched_networks.networks_at(run, 0, hparams, train, config.hcdc.sensitivity).pool
            whole = condensed_pool(
                key_for(POOL, 0), setup.problem_on(train), jnp.concatenate([hparams] * 2), train,
                setup.proxy_training, solver=solver_of(config), sensitivity=config.hcdc.sensitivity,
            )  # fmt: skip
        assert jax.tree.structure(found) == jax.tree.structure(whole)
        assert relative_error(found, whole) < 1e-4


VARIANTS = {
    "Algorithm 1": {"methods": ("hcdc",), "hcdc": {"theta": "shared", "steps": 5}},
    "GCond": {"methods": ("gcond",), "condense": {"val_factor": 1.0}},
    "trajectories, pairwise": {
        "methods": ("hcdc",),
        "hcdc": {"extended_space": "trajectories", "full_trainings": 4, "steps": 2},
        "condense": {"container": "pairwise"},
    },
}
SLOW_VARIANTS = {
    "unrolled, from noise": {"methods": ("hcdc",), "hcdc": {"sensitivity": "unroll"}, "condense": {"init": "noise"}},
    "filters drawn anew, no edges": {"methods": ("gradient_matching",), "condense": {"container": "identity"}},
    "S_train of another method": {"methods": ("hcdc",), "hcdc": {"train_method": "gcond_x"}},
}


@pytest.mark.parametrize("name", [*VARIANTS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_VARIANTS)])
def test_options_go_together(in_process, tmp_path, name):
    config = small_config(tmp_path, **(VARIANTS | SLOW_VARIANTS)[name])
    with pipeline.opened(config, tmp_path / "run") as run:
        pipeline.condense(run)
    condensed = hc.load_condensed(tmp_path / "run")
    assert condensed.card["method"] == config.methods[0]
    assert condensed.val.labels.shape == (20 * config.condense.val_factor,)
    for leaf in jax.tree.leaves((condensed.train, condensed.val, condensed.variables)):
        assert np.isfinite(leaf).all()


def test_light_edges_of_gcond_are_cut_when_it_is_done(in_process, tmp_path):
    edges = {}
    for threshold in (0.0, 1.1):
        config = small_config(tmp_path, methods=("gcond",), gcond={"threshold": threshold, "epochs": 1})
        with pipeline.opened(config, tmp_path / f"run{threshold}") as run:
            pipeline.condense(run)
        edges[threshold] = np.asarray(hc.load_condensed(tmp_path / f"run{threshold}").train.inputs.edges[..., 1])
    assert (edges[0.0][~np.eye(20, dtype=bool)] != 0).all()  # a sigmoid is never 0
    np.testing.assert_allclose(edges[1.1], 0, atol=1e-6)  # L = I - S of a graph of loops


RIVALS = ("herding", "kcenter", "value_only", "real_val_residual", "lambda_shift", "surrogate", "surrogate_grad")


def test_rivals_rank_with_the_same_full_trainings(in_process, tmp_path):
    methods = ("hcdc", "real_val", *RIVALS, "random_choice", "successive_halving")
    # Twenty steps on S_train end far from a minimum, where Chebyshev iteration says of itself that it diverged.
    config = small_config(tmp_path, methods=methods, hcdc={"solver": "identity"})
    report = pipeline.run(config, tmp_path / "run")
    paid = {name: report["methods"][name]["full_trainings_used"] for name in report["methods"]}
    del paid["successive_halving"]
    assert paid == dict.fromkeys(("hcdc", *RIVALS[2:]), 3) | dict.fromkeys(
        ("real_val", "herding", "kcenter", "random_choice"), 0
    )
    assert len(list((tmp_path / "run" / "checkpoints").glob("targets_seed0/*.npz"))) == 3
    ranked = {name: read_arrays(tmp_path / "run" / "results" / f"{name}_seed0.npz") for name in report["methods"]}
    losses = np.stack([arrays["loss"] for arrays in ranked.values()])
    assert np.isfinite(losses).all()
    assert len({row.tobytes() for row in losses}) == len(losses), "no two methods are the same"
    for name in RIVALS[2:]:
        np.testing.assert_array_equal(ranked[name]["matched_hparams"], ranked["hcdc"]["matched_hparams"])
    halving = report["methods"]["successive_halving"]
    assert 0 < halving["full_trainings_used"] < 12
    assert set(ranked["successive_halving"]["loss"]) == set(range(12)), "it gives places, the winner's is 0"
    assert report["methods"]["surrogate"]["stored_scalars"] < report["methods"]["hcdc"]["stored_scalars"]


def test_each_rival_pays_for_what_it_uses(in_process, tmp_path):
    config = small_config(tmp_path, methods=("hcdc", "value_only", "real_val_residual", "surrogate", "surrogate_grad"))
    pipeline.run(config, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    ranked = {name: read_arrays(tmp_path / "run" / "results" / f"{name}_seed0.npz") for name in config.methods}
    targets = [read_arrays(path) for path in sorted(checkpoints.glob("targets_seed0/*.npz"))]
    gradients = sum(float(record["target_seconds"]) for record in targets)
    trainings = sum(float(record["training_seconds"]) for record in targets)
    draws = float(read_arrays(checkpoints / "matched_candidates_seed0.npz")["seconds"])
    s_train = float(read_arrays(checkpoints / "random_train_seed0.npz")["cost/seconds"])
    paid = {name: float(arrays["seconds_condense"]) for name, arrays in ranked.items()}
    assert paid["surrogate"] == pytest.approx(s_train + draws)
    assert paid["surrogate_grad"] == pytest.approx(s_train + draws + gradients)
    for name in config.methods:
        assert ranked[name]["seconds_training"] == pytest.approx(trainings)
        assert ranked[name]["full_trainings_used"] == 3
        assert ranked[name]["full_trainings_timed"] == 0
    # S_val of values alone is learned at networks without responses, and nothing of a hypergradient is in its price.
    costs = {name: read_arrays(checkpoints / f"{name}_val_seed0.npz") for name in ("hcdc", "value_only")}
    assert paid["value_only"] == pytest.approx(s_train + float(costs["value_only"]["cost/seconds"]))
    assert float(costs["hcdc"]["cost/seconds"]) > gradients + draws


def test_responses_that_diverged_are_told_and_matched_by_their_losses(in_process, tmp_path, monkeypatch):
    def flagged(*args, **kwargs):
        pool = condensed_pool(*args, **kwargs)
        return pool._replace(
            diverged=pool.diverged.at[0].set(True), response=jax.tree.map(jnp.zeros_like, pool.response)
        )

    monkeypatch.setattr(matched_networks, "condensed_pool", flagged)
    config = small_config(tmp_path, methods=("hcdc",), hcdc={"solver": "identity"})
    said = []
    with pipeline.opened(config, tmp_path / "run") as run:
        pipeline.condense(run._replace(progress=run.progress._replace(say=said.append)))
    assert len([line for line in said if re.search("responses of 1 of [23] networks on S_train diverged", line)]) == 1


def test_where_every_response_diverged_nothing_but_losses_can_be_matched(in_process, tmp_path, monkeypatch):
    def flagged(*args, **kwargs):
        pool = condensed_pool(*args, **kwargs)
        return pool._replace(diverged=jnp.ones_like(pool.diverged))

    monkeypatch.setattr(matched_networks, "condensed_pool", flagged)
    config = small_config(tmp_path, methods=("hcdc",), hcdc={"distance": "cosine"})
    with pipeline.opened(config, tmp_path / "run") as run:
        pipeline.condense(run)
    with pytest.raises(UserError, match=r"so none can be matched; lengthen training.proxy_steps"):
        hc.load_condensed(tmp_path / "run")


def test_filters_of_order_0(in_process, tmp_path):
    """They do not propagate, so there is no learned graph to draw."""
    config = small_config(
        tmp_path, methods=("random", "random_val"), space={"order": 0, "candidates": 4}, truth={"enabled": False}
    )
    report = pipeline.run(config, tmp_path / "run")
    assert list(report["methods"]) == ["random", "random_val"]
    assert report["methods"]["random"]["spearman_loss"]["mean"] is None, "there is no truth to compare with"
    assert not (tmp_path / "run" / "figures" / "adjacency.png").exists()


class TestRecipes:
    def test_random_is_real_whatever_learned_halves_start_from(self, tmp_path, in_process):
        setup = pipeline.prepare(small_config(tmp_path, condense={"init": "noise"}))
        rows = {tuple(row) for row in setup.data.features}
        real = recipes.METHODS["random"].val.start(setup, "val", 0)
        noise = recipes.METHODS["hcdc"].val.start(setup, "val", 0)
        assert all(tuple(row) in rows for row in real.features)
        assert not any(tuple(row) in rows for row in noise.features)
        np.testing.assert_array_equal(real.labels, noise.labels)
        assert real.features.std() == pytest.approx(noise.features.std(), rel=0.2)

    def test_starts_differ_by_part_and_seed(self, tmp_path, in_process):
        setup = pipeline.prepare(small_config(tmp_path, condense={"val_factor": 1.0}))
        starts = [graphs.sampled(setup, part, seed).features for part in ("train", "val") for seed in (0, 1)]
        for i, first in enumerate(starts):
            for second in starts[:i]:
                assert not np.array_equal(first, second)

    def test_labels_of_validation_nodes_stay_out_of_training(self, tmp_path, in_process):
        setup = pipeline.prepare(small_config(tmp_path))
        for part, allowed in (("train", setup.data.train_idx), ("val", setup.data.val_idx)):
            start = graphs.sampled(setup, part, 0)
            labelled = {tuple(row) for row in start.features[start.weights > 0]}
            assert labelled <= {tuple(row) for row in setup.data.features[allowed]}

    def test_every_method_is_whole(self):
        for name, method in recipes.METHODS.items():
            assert method.about
            assert "\n" not in method.about
            assert method.train is None or isinstance(method.train, Recipe)
            assert isinstance(method.val, Recipe) or callable(method.val), name

    def test_equal_containers_are_one_object(self, tmp_path, in_process):
        """Otherwise every seed would compile anew."""
        setup = pipeline.prepare(small_config(tmp_path))
        for method in ("random", "gcond", "gcond_x", "hcdc"):
            recipe = recipes.METHODS[method].val
            assert recipe.container(setup, "val") is recipe.container(setup, "val")


def test_candidates_that_are_matched_are_not_ranked(finished):
    ranking = read_arrays(finished / "results" / "hcdc_seed0.npz")
    assert len(ranking["matched_hparams"]) > 0
    assert not (ranking["hparams"][:, None] == ranking["matched_hparams"][None]).all(-1).any()


def test_matched_candidates_are_spread_from_good_to_bad():
    losses = np.random.default_rng(0).permutation(np.arange(12.0))
    losses[losses == 11] = np.inf  # a failed candidate
    chosen = stratified(np.stack([losses, -losses], 1), losses, 3)
    np.testing.assert_array_equal(chosen[:, 0], [2, 6, 10])


def test_the_faster_way_of_full_training_counts(finished):
    targets = [read_arrays(path)["training_seconds"] for path in finished.glob("checkpoints/targets_seed0/*.npz")]
    truth = read_arrays(finished / "results" / "truth.npz")["seconds"] / 12
    expected = min(np.mean(targets), truth)
    assert full_training_seconds(finished) == pytest.approx(expected)
    assert json.loads((finished / "report.json").read_text())["full_training_seconds"] == pytest.approx(expected)


def test_a_truth_of_other_settings_is_not_taken(in_process, finished, tmp_path):
    """A truth takes long, so people copy it into the folder of the next run, with other methods or another budget."""

    def folder_with_truth(name, part, **changes):
        config, folder = small_config(tmp_path, **changes), tmp_path / name
        with pipeline.opened(config, folder):
            pass
        copy = folder / part.relative_to(finished)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(part, copy)
        with pipeline.opened(config, folder) as run:
            pipeline.truth(run)
        return copy

    whole = finished / "results" / "truth.npz"
    first_part = sorted((finished / "checkpoints" / "truth_seed0").glob("*.npz"))[0]
    # What the truth does not depend on may differ, and its file is left as it is.
    copy = folder_with_truth("same", whole, methods=("random",), training={"proxy_steps": 3})
    assert copy.read_bytes() == whole.read_bytes()
    for name, part, changes, difference in (
        ("budget", whole, {"training": {"steps": 21}}, "training.steps is 20 there, 21 here"),
        ("part", first_part, {"training": {"steps": 21}}, "training.steps is 20 there, 21 here"),
        ("seeds", whole, {"truth": {"seeds": 2}}, "truth.seeds is 1 there, 2 here"),
        ("candidates", whole, {"space": {"seed": 1}}, "space.seed is 0 there, 1 here"),
    ):
        text = error_of(lambda: folder_with_truth(name, part, **changes))  # noqa: B023
        assert f"{part.name} is part of another truth ({difference}); move it away" in text
        assert (tmp_path / name / part.relative_to(finished)).exists()


def test_configurations_from_python_are_checked(tmp_path):
    config = small_config(tmp_path, condense={"ratio": 2.0})
    with pytest.raises(UserError, match=r"'condense\.ratio' must be above 0 and at most 1"):
        checks.check_config(config)
    with pytest.raises(UserError, match=r"'condense\.ratio' must be above 0 and at most 1"):
        pipeline.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
