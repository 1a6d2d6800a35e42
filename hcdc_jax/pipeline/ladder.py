"""Ladders: one run after the other, each a change on the one before, and how well networks do on their images.

A ladder is a TOML file beside the configuration that it changes:

    base = "images/edc_mini.toml"       # settings of all rungs
    protocol = "edc_soft:epochs=300"    # by which new networks train on each S_train
    networks = 2                        # so many for each rung and seed
    seeds = [0, 1, 2]                   # settings of all rungs that are not as in base

    [[rungs]]
    name = "A"
    edc.flatness = "none"               # settings as in any configuration
    protocol.zeta = 1.0                 # and of the protocol

    [[rungs]]
    name = "B: + smoothing learning rate"
    protocol.zeta = 2.0                 # the rest is as on A
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax import config as configs
from hcdc_jax import files, toml
from hcdc_jax.config import Config
from hcdc_jax.config_values import Count, merge
from hcdc_jax.errors import UserError
from hcdc_jax.evaluation import described_protocol
from hcdc_jax.pipeline.driver import opened
from hcdc_jax.pipeline.evaluating import EvaluationPlan, evaluate_condensed
from hcdc_jax.pipeline.folder import CONFIG
from hcdc_jax.pipeline.progress import Progress, silent
from hcdc_jax.pipeline.recipes.edc import observers_of
from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.pipeline.teaching import make_train
from hcdc_jax.types import Batch


class Rung(NamedTuple):
    """One run of a ladder.

    Attributes:
      name: that people read.
      config: of the run; it has one method.
      protocol: by which new networks train on its S_train, in words.
      settings: of `config` that differ from the rung before, as TOML has them.
      options: of the protocol that do.
    """

    name: str
    config: Config
    protocol: str
    settings: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}


class Ladder(NamedTuple):
    """Rungs from the lowest up.

    Attributes:
      rungs: with different names.
      networks: that train on the S_train of each seed.
    """

    rungs: tuple[Rung, ...]
    networks: int


class Step(NamedTuple):
    """A rung that was made and tested.

    Attributes:
      name: of the rung.
      folder: name of its run folder; rungs that differ by their protocol alone share one.
      protocol: of the rung.
      test_accuracy: of each network in [0, 1], None where one diverged.
      seconds: to condense, without observers, mean over seeds.
    """

    name: str
    folder: str
    protocol: str
    test_accuracy: list[float | None]
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Head:
    """What a ladder says before its rungs."""

    base: str = ""
    protocol: str = "edc_soft"
    networks: Count = 2


def is_ladder(path: Path) -> bool:
    """Whether a file is a ladder, not a configuration.

    Raises:
      UserError: it is no TOML.
    """
    return path.is_file() and "rungs" in toml.read(path)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Ladder:
    """Reads a ladder.

    Args:
      path: of the file.
      overrides: of the settings of all rungs, as on a command line; a rung that sets the same wins.

    Raises:
      UserError: what is wrong with the file, its base or a rung, in one line.
    """
    path = Path(path)
    values = toml.read(path)
    described = values.pop("rungs", None)
    if not isinstance(described, list) or not all(isinstance(one, dict) for one in described) or not described:
        raise UserError(f"{path}: a ladder has at least one [[rungs]], each with a name and what it changes")
    own = {field.name for field in dataclasses.fields(_Head)} & values.keys()
    head = merge(_Head(), {name: values.pop(name) for name in own}, where=str(path))
    if not head.base:
        raise UserError(
            f"{path}: base is missing: the configuration that the rungs change, from the folder of this file"
        )
    config = merge(configs.load(path.parent / head.base), values, where=str(path))
    config = configs.apply_overrides(config, overrides)
    rungs, protocol = [], words_of(head.protocol, {})
    for number, one in enumerate(described, 1):
        settings = dict(one)
        name, options = settings.pop("name", ""), settings.pop("protocol", {})
        where = f"{path}, rung {number}"
        if not isinstance(name, str) or not files.as_name(name):
            raise UserError(f"{where}: it needs a name of letters or digits")
        if not isinstance(options, dict):
            raise UserError(
                f"{where}: protocol.SETTING = VALUE changes the protocol, which is named once, before the rungs"
            )
        config, protocol = merge(config, settings, where=where), words_of(protocol, options)
        rungs.append(Rung(name, config, protocol, settings, options))
    return Ladder(tuple(rungs), head.networks)


def words_of(protocol: str, options: Mapping[str, Any]) -> str:
    """A protocol in words with other settings, those of the same name replaced.

    Raises:
      UserError: there is no such protocol or setting, or the setting wants another value.
    """
    name, _, rest = protocol.partition(":")
    parts = [part.partition("=") for part in filter(None, rest.split(","))]
    settings = {setting: value for setting, _, value in parts} | {key: str(value) for key, value in options.items()}
    text = ":".join(filter(None, [name, ",".join(f"{key}={value}" for key, value in settings.items())]))
    described_protocol(text)
    return text


def climb(
    ladder: Ladder, folder: str | Path, name: str, *, resume: bool = False, progress: Progress | None = None
) -> list[Step]:
    """Condenses the S_train of every rung and tests new networks on it; writes the report of the ladder.

    Every rung is a run folder of its own inside `folder`, which can be gone on with, evaluated and exported like any
    other. Rungs of the same settings share it, and observers that are the same are trained once.

    Args:
      ladder: what is climbed.
      folder: of all of it.
      name: of the ladder, and of the files of its report: `<name>.json`, `.md`, `.html`, `.png`, `_images.png`.
      resume: go on with what the folder holds; what is finished there is not made again.
      progress: told what is going on; nobody by default.

    Returns:
      One entry for each rung.

    Raises:
      UserError: what is wrong with the folder or a rung, in one line.
    """
    from hcdc_jax.report import ladders  # only here: drawing takes half a second to import

    folder, progress = Path(folder), progress or silent()
    folders = _folders(ladder)
    _check_free(folder, resume=resume)
    steps, images = [], {}
    for number, rung in enumerate(ladder.rungs, 1):
        progress.say(f"rung {number} of {len(ladder.rungs)}: {rung.name}")
        place = folders[configs.config_hash(rung.config)]
        setup, first, seconds = _condensed(rung.config, folder / place, progress)
        plan = EvaluationPlan(rung.protocol, networks=ladder.networks)
        entries = evaluate_condensed(setup, folder / place, plan, progress)["protocols"][rung.protocol]["entries"]
        values = [value for entry in entries for value in entry["test_accuracy"]["values"]]
        steps.append(Step(rung.name, place, rung.protocol, values, seconds))
        images.setdefault(place, _pixels(setup, first))
    found = [step._asdict() for step in steps]
    files.write_json(folder / f"{name}.json", found)
    ladders.write(folder, name, name, found, images)
    return steps


def _folders(ladder: Ladder) -> dict[str, str]:
    """Names of run folders by hash of the configuration: that of the first rung that has it."""
    found: dict[str, str] = {}
    names = [files.as_name(rung.name) for rung in ladder.rungs]
    for name, rung in zip(names, ladder.rungs, strict=True):
        if len(rung.config.methods) != 1:
            raise UserError(f"rung {rung.name!r} has the methods {', '.join(rung.config.methods)}; a rung tests one")
        if names.count(name) > 1:
            raise UserError(f"two rungs are called {rung.name!r}; give them different names")
        found.setdefault(configs.config_hash(rung.config), name)
    return found


def _check_free(folder: Path, *, resume: bool) -> None:
    if (folder / CONFIG).exists():
        raise UserError(f"{folder} holds a run, no ladder; choose another --out folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another --out folder")
    if not resume and folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; add --resume to continue a ladder in it, or choose another --out")


def _condensed(config: Config, folder: Path, progress: Progress) -> tuple[Setup, Batch, float]:
    """The setup of a rung, the S_train of its first seed, and the mean seconds to condense."""
    with opened(config, folder, progress=progress) as run:
        if run.setup.kind.unit != "images":
            raise UserError(f"{folder} would be a run on {run.setup.kind.unit}; a ladder tests condensed images")
        _borrow_observers(config, folder)
        halves = [make_train(run, config.methods[0], seed) for seed in config.seeds]
    return run.setup, halves[0].batch, float(np.mean([half.cost.seconds for half in halves]))


def _borrow_observers(config: Config, folder: Path) -> None:
    """Copies observers from a run beside this one that trained the same, unless this one has its own."""
    ours = observers_of(folder, "train")
    if ours.exists():
        return
    for other in sorted(folder.parent.glob(f"*/{CONFIG}")):
        theirs = observers_of(other.parent, "train")
        if theirs.exists() and _decides_observers(configs.load(other)) == _decides_observers(config):
            copied = ours.with_name(f".{ours.name}.{secrets.token_hex(4)}.tmp")
            shutil.copytree(theirs, copied)
            os.replace(copied, ours)  # whole or not at all
            return


def _decides_observers(config: Config) -> tuple[Any, ...]:
    edc = config.edc
    training = (edc.observers, edc.observer_epochs, edc.observer_rate, edc.observer_batch_size)
    return config.data, config.condense.augmentation, *training


def _pixels(setup: Setup, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    pixels = batch.inputs if setup.preprocessing is None else setup.preprocessing.invert(batch.inputs)
    return np.asarray(pixels), np.asarray(batch.labels)
