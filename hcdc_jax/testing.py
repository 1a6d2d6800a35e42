"""Checks of what extensions promise, for the tests of their authors; the library's own tests call the same.

    import hcdc_jax.testing as ht

    ht.check_condenser(lambda: mine(container), data, lambda seed: container.init(jax.random.key(seed), start))
    ht.check_space(mine())
    ht.check_container(mine(), start)
    ht.check_graph_network(mine)

Each raises `AssertionError` with the promise that is broken. Of problems `models.check_problem` says what is wrong, of
losses `models.check_losses`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.batches.graphs import dense_graph
from hcdc_jax.condense.base import Condenser, learned_fields, run
from hcdc_jax.containers import Container
from hcdc_jax.errors import UserError
from hcdc_jax.models import check_losses
from hcdc_jax.models.own_networks import called_by_name
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import Space, graph_filter
from hcdc_jax.types import Array, Batch, PyTree, Variables

KEY = 3
"""Of all that is drawn here."""


def check_condenser(
    build: Callable[[], Condenser], data: Any, variables: Callable[[int], Variables], *, rtol: float = 1e-3
) -> None:
    """Checks all that the driver, runs and users rely on, with few steps on data that should be small.

    Args:
      build: returns the condenser, as a run does it anew for each seed: a cached factory returns the same.
      data: what its steps read.
      variables: `variables(seed)`, of the container, to start from.
      rtol: how far results that are the same may lie apart, relative to the largest number of their array.

    Raises:
      AssertionError: a promise is broken.
    """
    condenser = build()
    check_forms(condenser, data, variables)
    check_jit(condenser, data, variables, rtol=rtol)
    check_driver(condenser, data, variables, rtol=rtol)
    check_vmap(condenser, data, variables, rtol=rtol)
    check_compiles_once(build, data, variables)
    check_learns(condenser, data, variables)


def check_forms(condenser: Condenser, data: Any, variables: Callable[[int], Variables]) -> None:
    """A step keeps structure, shapes and dtypes of its state, and tells scalars, a `distance` among them."""
    state = started(condenser, data, variables)
    assert "variables" in getattr(state, "_fields", ()), "a state must be a NamedTuple with a field 'variables'"
    after, info = jax.eval_shape(condenser.step, jax.random.key(KEY), state, data)
    assert _forms(after) == _forms(state), "a step must keep the structure, shapes and dtypes of its state"
    assert "distance" in getattr(info, "_fields", ()), "info must be a NamedTuple with a field 'distance'"
    assert all(leaf.shape == () for leaf in jax.tree.leaves(info)), "info must hold scalars alone"
    assert isinstance(after.variables, type(state.variables)), "the variables must stay those of the container"


def check_jit(condenser: Condenser, data: Any, variables: Callable[[int], Variables], *, rtol: float = 1e-3) -> None:
    """A step is a pure function: the same with `jit` and without, and the same bits for the same key."""
    state, key = started(condenser, data, variables), jax.random.key(KEY)
    compiled = _step(key, state, data, condenser=condenser)
    assert_close(compiled, condenser.step(key, state, data), "a step must be the same with and without jit", rtol=rtol)
    again = _step(key, state, data, condenser=condenser)
    assert_close(compiled, again, "a step must be the same for the same key", rtol=0.0)


def check_driver(condenser: Condenser, data: Any, variables: Callable[[int], Variables], *, rtol: float = 1e-3) -> None:
    """The driver is a loop of steps, tells about each, and goes on from any state as if it had not stopped."""
    state = looped = started(condenser, data, variables)
    key, infos, reported = jax.random.key(KEY), [], []
    for t in range(4):
        looped, info = _step(jax.random.fold_in(key, t), looped, data, condenser=condenser)
        infos.append(info)
    whole = run(key, condenser, state, data, steps=4, every=2, report=lambda *args: reported.append(args[0::2]))
    assert_close(whole, looped, "the driver must be a loop of steps", rtol=rtol)
    assert [step for step, _ in reported] == [2, 4]
    stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *infos[i : i + 2]) for i in (0, 2)]
    assert_close([info for _, info in reported], stacked, "the driver must tell what steps tell", rtol=rtol)
    resumed = run(key, condenser, state, data, steps=2, every=2)
    resumed = run(key, condenser, resumed, data, start=2, steps=4, every=2)
    assert_close(resumed, whole, "a run that is taken up must be the run that was not stopped", rtol=0.0)


def check_vmap(condenser: Condenser, data: Any, variables: Callable[[int], Variables], *, rtol: float = 1e-3) -> None:
    """`vmap` over keys, states and data, hence over step sizes too, is a loop over them."""
    both = data, other_numbers(data)
    states = [started(condenser, one, variables, seed) for seed, one in enumerate(both)]
    keys = jax.random.split(jax.random.key(KEY), 2)
    stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    together, _ = jax.jit(jax.vmap(condenser.step))(keys, jax.tree.map(stack, *states), jax.tree.map(stack, *both))
    for i in range(2):
        alone, _ = _step(keys[i], states[i], both[i], condenser=condenser)
        ours = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert_close(ours, alone, "vmap must be a loop over keys, states and data", rtol=rtol)


def check_compiles_once(build: Callable[[], Condenser], data: Any, variables: Callable[[int], Variables]) -> None:
    """The next seed compiles nothing, nor do other numbers in the data: factories are cached, and numbers traced."""
    condenser, again, others = build(), build(), other_numbers(data)
    assert hash(again) == hash(condenser), "the factory must be cached: equal arguments, one condenser"
    keys, states = [jax.random.key(seed) for seed in range(2)], [started(condenser, data, variables, s) for s in (0, 1)]
    run(keys[0], condenser, states[0], data, steps=2, every=2)
    with compilations() as compiled:
        run(keys[1], again, states[1], others, start=2, steps=4, every=2)
    assert compiled == [], "another seed and other numbers must compile nothing: numbers of the data must be traced"


def check_learns(condenser: Condenser, data: Any, variables: Callable[[int], Variables]) -> None:
    """Steps move what the container learns, to finite numbers, and leave labels and weights as they were given."""
    state = started(condenser, data, variables)
    after = run(jax.random.key(KEY), condenser, state, data, steps=4, every=2).variables
    for name in ("labels", "weights"):
        same = np.array_equal(getattr(after, name), getattr(state.variables, name))
        assert same, f"steps must leave the {name} as they were given"
    moved, before = (jax.tree.leaves(learned_fields(each)) for each in (after, state.variables))
    assert any(np.any(a != b) for a, b in zip(moved, before, strict=True)), "steps must move what is learned"
    assert all(np.isfinite(leaf).all() for leaf in moved), "what is learned must stay finite"


def check_space(space: Space, *, draws: int = 4096) -> None:
    """Checks what searches and condensers read of a space.

    Args:
      space: that is checked.
      draws: from the prior, to hold `prior_std` against; within a fifth of it.

    Raises:
      AssertionError: a promise is broken.
    """
    h, key = len(space.hparam_names), jax.random.key(KEY)
    assert hash(space) is not None
    assert len(set(space.hparam_names)) == h > 0, "hyperparameters must have names, each its own"
    assert len(space.prior_std) == h, "prior_std must be one number for each hyperparameter"
    assert min(space.prior_std) > 0, "prior_std must be above 0"
    points = jax.jit(lambda key: space.sample(key, 5))(key)
    _check_orbit(space, points)  # first of all: even draws rely on it
    for drawn in (points, space.spread(0, 5)):
        assert drawn.shape == (5, h), f"draws must have the shape (n, {h})"
        assert np.isfinite(drawn).all(), "draws must be finite"
        projected, admitted = jax.jit(jax.vmap(lambda point: (space.project(point), space.admit(point))))(drawn)
        assert_close(projected, drawn, "what is drawn must be what it is projected to")
        assert_close(admitted, drawn, "a model must be trainable at what is drawn")
    unit = jax.random.uniform(key, (2, 3, h))
    singly = jax.jit(jax.vmap(jax.vmap(space.from_unit)))(unit)
    assert_close(jax.jit(space.from_unit)(unit), singly, "from_unit must take leading axes")
    many = jax.jit(lambda key: space.sample(key, draws))(key)
    acts = None if space.active is None else jax.jit(jax.vmap(space.active))(many)
    found = np.nanstd(many if acts is None else jnp.where(acts, many, jnp.nan), 0)
    assert np.allclose(found, space.prior_std, rtol=0.2), f"prior_std must be that of draws, {found.round(4).tolist()}"
    assert_close(jax.jit(space.read)(points[0]), space.read(points[0]), "read must be the same with and without jit")
    places = [place for choice in space.choices for place in choice]
    assert len(set(places)) == len(places), "a hyperparameter must belong to one choice"
    assert set(places) <= set(range(h)), "choices must be places of hyperparameters"
    assert set(space.discrete) <= set(places), "what is discrete must be a place of a choice"
    assert not space.options or len(space.keys) == h, "where choices have names, keys must have one for each place"
    for name, (at, options) in space.named.items():
        assert list(at) == list(range(at[0], at[0] + len(options))), f"places of {name!r} must follow one another"


def _check_orbit(space: Space, points: Array) -> None:
    orbits = jax.jit(jax.vmap(space.equivalents))  # op by op it would compile hundreds of programs
    members = orbits(points)
    assert members.ndim == 3, "an orbit must have the shape [k, h]"
    assert_close(members[:, 0], points, "an orbit must begin with the point itself")
    for i in range(members.shape[1]):
        others = orbits(members[:, i])
        for ours, theirs in zip(np.asarray(members, np.float64), np.asarray(others, np.float64), strict=True):
            apart = np.abs(ours[:, None] - theirs[None]).max(-1)
            assert apart.min(0).max() < 1e-4 > apart.min(1).max(), "all points of an orbit must have the same orbit"


def check_container(container: Container, start: Any) -> None:
    """Checks what condensers, files and evaluations rely on.

    Args:
      container: that is checked.
      start: what it starts from, such as an `ImageStart` of few images.

    Raises:
      AssertionError: a promise is broken.
    """
    key = jax.random.key(KEY)
    variables = container.init(key, start)
    assert_close(container.init(key, start), variables, "init must be the same for the same key", rtol=0.0)
    fields = set(getattr(variables, "_fields", ()))
    assert fields > {"labels", "weights"}, "variables must be a NamedTuple with labels, weights and what is learned"
    batch = container.decode(variables)
    assert_close(jax.jit(container.decode)(variables), batch, "decode must be the same with and without jit")
    assert batch.weights.shape == batch.labels.shape[:1], "a decoded batch must have a weight for each label"
    _check_slopes(container, variables)
    places = jnp.asarray([len(batch.labels) - 1, 0])
    some = jax.tree.map(lambda leaf: leaf[places], batch) if container.decode_at or container.take else None
    if container.decode_at is not None:
        assert_close(container.decode_at(variables, places), some, "decode_at must give the examples of decode")
    if container.take is not None:
        assert_close(container.decode(container.take(variables, places)), some, "take must keep what is taken")


def _check_slopes(container: Container, variables: Variables) -> None:
    def size(fields: dict[str, PyTree]) -> Array:
        leaves: list[Array] = jax.tree.leaves(container.decode(variables._replace(**fields)).inputs)
        return jnp.stack([(leaf**2).sum() for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]).sum()

    slopes = jax.tree.leaves(jax.jit(jax.grad(size, allow_int=True))(learned_fields(variables)))
    floats = [leaf for leaf in slopes if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert all(np.isfinite(leaf).all() for leaf in floats), "slopes of what is decoded must be finite"
    assert any(np.any(leaf) for leaf in floats), "what is decoded must depend on what is learned"


def check_graph_network(network: Callable[..., Problem]) -> None:
    """Checks what runs rely on of a network of graphs, on six nodes.

    Args:
      network: as it is registered, a function of (num_features, num_classes).

    Raises:
      AssertionError: a promise is broken.
    """
    space = graph_filter(2)
    options = {
        "hidden": 4, "activation": "tanh", "basis": "laplacian", "weight_decay": 1e-3, "read": space.read,
    }  # fmt: skip
    try:
        made = called_by_name("a graph network", network, "num_features", "num_classes", offered=options)
        problem, again = (made(5, 3, **options) for _ in range(2))
        assert isinstance(problem, Problem), f"a graph network must return a Problem, got {type(problem).__name__}"
        assert hash(again) == hash(problem), "equal options must give equal problems: cache the function"
        features = jax.random.normal(jax.random.key(KEY), (6, 5))
        graph = dense_graph(jnp.full((6, 6), 1 / 6) + 0.1 * jnp.eye(6), features, 2, "laplacian")
        hparams = space.sample(jax.random.key(KEY), 1)[0]
        params = problem.init(jax.random.key(KEY), hparams)
        logits = problem.apply(params, hparams, graph)
        assert logits.shape == (6, 3), f"logits of 6 nodes and 3 classes must be (6, 3), got {logits.shape}"
        batch = Batch(graph, jnp.arange(6) % 3, jnp.ones(6))
        check_losses(problem.train_loss, problem.val_loss, params, hparams, batch, batch)
    except UserError as error:
        raise AssertionError(str(error)) from error


def started(condenser: Condenser, data: Any, variables: Callable[[int], Variables], seed: int = 0) -> Any:
    """The state of a condenser before its first step."""
    return jax.jit(condenser.init)(jax.random.key(seed), variables(seed), data)


def other_numbers(data: PyTree) -> PyTree:
    """The same with all floats a hundredth larger."""

    def moved(leaf: Any) -> Any:
        return leaf * 1.01 if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf

    return jax.tree.map(moved, data)


def assert_close(found: PyTree, expected: PyTree, promise: str, *, rtol: float = 1e-3) -> None:
    """Checks that arrays are equal, up to `rtol` of the largest number of each; keys are compared by their data."""
    assert jax.tree.structure(found) == jax.tree.structure(expected), f"{promise}: the structures differ"
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        a, b = (np.asarray(_numbers(leaf), np.float64) for leaf in (ours, theirs))
        place = jax.tree_util.keystr(path)
        assert a.shape == b.shape, f"{promise}: {place} has the shapes {a.shape} and {b.shape}"
        limit = rtol * (np.abs(b[np.isfinite(b)]).max(initial=0.0) + 0.1)
        apart = np.abs(a - b).max(initial=0.0, where=~((a == b) | (np.isnan(a) & np.isnan(b))))
        assert apart <= limit, f"{promise}: {place} differs by {apart:.3g}, where {limit:.3g} is allowed"


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
    """Seconds of whatever is compiled inside, one entry each."""
    found: list[float] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@functools.partial(jax.jit, static_argnames="condenser")
def _step(key: Array, state: Any, data: Any, *, condenser: Condenser) -> Any:
    return condenser.step(key, state, data)


def _forms(tree: PyTree) -> Any:
    leaves = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]
    return jax.tree.structure(tree), leaves


def _numbers(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key) else leaf
