"""Condensed images as the field judges them: new networks, trained on S_train by a fixed protocol and tested once.

A protocol is data (`protocols`), and it decides all of the training: regularisers and noise of the problem stay out of
it. The score is that of the last step; some of the published numbers behind these protocols are the best of several
looks at the test part, which flatters.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcdc_jax import metrics
from hcdc_jax.batches.rand_augment import levels
from hcdc_jax.condense.epoch_training import cropped, distilled, even_batches, rand_augmented, taught
from hcdc_jax.errors import UserError
from hcdc_jax.evaluation.protocols import Protocol, stages
from hcdc_jax.problem import Problem, dealt, loss_and_accuracy
from hcdc_jax.training.memory import memory_budget, memory_chunk_size
from hcdc_jax.training.scores import Scores, scores_of
from hcdc_jax.training.sharding import (
    Device,
    as_needed,
    in_order,
    local_devices,
    mesh_of,
    on_each_device,
    over_candidates,
)
from hcdc_jax.training.train import Training, begin, optimizer_of, shown, take_step
from hcdc_jax.types import Array, Batch, HParams, Params

TEST_BATCH = 256
"""Test images at a time, as in the field's code: as much memory as a step of training takes, however many there are."""


class Teacher(NamedTuple):
    """Who is asked for logits.

    Attributes:
      problem: without hyperparameters.
      params: its parameters.
    """

    problem: Problem
    params: Params


class StoredLogits(NamedTuple):
    """What a teacher said of every image as a protocol shows it: see `stored_logits`.

    Attributes:
      key: of the views, which all networks that learn from it share: the order of images and what is done to them.
      logits: [epochs, n, num_classes] in the order in which images are shown, n of them in an epoch.
    """

    key: Array
    logits: Array


def evaluate_networks(
    key: Array,
    problem: Problem,
    protocol: Protocol,
    train: Batch,
    test: Batch,
    *,
    networks: int | None = None,
    learning_rate: float | Array | None = None,
    hparams: HParams = (),
    teacher: Teacher | StoredLogits | None = None,
    chunk_size: int | None = None,
    devices: Sequence[Device] | int | None = None,
) -> Scores:
    """Trains new networks on `train` by a protocol, each from its own initialisation, and tests them on `test`.

    All of them are trained in one compiled call. Network i depends on `key` and i alone, so that a smaller number of
    networks gives the first ones of a larger.

    Args:
      key: network i has `fold_in(key, i)`, for its initialisation, the order of its batches and their augmentation.
      problem: whose `init`, `apply` and `val_loss`, a mean without regularisers, are used.
      protocol: how they are trained.
      train: S_train; images [n, h, w, c] with class numbers [n] or class probabilities [n, num_classes].
      test: what they are tested on after the last step.
      networks: how many; by default as many as the protocol says.
      learning_rate: in place of the protocol's. It is traced, as are the numbers of steps.
      hparams: where the problem has hyperparameters.
      teacher: who is asked for logits, where the protocol asks; or what was said, and then order and augmentation
        come from its key: network i has its own initialisation alone.
      chunk_size: how many are trained side by side on each device; by default the most that fit into
        `memory.memory_budget`.
      devices: where, or on how many; all devices of this process by default.

    Returns:
      `Scores` with leading axis [networks] and test losses; a network that diverged has status False.

    Raises:
      UserError: more devices than there are, no teacher for a protocol that asks one, or stored logits of another
        number of images or epochs. Whether they are of these images and views is for the caller to know.
    """
    networks = networks or protocol.networks
    devices = as_needed(local_devices(devices), networks, (train, test))
    per_epoch, batch_size = even_batches(train.labels.shape[0], protocol.batch_size)
    network, hparams = _under(protocol, problem, hparams, train)
    views = said = None
    if protocol.label_weight is not None:
        if teacher is None:
            raise UserError("this protocol asks a teacher for logits: give one, or choose another protocol")
        if isinstance(teacher, StoredLogits):
            asked, views, said = None, teacher.key, _by_step(teacher.logits, protocol, per_epoch, batch_size)
        else:
            asked, hparams = teacher.problem, (hparams, teacher.params)
        network = distilled(
            network, asked, protocol.label_weight, protocol.weight_decay, protocol.temperature, decayed=protocol.decayed
        )
    slices = _sliced(test)
    if chunk_size is None:
        seen = jax.tree.map(lambda leaf: leaf[:batch_size], train)
        chunk_size = _chunk_size(network, _of_step(hparams, said, 0), seen, slices, devices[0].platform)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(networks))
    mesh = mesh_of(devices)
    chunks, replicate = over_candidates(keys, min(chunk_size, -(-networks // len(devices))), mesh)
    rate = protocol.learning_rate if learning_rate is None else learning_rate
    factors, epochs = stages(protocol)
    rates, steps = jnp.asarray(rate) * jnp.asarray(factors), per_epoch * jnp.asarray(epochs)
    training = Training(
        rate, protocol.optimizer, batch_size=batch_size, momentum=protocol.momentum, decayed=protocol.decayed
    )
    shared = replicate((hparams, said, views, train, slices, training, rates, steps))
    scores = _train_and_test(chunks, network, shared, forgets=protocol.forgets, average=protocol.average, mesh=mesh)
    return in_order(mesh, scores, networks)


def stored_logits(key: Array, protocol: Protocol, train: Batch, teacher: Teacher) -> StoredLogits:
    """What a teacher says of S_train as a protocol shows it, once for all networks that share the views.

    Views are made from keys, so that nothing else needs to be kept: FKD (arXiv 2112.01528) and EDC's code store crops,
    flips and mixtures beside the logits.

    Args:
      key: of the views.
      protocol: what is done to images, and for how many epochs, see `protocols.VIEWS`.
      train: S_train; images [n, h, w, c].
      teacher: who is asked.
    """
    per_epoch, batch_size = even_batches(train.labels.shape[0], protocol.batch_size)
    network, hparams = _under(protocol, teacher.problem, (), train)
    steps = jnp.arange(protocol.epochs * per_epoch)
    said = _said(key, network, hparams, teacher.params, train, Training(batch_size=batch_size), steps)
    return StoredLogits(key, said.reshape(protocol.epochs, per_epoch * batch_size, -1))


@functools.partial(jax.jit, static_argnames="network")
def _said(key, network, hparams, params, train, training, steps):
    def of_step(step):
        return network.apply(params, hparams, shown(key, step, network, hparams, train, training).inputs)

    return jax.lax.map(of_step, steps)


def summary(scores: Scores) -> dict[str, Any]:
    """Mean, sample standard deviation and values of the test accuracies, and how many networks `failed`.

    Networks that diverged are NaN in `values` and left out of mean and deviation, which are NaN where none is left.
    """
    status, shares = np.asarray(scores.status), np.asarray(scores.accuracy, np.float64)
    values = np.where(status, shares, np.nan)
    return metrics.summarise(shares[status]) | {"values": values.tolist(), "failed": int((~status).sum())}


def _under(protocol: Protocol, problem: Problem, hparams: HParams, train: Batch) -> tuple[Problem, HParams]:
    """A network under the loss that a protocol gives it on labels, and under what that does to images."""
    network = taught(
        problem, protocol.augmentation, protocol.cutmix, protocol.weight_decay, _num_classes(problem, hparams, train),
        decayed=protocol.decayed, labels=protocol.labels,
    )  # fmt: skip
    network = cropped(network, protocol.crop_area)
    if protocol.rand_augment is None:
        return network, hparams
    return rand_augmented(network, protocol.rand_augment), (hparams, levels(train.inputs))


def _by_step(logits: Array, protocol: Protocol, per_epoch: int, batch_size: int) -> Array:
    """Logits [steps, batch_size, num_classes] from those of epochs."""
    wanted = (protocol.epochs, per_epoch * batch_size)
    if logits.shape[:2] != wanted:
        raise UserError(
            f"logits are stored of {logits.shape[0]} epochs of {logits.shape[1]} images, this protocol shows "
            f"{wanted[1]} images in each of {wanted[0]} epochs: make them with this protocol and this S_train"
        )
    return logits.reshape(-1, batch_size, logits.shape[-1])


def _of_step(hparams: HParams, said: Array | None, step: Array | int) -> HParams:
    """Hyperparameters, with the logits of a step beside them where they are stored."""
    return hparams if said is None else (hparams, said[step])


@functools.partial(jax.jit, static_argnames=("problem", "forgets", "average", "mesh"))
def _train_and_test(chunks, problem, shared, *, forgets, average, mesh):
    def one(shared, key):
        hparams, said, views, train, slices, training, rates, steps = shared

        def stage(carried, rate_and_steps):
            (trainee, tested), (rate, steps) = carried, rate_and_steps
            part = dataclasses.replace(training, learning_rate=rate)
            if forgets:
                trainee = trainee._replace(opt_state=optimizer_of(part).init(trainee.params))

            def step(_, carried):
                trainee, tested = carried
                trainee = take_step(problem, _of_step(hparams, said, trainee.step), trainee, train, part)[0]
                moved = optax.incremental_update(trainee.params, tested, 1 - average) if average else trainee.params
                return trainee, moved

            return jax.lax.fori_loop(0, steps, step, (trainee, tested)), None

        trainee = begin(key, problem, _of_step(hparams, said, 0), training)
        if views is not None:
            trainee = trainee._replace(key=views)
        (_, tested), _ = jax.lax.scan(stage, (trainee, trainee.params), (rates, steps))
        return _tested(problem, tested, _of_step(hparams, said, 0), slices)

    def of_chunk(shared, keys):
        return jax.vmap(functools.partial(one, shared))(keys)

    return on_each_device(mesh, of_chunk, shared, chunks)


def _tested(problem: Problem, params: Params, hparams: HParams, slices: Batch) -> Scores:
    """The scores of one network on a test part in slices."""
    losses, shares = jax.lax.map(functools.partial(loss_and_accuracy, problem, params, hparams), slices)
    weights = slices.weights.sum(axis=1)
    return scores_of(params, *(jnp.vdot(values, weights) / weights.sum() for values in (losses, shares)))


def _sliced(batch: Batch) -> Batch:
    """The batch as [slices, k, ...], see `dealt`; what fills up the last slice has weight 0."""
    count = batch.labels.shape[0]
    places = dealt(count, TEST_BATCH)
    slices: Batch = jax.tree.map(lambda leaf: leaf[places], batch)
    filled = np.arange(places.size).reshape(places.shape) >= count
    return slices._replace(weights=jnp.where(filled, 0, slices.weights))


def _num_classes(problem: Problem, hparams: HParams, batch: Batch) -> int:
    def logits(inputs):
        return problem.apply(problem.init(jax.random.key(0), hparams), hparams, inputs)

    return jax.eval_shape(logits, batch.inputs[:1]).shape[-1]


def _chunk_size(problem: Problem, hparams: HParams, seen: Batch, slices: Batch, platform: str) -> int:
    """Networks side by side on one device: as for candidates, as many as fit into its budget of memory.

    On a CPU that is one at a time for all but tiny networks, and rightly so: side by side, four ConvNets of width 32 on
    16 x 16 pixels take two and a half times as long as one after the other.
    """
    # A test slice must fit, too; on a CPU the budget is about the cache, which a look at it cannot spoil for training.
    scored = () if platform == "cpu" else (jax.tree.map(lambda leaf: leaf[0], slices),)
    return memory_chunk_size(problem, hparams, seen, scored, budget=memory_budget(platform))
