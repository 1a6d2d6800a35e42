"""Settings for own data that comes without a configuration: which of those that come with the library, and why."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hcdc_jax import config as configs
from hcdc_jax.config import Config
from hcdc_jax.config.values import merge
from hcdc_jax.data import ArrayData, GraphData, ImageData, read_dataset
from hcdc_jax.data.graphsaint import holds_graphsaint
from hcdc_jax.data.ogb import holds_ogb
from hcdc_jax.data.registry import TABLE_SUFFIXES

EGOS = 6.0
"""Condensed nodes of each class at least: half of them carry a label, and one of a class tells nothing of it."""
EXAMPLES, LEAST, PER_CLASS = 100, 5, 10
"""Rows of S_train, of each class at least, and pictures of each class."""
EPOCHS, BATCH, STEPS = 20, 100, (300, 3000)
"""A training is about so many epochs in batches of so many examples, and has so many steps at least and at most."""


def is_data(target: Path) -> bool:
    """Whether a target is own data: a file of a table or of arrays, or a folder of a graph or of pictures."""
    if target.is_dir():
        return holds_ogb(target) or holds_graphsaint(target) or any(folder.is_dir() for folder in target.iterdir())
    return target.suffix.lower() in (*TABLE_SUFFIXES, ".npz")


def settings_for(path: Path, words: Sequence[str], bundled: Mapping[str, Path]) -> tuple[Config, str]:
    """The configuration for own data, and in a line which one it is.

    Args:
      path: of the data.
      words: settings from the command line, which win.
      bundled: the configurations that come with the library.

    Raises:
      UserError: the data cannot be read.
    """
    asked = configs.apply_overrides(Config(), words).data
    data = read_dataset(path=path, target=asked.target, split=asked.split, seed=asked.seed)
    name, sizes = _chosen(data)
    own = {"data": {"path": str(path.expanduser().absolute())}}
    config = merge(merge(configs.load(bundled[name]), own, where=name), sizes, where=name)
    config = configs.apply_overrides(config, words)
    chosen = [(f"--{section}.{key}", value) for section, keys in sizes.items() for key, value in keys.items()]
    told = " ".join(f"{option} {json.dumps(value)}" for option, value in chosen)
    said = f"{path.name}: settings of {name}{told and f' with {told}'}; hcdc configs {name} prints them, to be edited"
    return config, said


def _chosen(data: ArrayData | GraphData | ImageData) -> tuple[str, dict[str, Any]]:
    """Name of a configuration, and the sizes that fit the data."""
    if isinstance(data, GraphData):
        return "own/graph", _graph_sizes(data)
    steps = {"steps": int(np.clip(EPOCHS * len(data.train_idx) / BATCH, *STEPS))}
    if isinstance(data, ImageData):
        learned = (data.train_idx, data.val_idx)
        smallest = min(np.bincount(data.labels[part], minlength=data.num_classes).min() for part in learned)
        return "own/images", {"training": steps, "condense": {"images_per_class": int(np.clip(smallest, 1, PER_CLASS))}}
    name = "own/table_regression" if data.num_classes is None else "own/table"
    examples = max(EXAMPLES, LEAST * (data.num_classes or 1))
    room = min(len(data.train_idx) // 2, len(data.val_idx))
    return name, {"training": steps, "condense": {"examples": max(min(examples, room), 1)}}


def _graph_sizes(data: GraphData) -> dict[str, dict[str, Any]]:
    """Shares of nodes that hold some of each class and are no more than there are labels; empty where the usual do."""
    usual = Config().condense
    nodes = max(usual.ratio * data.num_nodes, EGOS * data.num_classes)
    nodes = min(nodes, len(data.train_idx))
    factor = min(usual.val_factor, len(data.val_idx) / nodes)
    sizes = {}
    if nodes != usual.ratio * data.num_nodes:
        sizes["ratio"] = min(math.floor(1e4 * nodes / data.num_nodes) / 1e4, 1.0)
    if factor != usual.val_factor:
        sizes["val_factor"] = math.floor(100 * factor) / 100
    return {"condense": sizes} if sizes else {}
