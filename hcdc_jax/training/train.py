"""Inner training: one network from initialisation to the last step, as one `lax.scan`, or a part of the way."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcdc_jax import arguments
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.problem import Problem
from hcdc_jax.types import Array, Batch, HParams, Params, PyTree

OPTIMIZERS = {
    "adam": optax.adam,
    "adamw": functools.partial(optax.adamw, weight_decay=0.01),  # PyTorch's default
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
}

Decayed: TypeAlias = Literal["all", "kernels"]
"""Which parameters a weight decay is for: all of them, or `kernels` alone."""


def kernels(params: Params) -> PyTree:
    """True for the kernels of convolutions and linear layers, False for all else: biases, norms, tokens, positions.

    Raises:
      UserError: there are none, so that nothing would decay.
    """

    def is_kernel(path: tuple[Any, ...], leaf: Array) -> bool:
        del leaf
        return bool(path) and getattr(path[-1], "key", None) == "kernel"

    found = jax.tree_util.tree_map_with_path(is_kernel, params)
    if not any(jax.tree.leaves(found)):
        raise UserError("no parameter is called 'kernel', so that nothing would decay; let decayed be 'all'")
    return found


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["learning_rate", "horizon"],
    meta_fields=[
        "optimizer",
        "steps",
        "remat",
        "batch_size",
        "schedule",
        "order",
        "adjoint_batch_size",
        "momentum",
        "decayed",
    ],
)
@dataclasses.dataclass(frozen=True)
class Training:
    """How a candidate is trained. Rates are traced: changing one compiles nothing.

    Attributes:
      learning_rate: step size of the optimiser.
      optimizer: a name in `OPTIMIZERS`.
      steps: number of steps.
      remat: recompute each step in the backward pass of `unroll`ed differentiation, which then stores the training
        state of every step but none of its activations.
      batch_size: examples per step, each epoch in a new order, without the rest that fills no batch; None, or as many
        as there are examples or more, for full-batch steps. Inputs must then have a leading axis of examples.
      schedule: "constant", or "cosine" from the learning rate down to 0 at the horizon.
      order: of the examples in mini-batches: "shuffled", or "stored", one batch after the other as they lie, the last
        one of an epoch filled up with the first examples.
      adjoint_batch_size: examples per step that reverse mode looks at, see `thrifty_gradient`; None for those of the
        step itself. Such a training has no forward mode.
      horizon: the step at which a schedule has come to its end, and stays there; None for the last one.
      momentum: of the optimiser "momentum".
      decayed: which parameters the decay of the optimiser "adamw" is for.

    Raises:
      UserError: another optimiser, schedule or order.
    """

    learning_rate: float | Array = 0.01
    optimizer: str = "adam"
    steps: int = 200
    remat: bool = False
    batch_size: int | None = None
    schedule: str = "constant"
    order: str = "shuffled"
    adjoint_batch_size: int | None = None
    horizon: int | Array | None = None
    momentum: float = 0.9
    decayed: Decayed = "all"

    def __post_init__(self):
        # Whoever reads a schedule or an order asks for one name, and takes any other for the other one.
        check_name("optimiser", self.optimizer, OPTIMIZERS)
        check_name("schedule", self.schedule, ("constant", "cosine"))
        check_name("order of examples", self.order, ("shuffled", "stored"))


def optimizer_of(training: Training) -> optax.GradientTransformation:
    """The optimiser of the inner training; built inside traced code, since its rate is traced."""
    own: dict[str, dict[str, Any]] = {"momentum": {"momentum": training.momentum}}
    if training.decayed == "kernels":
        own["adamw"] = {"mask": kernels}
    make = functools.partial(OPTIMIZERS[training.optimizer], **own.get(training.optimizer, {}))
    rate = training.learning_rate
    if training.schedule == "cosine":
        horizon = training.steps if training.horizon is None else training.horizon

        def annealed(step: Array) -> Array:  # optax's own schedule must know the horizon before it is compiled
            return rate * (0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(step, horizon) / horizon)))

        return make(annealed)
    return make(rate)


class Trainee(NamedTuple):
    """A network in training.

    Attributes:
      params: as far as it has come.
      opt_state: of its optimiser.
      key: of its steps.
      step: number of steps done.
    """

    params: Params
    opt_state: PyTree
    key: Array
    step: Array


def begin(key: Array, problem: Problem, hparams: HParams, training: Training) -> Trainee:
    """A fresh network before its first step."""
    params = problem.init(key, hparams)
    return Trainee(params, optimizer_of(training).init(params), key, jnp.zeros((), jnp.int32))


def shown(
    key: Array,
    step: Array,
    problem: Problem,
    hparams: HParams,
    batch: Batch,
    training: Training,
    orders: Array | None = None,
) -> Batch:
    """What step `step` of a training with this key sees: its mini-batch, perturbed; `orders` are from `orders_of`."""
    order_key, step_key = jax.random.split(key)
    seen = _mini_batch(order_key, step, batch, training.batch_size, training.order, orders)
    if problem.perturb is None:
        return seen
    return problem.perturb(jax.random.fold_in(step_key, step), hparams, seen)


def take_step(
    problem: Problem,
    hparams: HParams,
    trainee: Trainee,
    batch: Batch,
    training: Training,
    orders: Array | None = None,
) -> tuple[Trainee, Array]:
    """One step of training, and the loss before it; step t draws the same batch whenever it is taken.

    Args:
      problem: what is trained.
      hparams: the candidate.
      trainee: where to go on.
      batch: the training examples.
      training: optimiser and rate.
      orders: from `orders_of` for the key of the trainee, to spare every step the order of its epoch.
    """
    gradient_of = step_gradient if training.adjoint_batch_size is None else thrifty_gradient
    loss, gradient = gradient_of(problem, trainee.params, hparams, trainee.key, trainee.step, batch, training, orders)
    updates, opt_state = optimizer_of(training).update(gradient, trainee.opt_state, trainee.params)
    params: Params = optax.apply_updates(trainee.params, updates)
    return Trainee(params, opt_state, trainee.key, trainee.step + 1), loss


def step_gradient(
    problem: Problem,
    params: Params,
    hparams: HParams,
    key: Array,
    step: Array,
    batch: Batch,
    training: Training,
    orders: Array | None = None,
) -> tuple[Array, Params]:
    """Loss and gradient that a step of training follows; arguments as in `shown`."""
    seen = shown(key, step, problem, hparams, batch, training, orders)
    train_loss = arguments.scalar("problem.train_loss", problem.train_loss)
    return jax.value_and_grad(train_loss)(params, hparams, seen)


thrifty_gradient = jax.custom_vjp(step_gradient, nondiff_argnums=(0,))
"""`step_gradient` whose own derivative is that on `training.adjoint_batch_size` examples per step.

Reverse mode through training multiplies a vector by the Hessian of each step's loss and by its mixed derivatives. Those
of a smaller random batch, with noise of its own, have the same expectation and cost as many times less; what is trained
stays as it is. Nothing of a step is stored but its parameters, and nothing flows into the batch, whose gradient is 0.
Batches that are too small make the products unstable: of 200 examples 50 left the hypergradients of an MLP where they
were, 25 did not always."""


def _thrifty_forward(problem, *kept):
    return step_gradient(problem, *kept), kept


def _thrifty_backward(problem, kept, cotangents):
    params, hparams, key, step, batch, training, orders = kept
    smaller = dataclasses.replace(training, batch_size=training.adjoint_batch_size)

    def on_fewer(params, hparams):
        return step_gradient(problem, params, hparams, key, step, batch, smaller, orders)

    return *jax.vjp(on_fewer, params, hparams)[1](cotangents), None, None, None, None, None


thrifty_gradient.defvjp(_thrifty_forward, _thrifty_backward)


def orders_of(key: Array, batch: Batch, training: Training) -> Array | None:
    """The orders [epochs, n] of the examples in a whole training with this key; None where it draws none.

    A permutation sorts all examples: on a CPU it takes as long as a step of a small network.
    """
    size = training.batch_size
    if size is None or size >= (count := batch.labels.shape[0]) or training.order == "stored":
        return None
    order_key, _ = jax.random.split(key)
    epochs = max(-(-training.steps // (count // size)), 1)  # of smaller batches in the reverse pass it takes fewer
    return jax.lax.map(lambda epoch: _order(order_key, epoch, count), jnp.arange(epochs))


def shapes_of_step(batch: Batch, training: Training) -> Batch:
    """Shapes of what one step of this training looks at: what it must hold beside the data."""
    size = training.batch_size
    if size is None or size >= batch.labels.shape[0]:
        return batch
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), batch)


def _mini_batch(key: Array, step: Array, batch: Batch, size: int | None, order: str, orders: Array | None) -> Batch:
    if size is None or size >= (count := batch.labels.shape[0]):
        return batch
    if order == "stored":
        place = step % -(-count // size)
        index = (place * size + jnp.arange(size)) % count
        return jax.tree.map(lambda leaf: leaf[index], batch)
    epoch, place = step // (count // size), step % (count // size)
    of_epoch = _order(key, epoch, count) if orders is None else orders[epoch]
    index = jax.lax.dynamic_slice_in_dim(of_epoch, place * size, size)
    return jax.tree.map(lambda leaf: leaf[index], batch)


def _order(key: Array, epoch: Array | int, count: int) -> Array:
    return jax.random.permutation(jax.random.fold_in(key, epoch), count)


def mini_batches(key: Array, count: int, training: Training) -> Iterator[np.ndarray]:
    """Places of the examples that `train` looks at, step by step, for data that it cannot hold.

    Args:
      key: of `train`.
      count: of the examples.
      training: its length and batch size; its order is "shuffled".
    """
    order_key, _ = jax.random.split(key)
    size = min(training.batch_size or count, count)
    per_epoch, order = count // size, np.arange(count)
    for step in range(training.steps):
        epoch, place = divmod(step, per_epoch)
        if size < count and place == 0:
            order = np.asarray(_order(order_key, epoch, count))
        yield order[place * size : (place + 1) * size]


def train_on(key: Array, problem: Problem, hparams: HParams, batches: Iterable[Batch], training: Training) -> Params:
    """As `train`, on mini-batches that are read while it goes on; of those at `mini_batches` it makes the same network.

    Args:
      key: see `train`.
      problem: see `train`.
      hparams: see `train`.
      batches: of all steps.
      training: see `train`.

    Returns:
      The parameters after the last batch.
    """
    trainee = begin(key, problem, hparams, training)
    for batch in batches:
        trainee = _step_on(problem, hparams, trainee, batch, dataclasses.replace(training, batch_size=None))
    return trainee.params


@functools.partial(jax.jit, static_argnames="problem")
def _step_on(problem: Problem, hparams: HParams, trainee: Trainee, batch: Batch, training: Training) -> Trainee:
    return take_step(problem, hparams, trainee, batch, training)[0]


def advance(
    problem: Problem,
    hparams: HParams,
    trainee: Trainee,
    batch: Batch,
    training: Training,
    steps: int | Array,
    orders: Array | None = None,
) -> Trainee:
    """Takes `steps` more steps; pure. From `begin`, n steps and then m are the n + m steps of `train`.

    Args:
      problem: what is trained.
      hparams: the candidate; it may have moved since the last call.
      trainee: where to go on.
      batch: the training examples.
      training: optimiser and rate; its length is read by a schedule only.
      steps: may be traced, so that calls of different lengths share one program; such a loop has no reverse mode.
      orders: from `orders_of` for the key of the trainee. Under `vmap` over trainees each step without them sorts all
        examples for each trainee.
    """
    return jax.lax.fori_loop(
        0, steps, lambda _, trainee: take_step(problem, hparams, trainee, batch, training, orders)[0], trainee
    )


class TrainInfo(NamedTuple):
    """What training leaves besides the parameters.

    Attributes:
      losses: [steps] training loss before each step.
    """

    losses: Array


def train(
    key: Array, problem: Problem, hparams: HParams, batch: Batch, training: Training | None = None
) -> tuple[Params, TrainInfo]:
    """Trains one candidate from a fresh initialisation; pure, so `vmap` over `hparams` or `key` is a sweep.

    Args:
      key: for the initialisation, the order of mini-batches, and what perturbs them.
      problem: what is trained.
      hparams: one candidate.
      batch: the training examples.
      training: optimiser and length.

    Returns:
      The parameters after the last step, and `TrainInfo`.

    Raises:
      UserError: arguments of other types, such as a number for the key; a training loss that is not one float.
    """
    training = check_setting(key, problem, training)
    orders = orders_of(key, batch, training)

    def step(trainee, _):
        return take_step(problem, hparams, trainee, batch, training, orders)

    if training.remat:
        step = jax.checkpoint(step, prevent_cse=False)
    trainee, losses = jax.lax.scan(step, begin(key, problem, hparams, training), length=training.steps)
    return trainee.params, TrainInfo(losses)


def check_setting(key: Array, problem: Problem, training: Training | None) -> Training:
    """The training, the default one for None.

    Raises:
      UserError: one of the three is something else.
    """
    training = Training() if training is None else training
    arguments.check_key("key", key)
    arguments.check_type("problem", problem, Problem, "hc.Problem(init, apply, train_loss, val_loss)")
    arguments.check_type("training", training, Training, "hc.Training(0.01, steps=200)")
    return training


def all_finite(tree) -> Array:
    """True where every number of the tree is finite: the test that separates trained networks from diverged ones."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
