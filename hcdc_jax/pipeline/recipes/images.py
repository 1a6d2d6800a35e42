"""Images as the pipeline sees them: the real ones that condensed ones start from, their container, step sizes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import PixelRates
from hcdc_jax.condense.class_batches import balanced_sample
from hcdc_jax.condense.coresets import Selection
from hcdc_jax.config import Config
from hcdc_jax.containers import Container, ImageStart, image_container
from hcdc_jax.data import ImageData, subset
from hcdc_jax.data.images import shrunk, summary
from hcdc_jax.images import Preprocessing, fit_standardisation, fit_whitening, image_batch
from hcdc_jax.models import image_net_options, image_nets, image_problem
from hcdc_jax.pipeline.recipes.starts import sampling_rng
from hcdc_jax.pipeline.setup import Kind, RealParts, Setup, pool
from hcdc_jax.spaces import Space
from hcdc_jax.types import Batch


def per_class(config: Config, part: str) -> int:
    """Images of each class in S_train ("train") or in S_val ("val")."""
    images = config.condense.images_per_class
    return images if part == "train" else max(round(config.condense.val_factor * images), 1)


def build(config: Config, data: ImageData, space: Space) -> RealParts:
    """The network and the real images, preprocessed."""
    options = config.data
    sizes = {"train": options.train, "val": options.val, "test": options.test}
    data = subset(shrunk(data, options.shrink), **sizes, seed=options.seed)
    preprocessing = _preprocessing(config, data)
    problem = image_problem(
        config.model.name,
        data.image_shape,
        data.num_classes,
        weight_decay=config.training.weight_decay,
        read=space.read,
        **network_options(config),
    )
    indices = (data.train_idx, data.val_idx, data.test_idx)
    train, val, test = (image_batch(data, index, preprocessing) for index in indices)
    return RealParts(data, problem, train, val, test, preprocessing)


def network_options(config: Config) -> dict[str, Any]:
    """What `[model]` says about the network, as far as it has such options."""
    model = config.model
    known = image_net_options(model.name)
    given = {"width": model.width, "depth": model.depth, "norm": model.norm, "activation": model.activation}
    return {key: value for key, value in given.items() if key in known and value is not None}


def _preprocessing(config: Config, data: ImageData) -> Preprocessing | None:
    if config.data.preprocessing == "none":
        return None
    fit = {"standard": fit_standardisation, "zca": fit_whitening}[config.data.preprocessing]
    return fit(data.images[data.train_idx])


def sampled(setup: Setup, part: str, seed: int, select: Selection) -> ImageStart:
    """Real images, equally many of each class."""
    data, numbers = setup.data, pool(setup.data, part)
    rng, labels = sampling_rng(part, seed), data.labels[numbers]
    places = balanced_sample(rng, labels, per_class(setup.config, part), data.num_classes, _among(select, numbers))
    batch = _batch(setup, numbers[places])
    return ImageStart(np.asarray(batch.inputs), np.asarray(batch.labels))


def _among(select: Selection, numbers: np.ndarray) -> Selection:
    """A selection among places in `numbers` from one among the numbers themselves."""

    def at_places(rng: np.random.Generator, members: np.ndarray, count: int) -> np.ndarray:
        return np.searchsorted(numbers, select(rng, numbers[members], count))

    return at_places


def _count(config: Config, data: ImageData, part: str) -> int:
    return per_class(config, part) * data.num_classes


def _pixels(setup: Setup, part: str) -> np.ndarray:
    """[n, d], the flattened pixels: no network has to be trained first."""
    del part
    return setup.data.images.reshape(setup.data.num_images, -1)


def _with_noise(rng: np.random.Generator, start: ImageStart) -> ImageStart:
    noise = rng.normal(start.images.mean(), start.images.std(), start.images.shape)
    return start._replace(images=noise.astype(np.float32))


def _container(setup: Setup, part: str) -> Container:
    del setup, part
    return image_container()


def _rates(setup: Setup, start: ImageStart) -> PixelRates:
    size = np.sqrt(np.mean(start.images**2))
    return PixelRates(jnp.float32(setup.config.hcdc.feature_step * size))


def _batch(setup: Setup, index: np.ndarray) -> Batch:
    return image_batch(setup.data, index, setup.preprocessing)


def _real_scalars(setup: Setup) -> int:
    """The pixels of the validation part, all that such a rival keeps besides S_train."""
    return setup.val.inputs.size


def _words(setup: Setup) -> str:
    what = {"none": "as they are", "standard": "standardised by channel", "zca": "standardised and whitened (ZCA)"}
    return f"pixels in [0, 1], {what[setup.config.data.preprocessing]}; the numbers lie under preprocessing/"


KIND = Kind(
    unit="images",
    models=tuple(image_nets()),
    containers=("auto", "pixels"),
    methods=("dc", "dsa", "dm", "kip", "mtt"),
    summary=summary,
    build=build,
    count=_count,
    sampled=sampled,
    embeddings=_pixels,
    noise=_with_noise,
    fixed=_container,
    learned=_container,
    rates=_rates,
    batch=_batch,
    real_scalars=_real_scalars,
    words=_words,
)
