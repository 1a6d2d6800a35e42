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

COPIES_ON_CPU = 4e9
"""Bytes that copies of what candidates share may take in the memory of a machine, whose every core is a device."""


def mesh_of(devices: Sequence[Device]) -> Mesh:
    """The mesh of these devices."""
    # Automatic axes: partitioning is XLA's business, the functions inside know nothing of the mesh.
    return Mesh(np.array(list(devices)), ("candidates",), axis_types=(AxisType.Auto,))


def as_needed(devices: Sequence[Device], count: int, shared: PyTree) -> Sequence[Device]:
    """So many of the devices as `count` candidates keep equally busy, each with a copy of `shared`.

    The others would only train copies of the last candidate.
    """
    rounds = -(-count // len(devices))
    needed = -(-count // rounds)
    if devices[0].platform == "cpu":
        nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(shared) if hasattr(leaf, "nbytes"))
        needed = min(needed, max(int(COPIES_ON_CPU // max(nbytes, 1)), 1))
    return devices[:needed]


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
        of = np if isinstance(leaf, np.ndarray) else jnp  # what lies with the host is cut there, at no call per leaf
        padding = -leaf.shape[0] % width
        padded = of.concatenate([leaf, of.repeat(leaf[-1:], padding, axis=0)]) if padding else of.asarray(leaf)
        return padded.reshape(-1, width, *leaf.shape[1:])

    return (
        jax.device_put(jax.tree.map(chunk, candidates), NamedSharding(mesh, _SPREAD)),
        lambda tree: on_all_devices(tree, mesh),
    )


def on_all_devices(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of a pytree on each device of the mesh; itself where it lies like that already."""
    return jax.device_put(tree, NamedSharding(mesh, _EVERYWHERE))


def on_each_device(
    mesh: Mesh, of_chunk: Callable[[PyTree, HParams], PyTree], shared: PyTree, chunks: HParams
) -> PyTree:
    """`of_chunk(shared, chunk)` for each device's part [chunk_size, ...] of each chunk, one after the other.

    No device waits for another before all are done: those of a CPU share its cores and may drift apart by minutes,
    and XLA ends a process in which one has waited that long.

    Args:
      mesh: of the devices.
      of_chunk: a pure function of what all candidates share and of some candidates; results have their leading axis.
      shared: on all devices.
      chunks: from `over_candidates`.

    Returns:
      What `of_chunk` does, with the leading axes of the chunks, for `in_order`.
    """

    def on_device(shared: PyTree, chunks: HParams) -> PyTree:
        return jax.lax.map(lambda chunk: of_chunk(shared, chunk), chunks)

    if mesh.size == 1:
        return on_device(shared, chunks)
    spread = jax.shard_map(on_device, mesh=mesh, in_specs=(_EVERYWHERE, _SPREAD), out_specs=_SPREAD, check_vma=False)
    return spread(shared, chunks)


def in_order(mesh: Mesh, results: PyTree, count: int) -> PyTree:
    """Results with the leading axes of the chunks, as those [count, ...] of the candidates; joined on the host."""
    if mesh.size > 1:
        return jax.tree.map(jnp.asarray, on_host(results, count))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], results)


def on_host(results: PyTree, count: int) -> PyTree:
    """As `in_order`, as arrays of the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:])[:count], results)


def local_devices(devices: Sequence[Device] | int | None = None) -> Sequence[Device]:
    """The devices of this process to compute on: those given, the first so many, or all of them.

    Raises:
      UserError: there are not so many, or none are given.
    """
    if devices is None:
        return jax.local_devices()
    if not isinstance(devices, int):
        if not len(devices):
            raise UserError("devices is empty; give at least one, or None for all")
        return devices
    found = jax.local_devices()
    if not 1 <= devices <= len(found):
        raise UserError(
            f"{devices} devices were asked for, but this process has {len(found)} ({found[0].device_kind}); ask for 1 "
            f"to {len(found)}"
        )
    return found[:devices]
