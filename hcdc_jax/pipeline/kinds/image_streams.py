"""Streamed images as the pipeline sees them: the training part is decoded in batches, the rest lies in memory."""

from __future__ import annotations

from hcdc_jax.batches.images import Preprocessing, image_batch, places_in_order, standardisation_of, streamed_batch
from hcdc_jax.config import Config
from hcdc_jax.data.image_streams import ImageStream, stream_subset
from hcdc_jax.pipeline.kinds import images
from hcdc_jax.pipeline.setup import RealParts
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import Space

METHODS = ("random", "edc")
"""What never asks for all training images at once."""
PREPROCESSING = ("none", "standard", "imagenet")
"""Likewise."""
AT_ONCE = 256
"""Images that are decoded at once for the statistics of pixels."""


def build(config: Config, data: ImageStream, space: Space, problem: Problem | None) -> RealParts:
    """The network and the real images; those for validation and tests are decoded here, as many as `[data]` says."""
    options = config.data
    data = stream_subset(data, train=options.train, val=options.val, test=options.test, seed=options.seed)
    preprocessing = _preprocessing(config, data)
    train = streamed_batch(data, data.train_idx, preprocessing, crops=options.crop_area is not None)
    val, test = (image_batch(data, index, preprocessing) for index in (data.val_idx, data.test_idx))
    return RealParts(data, train, val, test, preprocessing, **images.problems(config, data, space, problem))


def _preprocessing(config: Config, data: ImageStream) -> Preprocessing | None:
    if config.data.preprocessing == "none":
        return None
    if config.data.preprocessing == "imagenet":
        return images.imagenet_standardisation(data)
    pictures = data.images.take(data.train_idx)
    return standardisation_of(pictures.batches(places_in_order(len(pictures), AT_ONCE)))


KIND = images.KIND._replace(build=build)
