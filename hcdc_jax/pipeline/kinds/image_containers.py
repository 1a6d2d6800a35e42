"""What stores condensed images: which container, how many images it decodes, how its numbers are moved."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import ImageRates, MemoryRates, PixelRates
from hcdc_jax.config import Config
from hcdc_jax.containers import (
    Container,
    ImageStart,
    MemoryShapes,
    hmn_container,
    hmn_sizes,
    image_container,
    multi_formation_container,
    planned_ledger,
    usual_shapes,
)
from hcdc_jax.containers.hmn import Fit
from hcdc_jax.containers.images import as_they_are
from hcdc_jax.data import ImageData
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.kinds.shares import asked_of, check_equal, scaled, told_short
from hcdc_jax.pipeline.setup import Setup, pool

NAMES = ("auto", "pixels", "multi_formation", "hmn")


def per_class(config: Config, part: str) -> int:
    """Images of each class whose numbers S_train ("train") or S_val ("val") may store."""
    return scaled(config, part, config.condense.images_per_class)


def asked(config: Config, data: ImageData, part: str) -> np.ndarray:
    """[num_classes] images of each class whose numbers S_train or S_val may store, whether a class has them or not."""
    labels = data.labels[pool(data, part)]
    return asked_of(config, part, labels, data.num_classes, per_class(config, part))


def generated_per_class(setup: Setup, part: str) -> int:
    """Images of each class that are decoded from these numbers.

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
    images, name = per_class(setup.config, part), setup.config.condense.container
    if name == "hmn":
        check_equal(setup.config, "condense.container = 'hmn'")
        return hmn_sizes(factor * images, setup.data.image_shape, setup.data.num_classes, shapes(setup, part))
    # 1.1 times 10 comes out as 11.000000000000002, other products a little too small.
    return math.floor(factor * tiles(setup.config) * images + 1e-9)


def tiles(config: Config) -> int:
    """Images that are decoded from the numbers of one, where they are stored small."""
    return config.condense.formation_factor**2 if config.condense.container == "multi_formation" else 1


def fixed(setup: Setup, part: str) -> Container:
    """The container of real images that stay as they are."""
    del setup, part
    return image_container()


def learned(setup: Setup, part: str) -> Container:
    """The container that `condense.container` names."""
    config, data = setup.config, setup.data
    if config.condense.container == "multi_formation":
        return multi_formation_container(data.image_shape, config.condense.formation_factor)
    if config.condense.container == "hmn":
        return hmn_container(
            data.image_shape,
            data.num_classes,
            shapes(setup, part),
            start="noise" if config.condense.init == "noise" else "fit_real",
            to_inputs=as_they_are if setup.preprocessing is None else setup.preprocessing.apply,
            fit=Fit(config.hmn.fit_steps, config.hmn.fit_rate),
        )
    return image_container()


def storage(setup: Setup) -> str:
    """How many images are learned in the numbers of how many, what is pruned, and the ledger of a memory network."""
    name, data, over = setup.config.condense.container, setup.data, surplus(setup, "train")
    pruned = f"; {over} more of each class are learned for S_train and pruned" if over else ""
    if name not in ("multi_formation", "hmn"):
        return pruned + _told_short(setup)
    if setup.config.condense.per_class != "auto":
        return f"; in their numbers {name} stores {tiles(setup.config)} times as many, where they are learned"
    counts = {part: generated_per_class(setup, part) for part in ("train", "val")}
    told = f"; in their numbers {name} stores {counts['train']} + {counts['val']} of each class, where they are learned"
    told += pruned
    if name == "hmn":
        for part, count in counts.items():
            planned = planned_ledger(data.image_shape, data.num_classes, shapes(setup, part), count)
            told += f"\nS_{part}: {planned}"
    return told


def _told_short(setup: Setup) -> str:
    for part in ("train", "val"):
        sizes = np.bincount(setup.data.labels[pool(setup.data, part)], minlength=setup.data.num_classes)
        told = told_short(asked(setup.config, setup.data, part), sizes, f"images of the {part} part")
        if told:
            return told
    return ""


def shapes(setup: Setup, part: str) -> MemoryShapes:
    """The memories and networks that `[hmn]` describes; what it leaves out is usual for the budget."""
    options = setup.config.hmn
    given = {
        "dataset": options.dataset_channels,
        "extracted": options.extracted_channels,
        "per_class": options.class_channels,
        "instance": options.instance_channels,
        "width": options.decoder_width,
        "side": options.side,
    }
    usual = usual_shapes(per_class(setup.config, part), setup.data.image_shape)
    return usual._replace(**{name: value for name, value in given.items() if value is not None})


def adam_rates(setup: Setup, start: ImageStart) -> PixelRates | MemoryRates:
    """Adam step sizes of S_val: `hcdc.feature_step` in units of the pixels, or those of `[hmn]`."""
    if setup.config.condense.container == "hmn":
        return _memory_rates(setup.config)
    size = np.sqrt(np.mean(start.images**2))
    return PixelRates(jnp.float32(setup.config.hcdc.feature_step * size))


def image_rates(setup: Setup, image_rate: float) -> ImageRates | MemoryRates:
    """Step sizes of what DC, DSA, DM, IDC and MTT move: `image_rate` of pixels, or those of `[hmn]`."""
    if setup.config.condense.container == "hmn":
        return _memory_rates(setup.config)
    return ImageRates(jnp.float32(image_rate))


def _memory_rates(config: Config) -> MemoryRates:
    memory, network = jnp.float32(config.hmn.memory_rate), jnp.float32(config.hmn.network_rate)
    return MemoryRates(memory, memory, memory, network, network)
