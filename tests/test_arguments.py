"""Wrong arguments of public functions: each is told in one line that says what was given and how to mend it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcdc_jax as hc
from tests.errors import error_of
from tests.small_graphs import block_graph

KEY = jax.random.key(0)


def val_loss(params, hparams, batch):
    return jnp.mean((hparams["gain"] * (batch["x"] @ params["w"]) - batch["y"]) ** 2)


def train_loss(params, hparams, batch):
    return val_loss(params, hparams, batch) + jnp.sum(jnp.exp(hparams["decay"]) * params["w"] ** 2)


def bilevel(dtype: Any = jnp.float32) -> dict[str, Any]:
    """Three hyperparameters, at the minimum of a ridge regression."""
    rng = np.random.default_rng(0)
    x, decay = rng.normal(size=(12, 2)), np.array([-1.0, -2.0])
    y = x @ [1.0, -0.5] + rng.normal(size=12)
    w = np.linalg.solve(x.T @ x / 12 + np.diag(np.exp(decay)), x.T @ y / 12)
    tree = {
        "params": {"w": w},
        "hparams": {"decay": decay, "gain": np.ones(())},
        "train_batch": {"x": x, "y": y},
        "val_batch": {"x": x[:5] + 0.3, "y": y[:5]},
    }
    return {"train_loss": train_loss, "val_loss": val_loss, **jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)}


TARGET = {"decay": jnp.ones(2), "gain": jnp.ones(())}
PARAMS = {"w": jnp.ones(2)}


def fit(hparams):
    return {"w": jnp.exp(-hparams["decay"])}


def pool(m: int = 2) -> hc.Pool:
    given = bilevel()
    rows = jax.tree.map(lambda leaf: jnp.stack([leaf] * m), (given["params"], given["hparams"]))
    return hc.Pool(*rows, {"w": jnp.ones((m, 3, 2))})


def call(name: str, **changed: Any) -> Any:
    """A public function on good arguments, but for those that are named."""
    given = {**bilevel(), **changed}
    at_point = [given[key] for key in ("params", "hparams", "train_batch")]
    options = {
        key: value for key, value in changed.items() if key in ("solver", "distance", "scale", "at_once", "precision")
    }
    if name == "hypergradient":
        return hc.hypergradient(given["train_loss"], given["val_loss"], *at_point, given["val_batch"], **options)
    if name == "response":
        return hc.response(given["train_loss"], *at_point, **options)
    if name in ("hypergradient_matching", "matching_distance"):
        target = changed.get("target", TARGET)
        both = (given["train_loss"], given["val_loss"])
        return getattr(hc, name)(*both, *at_point, given["val_batch"], target, **options)
    if name == "frozen_hypergradient":
        response = changed.get("response", {"w": jnp.ones((3, 2))})
        return hc.frozen_hypergradient(given["val_loss"], *at_point[:2], response, given["val_batch"])
    if name == "frozen_matching":
        target = changed.get("target", hc.Target(jnp.ones(2), jnp.ones((2, 3))))
        return hc.frozen_matching(given["val_loss"], changed.get("pool", pool()), given["val_batch"], target, **options)
    if name == "unrolled_response":
        return hc.unrolled_response(fit, given["hparams"])
    return hc.unrolled_hypergradient(fit, given["val_loss"], given["hparams"], given["val_batch"])


NO_RESPONSE = ["hypergradient", "hypergradient_matching", "matching_distance", "frozen_hypergradient"]


@pytest.mark.parametrize(
    "name",
    [*NO_RESPONSE, "response", "frozen_matching", "unrolled_response", "unrolled_hypergradient"],
)
def test_good_arguments_pass_under_jit(name):
    jax.jit(lambda: jax.tree.map(jnp.asarray, call(name)))()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("target", "given"),
    [
        (jnp.ones(1), "target is an array of shape (1,)"),
        (jnp.ones(()), "target is an array of shape ()"),
        ({"gain": jnp.ones(()), "rate": jnp.ones(2)}, "target is a dict of shapes {'gain': (), 'rate': (2,)}"),
        ({"decay": jnp.ones(()), "gain": jnp.ones(2)}, "target is a dict of shapes {'decay': (), 'gain': (2,)}"),
        (hc.Target(jnp.ones(()), jnp.ones(4)), "target.gradient is an array of shape (4,)"),
    ],
)
def test_targets_of_another_shape_are_refused_with_both(target, given, jit):
    for name in ("hypergradient_matching", "matching_distance"):
        run = functools.partial(call, name, target=target)
        text = error_of(jax.jit(run) if jit else run)
        assert text.startswith(
            f"{given}, hparams are a dict of shapes {{'decay': (2,), 'gain': ()}}; give both the same"
        )


def test_targets_of_other_forms_pass():
    """The vector of `ravel_pytree`, with or without its loss."""
    run = jax.jit(lambda target: call("hypergradient_matching", target=target)[0])
    expected = run(TARGET)
    for target in (jnp.ones(3), hc.Target(jnp.ones(()), jnp.ones(3)), hc.Target(jnp.ones(1), TARGET)):
        np.testing.assert_allclose(run(target), expected, rtol=1e-6)
    assert error_of(lambda: call("hypergradient_matching", target=0.5)).startswith("target is 0.5, hparams are a dict")
    text = error_of(lambda: call("hypergradient_matching", target=hc.Target(jnp.ones(3), TARGET)))
    assert text == ("target.value must be of shape () or (1,), the loss of one candidate; got an array of shape (3,)")


@pytest.mark.parametrize("name", ["hypergradient", "response", "hypergradient_matching", "frozen_hypergradient"])
@pytest.mark.parametrize(
    ("leaf", "kind"), [(jnp.ones(2, int), "int32"), (jnp.ones(2, complex), "complex64"), ("a word", "str")]
)
def test_what_is_differentiated_must_be_floats(name, leaf, kind):
    text = error_of(lambda: call(name, params={"w": leaf}))
    assert text.startswith(f"params['w'] is of type {kind}; only floats have gradients: give ")
    text = error_of(lambda: call(name, hparams={"decay": leaf, "gain": jnp.ones(())}))
    assert text.startswith(f"hparams['decay'] is of type {kind}; only floats have gradients: give ")
    assert error_of(lambda: call(name, hparams={})).startswith("hparams has no numbers: it is an empty dict; give at ")


@pytest.mark.parametrize("name", ["unrolled_response", "unrolled_hypergradient"])
def test_unrolled_functions_take_floats_too(name):
    text = error_of(lambda: call(name, hparams={"decay": jnp.ones(2, int)}))
    assert text.startswith("hparams['decay'] is of type int32")


def test_unrolled_responses_are_those_of_floats():
    text = error_of(lambda: hc.unrolled_response(lambda h: {"w": h, "steps": jnp.asarray(3)}, jnp.ones(2)))
    assert text.startswith("train(hparams)['steps'] is of type int32; only floats have gradients")


@pytest.mark.parametrize("name", ["hypergradient_matching", "matching_distance", "frozen_matching"])
def test_a_complex_batch_has_no_gradient(name):
    batch = {"x": jnp.ones((5, 2)), "y": jnp.ones(5, complex)}
    assert error_of(lambda: call(name, val_batch=batch)).startswith("val_batch['y'] is of type complex64; only floats")


LOSSES = {
    "auxiliary": (
        lambda p, h, b: (val_loss(p, h, b), p),
        "got tuple; return the loss alone, nothing beside it",
    ),
    "examples": (lambda p, h, b: b["x"] @ p["w"], "got shape (5,); take the mean over the examples"),
    "complex": (lambda p, h, b: val_loss(p, h, b) + 0j, "got complex64"),
    "nothing": (lambda p, h, b: None, "got NoneType"),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", [*NO_RESPONSE, "frozen_matching", "unrolled_hypergradient"])
def test_losses_return_one_number(name, loss):
    function, given = LOSSES[loss]
    text = error_of(lambda: call(name, val_loss=function))
    assert text.startswith("val_loss must return ")
    assert given in text


def test_training_losses_and_distances_return_one_number():
    for name in ("hypergradient", "response", "hypergradient_matching"):
        assert error_of(lambda name=name: call(name, train_loss=LOSSES["auxiliary"][0])).startswith(
            "train_loss must return one number, got tuple"
        )
    for name in ("hypergradient_matching", "frozen_matching"):
        text = error_of(lambda name=name: call(name, distance=lambda value_s, g_s, value_t, g_t: g_s - g_t))
        assert text.startswith("distance must return one number, got shape (")
    text = error_of(lambda: call("hypergradient", train_loss=0.5))
    assert text == "train_loss must be a function that returns one number, got 0.5"


@pytest.mark.parametrize("name", ["hypergradient", "response", "hypergradient_matching", "matching_distance"])
@pytest.mark.parametrize(
    ("solver", "given"),
    [
        ("cg", "'cg'"),
        (hc.neumann, "the function neumann; neumann must be called"),
        (hc.LinearSolver, "the class LinearSolver; LinearSolver must be called"),
        (None, "None"),
    ],
)
def test_solvers_are_solvers(name, solver, given):
    text = error_of(lambda: call(name, solver=solver))
    assert text == f"solver must be a LinearSolver, such as hc.neumann(20), got {given}"


@pytest.mark.parametrize("name", ["hypergradient", "response", "hypergradient_matching", "matching_distance"])
def test_precisions_are_those_of_jax(name):
    text = error_of(lambda: call(name, precision="best"))
    assert text.startswith("precision must be a matmul precision of JAX, such as 'highest', ")


@pytest.mark.parametrize("count", [2.5, "5", -1])
def test_solvers_count_in_whole_numbers(count):
    text = error_of(lambda: hc.neumann(count))
    assert text == f"num_hvps of neumann must be a whole number from 0 on, got {count!r}"


def test_frozen_matching_takes_as_many_of_everything():
    def told(**changed):
        return error_of(lambda: call("frozen_matching", **changed))

    why = "as the pool has 2 candidates of 3 hyperparameters"
    assert told(target=hc.Target(jnp.ones(3), jnp.ones((2, 3)))) == (
        f"target.value must be of shape (2,), {why}; got an array of shape (3,)"
    )
    assert told(target=hc.Target(jnp.ones(2), jnp.ones((2, 1)))).startswith("target.gradient must be of shape (2, 3), ")
    assert told(target=TARGET).startswith("target must be a Target, such as hc.Target(value, gradient), got a dict of")
    assert told(pool=(1, 2)).startswith("pool must be a Pool, ")
    assert told(pool=pool()._replace(response={"w": jnp.ones((3, 3, 2))})) == (
        "pool['hparams']['decay'] has 2 rows, pool['response']['w'] 3; all of pool must have as many"
    )
    assert told(pool=pool()._replace(diverged=jnp.zeros(3, bool))).startswith("pool.diverged must be of shape (2,), ")
    assert told(scale=jnp.ones(2)).startswith("scale must be of shape (3,) or ")
    assert told(at_once=0) == "at_once must be a whole number from 1 on, got 0"
    text = told(pool=pool()._replace(response={"w": jnp.ones((2, 4, 2))}))
    assert text.startswith("response is a dict of shapes {'w': (4, 2)}, 3 rows of params are a dict of ")


# --------------------------------------------------------------------------------------------------------------------
# Many candidates, and spaces

GRAPH = block_graph(30)
TRAIN, VAL = (hc.real_batch(GRAPH, index, order=2, basis="laplacian") for index in (GRAPH.train_idx, GRAPH.val_idx))
PROBLEM = hc.models.spectral_gnn(5, 3, hidden=4)
TRAINING = hc.Training(steps=2)


def evaluate(key=KEY, problem=PROBLEM, candidates=None, training=TRAINING, **options):
    candidates = jnp.ones((2, 3)) if candidates is None else candidates
    return hc.evaluate(key, problem, candidates, TRAIN, VAL, training=training, **options)


@pytest.mark.parametrize("given", [2, 6])
def test_coefficients_are_as_many_as_the_terms_of_the_graph(given):
    """More were ignored; of fewer the last one was read again."""
    text = error_of(lambda: evaluate(candidates=jnp.ones((2, given))))
    assert text == (
        f"{given} filter coefficients for a graph with 3 terms, of order 2; give 3, or make its batch with "
        f"order={given - 1}"
    )


@pytest.mark.parametrize(
    ("space", "needed"),
    [
        (
            hc.spaces.box("mine", {"decay": (1e-3, 1e-1, "log"), "gain": (0.5, 2)}),
            "2 hyperparameters (log_decay, gain)",
        ),
        (hc.spaces.appnp(), "1 hyperparameters (logit_teleport)"),
        (hc.spaces.regularisation(), "6 hyperparameters (log_weight_decay_first, "),
        (hc.spaces.nas_bench_201(), "30 hyperparameters (0-1 none, "),
    ],
)
def test_spaces_read_as_many_hyperparameters_as_they_have(space, needed):
    assert error_of(lambda: space.read(jnp.ones(40))).startswith(f"the space {space.name!r} has {needed}")
    jax.eval_shape(space.read, jnp.ones(len(space.hparam_names)))


KEYS = [
    (0, "key must be a key, such as jax.random.key(0), got 0"),
    (17, "key must be a key, such as jax.random.key(17), got 17"),
    (jnp.zeros(2, jnp.uint32), "key is a key of the old form, uint32[2]; make it by jax.random.key(seed)"),
    (jax.random.split(KEY, 3), "key must be one key, got keys of shape (3,); take one of them, or use jax.vmap"),
    (None, "key must be a key, such as jax.random.key(0), got None"),
    ("seed", "key must be a key, such as jax.random.key(0), got 'seed'"),
]


@pytest.mark.parametrize(("key", "message"), KEYS)
def test_keys_are_keys(key, message):
    assert error_of(lambda: evaluate(key)) == message
    assert error_of(lambda: hc.train(key, PROBLEM, jnp.ones(3), TRAIN, TRAINING)) == message
    assert error_of(lambda: hc.spaces.graph_filter().sample(key, 3)) == message


def test_candidates_are_arrays_with_rows():
    assert error_of(lambda: evaluate(candidates=jnp.ones((0, 3)))) == "candidates has 0 rows; give at least one"
    assert error_of(lambda: evaluate(candidates={})).startswith("candidates has no numbers: it is an empty dict")
    assert error_of(lambda: evaluate(candidates={"a": jnp.ones(2), "b": jnp.ones((3, 1))})) == (
        "candidates['a'] has 2 rows, candidates['b'] 3; all of candidates must have as many"
    )
    assert error_of(lambda: evaluate(candidates=[1.0, 2.0])) == (
        "candidates[0] is a single number, where candidates needs a leading axis; use jnp.asarray([...])"
    )


@pytest.mark.parametrize("count", [0, -1, 2.0, "all"])
def test_counts_are_whole_numbers(count):
    rest = f"must be a whole number from 1 on, got {count!r}"
    assert error_of(lambda: evaluate(chunk_size=count)) == f"chunk_size {rest}"
    space = hc.spaces.graph_filter()
    for draw in (lambda: space.sample(KEY, count), lambda: space.spread(0, count), lambda: space.factorial(0, count)):
        assert error_of(draw) == f"num_candidates {rest}"


def test_seeds_are_no_keys():
    text = error_of(lambda: hc.spaces.graph_filter().spread(KEY, 3))
    assert text == "seed must be a whole number, such as 0, got a key; keys are for jax.random"


def test_problems_and_trainings_are_what_they_are_called():
    assert error_of(lambda: evaluate(problem=hc.models.spectral_gnn)).startswith(
        "problem must be a Problem, such as hc.Problem(init, apply, train_loss, val_loss), got the function spectral_gn"
    )
    for training in ({}, {"steps": 3}, hc.Training):
        assert error_of(lambda training=training: evaluate(training=training)).startswith(
            "training must be a Training, "
        )
    text = error_of(lambda: hc.evaluate(KEY, PROBLEM, jnp.ones((2, 3)), TRAIN, tuple(VAL), training=TRAINING))
    assert text.startswith(
        "val_batch must be a Batch, such as hc.Batch(inputs, labels, weights), got a tuple of shapes"
    )
    assert error_of(lambda: evaluate(devices=())) == "devices is empty; give at least one, or None for all"


@pytest.mark.parametrize("name", ["train_loss", "val_loss"])
def test_losses_of_problems_return_one_number(name):
    def with_auxiliary(params, hparams, batch):
        return PROBLEM.val_loss(params, hparams, batch), params

    problem = PROBLEM._replace(**{name: with_auxiliary})
    assert error_of(lambda: evaluate(problem=problem)).startswith(f"problem.{name} must return one number, got tuple")


# --------------------------------------------------------------------------------------------------------------------
# Half precision


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_worse_and_works(dtype):
    exact = jax.jit(lambda: call("hypergradient", solver=hc.dense())[0])()

    @jax.jit
    def half():
        given = bilevel(dtype)
        results = [
            call("hypergradient", solver=solver, **given)
            for solver in (hc.dense(), hc.conjugate_gradient(4), hc.neumann(20))
        ]
        return results, call("hypergradient_matching", solver=hc.dense(), **given)

    results, (_, slope, match) = half()
    for g, info in results:
        assert not info.diverged
        for value, wanted in zip(jax.tree.leaves(g), jax.tree.leaves(exact), strict=True):
            assert value.dtype == dtype
            np.testing.assert_allclose(value.astype(jnp.float32), wanted, atol=0.03)
    assert not match.diverged
    assert jax.tree.leaves(slope)[0].dtype == dtype
    frozen = jax.tree.map(lambda leaf: leaf.astype(dtype), (pool(), hc.Target(jnp.ones(2), jnp.ones((2, 3)))))
    d, slope, _ = call("frozen_matching", pool=frozen[0], target=frozen[1], val_batch=bilevel(dtype)["val_batch"])
    assert jnp.isfinite(d)
    assert jax.tree.leaves(slope)[0].dtype == dtype


def test_networks_train_in_half_precision():
    def init(key, hparams):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PROBLEM.init(key, hparams))

    assert evaluate(problem=PROBLEM._replace(init=init)).status.all()
