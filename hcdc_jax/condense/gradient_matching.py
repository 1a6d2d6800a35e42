"""Gradient matching on graphs: GCond and GCond-X (arXiv 2110.07580), and matching under hyperparameters drawn anew.

Networks (relays) are trained on the synthetic graph; along the way the synthetic graph is moved so that, class by
class, its gradients point where the gradients of the real graph point. GCond's relay is SGC at the filter of GCN; with
a relay and hyperparameters from the search space the synthetic graph is matched for the whole space instead.

A match at the one filter of GCN leaves the other filters free. GCond trains GCN nearly as well as the real graph, yet
its generated edges need not join nodes of one class: where features tell the classes without the graph they are at
chance, the features carry the classes at all frequencies, and a ranking of filters on such a validation set means
little.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.condense.base import Condenser, GraphRates
from hcdc_jax.containers import Container, GraphVariables
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import Space
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree


class MatchingData(NamedTuple):
    """What the steps read.

    Attributes:
      real: the real labelled nodes.
      class_weights: [num_classes], weight of each class in the distance: its size over the largest class's.
      rates: Adam step sizes of the synthetic graph.
      relay_rate: Adam step size of the relays.
    """

    real: Batch
    class_weights: Array
    rates: GraphRates
    relay_rate: float | Array = 0.01


class AlternatingState(NamedTuple):
    """Adam's states of the two parts of a synthetic graph, which take turns.

    Attributes:
      features: of X'.
      structure: of whatever makes the adjacency.
    """

    features: optax.OptState
    structure: optax.OptState


class MatchingState(NamedTuple):
    """Carried from step to step.

    Attributes:
      variables: of the container.
      opt_state: of the variables.
      relay: parameters of the network under which gradients are compared.
      relay_opt_state: of the relay.
      hparams: of the relay.
      step: number of steps done.
    """

    variables: GraphVariables
    opt_state: AlternatingState
    relay: Params
    relay_opt_state: optax.OptState
    hparams: HParams
    step: Array


class MatchingInfo(NamedTuple):
    """One step.

    Attributes:
      distance: weighted sum over classes of `gradient_distance`, before the step.
      relay_loss: training loss of the relay on the synthetic graph, after its inner steps.
    """

    distance: Array
    relay_loss: Array


def gradient_distance(gradient_a: Params, gradient_b: Params, *, eps: float = 1e-6) -> Array:
    """Sum over output units of 1 - cosine, GCond's distance; weights only, biases do not count.

    Args:
      gradient_a: pytree whose matrices are [inputs, outputs], as in flax.
      gradient_b: the same structure.
      eps: added to the product of norms, as published; keeps a dead output unit (zero gradient) finite.
    """

    def over_units(a: Array, b: Array) -> Array:
        if a.ndim < 2:
            return jnp.zeros((), a.dtype)
        a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
        # The norms need a floor of their own: the gradient of sqrt at 0 is infinite.
        norms = jnp.sqrt((a * a).sum(0) + eps**2) * jnp.sqrt((b * b).sum(0) + eps**2)
        return (1.0 - (a * b).sum(0) / (norms + eps)).sum()

    return jnp.stack(jax.tree.leaves(jax.tree.map(over_units, gradient_a, gradient_b))).sum()


def class_gradients(problem: Problem, params: Params, hparams: HParams, batch: Batch, num_classes: int) -> Params:
    """Gradients of the loss of each class alone: leaves [num_classes, ...]."""

    def gradient(c):
        members = jnp.where(batch.labels == c, batch.weights, 0.0)
        # A class without members would divide by zero; its gradient is zero with any positive weight sum.
        one = batch._replace(weights=members / jnp.maximum(members.sum(), 1e-12))
        return jax.grad(lambda p: _sum_loss(problem, p, hparams, one))(params)

    return jax.vmap(gradient)(jnp.arange(num_classes))


@functools.cache
def constant(hparams: tuple[float, ...]) -> Callable[[Array], HParams]:
    """Relays that all have the same hyperparameters."""
    return lambda key: jnp.asarray(hparams, jnp.float32)


@functools.cache
def drawn_from(space: Space) -> Callable[[Array], HParams]:
    """Relays whose hyperparameters are drawn from a space."""
    return lambda key: space.sample(key, 1)[0]


def _sum_loss(problem, params, hparams, batch):
    logits = problem.apply(params, hparams, batch.inputs)[: batch.labels.shape[0]]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return jnp.vdot(losses, batch.weights)


@functools.cache
def gradient_matching(
    problem: Problem,
    container: Container,
    draw_hparams: Callable[[Array], HParams],
    *,
    num_classes: int,
    outer_steps: int = 20,
    inner_steps: int = 15,
    structure_period: int = 5,
    structure_epochs: int = 1,
) -> Condenser:
    """Gradient matching as a condenser; one step is one outer step of GCond.

    Args:
      problem: the relay.
      container: stores the synthetic graph; its variables are `GraphVariables`.
      draw_hparams: `draw_hparams(key) -> hparams` of a fresh relay; see `constant` and `drawn_from`.
      num_classes: number of classes.
      outer_steps: matching steps before a fresh relay is drawn (one epoch of GCond).
      inner_steps: training steps of the relay on the synthetic graph after each matching step.
      structure_period: epochs per round of the alternation between structure and features. GCond has rounds of 50
        epochs, ten of them for the structure; shorter rounds keep its proportion in fewer epochs.
      structure_epochs: how many epochs of each round move the structure; the others, and all where there is no
        structure to move, move the features.
    """

    def fresh_relay(key, data):
        key_hparams, key_init = jax.random.split(key)
        hparams = draw_hparams(key_hparams)
        params = problem.init(key_init, hparams)
        return params, optax.adam(data.relay_rate).init(params), hparams

    def init(key, variables, data):
        relay, relay_opt_state, hparams = fresh_relay(key, data)
        opt_state = AlternatingState(
            optax.adam(data.rates.features).init(variables.features),
            optax.adam(data.rates.structure).init(variables.structure),
        )
        return MatchingState(variables, opt_state, relay, relay_opt_state, hparams, jnp.zeros((), jnp.int32))

    def distance(variables, relay, hparams, real_gradients, data):
        synthetic = class_gradients(problem, relay, hparams, container.decode(variables), num_classes)
        per_class = jax.vmap(gradient_distance)(real_gradients, synthetic)
        return jnp.vdot(per_class, data.class_weights)

    def step(key, state, data):
        starts_epoch = state.step % outer_steps == 0
        fresh = fresh_relay(key, data)
        relay, relay_opt_state, hparams = jax.tree.map(
            lambda new, old: jnp.where(starts_epoch, new, old),
            fresh, (state.relay, state.relay_opt_state, state.hparams),
        )  # fmt: skip
        real_gradients = class_gradients(problem, relay, hparams, data.real, num_classes)
        value, gradient = jax.value_and_grad(distance, allow_int=True)(
            state.variables, relay, hparams, real_gradients, data
        )
        turn_of_structure = (state.step // outer_steps) % structure_period < structure_epochs
        moves_structure = turn_of_structure & bool(jax.tree.leaves(state.variables.structure))
        variables, opt_state = _alternate(state.variables, gradient, state.opt_state, data.rates, moves_structure)
        relay, relay_opt_state, relay_loss = _trained_relay(
            problem, relay, relay_opt_state, hparams, container.decode(variables), data.relay_rate, inner_steps
        )
        state = MatchingState(variables, opt_state, relay, relay_opt_state, hparams, state.step + 1)
        return state, MatchingInfo(value, relay_loss)

    return Condenser(init, step)


def _trained_relay(problem, relay, opt_state, hparams, batch, rate, steps):
    """The relay and its optimiser after some steps, and the loss before the last of them."""

    def body(carry, _):
        params, opt_state = carry
        loss, gradient = jax.value_and_grad(problem.train_loss)(params, hparams, batch)
        updates, opt_state = optax.adam(rate).update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    (relay, opt_state), losses = jax.lax.scan(body, (relay, opt_state), length=steps)
    return relay, opt_state, losses[-1]


def _alternate(
    variables: GraphVariables,
    gradient: GraphVariables,
    opt_state: AlternatingState,
    rates: GraphRates,
    moves_structure: Array,
) -> tuple[GraphVariables, AlternatingState]:
    """Adam on the structure or on the features; the other part keeps its values and its moments."""
    features, features_state = _adam_if(
        ~moves_structure, rates.features, gradient.features, opt_state.features, variables.features
    )
    structure, structure_state = _adam_if(
        moves_structure, rates.structure, gradient.structure, opt_state.structure, variables.structure
    )
    variables = variables._replace(features=features, structure=structure)
    return variables, AlternatingState(features_state, structure_state)


def _adam_if(turn: Array, rate: Array, gradient: PyTree, opt_state: Any, values: PyTree) -> tuple[PyTree, Any]:
    updates, moved = optax.adam(rate).update(gradient, opt_state)
    new = optax.apply_updates(values, updates), moved
    return jax.tree.map(functools.partial(jnp.where, turn), new, (values, opt_state))
