"""Choices among options and what depends on them: draws, steps, slopes, searches, tables, and what is refused."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcdc_jax as hc
from hcdc_jax import search
from hcdc_jax.config import Config
from hcdc_jax.config.values import merge
from hcdc_jax.hypergradients.fixed_networks import Target
from hcdc_jax.models import check_problem
from hcdc_jax.pipeline.hcdc.targets import Matched, believed
from hcdc_jax.pipeline.ranked import Ranking, candidates_of
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.pipeline.setup import check_space
from hcdc_jax.report import searches
from hcdc_jax.search import surrogate
from hcdc_jax.search.unguided import grid
from hcdc_jax.spaces import box, choice, when
from hcdc_jax.storage.files import csv_text
from hcdc_jax.testing import check_space as check_promises
from hcdc_jax.testing import compilations
from hcdc_jax.training.candidates import Scores
from tests.errors import error_of
from tests.test_study import SMALL, examples, quiet

SPACE = box(
    "choices",
    {
        "activation": choice(["relu", "tanh", "gelu"], relaxed=True),
        "penalty": choice(["none", "l2"]),
        "strength": when((1e-4, 1e-1, "log"), penalty="l2"),
        "gain": (0.5, 2.0),
    },
)
NAMES = ("activation=relu", "activation=tanh", "activation=gelu", "penalty=none", "penalty=l2", "log_strength", "gain")
CENTRE = float(np.log(1e-4) + np.log(1e-1)) / 2
PLAIN = np.array([0, 1, 0, 1, 0, CENTRE, 1], np.float32)  # tanh without a penalty
DECAYED = np.array([1, 0, 0, 0, 1, np.log(1e-3), 0.5], np.float32)
ONLY = box("only", {"penalty": choice(["none", "l2"]), "width": choice([16, 32])})
ROOT = Path(__file__).parent.parent
XY = choice(["x", "y"])
DRAWS = np.asarray(SPACE.sample(jax.random.key(0), 200))


def test_a_choice_is_one_weight_for_each_option():
    assert SPACE.hparam_names == NAMES
    assert SPACE.choices == ((0, 1, 2), (3, 4))
    assert SPACE.discrete == (3, 4)
    for places in SPACE.choices:
        drawn = DRAWS[:, list(places)]
        assert set(np.unique(drawn)) == {0, 1}
        assert (drawn.sum(1) == 1).all()
        assert drawn.mean(0) == pytest.approx(1 / len(places), abs=0.1)


def test_spaces_of_choices_keep_what_spaces_promise():
    check_promises(SPACE, draws=2048)


def test_even_draws_are_even_in_the_options():
    assert np.asarray(SPACE.spread(0, 8))[:, 3:5].sum(0).tolist() == [4, 4]
    assert sorted(np.asarray(SPACE.spread(1, 8))[:, :3].sum(0).tolist()) == [2, 3, 3]


def test_what_does_not_act_stands_at_its_centre():
    idle = DRAWS[:, 3] == 1
    np.testing.assert_allclose(DRAWS[idle, 5], CENTRE, rtol=1e-6)
    assert DRAWS[~idle, 5].std() > 1
    moved = PLAIN + np.array([0, 0, 0, 0, 0, 2, 0], np.float32)
    for place in (SPACE.project, SPACE.admit):
        np.testing.assert_allclose(place(jnp.asarray(moved)), PLAIN, rtol=1e-6)
    assert float(SPACE.read(jnp.asarray(moved))["strength"]) == pytest.approx(np.exp(CENTRE))


def simplex(weights):
    """The nearest point of the simplex, by bisection on what is taken off every weight."""
    low, high = weights.min() - 1, weights.max()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(weights - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(weights - low, 0)


def test_steps_end_on_simplices_and_discrete_choices_at_their_nearest_option():
    away = np.array([0.9, 0.5, -0.3, 0.4, 0.6, -30, 3], np.float32)
    found = np.asarray(SPACE.project(jnp.asarray(away)))
    np.testing.assert_allclose(found[:3], simplex(away[:3]), atol=1e-6)
    np.testing.assert_allclose(found[3:], [0, 1, np.log(1e-4), 2.0], rtol=1e-6)
    assert np.asarray(SPACE.admit(jnp.asarray(away)))[5] == -30  # the logarithm may leave the prior


def test_slopes_are_those_along_the_simplex_and_none_of_discrete_choices():
    def loss(hparams):
        h = SPACE.read(hparams)
        penalty = hc.chosen(h["penalty"], [0.0, h["strength"]])
        return hc.mix(h["activation"], [1.0, 2.0, 6.0]) * h["gain"] + 5 * penalty + 3 * h["penalty"][0]

    slopes = jax.jit(jax.vmap(jax.grad(loss)))(np.stack([PLAIN, DECAYED]))
    centred = np.array([1.0, 2.0, 6.0]) - 3
    np.testing.assert_allclose(slopes[0], [*centred, 0, 0, 0, 2], rtol=1e-5)
    np.testing.assert_allclose(slopes[1], [*0.5 * centred, 0, 0, 5e-3, 1], rtol=1e-5)
    assert np.asarray(SPACE.has_slope(jnp.asarray(PLAIN))).tolist() == [True] * 3 + [False] * 3 + [True]
    assert np.asarray(SPACE.has_slope(jnp.asarray(DECAYED))).tolist() == [True] * 3 + [False] * 2 + [True] * 2


def test_conditions_chain_and_may_name_options_of_relaxed_choices():
    space = box(
        "chain",
        {
            "momentum": when((0.0, 0.9), kind=["sgd", "nesterov"]),
            "kind": when(choice(["adam", "sgd", "nesterov"], relaxed=True), trained="yes"),
            "trained": choice(["no", "yes"]),
        },
    )
    mixture = jnp.array([0.3, 0.7, 0.3, 0.0, 0, 1])
    assert np.asarray(space.has_slope(mixture)).tolist() == [True] * 4 + [False] * 2
    assert not space.has_slope(jnp.array([0.3, 1, 0, 0, 0, 1]))[0]
    untrained = np.asarray(space.project(mixture.at[4:].set(jnp.array([1.0, 0.0]))))
    np.testing.assert_allclose(untrained, [0.45, *[1 / 3] * 3, 1, 0], rtol=1e-6)
    assert space.columns(untrained[None]) == {"momentum": [None], "kind": [None], "trained": ["no"]}


def test_tables_name_options_and_leave_blank_what_does_not_act():
    mixture = DECAYED.copy()
    mixture[:3] = [0.75, 0, 0.25]
    columns = SPACE.columns(np.stack([PLAIN, DECAYED, mixture]))
    assert columns["activation"] == ["tanh", "relu", "0.75 relu + 0.25 gelu"]
    assert columns["penalty"] == ["none", "l2", "l2"]
    assert columns["log_strength"] == [None, *[pytest.approx(np.log(1e-3))] * 2]
    assert columns["gain"] == [1.0, 0.5, 0.5]
    assert SPACE.settings(PLAIN) == {"activation": "tanh", "penalty": "none", "gain": 1.0}
    assert SPACE.settings(DECAYED)["strength"] == pytest.approx(1e-3)
    assert ONLY.settings(np.array([0, 1, 0, 1], np.float32)) == {"penalty": "l2", "width": 32}
    assert csv_text({"a": ["x,y", None], "b": np.array([0.5, np.nan])}) == 'a,b\n"x,y",0.5\n,\n'


def test_models_read_choices_by_their_weights():
    values = [{"w": jnp.ones(2)}, {"w": 3 * jnp.ones(2)}]
    assert np.asarray(hc.mix(jnp.array([0.25, 0.75]), values)["w"]).tolist() == [2.5, 2.5]
    assert float(hc.chosen(jnp.array([0.0, 1.0]), [np.inf, 2.0])) == 2.0
    for read in (hc.mix, hc.chosen):
        assert "2 values for weights [3] of a choice" in error_of(lambda read=read: read(jnp.ones(3) / 3, values))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: choice(["relu"]), "two options or more"),
        (lambda: choice("relu"), "two options or more"),
        (lambda: choice(["a", "b", "a"]), "'a' stands twice"),
        (lambda: choice([None, "a"]), "a string or a number, got None"),
        (lambda: when((0.0, 1.0)), "names no condition"),
        (lambda: when(when((0.0, 1.0), a="x"), b="y"), "around another one"),
        (lambda: box("s", {"a": XY, "b": when((0, 1), c="x")}), "unknown choice 'c' in the condition of 'b'"),
        (lambda: box("s", {"a": XY, "b": when((0, 1), a="z")}), "unknown option 'z' in the condition of 'b'"),
        (lambda: box("s", {"a": (0, 1), "b": when((0, 1), a="z")}), "has no choice 'a', on which 'b' depends"),
        (lambda: box("s", {"a": when(choice(["x", "y"]), a="x")}), "go in a circle through a"),
        (
            lambda: box("s", {"a": when(choice(["x", "y"]), b="u"), "b": when(choice(["u", "v"]), a="x")}),
            "go in a circle through a, b",
        ),
        (
            lambda: box("s", {"a": XY, "b": when(choice(["u", "v"]), a="x"), "c": when((0, 1), a="y", b="u")}),
            "no option of 'a' ever lets 'c' act",
        ),
        (lambda: box("s", {"x": (1, 2, "log"), "log_x": (0, 1)}), "two hyperparameters under the name 'log_x'"),
        (lambda: SPACE.factorial(0, 8), "have no levels"),
        (lambda: grid(SPACE, 5), "has 6 combinations of options, more than 5"),
    ],
)  # fmt: skip
def test_what_is_no_choice_is_refused(make, said):
    assert said in error_of(make)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({0: 0, 1: 0, 2: 0}, "candidate 1 makes no choice of 'activation'"),
        ({0: 1.5, 1: -0.5}, "give weights from 0 on that sum to 1"),
        ({3: 0.5, 4: 0.5}, "give one weight of 1, the others 0"),
    ],
)
def test_candidates_that_make_no_choice_are_refused(weights, said):
    given = np.stack([DECAYED, DECAYED])
    for place, weight in weights.items():
        given[1, place] = weight
    setup = SimpleNamespace(space=SPACE)
    assert said in error_of(lambda: candidates_of(setup, 0, 0, given))
    np.testing.assert_allclose(candidates_of(setup, 0, 0, given[:1])[0], DECAYED, rtol=1e-6)


def config_of(*methods, **hcdc):
    return merge(Config(), {"methods": methods, "hcdc": hcdc}, where="here")


def test_methods_that_need_hypergradients_refuse_choices_that_have_none():
    for method in ("hcdc", "surrogate_grad", "hcdc_shared"):
        said = error_of(lambda method=method: check_space(config_of(method), ONLY))
        assert f"which {method} reads" in said
    check_space(config_of("value_only", "surrogate", "random"), ONLY)
    check_space(config_of("hcdc", distance="value"), ONLY)
    nothing = lambda hparams: None  # noqa: E731
    said = error_of(lambda: search.hypergradient_search(jax.random.key(0), ONLY, nothing, 4, objective=None))
    assert "all are choices that are not relaxed" in said


def test_a_match_asks_for_nothing_where_there_is_no_slope():
    setup = SimpleNamespace(space=SPACE, config=config_of("hcdc", sensitivity="unroll"))
    gradient = np.full((2, 7), 0.1, np.float32)
    gradient[:, 3:5] = 1e9  # which is no explosion, since nobody reads it
    matched = Matched(jnp.asarray(np.stack([PLAIN, DECAYED])), Target(jnp.ones(2), jnp.asarray(gradient)), Cost())
    unknown = [[False] * 3 + [True] * 3 + [False], [False] * 3 + [True] * 2 + [False] * 2]
    assert np.isnan(np.asarray(believed(setup, matched).gradient)).tolist() == unknown


def test_a_gaussian_process_reads_no_slopes_of_choices():
    points, rng = DRAWS[:6], np.random.default_rng(0)
    values, slopes = rng.normal(size=6), rng.normal(size=(6, 7))
    other = np.where(np.asarray(jax.vmap(SPACE.has_slope)(points)), slopes, 77.0)
    found = [surrogate.fit(SPACE, points, values, given).log_params for given in (slopes, other)]
    np.testing.assert_array_equal(*found)
    assert surrogate.groups_of(SPACE).tolist() == [0, 0, 0, 1, 1, 2, 3]


def test_a_grid_has_every_option_and_each_candidate_once():
    found = grid(SPACE, 30)
    assert len(np.unique(found, axis=0)) == len(found) <= 30
    combinations = {tuple(row) for row in found[:, :5].tolist()}
    assert len(combinations) == 6
    assert len(grid(ONLY, 100)) == 4


WANTED = np.array([0.2, 0.0, 0.8])


def _loss(params, hparams, batch):
    h = SPACE.read(hparams)
    off = jnp.sum((h["activation"] - WANTED) ** 2) + (h["gain"] - 1.5) ** 2
    return jnp.sum((params - 1) ** 2) + off + hc.chosen(h["penalty"], [0.1, h["strength"]])


TOY = hc.Problem(
    lambda key, hparams: jnp.zeros(2),
    lambda params, hparams, inputs: jnp.zeros((1, 2)),
    lambda params, hparams, batch: jnp.sum((params - 1) ** 2),
    _loss,
)
BATCH = hc.Batch(jnp.zeros((1, 1)), jnp.zeros(1, int), jnp.ones(1))


def scored(candidates):
    key = jax.random.key(0)
    return hc.evaluate(key, TOY, candidates, BATCH, BATCH, training=hc.Training(steps=3), chunk_size=4)


def test_descents_mix_what_is_relaxed_and_keep_what_is_not():
    objective = search.Objective(TOY, BATCH, BATCH, hc.Training(steps=3))
    history = search.hypergradient_search(
        jax.random.key(0), SPACE, scored, 80, objective=objective, starts=4, sensitivity="unroll"
    )
    way = history.hparams.reshape(20, 4, 7)
    np.testing.assert_array_equal(way[:, :, 3:5], np.broadcast_to(way[0, :, 3:5], (20, 4, 2)))
    np.testing.assert_allclose(way[..., :3].sum(-1), 1, atol=1e-5)
    assert way[..., :3].min() >= 0
    np.testing.assert_allclose(way[-1, :, :3], np.broadcast_to(WANTED, (4, 3)), atol=0.15)
    idle = way[0, :, 3] == 1
    np.testing.assert_allclose(way[:, idle, 5], CENTRE, rtol=1e-5)
    assert (way[-1, ~idle, 5] < way[0, ~idle, 5]).all()
    with compilations() as compiled:
        scored(jnp.asarray(DRAWS[:80]))
    assert compiled == []  # one program for all options


def test_optuna_is_asked_for_options_by_name():
    optuna = pytest.importorskip("optuna")
    study = search.open_study(0)
    history = search.optuna_search(jax.random.key(0), SPACE, scored, 8, batch_size=4, study=study)
    assert [*study.trials[0].params] == ["activation", "penalty", "log_strength", "gain"]
    assert study.trials[0].distributions["penalty"] == optuna.distributions.CategoricalDistribution(("none", "l2"))
    for column in ("activation", "penalty"):
        assert SPACE.columns(history.hparams)[column] == [trial.params[column] for trial in study.trials]


def ranking_of(hparams):
    n = len(hparams)
    return Ranking(SPACE, hparams, Scores(jnp.arange(n, dtype=float), jnp.zeros(n), jnp.ones(n, bool)), 0.0)


def test_rankings_name_options_for_pandas():
    pytest.importorskip("pandas")
    frame = ranking_of(np.stack([PLAIN, DECAYED])).to_pandas()
    assert frame["activation"].tolist() == ["tanh", "relu"]
    assert frame["log_strength"].isna().tolist() == [True, False]


def test_rankings_name_options_for_optuna():
    pytest.importorskip("optuna")
    mixture = DECAYED.copy()
    mixture[:3] = [0.5, 0.5, 0]
    plain, decayed = ranking_of(np.stack([PLAIN, DECAYED, mixture])).to_optuna().trials  # none of the mixture
    assert plain.params == {"activation": "tanh", "penalty": "none", "gain": 1.0}
    assert decayed.params["strength"] == pytest.approx(1e-3)
    found = decayed.distributions["strength"]
    assert (found.low, found.high, found.log) == (pytest.approx(1e-4), pytest.approx(1e-1), True)


def init(key):
    first, second = jax.random.split(key)
    return {"first": 0.3 * jax.random.normal(first, (5, 8)), "second": 0.3 * jax.random.normal(second, (8, 3))}


def apply(params, inputs, h):
    hidden = h["gain"] * inputs @ params["first"]
    return hc.mix(h["activation"], [jax.nn.relu(hidden), jnp.tanh(hidden), jax.nn.gelu(hidden)]) @ params["second"]


def penalty(params, h):
    squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    return h["strength"] * hc.chosen(h["penalty"], [0.0, squares])


PROBLEM = hc.make_problem(init, apply, space=SPACE, regulariser=penalty)


def test_a_rate_that_acts_under_a_condition_is_told():
    space = box("rates", {"own": choice(["no", "yes"]), "factor": when((0.1, 10.0, "log"), own="yes")})
    problem = hc.make_problem(init, lambda params, inputs: inputs, space=space, learning_rate_factor="factor")
    assert problem.unrolled_only == ("log_factor",)


def test_a_choice_that_is_ignored_is_told_and_a_discrete_one_is_not():
    def sized(params, h):
        return h["strength"] * hc.chosen(h["penalty"], [0.0, jnp.sum(params["first"] ** 2)])

    blind = hc.make_problem(init, lambda params, inputs, h: h["gain"] * inputs @ params["first"] @ params["second"],
                            space=SPACE, regulariser=sized)  # fmt: skip
    batch = hc.as_batch(examples(40, 0))
    (found,) = check_problem(blind, SPACE, batch, batch)
    assert found.startswith("the hyperparameter 'activation' is ignored")


def test_a_study_of_choices_goes_through_all_stages(tmp_path):
    study = hc.Study(
        PROBLEM, SPACE, examples(60, 1), examples(40, 2), examples(30, 3), hc.Training(steps=8),
        folder=tmp_path / "run", settings=SMALL | {"truth": {"enabled": False}}, progress=quiet, name="small",
    )  # fmt: skip
    study.run(("random", "surrogate_grad"))
    rows = list(csv.DictReader((study.path / "ranking.csv").read_text().splitlines()))
    assert [*rows[0]][:5] == ["candidate", "activation", "penalty", "log_strength", "gain"]
    for row in rows:
        assert row["activation"] in ("relu", "tanh", "gelu")
        assert (row["log_strength"] == "") == (row["penalty"] == "none")
    study.search(8, method="random", top=0)
    found = json.loads((study.path / "search_random.json").read_text())
    assert {row[2].text for row in searches.best(found).rows} <= {"none", "l2"}
    assert (study.path / "search.csv").read_text().startswith("activation,penalty,log_strength,gain,loss,accuracy\n")


def test_what_the_documents_show_is_a_study():
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    first, choices = blocks[0], next(block for block in blocks if "choice(" in block)
    shown = {}
    exec(first, shown)
    exec(choices, shown)
    example = runpy.run_path(str(ROOT / "examples" / "choices.py"))
    for made in (shown, example):
        study, hparams = made["study"], made["space"].from_unit(jnp.full(len(made["space"].hparam_names), 0.5))
        assert {"activation", "penalty", "strength", "gain"} <= set(study.space.keys)
        batch = hc.as_batch((made["X"][:3], made["y"][:3]))
        params = jax.eval_shape(study.problem.init, jax.random.key(0), hparams)
        assert jax.eval_shape(study.problem.train_loss, params, hparams, batch).shape == ()
