"""Observers: networks trained on the real data, through which statistics of images are compared (EDC, G-VBSM).

One .npz per observer, written whole or not at all, so that a killed run goes on with the next one; `observers.json`
says of each what made it, with the SHA-256 of its file. Training for a few epochs only is not thrift: EDC finds weak
observers better (arXiv 2404.13733, Table 19).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcdc_jax.batches.images import read_batches
from hcdc_jax.condense.epoch_training import EpochTraining, augmented, even_batches, trained_by
from hcdc_jax.condense.population import with_population
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.models import described_net, image_net_options, image_problem
from hcdc_jax.models.layer_inputs import LayerInputs, layer_inputs, norm_inputs
from hcdc_jax.problem import Problem, mean_loss
from hcdc_jax.storage.codec import to_arrays, to_tree
from hcdc_jax.storage.files import sha256, write_json, write_npz
from hcdc_jax.training.train import Training, mini_batches, train, train_on
from hcdc_jax.types import Array, Batch, Params

MANIFEST = "observers.json"


class Observer(NamedTuple):
    """A network that is to be trained.

    Batch norm is how an observer is trained, not how it observes: there its statistics are those of all real images,
    and what it says of an image does not depend on others, see `population`. Parameters are those of `problem`.

    Attributes:
      text: how it was asked for, such as "convnet:width=32".
      problem: without hyperparameters; how it observes, a function of each image.
      look: what its layers read.
      trained: how it is trained; `problem` itself where there is no batch norm.
      norms: what its batch norms read once they are fixed, see `layer_inputs.norm_inputs`; None where there are none.
    """

    text: str
    problem: Problem
    look: Callable[[Params, Array], LayerInputs]
    trained: Problem
    norms: Callable[[Params, Array], dict[tuple[str, ...], Array]] | None = None


def observer(text: str, image_shape: tuple[int, int, int], num_classes: int) -> Observer:
    """The observer that a word asks for.

    Args:
      text: name of an image network and, after a colon, its options: "resnet18", "convnet:width=32,depth=2".
      image_shape: (height, width, channels).
      num_classes: number of classes.

    Raises:
      UserError: no such network or option, a value of another type, images too small for it, or no convolution.
    """
    try:
        name, options = described_net(text)
        trained = image_problem(name, image_shape, num_classes, weight_decay=0.0, **options)
        by_batches = {**image_net_options(name), **options}.get("norm") == "batch"
        fixed = {**options, "norm": "affine"} if by_batches else options
        problem = image_problem(name, image_shape, num_classes, weight_decay=0.0, **fixed)
        look = layer_inputs(name, num_classes, **fixed)
        jax.eval_shape(lambda: look(problem.init(jax.random.key(0), ()), jnp.zeros((1, *image_shape))))
    except UserError as error:
        raise UserError(f"observer {text!r}: {error}") from error
    return Observer(text, problem, look, trained, norm_inputs(name, num_classes, **fixed) if by_batches else None)


@functools.partial(jax.jit, static_argnames="observer")
def train_observer(key: Array, observer: Observer, batch: Batch, training: EpochTraining) -> Params:
    """Parameters after the last epoch on the real images, by gradient descent with momentum 0.9 as in EDC's code.

    Batch norms are then fixed to the statistics of these images, all of them and as they are.
    """
    steps = _training(batch.labels.shape[0], training)
    params = train(key, augmented(observer.trained, training.augmentation), (), batch, steps)[0]
    return params if observer.norms is None else with_population(observer.norms, params, batch.inputs)


def train_observer_streamed(key: Array, observer: Observer, batch: Batch, training: EpochTraining) -> Params:
    """As `train_observer`, on a `streamed_batch`: images are decoded while the steps before theirs are taken.

    The observer must have no batch norm, whose statistics take a pass over all images for each norm.
    """
    assert observer.norms is None
    count = batch.labels.shape[0]
    steps = _training(count, training)
    crops = int(jax.random.bits(key)) if batch.inputs.crops else None
    batches = read_batches(batch, mini_batches(key, count, steps), crops=crops)
    return train_on(key, augmented(observer.problem, training.augmentation), (), batches, steps)


def _training(count: int, training: EpochTraining) -> Training:
    per_epoch, size = even_batches(count, training.batch_size)
    return Training(training.learning_rate, "momentum", training.epochs * per_epoch, batch_size=size)


@functools.cache
def ensemble(problems: tuple[Problem, ...]) -> Problem:
    """Networks that speak together: parameters are tuples, logits the mean of theirs; what labels are to come from."""

    def init(key, hparams):
        keys = jax.random.split(key, len(problems))
        return tuple(problem.init(k, hparams) for problem, k in zip(problems, keys, strict=True))

    def apply(params, hparams, inputs):
        said = [problem.apply(p, hparams, inputs) for problem, p in zip(problems, params, strict=True)]
        return jnp.stack(said).mean(0)

    def loss(params, hparams, batch):
        return mean_loss(apply(params, hparams, batch.inputs), batch)

    return Problem(init, apply, loss, loss)


def identity_of(key: Array, observer: Observer, data: str, training: EpochTraining) -> dict[str, Any]:
    """All that decides the parameters of an observer; `data` is the `checksum` of the real images."""
    stored = {} if observer.norms is None else {"norm": "batch, fixed to the statistics of all real images"}
    return trained_by(key, {"observer": observer.text}, data, training, **stored)


def save_observer(folder: Path, number: int, params: Params, made_by: dict[str, Any], **told: Any) -> None:
    """Keeps an observer: first its file, then what made it; `told` is kept beside that, seconds for example.

    Raises:
      UserError: the disk is full or cannot be written.
    """
    path = _path(folder, number)
    write_npz(path, to_arrays(params))
    entries = _read_manifest(folder)
    entries[str(number)] = {"made_by": made_by, "sha256": sha256(path), **told}
    write_json(folder / MANIFEST, entries)


def load_observer(folder: Path, number: int, made_by: dict[str, Any]) -> tuple[Params, dict[str, Any]] | None:
    """The parameters of an observer and its entry in the manifest; None if it has not been trained yet.

    Raises:
      UserError: the folder holds one that other data, another network or another training made, or a damaged file.
    """
    entry = _read_manifest(folder).get(str(number))
    if entry is None:
        return None
    path = _path(folder, number)
    for name, value in made_by.items():
        if entry["made_by"].get(name) != value:
            what = name.replace("_", " ")
            raise UserError(
                f"{path} was made with another {what} than this run has; use another folder or delete {folder}"
            )
    if not path.exists() or sha256(path) != entry["sha256"]:
        raise UserError(f"{path} is missing or not what was written; delete {folder} and run again")
    return to_tree(read_arrays(path)), entry


def _path(folder: Path, number: int) -> Path:
    return folder / f"observer_{number:02d}.npz"


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read; delete {folder} and run again") from error
