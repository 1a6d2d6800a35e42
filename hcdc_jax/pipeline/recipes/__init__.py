"""Methods: how each makes the two parts of a condensed data set. A new one is a file and a line in `_BUILT_IN`."""

from __future__ import annotations

import dataclasses
from typing import Any

from hcdc_jax.config import Config, settings_of
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.recipes import (
    coresets,
    edc,
    gradient_matching,
    hcdc,
    hcdc_shared,
    hcdc_surrogate,
    idc,
    image_matching,
    kip,
    mtt,
    rivals,
    zero_cost,
)
from hcdc_jax.pipeline.recipes.base import Method, Recipe
from hcdc_jax.registry import Registry

_BUILT_IN: dict[str, Method] = {
    "random": coresets.RANDOM,
    "herding": coresets.HERDING,
    "kcenter": coresets.KCENTER,
    "gcond": gradient_matching.GCOND,
    "gcond_x": gradient_matching.GCOND_X,
    "gradient_matching": gradient_matching.GRADIENT_MATCHING,
    "dc": image_matching.DC,
    "dsa": image_matching.DSA,
    "dm": image_matching.DM,
    "idc": idc.METHOD,
    "kip": kip.METHOD,
    "mtt": mtt.METHOD,
    "edc": edc.METHOD,
    "hcdc": hcdc.METHOD,
    "hcdc_shared": hcdc_shared.METHOD,
    "hcdc_shifted": hcdc.SHIFTED,
    "hcdc_surrogate": hcdc_surrogate.METHOD,
    "value_only": hcdc.VALUE_ONLY,
    "real_val": rivals.REAL_VAL,
    "real_val_hard": rivals.REAL_VAL_HARD,
    "teacher_val": rivals.TEACHER_VAL,
    "random_val": rivals.RANDOM_VAL,
    "real_val_residual": rivals.REAL_VAL_RESIDUAL,
    "lambda_shift": rivals.LAMBDA_SHIFT,
    "surrogate": rivals.SURROGATE,
    "surrogate_grad": rivals.SURROGATE_GRAD,
    "successive_halving": rivals.SUCCESSIVE_HALVING,
    "random_choice": rivals.RANDOM_CHOICE,
    "train_loss": rivals.TRAIN_LOSS,
    "train_loss_hard": rivals.TRAIN_LOSS_HARD,
    **zero_cost.METHODS,
}


def _accept(entry: Any) -> Method | None:
    if not isinstance(entry, Method):
        return None
    cls = entry.settings
    is_set = cls is None or (dataclasses.is_dataclass(cls) and all(_has_default(f) for f in dataclasses.fields(cls)))
    return entry if is_set else None


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return not field.default is field.default_factory is dataclasses.MISSING


METHODS: Registry[Method] = Registry(
    "method",
    _BUILT_IN,
    group="hcdc_jax.methods",
    wanted="a Method, its settings a dataclass with a default for each field",
    accept=_accept,
)
"""What a run can compare, by name."""


def methods() -> dict[str, str]:
    """The methods that a run can compare, each with one line about it."""
    return {name: method.about for name, method in METHODS.items()}


def settings() -> dict[str, type]:
    """The dataclasses of the settings of methods that have some of their own, by method."""
    return {name: method.settings for name, method in METHODS.items() if method.settings is not None}


def completed(config: Config) -> Config:
    """The configuration with all settings `[plugins.<method>]` of its methods written out, and checked by their types.

    Methods that nobody knows are left to who checks methods.

    Raises:
      UserError: a section of no such method, or of one without settings; an unknown key, a wrong type or value.
    """
    for name in config.plugins:
        if METHODS.look_up(name, where=f"in 'plugins.{name}'").settings is None:
            raise UserError(f"the method {name!r} has no settings of its own; leave out [plugins.{name}]")
    sections = {}
    for name in sorted({*config.methods, config.hcdc.train_method, *config.plugins}):
        cls = METHODS[name].settings if name in METHODS else None
        if cls is not None:
            given = dataclasses.asdict(settings_of(config, name, cls))
            sections[name] = {key: value for key, value in given.items() if value is not None}
    return dataclasses.replace(config, plugins=sections)


def get(config: Config, name: str) -> Method:
    """The method `name` as the configuration means it.

    `hcdc.theta = "shared"` makes hcdc Algorithm 1; `condense.val = "random"` leaves methods that learn S_train with the
    S_val of the method random.

    Raises:
      UserError: there is no such method.
    """
    method = METHODS.look_up("hcdc_shared" if name == "hcdc" and config.hcdc.theta == "shared" else name)
    if config.condense.val == "random" and method.train is not None and method.train.learner is not None:
        return method._replace(val=coresets.RANDOM.val)
    return method


def train_recipe(config: Config, name: str) -> Recipe:
    """The recipe that makes the S_train of the method `name`.

    Raises:
      UserError: there is no such method, or it takes its S_train from one that has none of its own.
    """
    return get(config, name).train or given_recipe(config)


def given_recipe(config: Config) -> Recipe:
    """The recipe of `hcdc.train_method`, for methods without an S_train of their own.

    Raises:
      UserError: there is no such method, or it has none either.
    """
    recipe = METHODS.look_up(config.hcdc.train_method, where="in 'hcdc.train_method'").train
    if recipe is None:
        own = [method for method in METHODS if METHODS[method].train is not None]
        raise UserError(
            f"hcdc.train_method: {config.hcdc.train_method!r} has no S_train of its own; choose one of {', '.join(own)}"
        )
    return recipe


def is_taught(config: Config, name: str) -> bool:
    """Whether the method `name` is handed an S_train with labels of teachers."""
    return config.labels.teachers > 0 and METHODS[name].labels != "own"


def sees_train(name: str) -> bool:
    """Whether the method `name` looks at S_train at all."""
    return METHODS[name].labels != "unseen"
