"""What a condensed part starts from and what stores it, whatever the kind of data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hcdc_jax.condense import coresets
from hcdc_jax.containers import Container
from hcdc_jax.pipeline.setup import Setup, Start


def sampled(setup: Setup, part: str, seed: int, select: coresets.Selection = coresets.uniform) -> Start:
    """Real examples of every class."""
    return setup.kind.sampled(setup, part, seed, select)


def stored(setup: Setup, part: str, seed: int) -> Start:
    """Real examples of every class, as many as the container of the configuration decodes from what it stores."""
    return setup.kind.to_learn(setup, part, seed)


def to_learn(start: Callable[[Setup, str, int], Start]) -> Callable[[Setup, str, int], Start]:
    """`start`, with noise for inputs where `condense.init` asks for it."""

    def learnable(setup: Setup, part: str, seed: int) -> Start:
        real = start(setup, part, seed)
        if setup.config.condense.init != "noise":
            return real
        # Not the stream of the sampling: the noise must not know which examples were drawn.
        return setup.kind.noise(np.random.default_rng([seed, 2 if part == "train" else 3]), real)

    return learnable


def sampling_rng(part: str, seed: int) -> np.random.Generator:
    """The generator that draws the real examples of a condensed part."""
    return np.random.default_rng([seed, 0 if part == "train" else 1])


def fixed(setup: Setup, part: str) -> Container:
    """The container of real examples, left as they are."""
    return setup.kind.fixed(setup, part)


def learned(setup: Setup, part: str) -> Container:
    """The container that `condense.container` names."""
    return setup.kind.learned(setup, part)
