"""Arrays as the pipeline sees them: examples of a study, whatever they are, or the rows of a table."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.base import PixelRates
from hcdc_jax.condense.coresets import Selection, class_counts, uniform
from hcdc_jax.config import Config
from hcdc_jax.containers import ImageStart
from hcdc_jax.data import ArrayData
from hcdc_jax.data.arrays import summary
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.models.tables import TABLE_NETS, table_embedding, table_problem
from hcdc_jax.pipeline.kinds.images import network_options
from hcdc_jax.pipeline.kinds.named_containers import as_given, chosen
from hcdc_jax.pipeline.kinds.shares import asked_of, scaled, told_short
from hcdc_jax.pipeline.kinds.starts import sampling_rng
from hcdc_jax.pipeline.setup import OWN, DataKind, Looked, RealParts, Setup, pool
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import Space
from hcdc_jax.training.soft_labels import SoftLoss
from hcdc_jax.types import Batch


def build(config: Config, data: ArrayData, space: Space, problem: Problem | None) -> RealParts:
    """The network of the study or of `config.model`, and the arrays as they are.

    Raises:
      UserError: settings that only images or graphs have, or no such network.
    """
    options = config.data
    others = {
        "data.train": options.train, "data.val": options.val, "data.test": options.test,
        "data.shrink": None if options.shrink == 1 else options.shrink, "data.label_noise": options.label_noise or None,
    }  # fmt: skip
    for key, value in others.items():
        if value is not None:
            raise UserError(f"{key} is for images; a study of arrays is trained on what it brings: leave it out")
    train, val, test = (_on_device(data.batch(index)) for index in (data.train_idx, data.val_idx, data.test_idx))
    if problem is not None:
        return RealParts(data, train, val, test, None, problem)
    return RealParts(data, train, val, test, None, *_of_rows(config, data, space))


def _of_rows(config: Config, data: ArrayData, space: Space) -> tuple[Problem, Problem | None]:
    """What candidates train on rows of a table, and on labels of teachers if there are any."""
    check_name("network for tables", config.model.name, TABLE_NETS, where="in 'model.name'")
    problem_of = functools.partial(
        table_problem,
        config.model.name,
        data.inputs.shape[1],
        data.num_classes,
        weight_decay=config.training.weight_decay,
        read=space.read,
        **network_options(config.model),
    )
    labels, taught = config.labels, None
    # At temperature 1 the divergence is the cross-entropy, less what training cannot change.
    if labels.teachers and (labels.loss, labels.temperature) != ("kl", 1.0):
        taught = problem_of(soft_loss=SoftLoss(labels.loss, labels.temperature))
    return problem_of(), taught


def _on_device(batch: Batch) -> Batch:
    return jax.tree.map(jnp.asarray, batch)


def count(config: Config, data: ArrayData, part: str) -> int:
    """Examples of S_train ("train") or of S_val ("val"): as many as asked for, one of each class at least."""
    if config.condense.per_class != "auto":
        return int(_shares(config, data, part).sum())
    return max(scaled(config, part, config.condense.examples), data.num_classes or 1)


def _shares(config: Config, data: ArrayData, part: str) -> np.ndarray:
    """[num_classes] examples of each class, no more than it has.

    Raises:
      UserError: numbers for classes where there are none, or for more or fewer than there are.
    """
    num_classes, table = data.num_classes, config.condense.per_class
    if num_classes is None:
        raise UserError("condense.per_class is for classes, and these labels are amounts: leave it out")
    labels = data.labels[pool(data, part)]
    sizes = np.bincount(labels, minlength=num_classes)
    wanted = max(scaled(config, part, config.condense.examples), num_classes)
    if table == "auto":
        return fair_shares(sizes, wanted)
    if table == "proportional":
        return np.minimum(class_counts(labels, wanted, num_classes), sizes)
    return np.minimum(asked_of(config, part, labels, num_classes, 1), sizes)


def sampled(setup: Setup, part: str, seed: int, select: Selection = uniform) -> ImageStart:
    """Real examples; of classes as equally many as can be, and of a small class all that there are.

    Raises:
      UserError: more examples than the part has, a class without any, or arrays that are no floats.
    """
    data, numbers, wanted = setup.data, pool(setup.data, part), count(setup.config, setup.data, part)
    if wanted > len(numbers):
        setting = "condense.examples" if part == "train" else "condense.val_factor times condense.examples"
        raise UserError(f"{setting} = {wanted} is more than the {len(numbers)} examples of the {part} part: lower it")
    rng = sampling_rng(part, seed)
    if data.num_classes is None:
        return _start(data, select(rng, numbers, wanted))
    labels = data.labels[numbers]
    sizes = np.bincount(labels, minlength=data.num_classes)
    if sizes.min() == 0:
        raise UserError(
            f"the {part} part has no example of class {sizes.argmin()}; number the classes from 0 on without gaps, or "
            "draw the parts anew"
        )
    shares = _shares(setup.config, data, part)
    chosen = [select(rng, numbers[labels == c], shares[c]) for c in range(data.num_classes)]
    return _start(data, np.concatenate(chosen))


def fair_shares(sizes: np.ndarray, wanted: int) -> np.ndarray:
    """[num_classes] examples of each class, `wanted` in all, as equal as classes of these sizes allow."""
    shares = np.zeros_like(sizes)
    while shares.sum() < wanted:
        open_classes = np.flatnonzero(shares < sizes)
        more, rest = divmod(wanted - shares.sum(), len(open_classes))
        shares[open_classes] += more
        shares[open_classes[:rest]] += 1
        shares = np.minimum(shares, sizes)
    return shares


def _start(data: ArrayData, index: np.ndarray) -> ImageStart:
    for path, leaf in jax.tree_util.tree_leaves_with_path(data.inputs):
        if leaf.dtype.kind != "f":
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise UserError(
                f"the inputs {name + ' ' if name else ''}of {data.name} are {leaf.dtype}, and condensing moves floats: "
                "give categories as one-hot vectors, tokens as embeddings"
            )
    batch = data.batch(index)
    return ImageStart(batch.inputs, np.asarray(batch.labels))


def _embeddings(setup: Setup, part: str) -> np.ndarray:
    """[n, d], all inputs in a row, each array in units of its root mean square."""
    del part
    leaves = jax.tree.leaves(setup.data.inputs)
    return np.concatenate([leaf.reshape(len(leaf), -1) / max(_size(leaf), 1e-12) for leaf in leaves], 1)


def _with_noise(rng: np.random.Generator, start: ImageStart) -> ImageStart:
    def noise(leaf: np.ndarray) -> np.ndarray:
        return rng.normal(leaf.mean(), leaf.std(), leaf.shape).astype(np.float32)

    return start._replace(images=jax.tree.map(noise, start.images))


def _rates(start: ImageStart, feature_step: float) -> PixelRates:
    """Adam step sizes, in units of each array."""
    return PixelRates(jax.tree.map(lambda leaf: jnp.float32(feature_step * _size(leaf)), start.images))


def _network(setup: Setup) -> Looked:
    model, data = setup.config.model, setup.data
    options = network_options(model)
    return Looked(
        functools.partial(table_problem, model.name, data.inputs.shape[1], data.num_classes, **options),
        functools.partial(table_embedding, model.name, data.num_classes, **options),
    )


def _size(leaf: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(leaf, dtype=np.float64))))


def _batch(setup: Setup, index: np.ndarray) -> Batch:
    return _on_device(setup.data.batch(index))


def _real_scalars(setup: Setup) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(setup.val.inputs))


def _words(setup: Setup) -> str:
    if setup.data.preparation is None:
        return "arrays as the study gives them"
    return f"{', '.join(setup.data.preparation.feature_names)}; prepared, the numbers lie under preparation/"


def _told_short(setup: Setup) -> str:
    config, data = setup.config, setup.data
    if not isinstance(config.condense.per_class, tuple):
        return ""  # others get what small classes do not have, so that all are as many as were asked for
    labels = data.labels[pool(data, "train")]
    asked = asked_of(config, "train", labels, data.num_classes, 1)
    return told_short(asked, np.bincount(labels, minlength=data.num_classes), "examples of the train part")


KIND = DataKind(
    unit="examples",
    models=(OWN, *TABLE_NETS),
    methods=("dc", "dm"),
    summary=summary,
    build=build,
    count=count,
    sampled=sampled,
    to_learn=sampled,
    surplus=lambda setup, part: 0,
    embeddings=_embeddings,
    noise=_with_noise,
    fixed=as_given,
    learned=lambda setup, part: chosen(setup).container(setup, part),
    rates=lambda setup, start: _rates(start, setup.config.hcdc.feature_step),
    matching_rates=lambda setup, start, options: _rates(start, options.feature_step),
    network=_network,
    batch=_batch,
    real_scalars=_real_scalars,
    words=_words,
    storage=_told_short,
    num_parameters=lambda setup: None,
    keep_figure=lambda folder, name, condensed: None,
)


def check_taught(config: Config, data: Any) -> None:
    """Refuses labels of teachers where they cannot be.

    Raises:
      UserError: labels that are no classes, inputs that are more than one array, or views of them.
    """
    if not config.labels.teachers or not isinstance(data, ArrayData):
        return
    if data.num_classes is None or not isinstance(data.inputs, np.ndarray):
        raise UserError("labels.teachers label one array of examples with classes: set labels.teachers = 0")
    if config.labels.views > 1:
        raise UserError("labels.views are of images, which can be augmented: set labels.views = 1")
