"""A graph small enough that a whole run takes seconds, and the command `hcdc` as a process."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import hcdc_jax
from hcdc_jax import config as configs
from hcdc_jax.config import Config

NUM_NODES, NUM_CLASSES, NUM_FEATURES = 200, 3, 8

SMALL = """\
methods = ["random", "hcdc", "real_val"]
[space]
candidates = 12
[model]
hidden = 8
[training]
steps = 20
proxy_inits = 1
[condense]
ratio = 0.1
[gcond]
epochs = 2
outer_steps = 3
inner_steps = 2
[hcdc]
full_trainings = 3
steps = 12
num_hvps = 5
inits = 1
"""


def graph_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """A stochastic block model with three classes, noisy features, and node 7 isolated."""
    rng = np.random.default_rng(seed)
    labels = np.arange(NUM_NODES) % NUM_CLASSES
    likely = np.where(labels[:, None] == labels[None], 0.1, 0.01)
    adjacency = np.triu(rng.random((NUM_NODES, NUM_NODES)) < likely, 1)
    adjacency[7] = adjacency[:, 7] = False
    order = rng.permutation(NUM_NODES)
    return {
        "features": (rng.normal(size=(NUM_NODES, NUM_FEATURES)) + np.eye(NUM_FEATURES)[labels]).astype(np.float32),
        "edge_index": np.argwhere(adjacency).T,
        "labels": labels,
        "train_idx": order[:60],
        "val_idx": order[60:120],
        "test_idx": order[120:],
    }


def write_config(folder: Path, text: str = SMALL, **arrays: np.ndarray) -> Path:
    """Writes `graph.npz` (with the given arrays replaced) and `small.toml` that runs on it; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "graph.npz", **(graph_arrays() | arrays))
    path = folder / "small.toml"
    path.write_text(f"{text}[data]\npath = '{folder / 'graph.npz'}'\n")
    return path


def small_config(folder: Path, **changes: Any) -> Config:
    """The configuration of `write_config`; `changes` are fields, or dictionaries of fields of a section."""
    config = configs.load(write_config(folder))
    for name, value in changes.items():
        if isinstance(value, dict):
            value = dataclasses.replace(getattr(config, name), **value)
        config = dataclasses.replace(config, **{name: value})
    return config


def _compilation(cache: Path) -> dict[str, Any]:
    """Settings of JAX for runs whose time goes into compiling: little optimisation, and a cache that they share."""
    return {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


@contextlib.contextmanager
def process_settings(cache: Path) -> Iterator[None]:
    """Runs inside this process compile as the processes of `hcdc` do, share the cache with them, and broadcast."""
    settings = _compilation(cache)
    before = {name: getattr(jax.config, name, False) for name in settings}  # the first cannot be read, but is off
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
            # Another process may be writing the entry; it is compiled then.
            warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def hcdc(*args: Any, cache: Path | None = None, prefix: Sequence[str] = (), devices: int = 1) -> subprocess.Popen[str]:
    """Starts the command as a process; with `cache`, processes share what they compile.

    `prefix` is a command that starts the command which follows it; `devices` of a CPU are asked for.
    """
    environment = os.environ | {"PYTHONPATH": str(Path(hcdc_jax.__file__).parents[1])}
    environment |= {"JAX_NUM_CPU_DEVICES": str(devices)}
    if cache is not None:
        environment |= {name.upper(): str(value) for name, value in _compilation(cache).items()}
    command = [*prefix, sys.executable, "-m", "hcdc_jax", *map(str, args)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run by the command, made once for all tests, which leave it as it is.

    Beside it lie `small.toml`, `graph.npz`, what was printed, and the cache of what was compiled.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of pytest-xdist share the run
        if not (folder / "stdout").exists():
            process = hcdc("run", write_config(folder), "--out", folder / "run", cache=folder / "cache")
            out, err = process.communicate()
            assert process.returncode == 0, err
            (folder / "stderr").write_text(err)
            (folder / "stdout").write_text(out)
    return folder / "run"


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    """Every array that a run leaves, by file and name, without times."""
    arrays = {}
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as archive:
            for name in archive.files:
                if "seconds" not in name:
                    arrays[f"{path.relative_to(folder)}:{name}"] = archive[name]
    return arrays


def assert_same_arrays(found: Path, expected: Path) -> None:
    """Both folders hold the same arrays, to the bit."""
    ours, theirs = arrays_of(found), arrays_of(expected)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
