"""Placement over the devices of one process: one mesh axis, `candidates`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hcdc_jax.errors import UserError
from hcdc_jax.types import Array, HParams, PyTree

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


class Chunks(NamedTuple):
    """Candidates in chunks.

    Attributes:
      items: leaves [num_chunks, chunk_size * num_devices, ...], sharded along the second axis. There is a power of two
        of chunks, so that numbers of candidates share programs.
      filled: [] int32, how many chunks are computed; the others only fill up.
    """

    items: PyTree
    filled: Any


def fixed_size(count: int) -> int:
    """The smallest power of two that is not below `count`, which is at least 1."""
    return 1 << (count - 1).bit_length()


def over_candidates(candidates: HParams, chunk_size: int, mesh: Mesh) -> tuple[Chunks, Callable[[PyTree], PyTree]]:
    """Cuts candidates into chunks and spreads each chunk over the devices.

    Args:
      candidates: leaves [n, ...].
      chunk_size: candidates per chunk and device.
      mesh: of the devices.

    Returns:
      The candidates, the last one repeated until the chunks are full; and a function that copies a pytree to all
      devices.
    """
    width = chunk_size * mesh.size
    filled = -(-jax.tree.leaves(candidates)[0].shape[0] // width)

    def chunk(leaf):
        of = np if isinstance(leaf, np.ndarray) else jnp  # what lies with the host is cut there, at no call per leaf
        padding = fixed_size(filled) * width - leaf.shape[0]
        padded = of.concatenate([leaf, of.repeat(leaf[-1:], padding, axis=0)]) if padding else of.asarray(leaf)
        return padded.reshape(-1, width, *leaf.shape[1:])

    items = jax.device_put(jax.tree.map(chunk, candidates), NamedSharding(mesh, _SPREAD))
    return Chunks(items, on_all_devices(np.int32(filled), mesh)), lambda tree: on_all_devices(tree, mesh)


def on_all_devices(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of a pytree on each device of the mesh; itself where it lies like that already."""
    return jax.device_put(tree, NamedSharding(mesh, _EVERYWHERE))


def on_each_device(mesh: Mesh, of_chunk: Callable[[PyTree, HParams], PyTree], shared: PyTree, chunks: Chunks) -> PyTree:
    """`of_chunk(shared, chunk)` for each device's part [chunk_size, ...] of each chunk, one after the other.

    No device waits for another before all are done: those of a CPU share its cores and may drift apart by minutes,
    and XLA ends a process in which one has waited that long.

    Args:
      mesh: of the devices.
      of_chunk: a pure function of what all candidates share and of some candidates; results have their leading axis.
      shared: on all devices.
      chunks: from `over_candidates`.

    Returns:
      What `of_chunk` does, with the leading axes of the chunks, for `in_order`; zeros for chunks that only fill up.
    """

    def on_device(shared: PyTree, chunks: Chunks) -> PyTree:
        def at(place: int | Array) -> PyTree:
            return of_chunk(shared, jax.tree.map(lambda leaf: leaf[place], chunks.items))

        num_chunks = jax.tree.leaves(chunks.items)[0].shape[0]
        if num_chunks == 1:
            return jax.tree.map(lambda leaf: leaf[None], at(0))
        found = jax.tree.map(lambda leaf: jnp.zeros((num_chunks, *leaf.shape), leaf.dtype), jax.eval_shape(at, 0))

        def put(place: Array, found: PyTree) -> PyTree:
            return jax.tree.map(lambda whole, leaf: whole.at[place].set(leaf), found, at(place))

        # How many chunks there are is a number of the program, not its form: what only fills up costs no time.
        return jax.lax.fori_loop(0, chunks.filled, put, found)

    if mesh.size == 1:
        return on_device(shared, chunks)
    specs = (_EVERYWHERE, Chunks(_SPREAD, _EVERYWHERE))  # pyright: ignore[reportArgumentType]
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=_SPREAD, check_vma=False)(shared, chunks)


def in_order(mesh: Mesh, results: PyTree, count: int) -> PyTree:
    """Results with the leading axes of the chunks, as those [count, ...] of the candidates.

    They are joined on the host where that is no detour: cutting them on a device compiles a program for every count.
    """
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(results))
    if mesh.size > 1 or (mesh.devices.flat[0].platform == "cpu" and not traced):
        return jax.device_put(on_host(results, count))  # `jnp.asarray` would compile, too
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
