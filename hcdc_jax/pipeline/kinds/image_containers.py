"""What stores condensed images: how many are decoded from a budget, how its numbers are moved."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import ImageRates, PixelRates
from hcdc_jax.config import Config
from hcdc_jax.containers import Container, ImageStart
from hcdc_jax.data import ImageData
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.kinds.named_containers import chosen, per_class
from hcdc_jax.pipeline.kinds.shares import asked_of, check_equal, told_short
from hcdc_jax.pipeline.setup import Setup, pool


def asked(config: Config, data: ImageData, part: str) -> np.ndarray:
    """[num_classes] images of each class whose numbers S_train or S_val may store, whether a class has them or not."""
    labels = data.labels[pool(data, part)]
    return asked_of(config, part, labels, data.num_classes, per_class(config, part))


def decoded(setup: Setup, part: str) -> np.ndarray:
    """[num_classes] images of each class that are decoded from these numbers, those that are pruned later included."""
    each = generated_per_class(setup, part) + surplus(setup, part)
    if setup.config.condense.per_class == "auto":
        return np.full(setup.data.num_classes, each)
    return asked(setup.config, setup.data, part) * each // per_class(setup.config, part)


def generated_per_class(setup: Setup, part: str) -> int:
    """Images of each class that are decoded from the numbers of the budget.

    Raises:
      UserError: a memory network of one image per class stores more.
    """
    return _fitting(setup, part, 1.0)


def surplus(setup: Setup, part: str) -> int:
    """Images of each class that are learned beyond the budget, and are pruned in the end.

    Raises:
      UserError: there is to be a surplus, and it is less than an image.
    """
    options = setup.config.pruning
    if part != "train" or options.strategy == "none":
        return 0
    check_equal(setup.config, "pruning")
    fitting = generated_per_class(setup, part)
    more = _fitting(setup, part, 1 + options.over_budget) - fitting
    if more == 0:
        raise UserError(
            f"pruning.over_budget = {options.over_budget:g} of the budget of S_train is less than one image of each "
            f"class, {fitting} of which fit: raise it, or set pruning.strategy = 'none'"
        )
    return more


def _fitting(setup: Setup, part: str, factor: float) -> int:
    """Images of each class that are decoded from so many times the numbers of the budget."""
    decoded = chosen(setup).per_class
    images = factor * per_class(setup.config, part) if decoded is None else decoded(setup, part, factor)
    # 1.1 times 10 comes out as 11.000000000000002, other products a little too small.
    return math.floor(images + 1e-9)


def learned(setup: Setup, part: str) -> Container:
    """The container that `condense.container` names."""
    return chosen(setup).container(setup, part)


def storage(setup: Setup) -> str:
    """How many images are learned in the numbers of how many, what is pruned, and the ledger if there is one."""
    name, container, over = setup.config.condense.container, chosen(setup), surplus(setup, "train")
    pruned = f"; {over} more of each class are learned for S_train and pruned" if over else ""
    if container.per_class is None:
        return pruned + _told_short(setup)
    if setup.config.condense.per_class != "auto":
        times = generated_per_class(setup, "train") / per_class(setup.config, "train")
        return f"; in their numbers {name} stores {times:g} times as many, where they are learned"
    counts = {part: generated_per_class(setup, part) for part in ("train", "val")}
    told = f"; in their numbers {name} stores {counts['train']} + {counts['val']} of each class, where they are learned"
    told += pruned
    if container.ledger is not None:
        for part, count in counts.items():
            told += f"\nS_{part}: {container.ledger(setup, part, count)}"
    return told


def _told_short(setup: Setup) -> str:
    for part in ("train", "val"):
        sizes = np.bincount(setup.data.labels[pool(setup.data, part)], minlength=setup.data.num_classes)
        told = told_short(asked(setup.config, setup.data, part), sizes, f"images of the {part} part")
        if told:
            return told
    return ""


def adam_rates(setup: Setup, start: ImageStart) -> Any:
    """Adam step sizes of S_val: those of the container, or `hcdc.feature_step` in units of the pixels."""
    own = chosen(setup).rates
    if own is not None:
        return own(setup.config)
    size = np.sqrt(np.mean(start.images**2))
    return PixelRates(jnp.float32(setup.config.hcdc.feature_step * size))


def image_rates(setup: Setup, image_rate: float) -> Any:
    """Step sizes of what DC, DSA, DM, IDC and MTT move: those of the container, or `image_rate` of pixels."""
    own = chosen(setup).rates
    return ImageRates(jnp.float32(image_rate)) if own is None else own(setup.config)
