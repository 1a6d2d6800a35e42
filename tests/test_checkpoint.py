"""Checkpoints: what comes back is what went in, and bad ones are passed over."""

from __future__ import annotations

import os
import resource
import signal
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hcdc_jax.errors import UserError
from hcdc_jax.storage import checkpoint


class State(NamedTuple):
    variables: dict[str, jax.Array]
    opt_state: Any
    key: jax.Array
    extra: Any


def make_state(seed: int = 0, width: int = 3) -> State:
    key = jax.random.key(seed)
    variables = {"features": jax.random.normal(key, (4, width)), "labels": jnp.arange(4)}
    optimizer = optax.chain(optax.clip(1.0), optax.adam(0.1))
    return State(variables, optimizer.init(variables), key, (None, (), 3, 2.5, np.float32(1), jnp.zeros((0, 2))))


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b)
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert a.dtype == b.dtype
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def change(path):
    """One bit of one number."""
    content, number = bytearray(path.read_bytes()), np.asarray(make_state(2).variables["features"]).tobytes()
    content[content.index(number)] ^= 1
    path.write_bytes(content)


def test_state_comes_back_with_types_dtypes_and_keys(tmp_path):
    state = make_state()
    checkpoint.save(tmp_path / "new" / "folder", 7, state)
    step, found = checkpoint.restore_latest(tmp_path / "new" / "folder", make_state(seed=1))
    assert step == 7
    assert_equal(found, state)


def test_types_that_numpy_lacks_come_back(tmp_path):
    state = {"halves": jnp.arange(3, dtype=jnp.bfloat16), "nothing": jnp.zeros((0, 2)), "one": jnp.float32(1)}
    checkpoint.save(tmp_path, 0, state)
    assert_equal(checkpoint.restore_latest(tmp_path, jax.tree.map(jnp.zeros_like, state))[1], state)


def test_latest_two_are_kept(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, make_state(step))
    assert sorted(os.listdir(tmp_path)) == ["20.npz", "30.npz"]
    step, found = checkpoint.restore_latest(tmp_path, make_state())
    assert step == 30
    assert_equal(found, make_state(30))


def test_relative_folders_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("here", 1, make_state())
    assert checkpoint.restore_latest("here", make_state()) is not None


def test_no_checkpoint_is_none_and_makes_no_folder(tmp_path):
    assert checkpoint.restore_latest(tmp_path / "none", make_state()) is None
    assert not (tmp_path / "none").exists()
    assert checkpoint.restore_latest(tmp_path, make_state()) is None


@pytest.mark.parametrize("damage", [cut, change])
def test_damaged_latest_falls_back_to_the_one_before(tmp_path, caplog, damage):
    checkpoint.save(tmp_path, 1, make_state(1))
    checkpoint.save(tmp_path, 2, make_state(2))
    damage(tmp_path / "2.npz")
    step, found = checkpoint.restore_latest(tmp_path, make_state())
    assert step == 1
    assert_equal(found, make_state(1))
    assert [record.getMessage() for record in caplog.records] == [
        f"checkpoint {tmp_path / '2.npz'} is passed over: damaged (BadZipFile)"
    ]


def test_a_run_goes_on_after_a_damaged_checkpoint(tmp_path):
    checkpoint.save(tmp_path, 1, make_state(1))
    checkpoint.save(tmp_path, 2, make_state(2))
    cut(tmp_path / "2.npz")
    checkpoint.save(tmp_path, 2, make_state(3))
    step, found = checkpoint.restore_latest(tmp_path, make_state())
    assert step == 2
    assert_equal(found, make_state(3))


@pytest.mark.parametrize(
    ("like", "reason"),
    [
        (make_state(width=4), "it holds float32[4, 3] where the run has float32[4, 4] (at .opt_state[1][0].mu"),
        (make_state()._replace(key=jnp.zeros(())), "it holds key<fry>[] where the run has float32[] (at .key)"),
        (make_state()._replace(extra=1), "it holds nothing where the run has int[] (at .extra)"),
        (
            jax.tree.map(lambda leaf: leaf, make_state())._replace(variables={"labels": jnp.arange(4)}),
            "it holds float32[4, 3] where the run has nothing (at .variables['features'])",
        ),
    ],
)
def test_checkpoints_of_another_state_are_passed_over(tmp_path, caplog, capfd, like, reason):
    checkpoint.save(tmp_path, 1, make_state())
    assert checkpoint.restore_latest(tmp_path, like) is None
    (record,) = caplog.records
    assert record.getMessage().startswith(f"checkpoint {tmp_path / '1.npz'} is passed over: {reason}")
    assert "Traceback" not in capfd.readouterr().err


def test_dtypes_are_never_cast(tmp_path):
    checkpoint.save(tmp_path, 1, {"a": jnp.arange(3)})
    assert checkpoint.restore_latest(tmp_path, {"a": jnp.arange(3.0)}) is None


def test_a_failed_save_leaves_the_older_checkpoint_and_nothing_else(tmp_path, capfd):
    checkpoint.save(tmp_path, 1, make_state(1))
    old_limits, old_handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old_limits[1]))  # files end there, as on a full disk
    try:
        with pytest.raises(UserError) as caught:
            checkpoint.save(tmp_path, 2, {"a": jax.random.normal(jax.random.key(0), (100_000,))})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limits)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert str(caught.value) == (
        f"cannot write {tmp_path / '2.npz'}: File too large; check the disk and run the command again"
    )
    assert os.listdir(tmp_path) == ["1.npz"]
    assert_equal(checkpoint.restore_latest(tmp_path, make_state())[1], make_state(1))
    assert "Traceback" not in capfd.readouterr().err


def test_clear_removes_everything(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, 1, make_state())
    checkpoint.clear(folder)
    assert not folder.exists()
    checkpoint.clear(folder)
