"""Configurations of runs on digits at 4 x 4 pixels, small enough that one takes seconds."""

from __future__ import annotations

import dataclasses

from hcdc_jax.config import Config

BASE: dict[str, dict] = {
    "data": {"name": "digits_images", "train": 120, "val": 60, "test": 100, "shrink": 2},
    "space": {"name": "regularisation", "candidates": 6},
    "model": {"name": "mlp", "width": 8},
    "training": {"steps": 12, "proxy_steps": 8, "batch_size": 30, "schedule": "cosine", "proxy_inits": 1},
    "condense": {"images_per_class": 2, "val_factor": 1.5},
    "hcdc": {"full_trainings": 3, "oversampling": 2, "steps": 4, "sensitivity": "unroll", "inits": 1},
}


def config_with(methods: tuple[str, ...] = ("hcdc",), **changes: dict) -> Config:
    config = Config(methods=methods)
    sections = {name: {**BASE.get(name, {}), **changes.get(name, {})} for name in {*BASE, *changes}}
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **values) for name, values in sections.items()}
    )
