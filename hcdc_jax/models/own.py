"""Networks of your own as a `Problem`: what they are made of, and where hyperparameters enter, said by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from hcdc_jax.errors import UserError, check_name
from hcdc_jax.models.learning_rate import with_learning_rate
from hcdc_jax.models.own_networks import Network, called_by_name, network_of
from hcdc_jax.models.perturbations import smoothed
from hcdc_jax.problem import LossOfLogits, Problem, ValLoss, mean_loss, share_right
from hcdc_jax.training.losses import binary_loss, no_accuracy, share_of_classes, share_of_labels, squared_loss
from hcdc_jax.types import Array, HParams, PyTree


class Readable(Protocol):
    """What is read of a `spaces.Space`, which lies above the models."""

    @property
    def name(self) -> str: ...

    @property
    def hparam_names(self) -> tuple[str, ...]: ...

    @property
    def from_unit(self) -> Any: ...

    @property
    def read(self) -> Any: ...

    @property
    def named(self) -> Any: ...

    @property
    def discrete(self) -> tuple[int, ...]: ...

    @property
    def active(self) -> Any: ...


class Keyed(NamedTuple):
    """Inputs of a step of training, with the key of its noise; `Problem.apply` takes them as it takes inputs."""

    inputs: PyTree
    key: Array


LOSSES: dict[str, tuple[ValLoss, ValLoss]] = {
    "cross_entropy": (mean_loss, share_right),
    "squared": (squared_loss, no_accuracy),
    "binary": (binary_loss, share_of_labels),
}
"""Losses by name, each with its accuracy."""


def make_problem(
    network: Any,
    apply: Callable[..., Array] | None = None,
    *,
    space: Readable,
    example: PyTree = None,
    loss: str | ValLoss = "cross_entropy",
    weight_decay: str | float | None = None,
    label_smoothing: str | float | None = None,
    learning_rate_factor: str | None = None,
    regulariser: Callable[..., Array] | None = None,
    perturb: Callable[..., PyTree] | None = None,
) -> Problem:
    """A `Problem` out of any network.

        space = hc.spaces.box("mine", {"decay": (1e-5, 1e-1, "log"), "gain": (0.2, 2.0)})

        def init(key):
            return {"w": 0.1 * jax.random.normal(key, (64, 10))}

        def apply(params, inputs, h):
            return h["gain"] * inputs @ params["w"]

        problem = hc.make_problem(init, apply, space=space, weight_decay="decay")

    In place of `init` and `apply` a module does: of Flax linen with an example of its inputs,
    `hc.make_problem(Net(), example=X[:1], ...)`, or `lambda h: Net(gain=h["gain"])`; of Flax NNX or Equinox a function
    that builds it from a parameter called `rngs` or `key`, `lambda rngs: Net(rngs=rngs)`, `lambda key: Net(key=key)`.
    A module of Equinox takes one example, as it does there; all others take a batch.

    **By name.** Whatever has a parameter called `h` is given the hyperparameters as `space.read` gives them, a dict by
    name for a `box`: `init`, `apply`, `regulariser`, `perturb` and the `__call__` of a module.

    **Noise.** An `apply` or `__call__` with a parameter `key` is given a new key in each step of training, and None in
    evaluation; modules are also told by `train`, `training` or `deterministic`, and their dropout draws from that key.
    Implicit differentiation looks at the loss without noise: what acts through noise alone, such as a dropout rate, has
    an implicit hypergradient of 0 there and must be unrolled (`hcdc.sensitivity = "unroll"`);
    `models.acts_through` tells which. Nor does a mask of dropout have a slope in its rate; `models.gaussian_dropout`
    has one.

    Build a problem once and keep it: what is compiled for it is found again by its functions.

    Args:
      network: `init(key) -> params`, or a module or function as above.
      apply: `apply(params, inputs) -> outputs [n, k]`; None for a module.
      space: whose candidates are the hyperparameters.
      example: inputs of one or more examples; for linen alone, which learns the shapes of parameters from it.
      loss: "cross_entropy" of labels [n] (class numbers) or [n, num_classes] (probabilities); "squared", see
        `losses.squared_loss`, of numbers [n] or [n, k], whose accuracy is NaN; "binary", see `losses.binary_loss`, of k
        yes-or-no labels [n, k], whose accuracy is the share of labels that are right; or
        `loss(outputs, batch) -> scalar`, a mean over the examples by `batch.weights`.
      weight_decay: factor of the squared norm of all parameters in the training loss, biases too, since a free output
        bias leaves its Hessian singular; the name of a hyperparameter, or a number.
      label_smoothing: share of each label that is spread over all classes in training; likewise.
      learning_rate_factor: the name of a hyperparameter that multiplies the learning rate of Adam in `Training`. It has
        no implicit hypergradient and is told by `Problem.unrolled_only`.
      regulariser: `regulariser(params) -> scalar`, anything else that training minimises.
      perturb: `perturb(key, batch) -> batch`, what a step of training sees of its batch: augmentation, noise.

    Raises:
      UserError: a name that the space or the losses do not have; a function that cannot be called as above; a module
        that keeps state, such as running averages of a batch norm.
    """
    h = jax.eval_shape(space.read, jax.ShapeDtypeStruct((len(space.hparam_names),), jnp.result_type(float)))
    made = network_of(network, apply, example, h)
    fit, accuracy = _loss_of(loss)
    minimised = _Minimised(
        fit,
        _entering("weight_decay", weight_decay, space, h),
        _entering("label_smoothing", label_smoothing, space, h),
        regulariser and called_by_name("regulariser", regulariser, "params", offered=("h",)),
    )
    if label_smoothing is not None and loss != "cross_entropy":
        raise UserError("label_smoothing spreads a label over classes: it goes with loss='cross_entropy' alone")
    problem = _problem(made, space, minimised, accuracy, _seen(space, perturb, made.noisy))
    return _at_rate(problem, space, _entering("learning_rate_factor", learning_rate_factor, space, h))


class _Minimised(NamedTuple):
    """What training minimises; None leaves a part out.

    Attributes:
      fit: `fit(outputs, batch) -> scalar`.
      decay: `decay(h) -> factor` of the squared norm of all parameters.
      smoothing: `smoothing(h) -> share` of each label that is spread over all classes.
      penalty: `penalty(params, h=h) -> scalar`.
    """

    fit: ValLoss
    decay: Callable[[Any], Array] | None
    smoothing: Callable[[Any], Array] | None
    penalty: Callable[..., Array] | None


def _problem(
    network: Network,
    space: Readable,
    minimised: _Minimised,
    accuracy: ValLoss,
    seen: Callable[[Array, HParams, PyTree], PyTree] | None,
) -> Problem:
    fit, decay, smoothing, penalty = minimised

    def init(key, hparams):
        return network.init(key, space.read(hparams))

    def apply(params, hparams, inputs):
        inputs, key = inputs if isinstance(inputs, Keyed) else (inputs, None)
        return network.apply(params, inputs, space.read(hparams), key)

    def train_loss(params, hparams, batch):
        outputs, h = apply(params, hparams, batch.inputs), space.read(hparams)
        if isinstance(batch.inputs, Keyed):
            batch = batch._replace(inputs=batch.inputs.inputs)
        if smoothing is not None:
            batch = batch._replace(labels=smoothed(batch.labels, outputs.shape[-1], smoothing(h)))
        loss = fit(outputs, batch)
        if decay is not None:
            loss = loss + decay(h) * optax.tree.norm(params, squared=True)
        return loss if penalty is None else loss + penalty(params, h=h)

    return Problem(init, apply, train_loss, LossOfLogits(apply, fit, accuracy), seen)


def _loss_of(loss: str | ValLoss) -> tuple[ValLoss, ValLoss]:
    """The loss, and its accuracy."""
    if isinstance(loss, str):
        check_name("loss", loss, LOSSES)
        return LOSSES[loss]
    called_by_name("loss", loss, "outputs", "batch", offered=())
    return loss, share_of_classes


def _seen(space: Readable, perturb: Callable[..., PyTree] | None, noisy: bool) -> Callable[..., PyTree] | None:
    """What a step of training sees of its batch; None: the batch itself."""
    change = perturb and called_by_name("perturb", perturb, "key", "batch", offered=("h",))
    if change is None and not noisy:
        return None

    def seen(key: Array, hparams: HParams, batch: PyTree) -> PyTree:
        change_key, noise_key = jax.random.split(key)
        if change is not None:
            batch = change(change_key, batch, h=space.read(hparams))
        return batch._replace(inputs=Keyed(batch.inputs, noise_key)) if noisy else batch

    return seen


def _entering(argument: str, given: str | float | None, space: Readable, h: PyTree) -> Callable[[Any], Array] | None:
    """`value(h)` of what enters as an argument of `make_problem`; None where nothing does.

    Args:
      argument: its name.
      given: a number, or the name of a hyperparameter.
      space: see `make_problem`.
      h: shapes of what it reads.
    """
    if given is None:
        return None
    if not isinstance(given, str):
        if not (math.isfinite(given) and given >= 0):
            raise UserError(f"{argument} must be the name of a hyperparameter or a number from 0, got {given}")
        return lambda h: jnp.asarray(given, float)
    name, places = given, list(space.hparam_names)
    if isinstance(h, dict):
        known, value_of = list(h), lambda h: h[name]
    elif hasattr(h, "_fields"):
        known = [field for field in h._fields if getattr(h, field) is not None]
        value_of = lambda h: getattr(h, name)  # noqa: E731
    else:
        known, value_of = places, lambda h: h[places.index(name)]
    check_name("hyperparameter", name, known, where=f"of the space {space.name!r} in {argument}")
    shape = jax.eval_shape(value_of, h).shape
    if shape != ():
        raise UserError(f"{argument} must be one number; {name!r} of the space {space.name!r} has the shape {shape}")
    return value_of


def _at_rate(problem: Problem, space: Readable, factor: Callable[[Any], Array] | None) -> Problem:
    """The problem whose rate is multiplied by `factor(h)`, and which tells what of the vector does that."""
    if factor is None:
        return problem

    def of_hparams(hparams):
        return factor(space.read(hparams))

    # At many points: where it depends on a choice it does not act at all of them.
    units = jax.random.uniform(jax.random.key(0), (64, len(space.hparam_names)))
    slopes = jax.jit(jax.vmap(jax.grad(of_hparams)))(space.from_unit(units))
    acts = (slopes != 0).any(0)
    names = tuple(name for name, here in zip(space.hparam_names, acts, strict=True) if here)
    return with_learning_rate(problem, of_hparams)._replace(unrolled_only=names)
