"""Placement over the devices of one process: one mesh axis, `candidates`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hcdc_jax.errors import UserError
from hcdc_jax.types import HParams, PyTree

Device: TypeAlias = Any
"""A `jax.Device`, which jax exports as a value that type checkers do not take for a class."""


_EVERYWHERE, _SPREAD = PartitionSpec(), PartitionSpec(None, "candidates")


def mesh_of(devices: Sequence[Device]) -> Mesh:
    """The mesh of these devices."""
    # Automatic axes: partitioning is XLA's business, the functions inside know nothing of the mesh.
    return Mesh(np.array(list(devices)), ("candidates",), axis_types=(AxisType.Auto,))


def over_candidates(candidates: HParams, chunk_size: int, mesh: Mesh) -> tuple[HParams, Callable[[PyTree], PyTree]]:
    """Cuts candidates into chunks and spreads each chunk over the devices.

    Args:
      candidates: leaves [n, ...].
      chunk_size: candidates per chunk and device.
      mesh: of the devices.

    Returns:
      The candidates with leaves [num_chunks, chunk_size * num_devices, ...], the last one repeated until the chunks
      are full, sharded along the second axis; and a function that copies a pytree to all devices.
    """
    width = chunk_size * mesh.size

    def chunk(leaf):
        padding = -leaf.shape[0] % width
        padded = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], padding, axis=0)]) if padding else jnp.asarray(leaf)
        return padded.reshape(-1, width, *leaf.shape[1:])

    return (
        jax.device_put(jax.tree.map(chunk, candidates), NamedSharding(mesh, _SPREAD)),
        lambda tree: jax.device_put(tree, NamedSharding(mesh, _EVERYWHERE)),
    )


def alone_on_each(mesh: Mesh, one: Callable[[PyTree, HParams], PyTree], shared: PyTree, chunks: HParams) -> PyTree:
    """`one(shared, candidate)` for each candidate, on every device one after the other, so that branches stay branches.

    Args:
      mesh: of the devices.
      one: a pure function.
      shared: what all candidates share, on all devices.
      chunks: candidates as from `over_candidates`, with a `chunk_size` of 1.

    Returns:
      What `one` does, with the leading axes of the chunks.
    """

    def on_device(shared: PyTree, chunks: HParams) -> PyTree:
        found = jax.lax.map(lambda hparams: one(shared, hparams), jax.tree.map(lambda leaf: leaf[:, 0], chunks))
        return jax.tree.map(lambda leaf: leaf[:, None], found)

    # What is computed inside differs from device to device, and nothing crosses them: there is nothing to check.
    spread = jax.shard_map(on_device, mesh=mesh, in_specs=(_EVERYWHERE, _SPREAD), out_specs=_SPREAD, check_vma=False)
    return spread(shared, chunks)


def local_devices(devices: Sequence[Device] | int | None = None) -> Sequence[Device]:
    """The devices of this process to compute on: those given, the first so many, or all of them.

    Raises:
      UserError: there are not so many.
    """
    if devices is None:
        return jax.local_devices()
    if not isinstance(devices, int):
        return devices
    found = jax.local_devices()
    if not 1 <= devices <= len(found):
        raise UserError(
            f"{devices} devices were asked for, but this process has {len(found)} ({found[0].device_kind}); ask for 1 "
            f"to {len(found)}"
        )
    return found[:devices]
