"""Several processes on one or many hosts: how they find each other, and how they share candidates."""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from hcdc_jax.errors import UserError
from hcdc_jax.types import HParams, PyTree

_GO = b"go"


def connect(coordinator: str, num_processes: int, process_id: int, *, timeout: float = 60.0) -> None:
    """Makes this process one of several that evaluate candidates together.

    To be called by every process before anything is computed. From then on each call of `evaluate` and `evaluate_on` is
    shared among the processes, so all must make the same calls with the same arguments; each gets all the scores. On
    clusters that JAX knows (TPU pods, Slurm, MPI) `jax.distributed.initialize()` does the same without arguments.

    Args:
      coordinator: "host:port" of process 0, the same for all; any free port will do.
      num_processes: how many processes there are.
      process_id: which one this is, 0 to num_processes - 1.
      timeout: seconds to wait for the others.

    Raises:
      UserError: no such address, nobody answers there, not all processes came in time, or JAX has begun to compute.
    """
    host, port = _address(coordinator)
    if not 0 <= process_id < num_processes:
        raise UserError(f"process_id {process_id} does not exist: {num_processes} processes count from 0")
    deadline = time.monotonic() + timeout
    # Where someone is missing JAX ends the process with a stack of C++, so it is not asked before all are there.
    if process_id == 0:
        _gather(port, set(range(1, num_processes)), deadline)
    else:
        _report(host, port, process_id, deadline)
    left = max(1, math.ceil(deadline - time.monotonic()))
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, cluster_detection_method="deactivate", initialization_timeout=left
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"process {process_id} cannot join {coordinator}: {reason}") from error


def over_processes(candidates: HParams) -> tuple[HParams, Callable[[PyTree], PyTree]]:
    """This process's share of the candidates, and what puts the results of all shares together.

    Args:
      candidates: leaves [n, ...], the same in every process.

    Returns:
      Leaves [ceil(n / number of processes), ...], the last candidate repeated where the shares do not come out even;
      and a function from results with that leading axis to those of all n candidates, to be called by every process.
    """
    processes, num_candidates = jax.process_count(), jax.tree.leaves(candidates)[0].shape[0]
    if processes == 1:
        return candidates, lambda results: results
    size = -(-num_candidates // processes)
    index = np.minimum(jax.process_index() * size + np.arange(size), num_candidates - 1)

    def together(results: PyTree) -> PyTree:
        gathered = multihost_utils.process_allgather(results, tiled=True)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[:num_candidates]), gathered)

    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], candidates), together


def _address(coordinator: str) -> tuple[str, int]:
    host, colon, port = coordinator.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise UserError(f"coordinator must be host:port, such as 10.0.0.1:1234, got {coordinator!r}")
    return host.strip("[]"), int(port)


def _gather(port: int, awaited: set[int], deadline: float) -> None:
    """Waits at the port until all the others have said who they are, then sends them on together."""
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        raise UserError(f"cannot listen at port {port} ({error.strerror}); choose another port") from error
    with contextlib.ExitStack() as connections:
        connections.enter_context(server)
        there: dict[int, socket.socket] = {}
        while awaited - there.keys():
            server.settimeout(_left(deadline))
            try:
                connection = connections.enter_context(server.accept()[0])
                connection.settimeout(_left(deadline))
                with contextlib.suppress(ConnectionError):  # it may come again
                    there[int.from_bytes(connection.recv(4), "big")] = connection
            except TimeoutError as error:
                missing = ", ".join(map(str, sorted(awaited - there.keys())))
                raise UserError(
                    f"of {len(awaited) + 1} processes these did not come to port {port} in time: {missing}; start "
                    "them, or check the address that they were given and the firewall"
                ) from error
        for connection in there.values():
            connection.sendall(_GO)


def _report(host: str, port: int, process_id: int, deadline: float) -> None:
    """Tells process 0, which may start later, that this one is there, and waits for the word to go on."""
    while True:
        try:
            with socket.create_connection((host, port), timeout=_left(deadline)) as connection:
                connection.sendall(process_id.to_bytes(4, "big"))
                if connection.recv(len(_GO)) == _GO:
                    return
            raise ConnectionError("the connection was closed before all processes were there")
        except OSError as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"process 0 does not answer at {host}:{port} ({error}); start it there, or check the address and "
                    "the firewall"
                ) from error
            time.sleep(min(0.2, _left(deadline)))


def _left(deadline: float) -> float:
    """Seconds until then; never 0, which sockets would take for not waiting at all."""
    return max(0.01, deadline - time.monotonic())
