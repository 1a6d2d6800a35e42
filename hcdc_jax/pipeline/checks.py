"""Everything that can be wrong with a configuration and its data, found before any work is done."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hcdc_jax import spaces
from hcdc_jax.batches import augment
from hcdc_jax.config import Config, shares_theta, validate
from hcdc_jax.data import published_accuracies
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.hypergradients.distances import DISTANCES
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.building import CELLS, check_model
from hcdc_jax.pipeline.kinds import image_streams
from hcdc_jax.pipeline.kinds.named_containers import AUTO, CONTAINERS
from hcdc_jax.pipeline.recipes.base import Recipe
from hcdc_jax.pipeline.setup import OWN, Setup, Source


def resolved(config: Config) -> Config:
    """The configuration as a run folder keeps it, its values checked.

    The path of the data is absolute, so that the run can be taken up from any folder, and settings of plugins are
    written out.

    Raises:
      UserError: settings that no plugin has, or values that are not allowed.
    """
    validate(config)
    config = recipes.completed(config)
    if config.data.path is None:
        return config
    path = str(Path(config.data.path).expanduser().absolute())
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=path))


def check_config(config: Config, source: Source | None = None) -> Config:
    """The configuration, `resolved`, once its names and what they mean together are checked, too.

    What space, data and network make impossible together is left to `building.build`, which has them.

    Args:
      config: of the run.
      source: of a study, which brings its own space and network.

    Raises:
      UserError: what is wrong, in one line.
    """
    config = resolved(config)
    for setting, names in (("methods", config.methods), ("hcdc.train_method", (config.hcdc.train_method,))):
        for name in names:
            recipes.METHODS.look_up(name, where=f"in {setting!r}")
    if source is None:
        if config.space.name != OWN:
            spaces.SPACES.look_up(config.space.name, where="in 'space.name'", also=[OWN])
        check_model(config.model.name)
    DISTANCES.look_up(config.hcdc.distance, where="in 'hcdc.distance'")
    if config.condense.container != AUTO:
        CONTAINERS.look_up(config.condense.container, where="in 'condense.container'", also=[AUTO])
    _check_table(config)
    _check_stream(config)
    if config.hcdc.theta == "shared" and {"hcdc", "hcdc_shared"} <= set(config.methods):
        raise UserError("hcdc.theta = 'shared' makes the methods hcdc and hcdc_shared the same; drop one of them")
    if "hcdc_surrogate" in config.methods and ("hcdc" not in config.methods or config.hcdc.theta == "shared"):
        raise UserError(
            "hcdc_surrogate reads the S_val of hcdc with hcdc.theta = 'own': name hcdc among the methods, too"
        )
    if "hcdc_surrogate" in config.methods and config.hcdc.refinements:
        raise UserError("hcdc_surrogate knows nothing of hcdc.refinements: leave out one of them")
    for method in config.methods:
        recipes.train_recipe(config, method)
    if config.hcdc.refinements:
        _check_refinements(config)
    if config.condense.copies > 1 and config.hcdc.refinements:
        raise UserError("hcdc.refinements train in full what one S_val finds best: with them set condense.copies = 1")
    _check_matched(config)
    _check_labels(config)
    _check_dcbench(config)
    return config


def _check_matched(config: Config) -> None:
    options = config.hcdc
    if options.sensitivity != "unroll" and (options.side_by_side > 1 or options.adjoint_batch_size):
        raise UserError(
            "hcdc.side_by_side and hcdc.adjoint_batch_size go with hcdc.sensitivity = 'unroll': set that or leave them"
        )
    if options.sensitivity == "unroll" and options.stop_sure is not None:
        raise UserError(
            "hcdc.sensitivity = 'unroll' trains and differentiates in one go, which cannot stop midway: leave out "
            "hcdc.stop_sure"
        )
    batch_size = config.training.batch_size
    if options.adjoint_batch_size and (batch_size is None or options.adjoint_batch_size > batch_size):
        raise UserError(
            f"hcdc.adjoint_batch_size = {options.adjoint_batch_size} is for fewer images than training.batch_size = "
            f"{batch_size}: lower it, or leave it out"
        )
    if config.space.name == CELLS and options.side_by_side > 1:
        raise UserError("cells are trained one by one: set hcdc.side_by_side = 1")
    if options.extended_space == "trajectories" and options.side_by_side > 1:
        raise UserError("points of hcdc.extended_space = 'trajectories' follow one another: set hcdc.side_by_side = 1")


def _check_table(config: Config) -> None:
    if config.truth.table is None:
        return
    if config.space.name != CELLS:
        raise UserError(f"truth.table: there is no published table for the space {config.space.name!r}; leave it out")
    check_name("table", config.truth.table, [CELLS], where="in 'truth.table'")
    # Read now: what is wrong with the file should be known before anything is trained.
    name = config.data.name if config.data.path is None else Path(config.data.path).stem
    for part in ("val", "test"):
        published_accuracies(name, part)


def _check_stream(config: Config) -> None:
    options = config.data
    if not options.stream:
        for name in ("side", "resize", "crop_area"):
            if getattr(options, name) is not None:
                raise UserError(
                    f"data.{name} is for pictures that are streamed: set data.stream = true, or leave it out"
                )
        return
    if options.side is None and (options.resize or options.crop_area):
        raise UserError(
            "data.resize and data.crop_area go with data.side, the side of what pictures are cut to: set it"
        )
    for method in config.methods:
        if method not in image_streams.METHODS:
            raise _at_once(f"the method {method!r}", f"choose among {', '.join(image_streams.METHODS)}")
    if config.truth.enabled:
        raise _at_once("the truth", "set truth.enabled = false")
    if config.labels.teachers:
        raise _at_once("the training of teachers", "leave out labels.teachers")
    if options.preprocessing not in image_streams.PREPROCESSING:
        raise _at_once("whitening", "set data.preprocessing = 'standard' or 'imagenet'")
    if options.label_noise:
        raise UserError("data.label_noise is for images in memory: leave it out, or set data.stream = false")
    if options.shrink != 1:
        raise UserError("data.shrink is for images in memory: with data.stream set data.side")


def _at_once(what: str, mend: str) -> UserError:
    return UserError(
        f"data.stream reads training images in batches, and {what} takes all of them in memory: {mend}, or set "
        "data.stream = false"
    )


def _check_refinements(config: Config) -> None:
    options, refinable = config.hcdc, {"hcdc", "value_only", "hcdc_shifted"} & set(config.methods)
    if options.theta == "shared" or not refinable:
        raise UserError(
            "hcdc.refinements add to the full trainings that hcdc, value_only and hcdc_shifted match, of which this "
            "run has none: leave them out"
        )
    if options.found > options.searched:
        raise UserError(f"hcdc.found = {options.found} of hcdc.searched = {options.searched} candidates: lower it")
    if options.refined_by == "hypergradient" and "hcdc_shifted" in config.methods:
        raise UserError(
            "hypergradient search does not know the shift of hcdc_shifted: set hcdc.refined_by = 'random', or leave "
            "the method out"
        )
    if options.refined_by == "hypergradient" and config.space.name == CELLS:
        raise UserError("descents leave the cells for mixtures of them: set hcdc.refined_by = 'random'")


def _check_labels(config: Config) -> None:
    labels, methods = config.labels, config.methods
    augment.parse(labels.augmentation, augment.VIEW_OPERATIONS)
    if not labels.teachers:
        needing = [name for name in methods if name == "teacher_val" or name.endswith("_hard")]
        if needing or labels.val == "teachers":
            what = f"the method {needing[0]!r}" if needing else "labels.val = 'teachers'"
            raise UserError(f"{what} needs teachers: set labels.teachers = 3, or leave it out")
    if labels.teachers > config.hcdc.full_trainings:
        raise UserError(
            f"labels.teachers = {labels.teachers}, but hcdc.full_trainings = {config.hcdc.full_trainings} are all that "
            "can teach; lower the one or raise the other"
        )
    if labels.teachers and shares_theta(config):
        raise UserError(
            "hcdc_shared, or hcdc with hcdc.theta = 'shared', matches losses of S_train with real ones, which labels "
            "of teachers are not: leave it out, or set labels.teachers = 0"
        )
    by_class = [name for name in methods if isinstance(val := recipes.get(config, name).val, Recipe) and val.by_class]
    if labels.val == "teachers" and by_class:
        raise UserError(
            f"the S_val of {by_class[0]} is learned class by class: set labels.val = 'own' or condense.val = 'random'"
        )
    if labels.val == "teachers" and config.condense.container not in ("auto", "pixels"):
        raise UserError(
            "labels.val = 'teachers' is for images that are stored as they are: set condense.container = 'pixels'"
        )
    if config.hcdc.sensitivity == "direct" and not config.hcdc.direct:
        raise UserError(
            "hcdc.sensitivity = 'direct' and hcdc.direct = false leave no hypergradient; change one of them"
        )


def _check_dcbench(config: Config) -> None:
    flaws = config.training.dcbench_compat
    if flaws is None:
        return
    if config.space.name != CELLS:
        raise UserError(f"training.dcbench_compat is about cells, not the space {config.space.name!r}: leave it out")
    trained_in_full = ("hcdc", "hcdc_shared", "hcdc_shifted", "lambda_shift", "value_only")
    matching = [name for name in config.methods if name in trained_in_full]
    if matching:
        raise UserError(
            f"training.dcbench_compat is for baselines, and {matching[0]} matches networks that are trained without "
            "flaws: leave one of them out"
        )
    if "narrow" in flaws and "softmax" not in flaws:
        raise UserError("training.dcbench_compat: 'narrow' changes nothing without 'softmax'; add that")
    if "unshuffled" in flaws and not (config.training.batch_size or config.training.proxy_batch_size):
        raise UserError(
            "training.dcbench_compat: 'unshuffled' changes nothing in batches of all images; set "
            "training.proxy_batch_size = 64"
        )


def check_sizes(setup: Setup) -> None:
    """Draws the start of every part and builds its condenser once, which is cheap and finds what cannot be made.

    Raises:
      UserError: more synthetic nodes than real ones, fewer than classes, or a method that the space does not suit.
    """
    config = setup.config
    parts: dict[tuple[str, str], Recipe] = {}  # methods share them, and on a large graph a draw takes a second
    for method in config.methods:
        train, val = recipes.train_recipe(config, method), recipes.get(config, method).val
        parts[train.name, "train"] = train
        if isinstance(val, Recipe):
            parts[val.name, "val"] = val
    for (_, part), recipe in parts.items():
        _check_half(setup, recipe, part)


def _check_half(setup: Setup, recipe: Recipe, part: str) -> None:
    recipe.start(setup, part, setup.config.seeds[0])  # seeds change the draw, not the sizes
    if recipe.learner is not None:
        recipe.learner.condenser(setup, recipe.container(setup, part))
