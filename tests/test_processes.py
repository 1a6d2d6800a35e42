"""Several processes: the scores of one, and one clear line where they cannot meet."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from hcdc_jax.training.processes import connect, over_processes
from hcdc_jax.training.sharding import local_devices
from tests.errors import error_of
from tests.test_candidates import CANDIDATES, scores_of


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


WORKER = """
import sys
import jax
import numpy as np
from hcdc_jax.training.processes import connect
jax.config.update("jax_num_cpu_devices", 2)
connect(sys.argv[1], 2, int(sys.argv[2]), timeout=90)
assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
from tests.test_candidates import scores_of
alike = scores_of(devices=1, chunk_size=2)
np.savez(sys.argv[3], **alike._asdict(), loss_of_all_devices=scores_of().loss)
jax.distributed.shutdown()
"""


def test_two_processes_give_the_numbers_of_one(tmp_path):
    # Seven candidates: process 0 has four; process 1 has three and a copy that must not show.
    address, paths = f"127.0.0.1:{free_port()}", [tmp_path / f"{i}.npz" for i in range(2)]
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, address, str(i), path])
        for i, path in reversed(list(enumerate(paths)))  # process 0 comes last, and is waited for
    ]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    alone = scores_of(chunk_size=2)
    for path in paths:
        with np.load(path) as both:
            # Chunks of the same width run the same program: the same bits.
            for name, expected in alone._asdict().items():
                np.testing.assert_array_equal(both[name], expected)
            np.testing.assert_allclose(both["loss_of_all_devices"], alone.loss, rtol=1e-6)


def test_one_process_keeps_all_candidates():
    share, together = over_processes(CANDIDATES)
    assert share is CANDIDATES
    assert together(share) is CANDIDATES


@pytest.mark.parametrize("num_candidates", [1, 2, 7, 8])
@pytest.mark.parametrize("processes", [2, 3, 8])
def test_shares_cover_all_candidates_once(monkeypatch, num_candidates, processes):
    candidates, shares = {"a": np.arange(num_candidates), "b": np.arange(2 * num_candidates).reshape(-1, 2)}, []
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    for i in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda i=i: i)
        shares.append(over_processes(candidates)[0])
    assert len({len(share["a"]) for share in shares}) == 1  # equal sizes, or nothing could be gathered
    for name, leaf in candidates.items():
        np.testing.assert_array_equal(np.concatenate([share[name] for share in shares])[:num_candidates], leaf)


def test_nobody_at_the_address():
    began, port = time.monotonic(), free_port()
    text = error_of(lambda: connect(f"127.0.0.1:{port}", 2, 1, timeout=0.5))
    assert f"process 0 does not answer at 127.0.0.1:{port}" in text
    assert time.monotonic() - began < 10
    assert "process 0 does not answer at no.such.host.invalid:1" in error_of(
        lambda: connect("no.such.host.invalid:1", 2, 1, timeout=0.1)
    )


def test_a_process_that_does_not_come_is_named():
    text = error_of(lambda: connect(f"127.0.0.1:{free_port()}", 3, 0, timeout=0.5))
    assert "of 3 processes these did not come" in text
    assert "1, 2" in text


def test_a_port_in_use():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert f"cannot listen at port {port}" in error_of(lambda: connect(f"127.0.0.1:{port}", 2, 0, timeout=0.5))


def test_once_jax_has_begun_it_is_too_late():
    jax.devices()
    assert "must be called before" in error_of(lambda: connect(f"127.0.0.1:{free_port()}", 1, 0, timeout=0.5))


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:0", "host:70000", "host:x", "host:-1"])
def test_an_address_is_host_and_port(address):
    assert "must be host:port" in error_of(lambda: connect(address, 2, 1))


@pytest.mark.parametrize("process_id", [-1, 2])
def test_a_process_that_does_not_exist(process_id):
    assert "count from 0" in error_of(lambda: connect("127.0.0.1:1234", 2, process_id))


@pytest.mark.parametrize("count", [0, -1, 1000])
def test_more_devices_than_there_are(count):
    text = error_of(lambda: scores_of(devices=count))
    assert f"{count} devices were asked for" in text
    assert str(jax.local_device_count()) in text


def test_devices_by_number_or_by_themselves():
    assert list(local_devices()) == list(local_devices(jax.local_devices())) == jax.local_devices()
    assert list(local_devices(1)) == jax.local_devices()[:1]
