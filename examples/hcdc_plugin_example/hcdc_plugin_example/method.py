"""The wiring: which settings the method has, what its steps read, and how both halves are made."""

from __future__ import annotations

import dataclasses

import jax

from hcdc_jax.extend import (
    Condenser,
    Container,
    Count,
    Learner,
    Method,
    Positive,
    Recipe,
    Request,
    Setup,
    Work,
    image_rates,
    learned,
    real_images,
    settings_of,
    stored,
    to_learn,
)
from hcdc_plugin_example.class_means import MeansData, class_means

NAME = "class_means"  # as in pyproject.toml


@dataclasses.dataclass(frozen=True)
class Settings:
    """Section [plugins.class_means] of a configuration."""

    steps: Count = 20  # of gradient descent
    image_rate: Positive = 0.3  # its step size
    # Ranges are checked: `Count` is a whole number of at least 1, `Positive` a number above 0.


def _settings(setup: Setup) -> Settings:
    return settings_of(setup.config, NAME, Settings)


def _condenser(setup: Setup, container: Container) -> Condenser:
    del setup
    return class_means(container)


def _work(request: Request) -> Work:
    setup = request.run.setup
    real = real_images(request)  # of the part that is asked for: S_train stands for training, S_val for validation
    one_hot = jax.nn.one_hot(real.labels, setup.data.num_classes)
    means = jax.numpy.einsum("nk,nhwc->khwc", one_hot / one_hot.sum(0), real.inputs)
    return Work(MeansData(means, image_rates(setup, _settings(setup).image_rate)))


def _steps(setup: Setup) -> int:
    return _settings(setup).steps


RECIPE = Recipe(
    NAME, to_learn(stored), learned, Learner(_condenser, _work, _steps, rate="plugins.class_means.image_rate")
)
METHOD = Method(
    "images moved to the mean of their class; an example of a plugin", RECIPE, RECIPE, unit="images", settings=Settings
)
