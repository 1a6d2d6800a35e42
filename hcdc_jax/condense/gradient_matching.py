"""Gradient matching on graphs: GCond and GCond-X (arXiv 2110.07580), and matching under hyperparameters drawn anew.

Networks (relays) are trained on the synthetic graph; along the way the synthetic graph is moved so that, class by
class, its gradients point where the gradients of the real graph point. GCond's relay is SGC at the filter of GCN; with
a relay and hyperparameters from the search space the synthetic graph is matched for the whole space instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.condense.base import Condenser, GraphRates, graph_optimizer
from hcdc_jax.containers import Container
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import Space
from hcdc_jax.types import Array, Batch, HParams, Params, Variables


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

    variables: Variables
    opt_state: optax.OptState
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
      gradient_a, gradient_b: pytrees whose matrices are [inputs, outputs], as in flax.
      eps: added to the product of norms, as published; keeps a dead output unit (zero gradient) finite.
    """

    def rows(a, b):
        products = (a * b).sum(0)
        # The norms need a floor of their own: the gradient of sqrt at 0 is infinite.
        norms = jnp.sqrt((a * a).sum(0) + eps**2) * jnp.sqrt((b * b).sum(0) + eps**2)
        return (1.0 - products / (norms + eps)).sum()

    matrices = [(a, b) for a, b in zip(jax.tree.leaves(gradient_a), jax.tree.leaves(gradient_b)) if a.ndim >= 2]
    return sum(rows(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])) for a, b in matrices)


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
    structure_period: int = 50,
    structure_epochs: int = 10,
) -> Condenser:
    """Gradient matching as a condenser; one step is one outer step of GCond.

    Args:
      problem: the relay.
      container: stores the synthetic graph; its variables are `GraphVariables`.
      draw_hparams: `draw_hparams(key) -> hparams` of a fresh relay; see `constant` and `drawn_from`.
      num_classes: number of classes.
      outer_steps: matching steps before a fresh relay is drawn (one epoch of GCond).
      inner_steps: training steps of the relay on the synthetic graph after each matching step.
      structure_period: epochs per round of the alternation between structure and features.
      structure_epochs: how many epochs of each round move the structure; the others move the features.
    """

    def fresh_relay(key, data):
        key_hparams, key_init = jax.random.split(key)
        hparams = draw_hparams(key_hparams)
        params = problem.init(key_init, hparams)
        return params, optax.adam(data.relay_rate).init(params), hparams

    def init(key, variables, data):
        relay, relay_opt_state, hparams = fresh_relay(key, data)
        opt_state = graph_optimizer(data.rates).init(variables)
        return MatchingState(variables, opt_state, relay, relay_opt_state, hparams, jnp.zeros((), jnp.int32))

    def distance(variables, relay, hparams, real_gradients, data):
        synthetic = class_gradients(problem, relay, hparams, container.decode(variables), num_classes)
        per_class = jax.vmap(gradient_distance)(real_gradients, synthetic)
        return jnp.vdot(per_class, data.class_weights)

    def train_relay(relay, opt_state, hparams, batch, data):
        def body(carry, _):
            params, opt_state = carry
            loss, gradient = jax.value_and_grad(problem.train_loss)(params, hparams, batch)
            updates, opt_state = optax.adam(data.relay_rate).update(gradient, opt_state)
            return (optax.apply_updates(params, updates), opt_state), loss

        (relay, opt_state), losses = jax.lax.scan(body, (relay, opt_state), length=inner_steps)
        return relay, opt_state, losses[-1]

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
        moves_structure = (state.step // outer_steps) % structure_period < structure_epochs
        variables, opt_state = _alternate(state, gradient, moves_structure, data.rates)
        relay, relay_opt_state, relay_loss = train_relay(
            relay, relay_opt_state, hparams, container.decode(variables), data
        )
        state = MatchingState(variables, opt_state, relay, relay_opt_state, hparams, state.step + 1)
        return state, MatchingInfo(value, relay_loss)

    return Condenser(init, step)


def _alternate(state: MatchingState, gradient: Any, moves_structure: Array, rates: GraphRates):
    """Adam on the structure or on the features; the other half keeps its values and its moments."""
    gradient = gradient._replace(labels=jnp.zeros_like(state.variables.labels))
    updates, moved = graph_optimizer(rates).update(gradient, state.opt_state, state.variables)
    turns = {"structure": moves_structure, "features": ~moves_structure, "given": jnp.array(True)}
    inner = {
        part: jax.tree.map(
            lambda new, old, turn=turn: jnp.where(turn, new, old),
            moved.inner_states[part], state.opt_state.inner_states[part],
        )
        for part, turn in turns.items()
    }  # fmt: skip
    updates = updates._replace(
        features=jnp.where(moves_structure, 0.0, updates.features),
        structure=jax.tree.map(lambda u: jnp.where(moves_structure, u, 0.0), updates.structure),
    )
    return optax.apply_updates(state.variables, updates), moved._replace(inner_states=inner)
