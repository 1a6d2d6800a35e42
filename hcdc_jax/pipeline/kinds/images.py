"""Images as the pipeline sees them: the real ones that condensed ones start from, their container, step sizes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from hcdc_jax.batches.images import (
    PUBLISHED,
    Preprocessing,
    Standardisation,
    fit_raw_whitening,
    fit_standardisation,
    fit_whitening,
    image_batch,
    pixels_of,
)
from hcdc_jax.condense.class_batches import class_sample
from hcdc_jax.condense.coresets import Selection, uniform
from hcdc_jax.condensed import Condensed
from hcdc_jax.config import Config, ModelConfig
from hcdc_jax.containers import ImageStart
from hcdc_jax.data import ImageData, subset
from hcdc_jax.data.image_streams import ImageStream
from hcdc_jax.data.images import mislabelled, shrunk, summary
from hcdc_jax.errors import UserError
from hcdc_jax.models import IMAGE_NETS, image_embedding, image_net_options, image_problem
from hcdc_jax.models.nas_bench_201 import size_of
from hcdc_jax.pipeline.kinds import image_containers
from hcdc_jax.pipeline.kinds.named_containers import as_given
from hcdc_jax.pipeline.kinds.starts import sampling_rng
from hcdc_jax.pipeline.setup import OWN, DataKind, Looked, RealParts, Setup, pool
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import Space
from hcdc_jax.spaces.dcbench import misread
from hcdc_jax.storage import files
from hcdc_jax.training.soft_labels import SoftLoss
from hcdc_jax.types import Batch


def build(config: Config, data: ImageData, space: Space, problem: Problem | None) -> RealParts:
    """The network and the real images, preprocessed."""
    options = config.data
    sizes = {"train": options.train, "val": options.val, "test": options.test}
    data = subset(shrunk(data, options.shrink), **sizes, seed=options.seed)
    data = mislabelled(data, options.label_noise, seed=options.seed)
    preprocessing = _preprocessing(config, data)
    indices = (data.train_idx, data.val_idx, data.test_idx)
    train, val, test = (image_batch(data, index, preprocessing) for index in indices)
    return RealParts(data, train, val, test, preprocessing, **problems(config, data, space, problem))


def problems(config: Config, data: ImageData | ImageStream, space: Space, problem: Problem | None) -> dict[str, Any]:
    """What candidates train, by the names that `RealParts` has for it; that of a study as it is."""
    if problem is not None:
        return {"problem": problem}
    flaws = config.training.dcbench_compat or ()
    problem_of = functools.partial(
        image_problem,
        config.model.name,
        data.image_shape,
        data.num_classes,
        weight_decay=config.training.weight_decay,
        **network_options(config.model),
    )
    on_condensed = functools.partial(problem_of, read=misread(space.read, flaws))
    if "no_affine" in flaws:
        on_condensed = functools.partial(on_condensed, cell_affine=False)
    labels = config.labels
    taught = on_condensed(soft_loss=SoftLoss(labels.loss, labels.temperature)) if labels.teachers else None
    return {"problem": problem_of(read=space.read), "taught_problem": taught, "proxy_problem": on_condensed()}


def num_parameters(setup: Setup) -> np.ndarray | None:
    """[n] numbers that each candidate learns, where candidates differ in them, as cells do."""
    if setup.config.model.name == OWN:
        return None
    settings = [setup.space.read(hparams) for hparams in setup.candidates]
    if settings[0].cell is None:
        return None
    options = {name: value for name, value in network_options(setup.config.model).items() if name != "activation"}
    shape, num_classes = setup.data.image_shape, setup.data.num_classes
    return np.array([size_of(np.asarray(one.cell), shape, num_classes, **options).parameters for one in settings])


def network_options(model: ModelConfig) -> dict[str, Any]:
    """What `[model]` asks of its network, as far as that network knows it."""
    known = image_net_options(model.name)
    given = {"width": model.width, "depth": model.depth, "norm": model.norm, "activation": model.activation}
    return {key: value for key, value in given.items() if key in known and value is not None}


def _network(setup: Setup) -> Looked:
    model, data = setup.config.model, setup.data
    options = network_options(model)
    return Looked(
        functools.partial(image_problem, model.name, data.image_shape, data.num_classes, **options),
        functools.partial(image_embedding, model.name, data.num_classes, **options),
    )


def _preprocessing(config: Config, data: ImageData) -> Preprocessing | None:
    if config.data.preprocessing == "none":
        return None
    if config.data.preprocessing == "imagenet":
        return imagenet_standardisation(data)
    fits = {"standard": fit_standardisation, "zca": fit_whitening, "zca_mtt": fit_raw_whitening}
    return fits[config.data.preprocessing](data.images[data.train_idx])


def imagenet_standardisation(data: ImageData | ImageStream) -> Standardisation:
    """The constants that the field standardises ImageNet by.

    Raises:
      UserError: images without colours.
    """
    if data.image_shape[-1] != 3:
        raise UserError(
            f"{data.name} has {data.image_shape[-1]} channel: set data.preprocessing = 'standard', 'imagenet' is for "
            "colours"
        )
    return PUBLISHED["imagenet"]


def sampled(setup: Setup, part: str, seed: int, select: Selection) -> ImageStart:
    """Real images, as many of each class as are asked for, and of a small class all that there are."""
    data, numbers = setup.data, pool(setup.data, part)
    rng, labels = sampling_rng(part, seed), data.labels[numbers]
    places = class_sample(rng, labels, image_containers.asked(setup.config, data, part), _among(select, numbers))
    return _start(setup, numbers[places])


def _to_learn(setup: Setup, part: str, seed: int) -> ImageStart:
    """As `sampled` at random, as many as are decoded, the surplus too; where a class has fewer, some stand twice."""
    config, data, numbers = setup.config, setup.data, pool(setup.data, part)
    asked, counts = image_containers.asked(config, data, part), image_containers.decoded(setup, part)
    labels = data.labels[numbers]
    members = [numbers[labels == c] for c in range(data.num_classes)]
    enough = config.condense.container != "hmn" or min(map(len, members)) >= counts.max()
    if np.array_equal(counts, asked) and enough:
        return sampled(setup, part, seed, uniform)
    rng = sampling_rng(part, seed)
    if min(map(len, members)) == 0:
        raise UserError(
            f"the {part} part has no image of class {min(range(len(members)), key=lambda c: len(members[c]))}"
        )
    chosen = [np.resize(rng.permutation(own), count) for own, count in zip(members, counts, strict=True)]
    return _start(setup, np.concatenate(chosen))


def _start(setup: Setup, index: np.ndarray) -> ImageStart:
    batch = _batch(setup, index)
    return ImageStart(np.asarray(batch.inputs), np.asarray(batch.labels))


def _among(select: Selection, numbers: np.ndarray) -> Selection:
    """A selection among places in `numbers` from one among the numbers themselves."""

    def at_places(rng: np.random.Generator, members: np.ndarray, count: int) -> np.ndarray:
        return np.searchsorted(numbers, select(rng, numbers[members], count))

    return at_places


def _count(config: Config, data: ImageData, part: str) -> int:
    sizes = np.bincount(data.labels[pool(data, part)], minlength=data.num_classes)
    return int(np.minimum(image_containers.asked(config, data, part), sizes).sum())


def _pixels(setup: Setup, part: str) -> np.ndarray:
    """[n, d], the flattened pixels: no network has to be trained first."""
    del part
    return setup.data.images.reshape(setup.data.num_images, -1)


def _with_noise(rng: np.random.Generator, start: ImageStart) -> ImageStart:
    noise = rng.normal(start.images.mean(), start.images.std(), start.images.shape)
    return start._replace(images=noise.astype(np.float32))


def _batch(setup: Setup, index: np.ndarray) -> Batch:
    return image_batch(setup.data, index, setup.preprocessing)


def _real_scalars(setup: Setup) -> int:
    """The pixels of the validation part, all that such a rival keeps besides S_train."""
    return setup.val.inputs.size


def _words(setup: Setup) -> str:
    what = {
        "none": "as they are",
        "standard": "standardised by channel",
        "imagenet": "standardised by channel as ImageNet is",
        "zca": "standardised and whitened (ZCA of FRePo)",
        "zca_mtt": "whitened without being standardised (ZCA of MTT)",
    }
    return f"pixels in [0, 1], {what[setup.config.data.preprocessing]}; the numbers lie under preprocessing/"


def _keep_images(folder: Path, name: str, condensed: Condensed) -> None:
    """The pixels of both condensed parts as one sees them, in [0, 1] as far as they are images, for the figure."""
    arrays = {}
    for part, batch in (("train", condensed.train), ("val", condensed.val)):
        arrays[part] = pixels_of(batch.inputs, condensed.preprocessing)
        arrays[f"{part}_labels"] = np.asarray(batch.labels)
    files.write_npz(folder / f"{name}_images.npz", arrays)


KIND = DataKind(
    unit="images",
    models=IMAGE_NETS,
    methods=("dc", "dsa", "dm", "idc", "kip", "mtt", "edc"),
    summary=summary,
    build=build,
    count=_count,
    sampled=sampled,
    to_learn=_to_learn,
    surplus=image_containers.surplus,
    embeddings=_pixels,
    noise=_with_noise,
    fixed=as_given,
    learned=image_containers.learned,
    rates=image_containers.adam_rates,
    matching_rates=lambda setup, start, options: image_containers.image_rates(setup, options.image_rate),
    network=_network,
    batch=_batch,
    real_scalars=_real_scalars,
    words=_words,
    storage=image_containers.storage,
    num_parameters=num_parameters,
    keep_figure=_keep_images,
)
