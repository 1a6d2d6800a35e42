"""Graphs as the pipeline sees them: the real nodes that condensed ones start from, containers, step sizes."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import NoReturn

import jax.numpy as jnp
import numpy as np

from hcdc_jax.batches.graphs import batch_of, normalised_adjacency, real_batch, real_graph
from hcdc_jax.condense import coresets
from hcdc_jax.condense.base import GraphRates
from hcdc_jax.condensed import Condensed
from hcdc_jax.config import Config
from hcdc_jax.containers import Container, GraphStart
from hcdc_jax.containers.graph import fixed
from hcdc_jax.data import GraphData
from hcdc_jax.data.graphs import seen_from, summary
from hcdc_jax.errors import UserError
from hcdc_jax.models.graph import GRAPH_NETS, graph_problem
from hcdc_jax.pipeline.kinds.named_containers import chosen, container_of, num_nodes
from hcdc_jax.pipeline.kinds.starts import sampling_rng
from hcdc_jax.pipeline.setup import DataKind, RealParts, Setup, pool
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import Space
from hcdc_jax.storage import files
from hcdc_jax.types import Batch


def sampled(setup: Setup, part: str, seed: int, select: coresets.Selection = coresets.uniform) -> GraphStart:
    """Real nodes with the edges between them; as `condense.sampling` says, with neighbours that bring edges."""
    if not _uses_egos(setup, part):
        return all_labelled(setup, part, seed, select)
    count, data = _checked_count(setup, part), seen_from(setup.data, part)
    labelled = max(count // 2, data.num_classes)
    _check_available(setup, part, labelled)
    nodes, num_labelled = coresets.ego_sample(sampling_rng(part, seed), data, pool(data, part), count, select)
    return coresets.induced_subgraph(data, nodes, num_labelled)


def all_labelled(setup: Setup, part: str, seed: int, select: coresets.Selection = coresets.uniform) -> GraphStart:
    """Real nodes that all carry their label, with the edges between them."""
    count = _checked_count(setup, part)
    _check_available(setup, part, count)
    nodes = coresets.plain_sample(sampling_rng(part, seed), setup.data, pool(setup.data, part), count, select)
    return coresets.induced_subgraph(seen_from(setup.data, part), nodes, len(nodes))


def all_labelled_repeated(setup: Setup, part: str, seed: int) -> GraphStart:
    """As `all_labelled` at random, but where labelled nodes are fewer than asked for, some stand more than once."""
    count = _checked_count(setup, part)
    nodes = coresets.repeated_sample(sampling_rng(part, seed), setup.data, pool(setup.data, part), count)
    return coresets.induced_subgraph(seen_from(setup.data, part), nodes, len(nodes))


def with_noise(rng: np.random.Generator, start: GraphStart) -> GraphStart:
    """The graph with noise for features."""
    noise = rng.normal(start.features.mean(), start.features.std(), start.features.shape)
    return start._replace(features=noise.astype(np.float32))


def learned(setup: Setup, part: str) -> Container:
    """The container that `condense.container` names."""
    return chosen(setup).container(setup, part)


def embeddings(setup: Setup, part: str) -> np.ndarray:
    """[n, d] features after two propagations, S^2 X: what SGC sees, so that no network has to be trained first."""
    data = seen_from(setup.data, part)
    operator = normalised_adjacency(data.edges, data.num_nodes, data.edge_weights)
    smooth = operator @ (operator @ data.features)
    return np.asarray(smooth if isinstance(smooth, np.ndarray) else smooth.toarray())


def build(config: Config, data: GraphData, space: Space, problem: Problem | None) -> RealParts:
    """The filter network and the real graph, its features propagated once for all networks.

    Raises:
      UserError: settings that only images have.
    """
    options = config.data
    of_images = {
        "training.batch_size": config.training.batch_size, "data.train": options.train, "data.val": options.val,
        "data.test": options.test, "data.shrink": None if options.shrink == 1 else options.shrink,
        "data.label_noise": options.label_noise or None,
    }  # fmt: skip
    for key, value in of_images.items():
        if value is not None:
            raise UserError(f"{key} is for images; a graph is trained on as a whole: leave it out")
    if isinstance(config.condense.per_class, tuple):
        raise UserError("condense.per_class: nodes go by the class sizes; leave it out, or set it to 'proportional'")
    problem = problem or graph_problem(
        config.model.name,
        data.num_features,
        data.num_classes,
        hidden=config.model.hidden,
        activation=config.model.activation,
        basis=config.space.basis,
        weight_decay=config.training.weight_decay,
        read=space.read,
    )
    propagated = functools.partial(real_graph, order=config.space.order, basis=config.space.basis)
    whole = propagated(data)
    seen_in_training = whole if data.train_edges is None else propagated(seen_from(data, "train"))
    return RealParts(
        data,
        train=batch_of(seen_in_training, data.train_idx),
        val=batch_of(whole, data.val_idx),
        test=batch_of(whole, data.test_idx),
        preprocessing=None,
        problem=problem,
    )


def rates(start: GraphStart, feature_step: float, structure_learning_rate: float) -> GraphRates:
    """Adam step sizes; that of the features is in units of their root mean square.

    Adam moves every entry by about its rate, so a fixed rate drowns small features and does nothing to large ones.
    """
    size = np.sqrt(np.mean(start.features**2))
    return GraphRates(jnp.float32(feature_step * size), jnp.float32(structure_learning_rate))


def _uses_egos(setup: Setup, part: str) -> bool:
    """Whether labelled nodes bring neighbours along.

    With "auto" they do where a plain sample would leave the average node less than one neighbour: without edges all
    filters of one coefficient sum are the same.
    """
    sampling, data = setup.config.condense.sampling, seen_from(setup.data, part)
    if sampling != "auto":
        return sampling == "ego"
    mean_degree = 2 * data.edges.shape[1] / data.num_nodes
    return mean_degree * num_nodes(setup.config, data, part) / data.num_nodes < 1


def _checked_count(setup: Setup, part: str) -> int:
    count, num_classes = num_nodes(setup.config, setup.data, part), setup.data.num_classes
    if count < num_classes:
        key, per_unit = _size_setting(setup, part)
        raise UserError(
            f"{key} leaves S_{part} {count} nodes for {num_classes} classes; raise it to {num_classes / per_unit:.4g} "
            "or more"
        )
    return count


def _check_available(setup: Setup, part: str, labelled: int) -> None:
    available = len(pool(setup.data, part))
    if labelled > available:
        key, per_unit = _size_setting(setup, part)
        share = labelled / num_nodes(setup.config, setup.data, part)
        # Rounded down, so that the advice holds.
        largest = math.floor(1e4 * available / share / per_unit) / 1e4
        raise UserError(
            f"{key} asks for {labelled} labelled nodes in S_{part}, but {setup.data.name} has {available} {part} "
            f"nodes; lower it to {largest:.4g} or less"
        )


def _size_setting(setup: Setup, part: str) -> tuple[str, float]:
    """The setting that decides the size of a condensed part, and how many nodes one unit of it is."""
    if part == "train":
        return "condense.ratio", setup.data.num_nodes
    return "condense.val_factor", num_nodes(setup.config, setup.data, "train")


def _batch(setup: Setup, index: np.ndarray) -> Batch:
    return real_batch(setup.data, index, order=setup.config.space.order, basis=setup.config.space.basis)


def _hcdc_rates(setup: Setup, start: GraphStart) -> GraphRates:
    return rates(start, setup.config.hcdc.feature_step, setup.config.hcdc.structure_learning_rate)


def _no_matching(*asked: object) -> NoReturn:
    """What is asked of rows and images alone, whose examples do not hang together."""
    raise UserError("nodes of a graph are matched by gcond, gcond_x and gradient_matching")


def _real_scalars(setup: Setup) -> int:
    """All features and edges, since training and validation may reach any node."""
    weights = 0 if setup.data.edge_weights is None else setup.data.edge_weights.size
    return setup.data.num_nodes * setup.data.num_features + setup.data.edges.size + weights


def _words(setup: Setup) -> str:
    space = setup.config.space
    return f"edges [i, j, k] hold P_k of the {space.basis} basis, k = 0 ... {space.order}; nodes hold X"


def _keep_adjacency(folder: Path, name: str, condensed: Condensed) -> None:
    """The weights of the propagation P_1 of both condensed parts, for the figure of the learned graph."""
    arrays = {}
    for part, batch in (("train", condensed.train), ("val", condensed.val)):
        terms = np.asarray(batch.inputs.edges)
        if terms.shape[-1] < 2:
            return  # filters of order 0 do not propagate
        arrays[part] = np.abs(terms[..., 1])
        arrays[f"{part}_labels"] = np.where(np.asarray(batch.weights) > 0, np.asarray(batch.labels), -1)
    files.write_npz(folder / f"{name}_adjacency.npz", arrays)


KIND = DataKind(
    num_parameters=lambda setup: None,
    unit="nodes",
    models=GRAPH_NETS,
    methods=("gcond", "gcond_x", "gradient_matching"),
    summary=summary,
    build=build,
    count=num_nodes,
    sampled=sampled,
    to_learn=functools.partial(sampled, select=coresets.uniform),
    surplus=lambda setup, part: 0,
    embeddings=embeddings,
    noise=with_noise,
    fixed=container_of(fixed()),
    learned=learned,
    rates=_hcdc_rates,
    matching_rates=_no_matching,
    network=_no_matching,
    batch=_batch,
    real_scalars=_real_scalars,
    words=_words,
    storage=lambda setup: "",
    keep_figure=_keep_adjacency,
)
