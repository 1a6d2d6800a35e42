"""The run folder: whose it is, who works in it, and what was run there."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcdc_jax import config as configs
from hcdc_jax.condensed import versions
from hcdc_jax.config import Config
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.storage import files

CONFIG = "config.toml"
FINGERPRINTS = ("losses", "space")
"""Facts of a study that may not change while its folder is worked in; other versions of JAX write losses otherwise."""


def check_owner(folder: Path, config: Config, *, resume: bool) -> None:
    """Checks that a folder is free for a run, or holds this run and may be gone on with. Writes nothing.

    Raises:
      UserError: the folder belongs to another configuration, to this one and `resume` was not asked for, or to nobody
        and is not empty.
    """
    owner = folder / CONFIG
    if owner.exists():
        theirs = configs.load(owner)
        if theirs != config:
            difference = first_difference(dataclasses.asdict(theirs), dataclasses.asdict(config))
            raise UserError(
                f"{folder} holds a run of another configuration ({difference}); choose another --out folder"
            )
        if not resume:
            raise UserError(f"{folder} already holds this run; add --resume to continue it, or choose another --out")
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another --out folder")
    elif folder.is_dir() and not all(map(files.is_temporary, folder.iterdir())):
        raise UserError(f"{folder} is not empty and no run folder; choose another --out folder")


@contextmanager
def claimed(folder: Path, setup: Setup) -> Iterator[None]:
    """Makes the folder that of this run for as long as the block lasts; other processes are kept out.

    Raises:
      UserError: another process works in it, the data has changed since the run was begun, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose another --out folder") from error
    with locked(folder) as alone:
        if alone:
            files.sweep(folder)
        info = describe(setup)
        check_same_data(folder, info)
        if not (folder / CONFIG).exists():
            files.write_text(folder / CONFIG, configs.dumps(setup.config))
        files.write_json(folder / "results" / "info.json", info | {"settings": _settings(setup)})
        yield


def config_of(folder: Path) -> Config:
    """The configuration of a run folder.

    Raises:
      UserError: it is none.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no {CONFIG}")
    return configs.load(path)


def describe(setup: Setup) -> dict[str, Any]:
    """What is run, on what, with which versions: the content of `results/info.json`."""
    space = setup.space
    return {
        "config_hash": configs.config_hash(setup.config),
        "versions": versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "space": {
            "name": space.name,
            "candidates": len(setup.candidates),
            "hparam_names": list(space.hparam_names),
            **_columns(setup),
            **_sizes(setup),
            **_flaws(setup),
        },
        "data": {"name": setup.data.name, "checksum": setup.data.checksum, **setup.kind.summary(setup.data)},
        **({"study": dict(setup.facts)} if setup.facts else {}),
    }


def _columns(setup: Setup) -> dict[str, dict[str, list[Any]]]:
    """The candidates as tables show them, where that is more than their numbers."""
    return {"columns": setup.space.columns(setup.candidates)} if setup.space.options else {}


def _settings(setup: Setup) -> dict[str, list[Any]]:
    """What the losses read of the candidates where that is numbers by name, and options of choices."""
    space = setup.space
    read = jax.jit(jax.vmap(space.read))(setup.candidates)
    read = read._asdict() if hasattr(read, "_asdict") else read
    if not isinstance(read, dict):
        return {}
    shown = {name: np.asarray(column).tolist() for name, column in read.items() if np.ndim(column) == 1}
    for name, column in (space.columns(setup.candidates) if space.options else {}).items():
        # Choices are in words there, and what does not act is blank, whatever the losses read.
        told = column if name in space.named else shown.get(name, column)
        shown[name] = [None if value is None else other for value, other in zip(column, told, strict=True)]
    return shown


def _sizes(setup: Setup) -> dict[str, list[int]]:
    sizes = setup.kind.num_parameters(setup)
    return {} if sizes is None else {"num_parameters": sizes.astype(int).tolist()}


def _flaws(setup: Setup) -> dict[str, list[str]]:
    flaws = setup.config.training.dcbench_compat
    return {} if flaws is None else {"dcbench_compat": list(flaws)}


def first_difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The first setting, in words, that differs in two dictionaries of settings that do differ."""
    for key, value in theirs.items():
        if value != ours[key]:
            if isinstance(value, dict):
                return f"{key}.{first_difference(value, ours[key])}"
            return f"{key} is {value!r} there, {ours[key]!r} here"
    raise ValueError("both are the same")


def check_same_data(folder: Path, info: dict[str, Any]) -> None:
    """Checks that the data is what the folder was begun with, if it was; `info` is that of `describe`.

    Raises:
      UserError: it has changed, or the file that says so is damaged.
    """
    path = folder / "results" / "info.json"
    if not path.exists():
        return
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        before, study = told["data"]["checksum"], told.get("study", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; delete it and run again with --resume") from error
    if before != info["data"]["checksum"]:
        raise UserError(
            f"the data set {info['data']['name']} has changed since {folder} was begun; choose another --out folder"
        )
    ours = info.get("study", {})
    changed = [name for name in FINGERPRINTS if study.get(name) != ours.get(name)]
    if changed and told["versions"] == info["versions"]:
        raise UserError(
            f"the {' and the '.join(changed)} of the study have changed since {folder} was begun; choose another folder"
        )


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Holds the folder itself locked: the system takes the lock back from a process that is killed.

    Yields:
      Whether it is: some systems have no such locks.

    Raises:
      UserError: another process works in it.
    """
    try:
        import fcntl
    except ImportError:  # Windows cannot lock a folder
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError as error:
            raise UserError(
                f"another process is working in {folder}; wait for it, or choose another --out folder"
            ) from error
        except OSError:
            alone = False  # some network file systems have no such locks
        yield alone
    finally:
        os.close(handle)
