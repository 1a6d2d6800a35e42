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


def over_candidates(
    candidates: HParams, chunk_size: int, devices: Sequence[Device]
) -> tuple[HParams, Callable[[PyTree], PyTree]]:
    """Cuts candidates into chunks and spreads each chunk over the devices.

    Args:
      candidates: leaves [n, ...].
      chunk_size: candidates per chunk and device.
      devices: the devices of the mesh.

    Returns:
      The candidates with leaves [num_chunks, chunk_size * num_devices, ...], the last one repeated until the chunks
      are full, sharded along the second axis; and a function that copies a pytree to all devices.
    """
    # Automatic axes: partitioning is XLA's business, the functions inside know nothing of the mesh.
    mesh = Mesh(np.array(list(devices)), ("candidates",), axis_types=(AxisType.Auto,))
    width = chunk_size * len(devices)

    def chunk(leaf):
        padding = -leaf.shape[0] % width
        padded = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], padding, axis=0)]) if padding else jnp.asarray(leaf)
        return padded.reshape(-1, width, *leaf.shape[1:])

    spread = NamedSharding(mesh, PartitionSpec(None, "candidates"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return (
        jax.device_put(jax.tree.map(chunk, candidates), spread),
        lambda tree: jax.device_put(tree, everywhere),
    )


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
