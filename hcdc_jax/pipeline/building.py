"""From a configuration to the objects of a run."""

from __future__ import annotations

from hcdc_jax.config import Config
from hcdc_jax.data import ArrayData, GraphData, ImageData, ImageStream
from hcdc_jax.data.cells import cell_of, is_connected
from hcdc_jax.errors import UserError, unknown
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.kinds import arrays, graphs, image_streams, images
from hcdc_jax.pipeline.kinds.named_containers import AUTO, CONTAINERS, of_kind
from hcdc_jax.pipeline.recipes import zero_cost
from hcdc_jax.pipeline.setup import CANDIDATES, OWN, Data, DataKind, Setup, Source, check_space, key_for, space_of
from hcdc_jax.problem import LOSSES, Problem, ValLoss, judged_by, mean_loss
from hcdc_jax.spaces import Space, one_hot
from hcdc_jax.training.soft_labels import SoftLoss, either_loss
from hcdc_jax.training.train import Training
from hcdc_jax.types import Array

KINDS: dict[type, DataKind] = {
    ArrayData: arrays.KIND,
    GraphData: graphs.KIND,
    ImageData: images.KIND,
    ImageStream: image_streams.KIND,
}
CELLS = "nas_bench_201"
"""Name of the space and of the network that need each other."""


def check_model(name: str) -> None:
    """Checks that some kind of data has a network of this name.

    Raises:
      UserError: none has.
    """
    named = [kind.models for kind in (graphs.KIND, arrays.KIND, images.KIND)]
    if not any(name in models for models in named):
        raise unknown("model", name, [one for models in named for one in models], where="in 'model.name'")


def build(config: Config, data: Data, source: Source | None = None) -> Setup:
    """Builds everything that a run needs; `checks` has the messages for what cannot be built.

    Args:
      config: of the run.
      data: the real data.
      source: the study, whose space and network take the place of what the configuration names.

    Raises:
      UserError: settings that the space or the data do not go with.
    """
    options, kind = config.training, KINDS[type(data)]
    if source is None:
        space, problem = space_of(config), None
        _check_names_go_with(config, kind, space, data.name)
    else:
        space, problem = source.space, source.problem
        check_space(config, space, problem.unrolled_only)
    _check_goes_with(config, kind, space, data.name)
    arrays.check_taught(config, data)
    real = kind.build(config, data, space, problem)

    def training(steps: int, batch_size: int | None, order: str = "shuffled") -> Training:
        return Training(
            options.learning_rate, options.optimizer, steps, batch_size=batch_size, schedule=options.schedule,
            order=order,
        )  # fmt: skip

    val_loss = _val_loss(config)

    def judged(problem: Problem) -> Problem:
        # The network of a study has a validation loss of its own.
        return problem if val_loss is mean_loss or source is not None else judged_by(problem, val_loss)

    order = "stored" if "unshuffled" in (options.dcbench_compat or ()) else "shuffled"

    return Setup(
        config=config,
        kind=kind,
        data=real.data,
        space=space,
        problem=judged(real.problem),
        training=training(options.steps, options.batch_size),
        proxy_training=training(
            options.proxy_steps or options.steps, options.proxy_batch_size or options.batch_size, order
        ),
        candidates=_candidates(config, space),
        train=real.train,
        val=real.val,
        test=real.test,
        preprocessing=real.preprocessing,
        taught_problem=None if real.taught_problem is None else judged(real.taught_problem),
        proxy_problem=judged(real.proxy_problem or real.problem),
        relay_problem=real.problem,
        val_loss=val_loss,
        facts={} if source is None else source.facts,
    )


def _val_loss(config: Config) -> ValLoss:
    loss, labels = LOSSES[config.model.val_loss], config.labels
    if not labels.teachers or labels.val_loss == "cross_entropy":
        return loss
    return either_loss(loss, SoftLoss(labels.val_loss, labels.temperature))


def _candidates(config: Config, space: Space) -> Array:
    options = config.space
    if options.cells is None:
        return space.sample(key_for(CANDIDATES, options.seed), options.candidates)
    if space.name != CELLS:
        raise UserError(f"space.cells lists cells of {CELLS!r}, and space.name is {space.name!r}: leave it out")
    try:
        cells = [cell_of(int(text) if text.isdecimal() else text) for text in options.cells]
    except UserError as error:
        raise UserError(f"space.cells: {error}") from error
    lost = [text for text, cell in zip(options.cells, cells, strict=True) if not is_connected(cell)]
    if lost:
        raise UserError(
            f"space.cells: in {lost[0]} nothing reaches the output, so there is nothing to train; leave it out"
        )
    if len(set(cells)) < len(cells) or len(cells) == 1:
        raise UserError("space.cells: list at least two different cells, each once")
    return one_hot(cells)


def _check_names_go_with(config: Config, kind: DataKind, space: Space, name: str) -> None:
    """Whether the space and the network that a configuration names go with the data and with each other."""
    where = f"{name} holds {kind.unit}"
    if config.model.name == OWN:
        raise UserError(f"model.name = {OWN!r} is that of a study: give its Python file in place of a configuration")
    of_graphs = space.basis is not None
    if of_graphs != (kind is graphs.KIND):
        raise UserError(
            f"{where}, and the space {space.name!r} is for {'graphs' if of_graphs else 'images and tables'}"
        )
    if config.model.name not in kind.models:
        raise UserError(f"{where}; choose model.name among {', '.join(kind.models)}, not {config.model.name!r}")
    if (space.name == CELLS) != (config.model.name == CELLS):
        raise UserError(
            f"space.name = {space.name!r} does not go with model.name = {config.model.name!r}: the cells of "
            f"{CELLS!r} are searched in the network of that name, which has nothing else to search"
        )


def _check_goes_with(config: Config, kind: DataKind, space: Space, name: str) -> None:
    where, container = f"{name} holds {kind.unit}", config.condense.container
    stores = kind.unit if container == AUTO else CONTAINERS.look_up(container, where="in 'condense.container'").unit
    if stores != kind.unit:
        raise UserError(
            f"{where}, and condense.container = {container!r} stores {stores}; choose one of "
            f"{', '.join(of_kind(kind.unit))}"
        )
    if config.condense.init == "fit_real" and config.condense.container != "hmn":
        raise UserError(
            "condense.init = 'fit_real' is how a memory network starts: set condense.container = 'hmn', or "
            "condense.init = 'real'"
        )
    if config.condense.init == "mosaics" and "edc" not in (*config.methods, config.hcdc.train_method):
        raise UserError(
            "condense.init = 'mosaics' is how edc starts: set condense.init = 'real', or add the method edc"
        )
    if "edc" in (*config.methods, config.hcdc.train_method) and config.condense.container not in ("auto", "pixels"):
        raise UserError("edc moves pixels, batch by batch: set condense.container = 'pixels', or leave the method out")
    if config.pruning.strategy != "none" and kind is graphs.KIND:
        raise UserError(
            f"{where}, which hang together, and pruning.strategy = {config.pruning.strategy!r} lets single ones go; "
            "set pruning.strategy = 'none'"
        )
    if config.labels.teachers and kind is graphs.KIND:
        raise UserError(f"{where}, and labels.teachers label images: leave it out")
    if space.name != CELLS:
        for method in config.methods:
            if method in zero_cost.METHODS:
                raise UserError(f"the method {method!r} scores cells, not the space {space.name!r}: leave it out")
    foreign = {method for other in KINDS.values() for method in other.methods} - set(kind.methods)
    for method in (*config.methods, config.hcdc.train_method):
        if method in foreign or recipes.METHODS[method].unit not in (None, kind.unit):
            raise UserError(f"{where}, and the method {method!r} is for other data; leave it out")
