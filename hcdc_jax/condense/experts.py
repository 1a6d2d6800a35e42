"""Expert trajectories for MTT: networks trained on the real data, their parameters after each epoch on disk.

One file per expert, written whole or not at all, so that a killed run goes on with the next expert; beside them
`buffer.json` says of what network and data they are. `load_experts` brings in as many as fit into memory.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from hcdc_jax.condense.epoch_training import EpochTraining, augmented, checksum, even_batches, trained_by
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.problem import Problem
from hcdc_jax.storage.files import write_bytes, write_json
from hcdc_jax.training.train import Training, begin, orders_of, take_step
from hcdc_jax.types import Array, Batch, HParams

MANIFEST = "buffer.json"
DTYPES = ("float32", "float16")


@functools.partial(jax.jit, static_argnames="problem")
def expert_trajectory(key: Array, problem: Problem, hparams: HParams, batch: Batch, training: EpochTraining) -> Array:
    """Flat parameters at initialisation and after each epoch, [epochs + 1, num_params], by plain gradient descent.

    MTT trains its experts so, with the augmentation of DSA; snapshots after epoch `max_start - 1 + expert_epochs` of
    `mtt` are never read.
    """
    problem = augmented(problem, training.augmentation)
    per_epoch, size = even_batches(batch.labels.shape[0], training.batch_size)
    steps = Training(training.learning_rate, "sgd", training.epochs * per_epoch, batch_size=size)
    orders = orders_of(key, batch, steps)

    def epoch(expert, _):
        expert, _ = jax.lax.scan(
            lambda expert, _: take_step(problem, hparams, expert, batch, steps, orders), expert, length=per_epoch
        )
        return expert, ravel_pytree(expert.params)[0]

    expert = begin(key, problem, hparams, steps)
    _, snapshots = jax.lax.scan(epoch, expert, length=training.epochs)
    return jnp.concatenate([ravel_pytree(expert.params)[0][None], snapshots])


def buffer_bytes(problem: Problem, hparams: HParams, training: EpochTraining, num_experts: int, dtype: str) -> int:
    """Size of the buffer on disk: experts x (epochs + 1) x parameters x bytes per number."""
    params = jax.eval_shape(problem.init, jax.random.key(0), hparams)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    return num_experts * (training.epochs + 1) * num_params * np.dtype(dtype).itemsize


def open_buffer(
    key: Array,
    problem: Problem,
    hparams: HParams,
    batch: Batch,
    training: EpochTraining,
    folder: str | Path,
    *,
    num_experts: int = 100,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Makes a folder the buffer of these experts, or checks that it is; those that it holds stay.

    Args:
      key: of the whole buffer; expert i has the key `fold_in(key, i)`.
      problem: the network.
      hparams: of all experts.
      batch: the real images.
      training: how they are trained.
      folder: of the buffer.
      num_experts: how many in all.
      dtype: "float32" or "float16". Half precision halves the folder; it rounds a parameter by up to 0.05 %, which is
        not small beside the updates of late epochs.

    Returns:
      The manifest; its `bytes` is `buffer_bytes`.

    Raises:
      UserError: the folder holds experts of another network, training or data, or cannot be written.
    """
    check_name("precision of stored experts", dtype, DTYPES)
    folder = Path(folder)
    network = {"network": _network(problem, hparams)}
    manifest = trained_by(key, network, checksum(batch, hparams), training, dtype=dtype)
    if (folder / MANIFEST).exists():
        _check_same(_read_manifest(folder), manifest, folder, manifest.keys())
    manifest |= {"experts": num_experts, "bytes": buffer_bytes(problem, hparams, training, num_experts, dtype)}
    write_json(folder / MANIFEST, manifest)
    return manifest


def missing_experts(folder: str | Path, num_experts: int) -> list[int]:
    """Numbers below `num_experts` of the experts that a buffer lacks."""
    return [number for number in range(num_experts) if not _path(Path(folder), number).exists()]


def save_expert(folder: str | Path, number: int, snapshots: Array, dtype: str) -> None:
    """Writes what `expert_trajectory` gave into a buffer.

    Raises:
      UserError: the disk is full or cannot be written.
    """
    file = io.BytesIO()
    np.save(file, np.asarray(snapshots, dtype))
    write_bytes(_path(Path(folder), number), file.getvalue())


def load_experts(
    folder: str | Path, problem: Problem, hparams: HParams, numbers: Sequence[int], *, epochs: int | None = None
) -> Array:
    """Snapshots of some experts: [len(numbers), epochs + 1, num_params], in the type they were stored in.

    Args:
      folder: of the buffer.
      problem: the network of the student.
      hparams: of the student.
      numbers: which experts.
      epochs: leave out snapshots after this epoch, `max_start - 1 + expert_epochs` of `mtt`; none by default. Only what
        is kept is read.

    Raises:
      UserError: there is no such buffer, it is of another network, or an expert is missing.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    _check_same(manifest, {"network": _network(problem, hparams)}, folder, ["network"])
    missing = [number for number in numbers if not _path(folder, number).exists()]
    if missing:
        raise UserError(f"{folder} lacks expert {missing[0]}; train it first, the others are kept")
    end = None if epochs is None else epochs + 1
    stored = [np.load(_path(folder, number), mmap_mode="r", allow_pickle=False)[:end] for number in numbers]
    return jnp.asarray(np.stack(stored))


def _path(folder: Path, number: int) -> Path:
    return folder / f"expert_{number:04d}.npy"


def _network(problem: Problem, hparams: HParams) -> dict[str, list[int]]:
    params = jax.eval_shape(problem.init, jax.random.key(0), hparams)
    return {jax.tree_util.keystr(path): list(leaf.shape) for path, leaf in jax.tree.leaves_with_path(params)}


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no expert buffer: {MANIFEST} cannot be read; train the experts first") from error


def _check_same(stored, wanted, folder, names) -> None:
    for name in names:
        if stored.get(name) != wanted[name]:
            raise UserError(
                f"the expert buffer {folder} has another {name.replace('_', ' ')} than this run; use another folder or "
                "delete this one"
            )
