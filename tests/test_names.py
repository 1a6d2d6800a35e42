"""A name that nobody knows gets the same answer wherever it is asked for: `UserError`, its kind, the nearest."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcdc_jax as hc
from hcdc_jax import condense, models, pipeline, spaces
from hcdc_jax import config as configs
from hcdc_jax.batches import augment
from hcdc_jax.batches.graphs import filter_terms
from hcdc_jax.condense import experts, kernels, pruning, statistics
from hcdc_jax.condense.gradient_matching import constant
from hcdc_jax.containers import hmn_container, image_container
from hcdc_jax.data.cells import cell_of
from hcdc_jax.errors import unknown
from hcdc_jax.evaluation import protocols
from hcdc_jax.hypergradients import distances
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.checks import check_config
from hcdc_jax.search import Objective, hypergradient_search
from hcdc_jax.training.soft_labels import SoftLoss, soft_label_loss
from hcdc_jax.types import Batch
from tests.errors import error_of
from tests.small_images import conv_net

CONFIG = configs.Config()
NONE = jnp.zeros((0, 2))


def changed(**sections: dict) -> configs.Config:
    return configs.merge(CONFIG, sections, where="test")


def idc(**options):
    net = conv_net(1, 3, width=2)
    return condense.get("idc")(
        net.problem,
        image_container(),
        constant(()),
        num_classes=3,
        outer_steps=1,
        relay_steps=1,
        batch_size=1,
        **options,
    )


def search(sensitivity):
    space = spaces.get("graph_filter")
    objective = Objective(models.sgc(2, 2), None, None, hc.Training())
    return hypergradient_search(
        jax.random.key(0), space, lambda c: None, 2, objective=objective, sensitivity=sensitivity
    )


# What asks for a name, the kind it has there, a name that is nearly right, and the right one.
ASKED = {
    "condenser": (condense.get, "condenser", "gcond_matching", "gradient_matching"),
    "condenser in capitals": (condense.get, "condenser", "HCDC", "hcdc"),
    "space": (spaces.get, "space", "graph_filtre", "graph_filter"),
    "options of a space": (spaces.options, "space", "bernet", "bernnet"),
    "space of a run": (lambda name: check_config(changed(space={"name": name})), "space", "chebnett", "chebnet"),
    "scale": (lambda name: spaces.box("mine", {"a": (0.1, 1.0, name)}), "scale", "lgo", "log"),
    "hyperparameter": (
        lambda name: spaces.image_training("mine", **{name: (0.1, 1.0)}),
        "hyperparameter of image networks", "mixupp", "mixup",
    ),
    "distance": (distances.get, "distance", "cosin", "cosine"),
    "distance of gradients": (lambda name: idc(distance=name), "distance of gradients", "absolut", "absolute"),
    "data set": (hc.load_dataset, "data set", "citeser", "citeseer"),
    "image network": (lambda name: models.image_net(name, 3), "image network", "resnet17", "resnet18"),
    "option of a network": (
        lambda name: models.image_net("convnet", 3, **{name: 3}),
        "option of convnet", "widht", "width",
    ),
    "model of a run": (
        lambda name: check_config(changed(model={"name": name})),
        "model", "spectral_gn", "spectral_gnn",
    ),
    "activation": (lambda name: models.spectral_gnn(2, 2, activation=name), "activation", "rleu", "relu"),
    "basis": (lambda name: filter_terms(lambda x: x, np.eye(2), 0, name), "basis", "chebishev", "chebyshev"),
    "basis of a network": (lambda name: models.spectral_gnn(2, 2, basis=name), "basis", "laplacien", "laplacian"),
    "basis of coefficients": (lambda name: models.gcn_coefficients(2, name), "basis", "adjacenzy", "adjacency"),
    "start of images": (image_container, "start of images", "nois", "noise"),
    "start of a memory network": (
        lambda name: hmn_container((8, 8, 1), 3, start=name),
        "start of a memory network", "fit_rael", "fit_real",
    ),
    "network of graphs": (
        lambda name: models.graph_problem(name, 2, 2), "graph network", "spectral_gn", "spectral_gnn",
    ),
    "container of a run": (
        lambda name: check_config(changed(condense={"container": name})), "container", "pixls", "pixels",
    ),
    "protocol": (protocols.described_protocol, "protocol", "edc_sof", "edc_soft"),
    "protocol of values": (
        lambda name: protocols.changed_protocol(name, {}, where="test"),
        "protocol", "dsaa", "dsa",
    ),
    "setting of a protocol": (
        lambda name: protocols.described_protocol(f"dsa:{name}=3"),
        "setting of protocol dsa", "epoch", "epochs",
    ),
    "optimiser": (lambda name: hc.Training(optimizer=name), "optimiser", "adm", "adam"),
    "schedule": (lambda name: hc.Training(schedule=name), "schedule", "cosin", "cosine"),
    "schedule of images": (lambda name: idc(schedule=name), "schedule", "constnt", "constant"),
    "order of examples": (lambda name: hc.Training(order=name), "order of examples", "storde", "stored"),
    "sensitivity": (search, "sensitivity", "unrol", "unroll"),
    "operation": (augment.parse, "operation", "flop", "flip"),
    "operation of a cell": (
        lambda name: cell_of(f"|{name}~0|+|none~0|none~1|+|none~0|none~1|none~2|"),
        "operation", "nor_conv_3x4", "nor_conv_3x3",
    ),
    "kernel": (lambda name: kernels.fully_connected(1, kind=name), "kernel", "ngp", "nngp"),
    "flatness": (lambda name: condense.get("edc")((), 2, flatness=name), "flatness", "papr", "paper"),
    "mode of statistics": (lambda name: statistics.joined((), (), name), "mode of statistics", "papre", "paper"),
    "loss on labels of teachers": (
        lambda name: soft_label_loss(NONE, Batch(None, NONE, NONE[:, 0]), SoftLoss(name)),
        "loss on labels of teachers", "logits_mse", "logit_mse",
    ),
    "pruning strategy": (
        lambda name: pruning.prune(*[None] * 4, name, judge=None), "pruning strategy", "double_ends", "double_end",
    ),
    "stored experts": (
        lambda name: experts.open_buffer(*[None] * 6, dtype=name),
        "precision of stored experts", "flaot32", "float32",
    ),
    "method": (lambda name: recipes.get(CONFIG, name), "method", "randm", "random"),
    "method of a run": (lambda name: check_config(changed(methods=(name,))), "method", "hcdcc", "hcdc"),
    "method that trains": (
        lambda name: check_config(changed(hcdc={"train_method": name})), "method", "herdin", "herding",
    ),
    "search": (
        lambda name: pipeline.search(None, Path("runs"), pipeline.SearchPlan(method=name)), "search", "gird", "grid",
    ),
}  # fmt: skip


@pytest.mark.parametrize("asked", ASKED)
def test_an_unknown_name_is_answered_with_its_kind_and_the_nearest_names(asked):
    ask, kind, wrong, right = ASKED[asked]
    text = error_of(lambda: ask(wrong))
    assert text.startswith(f"unknown {kind} {wrong!r}")
    before, _, guesses = text.partition("did you mean ")
    assert before.endswith("; ")
    assert guesses.split(" or ")[0].rstrip("?") == repr(right)


def test_settings_that_are_choices_name_the_nearest_too():
    text = error_of(lambda: changed(training={"optimizer": "momentm"}))
    assert text.endswith("must be one of 'adam', 'sgd', 'momentum', got 'momentm'; did you mean 'momentum'?")
    assert "did you mean" not in error_of(lambda: changed(training={"optimizer": 3}))


def test_where_no_name_is_near_all_are_said():
    assert str(unknown("fruit", "bolt", ["apple", "pear"], where="in the salad", also="or a nut")) == (
        "unknown fruit 'bolt' in the salad; known are apple, pear, or a nut"
    )
