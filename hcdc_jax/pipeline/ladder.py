"""Ladders: one run after the other, each a change on the one before, and how well networks do on their images.

A ladder is a TOML file beside the configuration that it changes:

    base = "images/edc_mini.toml"       # settings of all rungs
    protocol = "edc_soft:epochs=300,networks=2"    # by which new networks train on each S_train
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

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax import config as configs
from hcdc_jax.batches.images import pixels_of
from hcdc_jax.config import Config, toml
from hcdc_jax.config.values import merge
from hcdc_jax.errors import UserError
from hcdc_jax.evaluation.protocols import SETTINGS, changed_protocol, described_protocol
from hcdc_jax.pipeline.checks import check_config, resolved
from hcdc_jax.pipeline.driver import opened, prepare
from hcdc_jax.pipeline.evaluating import EvaluationPlan, evaluate_condensed
from hcdc_jax.pipeline.folder import CONFIG
from hcdc_jax.pipeline.recipes.edc import observers_of
from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.pipeline.taught.taught_parts import make_train
from hcdc_jax.progress import Progress, silent
from hcdc_jax.report import ladders
from hcdc_jax.report.evaluations import WHOLE
from hcdc_jax.report.ladders import Step
from hcdc_jax.storage import files
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


@dataclasses.dataclass(frozen=True)
class _Head:
    """What a ladder says before its rungs, besides settings of all of them."""

    base: str | None = None
    protocol: str | None = None


def is_ladder(path: Path) -> bool:
    """Whether a file is a ladder, not a configuration.

    Raises:
      UserError: it is no TOML.
    """
    return path.is_file() and not {"base", "rungs"}.isdisjoint(toml.read(path))


def load(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Rung, ...]:
    """Reads a ladder, from its lowest rung up.

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
    if head.base is None or head.protocol is None:
        raise UserError(
            f"{path}: before its rungs a ladder has base, the configuration that they change, from the folder of this "
            'file, and protocol, by which new networks are trained, such as "edc:epochs=300"'
        )
    config = merge(_base(path, head.base), values, where=str(path))
    config, protocol = configs.apply_overrides(config, overrides), head.protocol
    rungs = []
    for number, one in enumerate(described, 1):
        where, settings = f"{path}, rung {number}", dict(one)
        name, options = settings.pop("name", ""), settings.pop("protocol", {})
        if not isinstance(name, str) or not name.isprintable() or not files.as_name(name):
            raise UserError(f"{where}: give it a name of one line, with one of the letters a to z or a digit")
        if not isinstance(options, dict):
            raise UserError(
                f"{where}: protocol.SETTING = VALUE changes the protocol, which is named once, before the rungs"
            )
        config, protocol = merge(config, settings, where=where), words_of(protocol, options, where=where)
        _check(config, where)
        rungs.append(Rung(name, config, protocol, settings, options))
    return tuple(rungs)


def _base(path: Path, name: str) -> Config:
    base = path.parent / name
    if is_ladder(base):
        raise UserError(f"{path}: base = {name!r} is a ladder itself; name a configuration")
    return configs.load(base)


def _check(config: Config, where: str) -> None:
    if len(config.methods) != 1:
        raise UserError(f'{where} has the methods {", ".join(config.methods)}; set one, as methods = ["edc"]')
    try:
        check_config(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def words_of(protocol: str, options: Mapping[str, Any], *, where: str) -> str:
    """A protocol in words, with other settings.

    Args:
      protocol: in words.
      options: by name, as TOML has them.
      where: for error messages.

    Raises:
      UserError: there is no such protocol or setting, or the setting wants another value.
    """
    try:
        words, before = described_protocol(protocol)
        name, _, _ = words.partition(":")
        settings = {setting: getattr(before, setting) for setting in SETTINGS}
        words, _ = changed_protocol(name, settings | dict(options), where="protocol")
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return words


def climb(
    rungs: Sequence[Rung], folder: str | Path, name: str, *, resume: bool = False, progress: Progress | None = None
) -> list[Step]:
    """Condenses the S_train of every rung and tests new networks on it; writes the report of the ladder.

    Every rung is a run folder of its own inside `folder`; `hcdc run` goes on with it from S_train to a ranking. Rungs
    of the same settings share it, and a list of observers that is the same is trained once.

    Args:
      rungs: from the lowest up.
      folder: of all of it.
      name: of the ladder, and of the files of its report: `<name>.json`, `.md`, `.html`, `.png`, `_images.png`.
      resume: go on with what the folder holds; S_train and networks of settings that it has are not made again.
      progress: told what is going on; nobody by default.

    Returns:
      One entry for each rung.

    Raises:
      UserError: what is wrong with the folder or a rung, in one line.
    """
    folder, progress = Path(folder), progress or silent()
    _check_free(folder, resume=resume)
    folders = _folders(rungs, folder, reserved={f"{name}{ending}" for ending in ladders.ENDINGS})
    _check_unit(rungs[0])
    steps, images = [], {}
    for number, rung in enumerate(rungs, 1):
        progress.say(f"rung {number} of {len(rungs)}: {rung.name}")
        place = folders[configs.config_hash(resolved(rung.config))]
        setup, first, seconds = _condensed(rung.config, folder / place, progress)
        values = _tested(setup, folder / place, rung, progress)
        steps.append(Step(rung.name, place, rung.protocol, values, seconds))
        images.setdefault(place, (pixels_of(first.inputs, setup.preprocessing), np.asarray(first.labels)))
    ladders.write(folder, name, steps, images)
    return steps


def _check_free(folder: Path, *, resume: bool) -> None:
    try:
        if (folder / CONFIG).exists():
            raise UserError(f"{folder} holds a run, no ladder; choose another --out folder")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; choose another --out folder")
        if not resume and folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; add --resume to continue a ladder in it, or choose another --out")
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; choose another --out folder") from error


def _folders(rungs: Sequence[Rung], folder: Path, reserved: set[str]) -> dict[str, str]:
    """Names of run folders by hash of the configuration: what has it already, or the name of the first rung with it."""
    found = {configs.config_hash(config): path.name for path, config in _runs_in(folder)}
    owners: dict[str, Rung] = {}
    for rung in rungs:
        name = files.as_name(rung.name)
        other = owners.setdefault(name.lower(), rung)  # some systems do not tell capital letters from small ones
        if other is not rung:
            raise UserError(
                f"rungs {other.name!r} and {rung.name!r} would have one folder, {name}; give them names that differ in "
                "letters a to z or digits"
            )
        if name in reserved:
            raise UserError(f"rung {rung.name!r} has the name of a file of the report; give it another")
        found.setdefault(configs.config_hash(resolved(rung.config)), name)
    return found


def _runs_in(folder: Path) -> Iterator[tuple[Path, Config]]:
    """The run folders in a folder that this version can read."""
    for path in sorted(folder.glob(f"*/{CONFIG}")):
        with contextlib.suppress(UserError):
            yield path.parent, configs.load(path)


def _check_unit(rung: Rung) -> None:
    unit = prepare(resolved(rung.config)).kind.unit
    if unit != "images":
        raise UserError(f"rung {rung.name!r} is a run on {unit}; a ladder tests condensed images")


def _condensed(config: Config, folder: Path, progress: Progress) -> tuple[Setup, Batch, float]:
    """The setup of a rung, the S_train of its first seed, and the mean seconds to condense."""
    with opened(config, folder, progress=progress) as run:
        _borrow_observers(run.setup.config, folder)
        parts = [make_train(run, config.methods[0], seed) for seed in config.seeds]
    return run.setup, parts[0].batch, float(np.mean([condensed_part.cost.seconds for condensed_part in parts]))


def _borrow_observers(config: Config, folder: Path) -> None:
    """Copies observers from a run beside this one that trained the same, unless this one has its own."""
    ours = observers_of(folder, "train")
    if ours.exists():
        return
    for path, other in _runs_in(folder.parent):
        theirs = observers_of(path, "train")
        if theirs.exists() and _decides_observers(other) == _decides_observers(config):
            copied = files.temporary_of(ours)
            try:
                shutil.copytree(theirs, copied)
                os.replace(copied, ours)  # whole or not at all
            except OSError as error:
                raise UserError(f"cannot copy observers from {theirs} to {ours}: {error}") from error
            finally:
                shutil.rmtree(copied, ignore_errors=True)
            return


def _decides_observers(config: Config) -> tuple[Any, ...]:
    edc = config.edc
    training = (edc.observers, edc.observer_epochs, edc.observer_rate, edc.observer_batch_size)
    return config.data, config.condense.augmentation, edc.statistics, *training


def _tested(setup: Setup, folder: Path, rung: Rung, progress: Progress) -> list[float | None]:
    """Test accuracies of the run's own network; `hcdc evaluate` may have put others beside them."""
    content = evaluate_condensed(setup, folder, EvaluationPlan(rung.protocol), progress)
    entries = content["protocols"][rung.protocol]["entries"]
    ours = [entry for entry in entries if entry["model"] == setup.config.model.name and entry["s_train"] != WHOLE]
    return [value for entry in ours for value in entry["test_accuracy"]["values"]]
