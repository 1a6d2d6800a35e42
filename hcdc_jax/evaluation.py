"""Condensed images as the field judges them: new networks, trained on S_train by a fixed protocol and tested once.

A protocol is data, and it decides all of the training: regularisers and noise of the problem stay out of it. The score
is that of the last step; some of the published numbers behind these protocols are the best of several looks at the test
part, which flatters.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcdc_jax import metrics
from hcdc_jax.augment import Augmentation
from hcdc_jax.candidates import Scores, memory_budget, memory_chunk_size, scores_of
from hcdc_jax.condense.inner import cropped, distilled, even_batches, rand_augmented, taught
from hcdc_jax.config_values import Count, NonNegative, Positive, Probability, Range, Share, merge, parse_words
from hcdc_jax.errors import UserError
from hcdc_jax.models.image_layers import check
from hcdc_jax.problem import Problem, dealt, loss_and_accuracy
from hcdc_jax.rand_augment import RandAugment, levels
from hcdc_jax.sharding import Device, as_needed, in_order, local_devices, mesh_of, on_each_device, over_candidates
from hcdc_jax.train import Training, begin, optimizer_of, shown, take_step
from hcdc_jax.types import Array, Batch, HParams, Params

TEST_BATCH = 256
"""Test images at a time, as in the field's code: as much memory as a step of training takes, however many there are."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a network is trained on a condensed set before it is tested.

    Attributes:
      about: one line.
      epochs: passes over the set; sets that fit into one batch take as many steps.
      drops: after how many epochs the learning rate falls; not read where `zeta` says how it does.
      factor: by which it is multiplied then.
      forgets: whether the optimiser starts anew at each drop, without its momentum.
      augmentation: with parameters for each image, one operation per step; None for none.
      cutmix: probability of `perturbations.cut_mixed` per step.
      rand_augment: what is done to images before all of that; None for nothing.
      crop_area: least share of an image that is seen, at its full size, see `augment.draw_crop`; 1 for all of it.
      learning_rate: until the first drop.
      zeta: the learning rate follows `smooth_factors` from epoch to epoch; None for drops.
      early_late: whether it then falls to 0 over the last sixth of the epochs.
      average: decay of the moving average of the parameters, which is what is tested; 0 for the parameters themselves.
      learned_rate: whether a learning rate that was condensed together with the set takes the place of that.
      optimizer: a name in `train.OPTIMIZERS`; "momentum" is SGD with momentum 0.9, "adamw" has a decay of its own.
      weight_decay: added to each gradient per unit of its parameter, as PyTorch counts it; half of it is the factor of
        the squared norm in the loss.
      batch_size: images per step at most; batches of an epoch are equally large.
      networks: from how many initialisations.
      label_weight: of the labels' cross-entropy where a teacher is asked for the logits of every image of every step,
        and the difference from these is minimised besides; None where labels are all there is.
      temperature: that difference is the divergence of probabilities softened so, see `inner.distilled`; None for the
        mean squared difference of logits.
      logits: whether the teacher is asked in each step, "online", or has been asked before the first network for all
        that the steps will show, "stored"; networks then share their views of the images.
    """

    about: str
    epochs: Count
    drops: tuple[int, ...] = ()
    factor: Positive = 0.1
    forgets: bool = False
    augmentation: Augmentation | None = None
    cutmix: Probability = 0.0
    rand_augment: RandAugment | None = None
    crop_area: Share = 1.0
    zeta: Annotated[float, Range(low=1)] | None = None
    early_late: bool = False
    average: Annotated[float, Range(low=0, high=0.999_999)] = 0.0
    learning_rate: Positive = 0.01
    learned_rate: bool = False
    optimizer: Literal["adam", "adamw", "momentum", "sgd"] = "momentum"
    weight_decay: NonNegative = 5e-4
    batch_size: Count = 256
    networks: Count = 20
    label_weight: NonNegative | None = None
    temperature: Positive | None = None
    logits: Literal["online", "stored"] = "online"


VIEWS = ("epochs", "augmentation", "cutmix", "rand_augment", "crop_area", "batch_size")
"""What of a protocol decides, besides a key, which views of the images networks are shown."""


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


_EDC = Protocol(
    "EDC (arXiv 2404.13733): 1,000 epochs of AdamW in batches of 25, RandAugment, crops and CutMix",
    epochs=1000, zeta=2.0, average=0.99, crop_area=0.08, cutmix=1.0, augmentation=Augmentation(("flip",)),
    rand_augment=RandAugment(), learning_rate=0.001, optimizer="adamw", weight_decay=0.0, batch_size=25, networks=5,
)  # fmt: skip

# DC's code, from which DSA's and MTT's came, counts E from 0 to E inclusively, and lowers the rate at the end of epoch
# E / 2 + 1 by making a new optimiser.
PROTOCOLS: Mapping[str, Protocol] = {
    "dc": Protocol(
        "DC (arXiv 2006.05929): 301 epochs, no augmentation", epochs=301, drops=(152,), forgets=True
    ),
    "dsa": Protocol(
        "DSA and DM (arXiv 2102.08259, 2110.04181): 1,001 epochs under DSA's augmentation",
        epochs=1001, drops=(502,), forgets=True, augmentation=Augmentation(),
    ),
    "mtt": Protocol(
        "MTT (arXiv 2203.11932): as dsa, at the learning rate that was learned with the images",
        epochs=1001, drops=(502,), forgets=True, augmentation=Augmentation(), learned_rate=True, networks=5,
    ),
    "idc": Protocol(
        "IDC (arXiv 2205.14959): 1,000 epochs in batches of 64, DSA's augmentation without cutout, CutMix",
        epochs=1000, drops=(666, 833), factor=0.2, cutmix=0.5, batch_size=64, networks=5,
        augmentation=Augmentation(("color", "crop", "flip", "scale", "rotate")),
    ),
    "edc": _EDC,
    "edc_soft": dataclasses.replace(
        _EDC, about="as edc, on the logits that the observers give for what is seen in each step", label_weight=0.025
    ),
    "edc_stored": dataclasses.replace(
        _EDC, about="as edc_soft, on logits that the observers gave once, for views that all networks share",
        label_weight=0.025, logits="stored",
    ),
    "edc_early_late": dataclasses.replace(
        _EDC, about="as edc, with a rate that falls to 0 in the end: for 40 images a class and more", early_late=True
    ),
}  # fmt: skip
"""Protocols by name. Numbers that were made under different ones do not belong in one table."""


_OTHERWISE = ("about", "drops", "augmentation", "rand_augment")
SETTINGS = tuple(field.name for field in dataclasses.fields(Protocol) if field.name not in _OTHERWISE)
"""What of a protocol can be said in a word."""


def described_protocol(text: str) -> tuple[str, Protocol]:
    """A protocol in words, such as "dsa" or "edc_soft:epochs=300,zeta=1": a name, and settings that differ.

    Drops of the learning rate move with the epochs, see `with_epochs`.

    Returns:
      The words as all write them who mean the same, and the protocol.

    Raises:
      UserError: there is no such protocol or setting, or the setting wants another value.
    """
    name, _, rest = text.partition(":")
    check("protocol", name, PROTOCOLS)
    where, values = f"protocol {text!r}", {}
    for part in rest.split(",") if rest else ():
        setting, _, word = part.partition("=")
        if not setting or not word or setting in values:
            raise UserError(f"{where}: write each setting once, as in edc:epochs=300,zeta=1")
        check(f"setting of protocol {name}", setting, SETTINGS)
        values[setting] = parse_words(Protocol, setting, [word], where=where)
    return changed_protocol(name, values, where=where)


def changed_protocol(name: str, values: Mapping[str, Any], *, where: str) -> tuple[str, Protocol]:
    """A protocol of `PROTOCOLS` with settings given as values; returns and raises as `described_protocol`.

    Args:
      name: of the protocol.
      values: by names in `SETTINGS`.
      where: for error messages.
    """
    usual = PROTOCOLS[name]
    for setting in values:
        check(f"setting of protocol {name}", setting, SETTINGS)
    protocol = merge(usual, values, where=where)
    differing = [f"{key}={getattr(protocol, key)}" for key in SETTINGS if getattr(protocol, key) != getattr(usual, key)]
    words = f"{name}:{','.join(differing)}" if differing else name
    return words, dataclasses.replace(protocol, drops=with_epochs(usual, protocol.epochs).drops)


def with_epochs(protocol: Protocol, epochs: int) -> Protocol:
    """The protocol over another number of epochs, its drops at the same shares of them."""
    drops = tuple(round(drop * epochs / protocol.epochs) for drop in protocol.drops)
    return dataclasses.replace(protocol, epochs=epochs, drops=drops)


def settings_of(protocol: Protocol) -> dict[str, Any]:
    """The numbers of a protocol, as JSON gives them back."""
    names = [field.name for field in dataclasses.fields(protocol) if field.name not in ("about", "networks")]
    fields = {name: getattr(protocol, name) for name in names}
    for name in ("augmentation", "rand_augment"):  # as dictionaries, where JSON would make lists of them
        fields[name] = None if fields[name] is None else fields[name]._asdict()
    return json.loads(json.dumps(fields))


def smooth_factors(epochs: int, zeta: float, early_late: bool = False) -> np.ndarray:
    """[epochs] what the learning rate is multiplied by in each: (1 + cos(pi i / (zeta epochs))) / 2 in epoch i.

    EDC's smoothing schedule; zeta 1 is the usual cosine down to 0, 2 ends near one half. With `early_late` (SSRS) the
    last sixth is linear instead: the value at 5 / 6 times (epochs - i) / epochs, a sixth of it to begin with.
    """
    done = np.arange(epochs) / epochs
    factors = (1 + np.cos(np.pi * done / zeta)) / 2
    if early_late:
        factors = np.where(done >= 5 / 6, (1 + np.cos(np.pi * 5 / 6 / zeta)) / 2 * (1 - done), factors)
    return factors


def stages(protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the learning rate, and for how many epochs each lasts."""
    if protocol.zeta is not None:
        return smooth_factors(protocol.epochs, protocol.zeta, protocol.early_late), np.ones(protocol.epochs, int)
    return protocol.factor ** np.arange(len(protocol.drops) + 1), np.diff((0, *protocol.drops, protocol.epochs))


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
        `candidates.memory_budget`.
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
        network = distilled(network, asked, protocol.label_weight, protocol.weight_decay, protocol.temperature)
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
    training = Training(rate, protocol.optimizer, batch_size=batch_size)
    shared = replicate((hparams, said, views, train, slices, training, rates, steps))
    scores = _train_and_test(chunks, network, shared, forgets=protocol.forgets, average=protocol.average, mesh=mesh)
    return in_order(mesh, scores, networks)


def stored_logits(key: Array, protocol: Protocol, train: Batch, teacher: Teacher) -> StoredLogits:
    """What a teacher says of S_train as a protocol shows it, once for all networks that share the views.

    Views are made from keys, so that nothing else needs to be kept: FKD (arXiv 2112.01528) and EDC's code store crops,
    flips and mixtures beside the logits.

    Args:
      key: of the views.
      protocol: what is done to images, and for how many epochs, see `VIEWS`.
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
        problem, protocol.augmentation, protocol.cutmix, protocol.weight_decay, _num_classes(problem, hparams, train)
    )
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
