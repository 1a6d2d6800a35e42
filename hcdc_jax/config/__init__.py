"""The configuration of a run: frozen dataclasses, read from TOML and from command-line overrides.

Both sources go through one checker, so a wrong key, type or value gives the same one-line message wherever it stands.
Names that live in registries (data sets, spaces, models, methods) are checked by those.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hcdc_jax.config import toml
from hcdc_jax.config.sections import CondenseConfig as CondenseConfig
from hcdc_jax.config.sections import Config as Config
from hcdc_jax.config.sections import DataConfig as DataConfig
from hcdc_jax.config.sections import DCConfig as DCConfig
from hcdc_jax.config.sections import DMConfig as DMConfig
from hcdc_jax.config.sections import EDCConfig as EDCConfig
from hcdc_jax.config.sections import GCondConfig as GCondConfig
from hcdc_jax.config.sections import HCDCConfig as HCDCConfig
from hcdc_jax.config.sections import HMNConfig as HMNConfig
from hcdc_jax.config.sections import IDCConfig as IDCConfig
from hcdc_jax.config.sections import KIPConfig as KIPConfig
from hcdc_jax.config.sections import LabelsConfig as LabelsConfig
from hcdc_jax.config.sections import ModelConfig as ModelConfig
from hcdc_jax.config.sections import MTTConfig as MTTConfig
from hcdc_jax.config.sections import Optimizer as Optimizer
from hcdc_jax.config.sections import PruningConfig as PruningConfig
from hcdc_jax.config.sections import Sensitivity as Sensitivity
from hcdc_jax.config.sections import Solver as Solver
from hcdc_jax.config.sections import SpaceConfig as SpaceConfig
from hcdc_jax.config.sections import TrainingConfig as TrainingConfig
from hcdc_jax.config.sections import TruthConfig as TruthConfig
from hcdc_jax.config.values import merge, parse_words
from hcdc_jax.errors import UserError
from hcdc_jax.storage.files import sha256

Settings = TypeVar("Settings")


def load(path: str | Path) -> Config:
    """Reads a TOML file; what it does not name keeps its default.

    Raises:
      UserError: no such file, no TOML, a ladder, an unknown key, a wrong type, or a value out of range; one line.
    """
    values = toml.read(path)
    if "rungs" in values:
        raise UserError(f"{path} is a ladder of runs; only hcdc run takes it")
    return merge(Config(), values, where=str(path))


def apply_overrides(config: Config, args: Sequence[str]) -> Config:
    """Applies command-line overrides such as `--training.steps 50 --seeds 0 1 2 --hcdc.direct=false`.

    A later override of the same key wins. In keys, `-` stands for `_`. The word None empties an optional value.

    Raises:
      UserError: an argument that is no override, or what `load` refuses; one line.
    """
    for name, words in _split_overrides(args):
        *sections, key = name.split(".")
        values: Any = {key: parse_words(Config, name, words, where=_COMMAND_LINE)}
        for section in reversed(sections):
            values = {section: values}
        config = merge(config, values, where=_COMMAND_LINE)
    return config


def validate(config: Config) -> None:
    """Checks a configuration that was built in Python as `load` checks a file.

    Raises:
      UserError: as `load`.
    """
    merge(Config(), dataclasses.asdict(config), where="config")


def shares_theta(config: Config) -> bool:
    """Whether a method of the run is HCDC's Algorithm 1, by its own name or by `hcdc.theta`."""
    return "hcdc_shared" in config.methods or ("hcdc" in config.methods and config.hcdc.theta == "shared")


def dumps(config: Config) -> str:
    """The configuration as TOML with every default written out; `load` reads it back equal.

    Values that are None have no form in TOML and are left out.
    """
    return _text(config, lambda value, usual: True)


def changes(config: Config) -> str:
    """The configuration as TOML without what has its default; `load` reads it back equal."""
    return _text(config, lambda value, usual: value != usual)


def _text(config: Config, wanted: Callable[[Any, Any], bool]) -> str:
    lines, of_sections, usual = [], [], Config()
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(usual, field.name)
        if dataclasses.is_dataclass(value):
            pairs = {f.name: (getattr(value, f.name), getattr(default, f.name)) for f in dataclasses.fields(value)}
            chosen = {name: pair[0] for name, pair in pairs.items() if wanted(*pair)}
            of_sections += _section(field.name, chosen) if chosen else []
        elif isinstance(value, Mapping):
            for name in sorted(value):
                of_sections += _section(f"{field.name}.{name}", dict(sorted(value[name].items())))
        elif wanted(value, default):
            lines.append(f"{field.name} = {toml.text_of(value)}")
    return "\n".join(lines + of_sections).lstrip("\n") + "\n"


def _section(name: str, values: Mapping[str, Any]) -> list[str]:
    return ["", f"[{name}]", *(f"{key} = {toml.text_of(value)}" for key, value in values.items() if value is not None)]


def config_hash(config: Config) -> str:
    """16 hexadecimal digits that are equal for equal configurations: the start of the SHA-256 of `dumps`."""
    return sha256(dumps(config).encode())[:16]


def settings_of(config: Config, name: str, cls: type[Settings]) -> Settings:
    """The settings `[plugins.<name>]` of a plugin's method.

    Args:
      config: of the run.
      name: of the method.
      cls: the frozen dataclass of its settings.

    Raises:
      UserError: an unknown key, a wrong type, or a value out of range; one line.
    """
    return merge(cls(), config.plugins.get(name, {}), where="config", section=f"plugins.{name}.")


_COMMAND_LINE = "command line"


def _split_overrides(args: Sequence[str]) -> list[tuple[str, list[str]]]:
    overrides: list[tuple[str, list[str]]] = []
    for arg in args:
        if arg.startswith("--") and len(arg) > 2:
            name, equals, word = arg[2:].partition("=")
            overrides.append((name.replace("-", "_"), [word] if equals else []))
        elif overrides:
            overrides[-1][1].append(arg)
        else:
            raise UserError(f"{_COMMAND_LINE}: expected --section.field value, got {arg!r}")
    return overrides
