"""The run folder: who owns it and where things lie in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax

from hcdc_jax import config as configs
from hcdc_jax import files
from hcdc_jax.artefact import versions
from hcdc_jax.config import Config
from hcdc_jax.data import summary
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.setup import Setup

CONFIG = "config.toml"


def open_folder(folder: str | Path, config: Config, *, resume: bool) -> Path:
    """Claims a run folder for one configuration.

    Raises:
      UserError: the folder belongs to another configuration, or to this one and `resume` was not asked for.
    """
    folder = Path(folder)
    owner = folder / CONFIG
    if owner.exists():
        theirs, ours = configs.config_hash(configs.load(owner)), configs.config_hash(config)
        if theirs != ours:
            raise UserError(
                f"{folder} holds a run of another configuration ({theirs}, not {ours}); choose another --out folder"
            )
        if not resume:
            raise UserError(f"{folder} already holds this run; add --resume to continue it, or choose another --out")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and no run folder; choose another --out folder")
    files.write_text(owner, configs.dumps(config))
    return folder


def config_of(folder: str | Path) -> Config:
    """The configuration of a run folder.

    Raises:
      UserError: it is none.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no {CONFIG}")
    return configs.load(path)


def write_info(folder: Path, setup: Setup) -> None:
    """Notes what was run, on what, with which versions: `results/info.json`."""
    info: dict[str, Any] = {
        "config_hash": configs.config_hash(setup.config),
        "versions": versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "space": {
            "name": setup.space.name,
            "candidates": setup.config.space.candidates,
            "hparam_names": list(setup.space.hparam_names),
        },
        "data": {"name": setup.data.name, "checksum": setup.data.checksum, **summary(setup.data)},
    }
    path = folder / "results" / "info.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["data"]["checksum"] != setup.data.checksum:
            raise UserError(
                f"the data set {setup.data.name} has changed since {folder} was begun; choose another --out folder"
            )
    files.write_json(path, info)
