"""EDC: images with the statistics of real ones in observers, which are trained once for all seeds of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcdc_jax.batches import augment
from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.batches.images import Standardisation, StreamedInputs, places_in_order, read_batches
from hcdc_jax.condense.base import Condenser
from hcdc_jax.condense.class_batches import ClassPool
from hcdc_jax.condense.edc import EDCData, ObserverTarget, edc, num_batches
from hcdc_jax.condense.epoch_training import EpochTraining, checksum
from hcdc_jax.condense.mosaics import check_mosaics, mosaics
from hcdc_jax.condense.observers import (
    Observer,
    ensemble,
    identity_of,
    load_observer,
    observer,
    save_observer,
    train_observer,
    train_observer_streamed,
)
from hcdc_jax.condense.statistics import (
    Moments,
    Shown,
    Statistics,
    ViewMoments,
    order_of,
    statistics,
    statistics_of_batches,
    view_of,
)
from hcdc_jax.containers import Container
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.evaluation import Teacher
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.kinds.shares import check_equal
from hcdc_jax.pipeline.kinds.starts import learned, stored, to_learn
from hcdc_jax.pipeline.recipes.base import Cost, Learner, Method, Recipe, Request, Work, part_key
from hcdc_jax.pipeline.recipes.image_relays import full_trainings, real_images, real_pool, strategy
from hcdc_jax.pipeline.setup import MOSAICS, OBSERVERS, Run, Setup, Start, check_in_memory, key_for
from hcdc_jax.storage import files
from hcdc_jax.storage.codec import to_arrays, to_tree
from hcdc_jax.types import Array, Batch, Params

STATISTICS_BATCH = 64
"""Images at once; the authors' code takes so many, which decides its variances."""


def observers_of(folder: Path, part: str) -> Path:
    """Where the observers of one part lie in a run folder; all seeds share them, as they share the real data."""
    return folder / "checkpoints" / f"observers_{part}"


def observers(setup: Setup) -> tuple[Observer, ...]:
    """The networks that `edc.observers` names.

    Raises:
      UserError: one is unknown, or does not go with the images.
    """
    data = setup.data
    nets = tuple(observer(text, data.image_shape, data.num_classes) for text in setup.config.edc.observers)
    for net in nets:
        if net.norms is not None:  # their statistics take a pass over all images for each norm
            check_in_memory(setup, f"the batch norm of observer {net.text!r}")
    return nets


def _condenser(setup: Setup, container: Container) -> Condenser:
    del container  # pixels: checked when the run was set up
    options = setup.config.edc
    return edc(
        tuple(one.look for one in observers(setup)), setup.data.num_classes, iterations=options.iterations,
        batch_size=options.batch_size, flatness=options.flatness if options.flatness_weight else "none",
        mode=options.statistics,
    )  # fmt: skip


def _steps(setup: Setup) -> int:
    options, config = setup.config.edc, setup.config
    count = config.condense.images_per_class * setup.data.num_classes
    return options.iterations * num_batches(count, setup.data.num_classes, options.batch_size)


def _work(request: Request) -> Work:
    setup, options = request.run.setup, request.run.setup.config.edc
    sized = _of_size(setup, request.start.images.shape[0])
    pool = real_pool(request) if setup.config.condense.init == "mosaics" else None
    _check(sized, pool)
    nets, (params, cost) = observers(setup), trained_observers(request)
    low, high = _range(setup)
    scalars = {
        name: jnp.float32(getattr(options, name))
        for name in (
            "image_rate", "alpha", "matching_weight", "first_layer", "momentum", "crop_area",
            "flatness_weight", "flatness_decay", "flatness_temperature",
        )
    }  # fmt: skip
    with measured() as elapsed:
        targets = tuple(
            ObserverTarget(one, _statistics(request, number, net, one))
            for number, (net, one) in enumerate(zip(nets, params, strict=True))
        )
        start = None if pool is None else _mosaics(request, pool, nets, params)
        jax.block_until_ready((targets, start))
    flip = jnp.float32(0.5 if _mirrors(setup) else 0.0)
    data = EDCData(targets, low, high, start, flip=flip, **scalars)
    return Work(data, cost.plus(Cost(elapsed.run, elapsed.compile)), setup=sized)


def _check(sized: Setup, pool: ClassPool | None) -> None:
    """Refuses what makes no batches or no mosaics, before any observer is trained."""
    _steps(sized)
    condense, options = sized.config.condense, sized.config.edc
    if pool is not None:
        check_mosaics(pool, condense.images_per_class, factor=options.mosaic_factor, images=options.mosaic_images)


def _of_size(setup: Setup, count: int) -> Setup:
    """The setup with as many images per class as this part has: how many batches there are follows from it."""
    condense = dataclasses.replace(setup.config.condense, images_per_class=count // setup.data.num_classes)
    return setup._replace(config=dataclasses.replace(setup.config, condense=condense))


def trained_observers(request: Request) -> tuple[list[Params], Cost]:
    """Parameters of the observers of a run, trained where they are missing, and what all of them cost at any time."""
    run, setup, options = request.run, request.run.setup, request.run.setup.config.edc
    real, folder = real_images(request), observers_of(request.run.folder, request.part)
    training = EpochTraining(
        jnp.float32(options.observer_rate),
        options.observer_epochs,
        options.observer_batch_size,
        shown_to_observers(setup, real.inputs),
    )
    nets = observers(setup)
    keys = [_key_of(request.part, number) for number in range(len(nets))]
    streamed = isinstance(real.inputs, StreamedInputs)
    data, train_one = (setup.data.checksum, train_observer_streamed) if streamed else (checksum(real), train_observer)
    made_by = [identity_of(key, net, data, training) for key, net in zip(keys, nets, strict=True)]
    kept = [load_observer(folder, number, made) for number, made in enumerate(made_by)]
    missing = [number for number, one in enumerate(kept) if one is None]
    for number in run.progress.track(missing, f"observers for S_{request.part} of edc", len(nets) - len(missing)):
        with measured() as elapsed:
            params = jax.block_until_ready(train_one(keys[number], nets[number], real, training))
        spent = {"seconds": elapsed.run, "compile_seconds": elapsed.compile}
        save_observer(folder, number, params, made_by[number], **spent)
        kept[number] = load_observer(folder, number, made_by[number])
    found = [one for one in kept if one is not None]
    cost = Cost(
        compile_seconds=sum(entry["compile_seconds"] for _, entry in found),
        training_seconds=sum(entry["seconds"] for _, entry in found),
        full_trainings=len(nets) * full_trainings(setup, options.observer_epochs * real.labels.shape[0]),
    )
    return [params for params, _ in found], cost


def _key_of(part: str, number: int) -> Array:
    """Of all that is drawn for one observer."""
    return jax.random.fold_in(jax.random.fold_in(key_for(OBSERVERS, 0), 0 if part == "train" else 1), number)


def shown_to_observers(setup: Setup, inputs: Any) -> Augmentation | None:
    """What observers see real images under in training, see `statistics.Mode`: shifts, and mirrors where they may be.

    In mode "code" pictures that are decoded as random crops are not shifted besides.
    """
    mirrors = ("flip",) if _mirrors(setup) else ()
    if setup.config.edc.statistics == "paper":
        return Augmentation(("crop", *mirrors))
    cropped = isinstance(inputs, StreamedInputs) and inputs.crops
    operations = mirrors if cropped else ("crop", *mirrors)
    return Augmentation(operations, acting="all") if operations else None


def observing_teacher(run: Run) -> Teacher:
    """The observers of S_train together, trained where they are missing: the mean of their logits."""
    params, _ = trained_observers(Request(run, "train", 0, None, None))
    return Teacher(ensemble(tuple(net.problem for net in observers(run.setup))), tuple(params))


def _statistics(request: Request, number: int, net: Observer, params: Params) -> Statistics:
    """What an observer reads from the real images: from disk, where this observer left it there."""
    setup, folder = request.run.setup, observers_of(request.run.folder, request.part)
    mode, real, num_classes = setup.config.edc.statistics, real_images(request), setup.data.num_classes
    shown = None
    if mode == "code":
        key = jax.random.fold_in(_key_of(request.part, number), 2)  # 0 and 1 are what its training splits it into
        shown = Shown(key, shown_to_observers(setup, real.inputs))
    path, made_by = folder / f"statistics_{mode}_{number:02d}.npz", files.sha256(folder / f"observer_{number:02d}.npz")
    # Files of older versions say nothing of views: their images were looked at as they are.
    seen = "as they are" if shown is None else f"{augment.settings_of(shown.augmentation)}"
    if path.exists():
        arrays = read_arrays(path)
        if str(arrays.pop("observer")) == made_by and str(arrays.pop("seen", "as they are")) == seen:
            return _read_statistics(to_tree(arrays))
    if isinstance(real.inputs, StreamedInputs):
        found = statistics_of_batches(net.look, params, _batches(real, shown), num_classes, mode=mode)
    else:
        found = statistics(net.look, params, real, num_classes, mode=mode, batch_size=STATISTICS_BATCH, shown=shown)
    arrays = to_arrays({f"{place:04d}": view for place, view in enumerate(found)})
    files.write_npz(path, arrays | {"observer": np.array(made_by), "seen": np.array(seen)})
    return found


def _batches(real: Batch, shown: Shown | None) -> Iterator[Batch]:
    """Batches of streamed images as they are, or as they are shown; then in an order that is drawn."""
    slices = list(places_in_order(real.labels.shape[0], STATISTICS_BATCH))
    if shown is None:
        yield from read_batches(real, slices)
        return
    order = np.asarray(order_of(shown, real.labels.shape[0]))
    crops = int(jax.random.bits(shown.key)) if real.inputs.crops else None
    places = [order[place] for place in slices]
    for place, batch in zip(places, read_batches(real, places, crops=crops), strict=True):
        yield batch._replace(inputs=view_of(shown, batch.inputs, jnp.asarray(place)))


def _read_statistics(tree: dict) -> Statistics:
    return tuple(
        ViewMoments(Moments(**tree[place]["whole"]), Moments(**tree[place]["classes"])) for place in sorted(tree)
    )


def _mosaics(request: Request, pool: ClassPool, nets: tuple[Observer, ...], params: list[Params]) -> Array:
    """Mosaics that the observers are surest of, by the mean of their losses."""
    setup, options = request.run.setup, request.run.setup.config.edc

    def judge(images: Array, labels: Array) -> Array:
        said = [net.problem.apply(one, (), images) for net, one in zip(nets, params, strict=True)]
        return jnp.stack([optax.softmax_cross_entropy_with_integer_labels(one, labels) for one in said]).mean(0)

    key = jax.random.fold_in(part_key(request.part, request.seed), MOSAICS)
    made = mosaics(
        key, pool, judge, request.start.images.shape[0] // setup.data.num_classes,
        factor=options.mosaic_factor, images=options.mosaic_images, crops=options.mosaic_crops,
    )  # fmt: skip
    return jnp.asarray(made)


def _range(setup: Setup) -> tuple[Array, Array]:
    """Black and white [c] as networks read them; without bound where whitening leaves none."""
    channels = setup.data.image_shape[-1]
    low, high = jnp.zeros((1, 1, 1, channels)), jnp.ones((1, 1, 1, channels))
    if setup.preprocessing is None:
        return low.reshape(-1), high.reshape(-1)
    if isinstance(setup.preprocessing, Standardisation):
        return setup.preprocessing.apply(low).reshape(-1), setup.preprocessing.apply(high).reshape(-1)
    return jnp.full(channels, -jnp.inf), jnp.full(channels, jnp.inf)


def _mirrors(setup: Setup) -> bool:
    """Whether images may be flipped: as `condense.augmentation` says."""
    chosen = strategy(setup)
    return chosen is not None and "flip" in chosen.operations


def _equally_many(setup: Setup, part: str, seed: int) -> Start:
    """As `stored`: batches and mosaics have as many images of each class.

    Raises:
      UserError: a class gets fewer than another.
    """
    check_equal(setup.config, "the method edc")
    start = stored(setup, part, seed)
    sizes = np.bincount(start.labels, minlength=setup.data.num_classes)
    if sizes.min() < sizes.max():
        raise UserError(
            f"the method edc takes equally many images of each class, and class {sizes.argmin()} has {sizes.min()} of "
            f"{sizes.max()}: lower condense.images_per_class, or leave the method out"
        )
    return start


_RECIPE = Recipe("edc", to_learn(_equally_many), learned, Learner(_condenser, _work, _steps, rate="edc.image_rate"))

METHOD = Method("EDC: images with the statistics of real ones in trained networks (arXiv 2404.13733)", _RECIPE, _RECIPE)
