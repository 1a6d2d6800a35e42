"""Spaces as a configuration names them: what is built, what is refused, and a whole run of the widest one."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from hcdc_jax import pipeline, spaces
from hcdc_jax.errors import UserError
from hcdc_jax.training.candidates import evaluate
from hcdc_jax.training.train import Training
from tests.runs import small_config

NAMED = {
    "appnp": {"order": 4, "basis": "adjacency"},
    "bernnet": {"order": 4, "basis": "chebyshev"},
    "chebnet": {"order": 2, "basis": "chebyshev"},
    "filter_training": {"order": 1, "basis": "adjacency", "prior": "l1"},
    "gprgnn": {"order": 4, "basis": "adjacency"},
    "graph_filter": {"order": 1, "basis": "chebyshev"},
}
UNROLL = {"sensitivity": "unroll"}


def test_every_space_is_tried_here_or_on_images_or_tables():
    assert {*NAMED, "regularisation", "tables", "nas_bench_201"} == set(spaces.names())


@pytest.mark.parametrize("name", NAMED)
def test_a_configuration_builds_the_space_and_the_network_that_reads_it(tmp_path, name):
    config = small_config(tmp_path, space={"name": name, **NAMED[name]}, hcdc=UNROLL)
    setup = pipeline.prepare(config)
    taken = {key: value for key, value in NAMED[name].items() if key in spaces.options(name)}
    assert setup.space is spaces.get(name, **taken)
    scores = evaluate(
        jax.random.key(0), setup.problem, setup.candidates[:3], setup.train, setup.val, training=Training(steps=3)
    )
    assert scores.status.all()
    assert len(set(np.asarray(scores.loss).tolist())) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"name": "gprgnn"}}, "the space 'gprgnn' has a basis of its own: set space.basis = 'adjacency'"),
        (
            {"space": {"name": "bernnet", "basis": "chebyshev", "prior": "l1"}},
            "the space 'bernnet' has a prior of its own: leave out space.prior",
        ),
        (
            {"space": {"name": "appnp", "basis": "adjacency"}, "hcdc": {"distance": "cosine"}},
            "the space 'appnp' has one hyperparameter, of which a cosine sees the sign alone: "
            "set hcdc.distance = 'value_gradient'",
        ),
        (
            {"space": {"name": "appnp", "basis": "adjacency"}, "methods": ("hcdc_shared",)},
            "the space 'appnp' has one hyperparameter, of which a cosine sees the sign alone: "
            "leave out the method hcdc_shared",
        ),
        (
            {"training": {"batch_size": 10}},
            "training.batch_size is for images; a graph is trained on as a whole: leave it out",
        ),
        ({"data": {"shrink": 2}}, "data.shrink is for images; a graph is trained on as a whole: leave it out"),
        (
            {"data": {"label_noise": 0.1}},
            "data.label_noise is for images; a graph is trained on as a whole: leave it out",
        ),
        (
            {"space": {"name": "filter_training"}},
            "the space 'filter_training' searches log_learning_rate_factor, whose implicit hypergradient is 0: "
            "set hcdc.sensitivity = 'unroll'",
        ),
        (
            {"space": {"name": "filter_training"}, "hcdc": UNROLL, "methods": ("hcdc_shared",)},
            "the space 'filter_training' searches log_learning_rate_factor, whose implicit hypergradient is 0: "
            "leave out the method hcdc_shared",
        ),
        (
            {"space": {"name": "filter_training"}, "hcdc": UNROLL, "training": {"optimizer": "sgd"}},
            "the space 'filter_training' searches the learning rate of Adam: set training.optimizer = 'adam'",
        ),
    ],
)
def test_what_a_space_does_not_go_with(tmp_path, changes, message):
    with pytest.raises(UserError) as caught:
        pipeline.prepare(small_config(tmp_path, **changes))
    assert str(caught.value) == message


def test_a_run_over_filters_and_their_training(tmp_path):
    config = small_config(
        tmp_path, methods=("hcdc",), space={"name": "filter_training"}, training={"steps": 10},
        hcdc={**UNROLL, "steps": 4, "oversampling": 1}, truth={"enabled": False},
    )  # fmt: skip
    with jax.numpy_rank_promotion("allow"), pipeline.opened(config, tmp_path / "run") as run:
        pipeline.condense(run)
        pipeline.rank(run)
    targets = sorted((tmp_path / "run" / "checkpoints").rglob("targets*/*.npz"))
    assert len(targets) == 3
    for path in targets:
        with np.load(path) as target:
            assert target["gradient"].shape == (6,)
            assert np.isfinite(target["gradient"]).all()
            assert (target["gradient"] != 0).all()
