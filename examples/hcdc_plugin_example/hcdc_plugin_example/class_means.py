"""The mathematics: condensed images descend to the mean of the real images of their class."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.extend import (
    AnyImageRates,
    Array,
    Condenser,
    Container,
    Variables,
    descend,
    image_optimizer,
    learned_fields,
)


class MeansData(NamedTuple):
    """What the steps read; traced, so that other numbers compile nothing.

    Attributes:
      means: [num_classes, h, w, c], of the real images.
      rates: step sizes of what the container learns.
    """

    means: Array
    rates: AnyImageRates


class MeansState(NamedTuple):
    """Carried from step to step: the container's variables and their optimiser's state."""

    variables: Variables
    opt_state: optax.OptState


class MeansInfo(NamedTuple):
    """One step: half the squared distances of all images from their class's mean, before the update."""

    distance: Array


@functools.cache  # equal condensers are one object: the second seed of a run compiles nothing
def class_means(container: Container) -> Condenser:
    """Gradient descent on the distance to class means, as a condenser; `container` stores the images."""

    def init(key, variables, data):
        del key
        return MeansState(variables, image_optimizer(data.rates).init(learned_fields(variables)))

    def step(key, state, data):
        del key  # nothing is random here

        def distance(fields):
            batch = container.decode(state.variables._replace(**fields))
            return 0.5 * jnp.sum((batch.inputs - data.means[batch.labels]) ** 2)

        value, gradient = jax.value_and_grad(distance)(learned_fields(state.variables))
        variables, opt_state = descend(image_optimizer(data.rates), gradient, state.opt_state, state.variables)
        return MeansState(variables, opt_state), MeansInfo(value)

    return Condenser(init, step)
