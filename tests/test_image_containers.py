"""Containers of images under the condensers and in a run: one budget of numbers, whatever stores them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import pipeline
from hcdc_jax.condense.base import ImageRates, MemoryRates, PixelRates, learned_fields
from hcdc_jax.condense.class_batches import class_pool, sum_over_classes
from hcdc_jax.condense.dc import DCData, dc
from hcdc_jax.condense.dm import DMData, dm
from hcdc_jax.condense.gradient_matching import constant
from hcdc_jax.condense.hcdc import HCDCData, condensed_pool, hcdc
from hcdc_jax.condensed import load_condensed
from hcdc_jax.containers import (
    HMNVariables,
    ImageStart,
    MemoryShapes,
    graph_container,
    hmn_container,
    image_container,
    multi_formation_container,
    stored_scalars,
)
from hcdc_jax.containers.graph import fixed
from hcdc_jax.errors import UserError
from hcdc_jax.hypergradients.fixed_networks import Target
from hcdc_jax.hypergradients.solvers import identity
from hcdc_jax.pipeline import condensing, recipes
from hcdc_jax.training.train import Training
from hcdc_jax.types import Batch
from tests.small_images import blobs, conv_net
from tests.test_image_run import config_with

KEY = jax.random.key(1)
SHAPE = (6, 6, 1)
NET = conv_net(1, 3, width=2)
IMAGES, LABELS = blobs(12)
ORDER = np.argsort(LABELS, kind="stable")
START = ImageStart(IMAGES[ORDER].astype(np.float32), LABELS[ORDER])
MEMORIES = MemoryShapes(dataset=2, extracted=2, per_class=1, instance=1, width=3, side=3)
CONTAINERS = {
    "pixels": image_container(),
    "multi_formation": multi_formation_container(SHAPE),
    "hmn": hmn_container(SHAPE, 3, MEMORIES),
}
SMALL_STEP = jnp.float32(0.01)


@pytest.fixture(params=CONTAINERS, name="name")
def _name(request):
    return request.param


def adam_rates(name):
    return MemoryRates(*[SMALL_STEP] * 5) if name == "hmn" else PixelRates(SMALL_STEP)


def descent_rates(name):
    return adam_rates(name) if name == "hmn" else ImageRates(SMALL_STEP)


def stepped(condenser, data, variables):
    state = condenser.init(KEY, variables, data)
    return jax.jit(condenser.step)(KEY, state, data)


def check_all_moved(before, after):
    """Every tensor that is learned has a slope, and is finite after the step."""
    for name, leaves in learned_fields(before).items():
        for old, new in zip(jax.tree.leaves(leaves), jax.tree.leaves(getattr(after, name)), strict=True):
            assert np.isfinite(new).all()
            assert np.any(old != new), name


@pytest.mark.parametrize("name", ["multi_formation", "hmn"])  # pixels: test_image_condensers.py
@pytest.mark.parametrize("method", ["dm", "dc"])
def test_condensers_of_classes_move_all_that_is_stored(name, method):
    container, pool = CONTAINERS[name], class_pool(IMAGES, LABELS, 3)
    if method == "dm":
        condenser = dm(NET.problem, NET.embed, container, constant(()), batch_size=4, synthetic_per_class=2)
        data = DMData(pool, descent_rates(name))
    else:
        condenser = dc(NET.problem, container, constant(()), outer_steps=2, inner_epochs=1, batch_size=4)
        data = DCData(pool, descent_rates(name))
    variables = container.init(KEY, START)
    state, info = stepped(condenser, data, variables)
    assert info.distance > 0
    check_all_moved(variables, state.variables)


@pytest.mark.parametrize("name", ["multi_formation", "hmn"])
def test_hypergradients_move_all_that_is_stored(name):
    container = CONTAINERS[name]
    train = Batch(jnp.asarray(START.images), jnp.asarray(START.labels), jnp.ones(12))
    hparams = jnp.array([[-3.0], [-4.0]])
    pool = condensed_pool(KEY, NET.problem, hparams, train, Training(0.1, "sgd", 2), solver=identity())
    data = HCDCData(pool, Target(jnp.array([1.0, 0.7]), jnp.array([[0.2], [-0.1]])), jnp.ones(1), adam_rates(name))
    variables = container.init(KEY, START)
    state, info = stepped(hcdc(NET.problem, container, distance="value_gradient"), data, variables)
    assert np.isfinite(info.distance)
    check_all_moved(variables, state.variables)


def test_single_images_can_be_had(name):
    container = CONTAINERS[name]
    variables, places = container.init(KEY, START), jnp.array([7, 0, 7])
    some = jax.jit(container.decode_at)(variables, places)
    whole = jax.jit(container.decode)(variables)
    expected = jax.tree.map(lambda leaf: leaf[places], whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), some, expected)
    np.testing.assert_array_equal(whole.labels, START.labels)
    assert whole.inputs.shape == START.images.shape


def test_a_drawn_part_of_each_class_is_what_is_matched():
    container, drawn = CONTAINERS["pixels"], []
    real = Batch(jnp.zeros((3, 1, *SHAPE)), jnp.arange(3)[:, None], jnp.ones((3, 1)))

    def loss(key, real, synthetic):
        return jnp.sum(synthetic.inputs * jnp.asarray(2.0))

    for seed in range(4):
        value, slope = sum_over_classes(
            loss, jax.random.key(seed), real, container, container.init(KEY, START), per_class=2
        )
        chosen = np.asarray(slope["pixels"]).any((1, 2, 3))
        assert chosen.reshape(3, 4).sum(1).tolist() == [2, 2, 2]
        np.testing.assert_allclose(value, 2 * START.images[chosen].sum(), rtol=1e-5)
        drawn.append(tuple(chosen))
    assert len(set(drawn)) > 1
    whole = graph_container(fixed(), 2, "laplacian")._replace(decode=container.decode)
    with pytest.raises(UserError, match=r"leave out condense\.synthetic_per_class"):
        sum_over_classes(loss, KEY, real, whole, container.init(KEY, START), per_class=2)


def test_tiles_are_means_and_are_enlarged_linearly():
    """As torch.nn.functional.interpolate does with align_corners=False, which IDC enlarges with."""
    container = multi_formation_container((4, 4, 1), 2)
    images = np.arange(32.0).reshape(2, 4, 4, 1)
    variables = container.init(KEY, ImageStart(images, np.arange(2)))
    assert variables.pixels.shape == (2, 2, 2, 1)
    tile = np.array([[0.0, 1.0], [4.0, 8.0]])
    variables = variables._replace(pixels=jnp.asarray(np.stack([tile, 2 * tile])[..., None]))
    weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])  # of the two pixels for each of four
    np.testing.assert_allclose(container.decode(variables).inputs[0, :, :, 0], weights @ tile @ weights.T, rtol=1e-6)


def test_tiles_that_do_not_divide_the_image_stay_within_the_budget():
    container = multi_formation_container((7, 5, 2), 3)
    variables = container.init(KEY, ImageStart(np.ones((9, 7, 5, 2)), np.zeros(9, int)))
    assert stored_scalars(variables)["pixels"] == 9 * 2 * 1 * 2 <= 7 * 5 * 2
    np.testing.assert_allclose(container.decode(variables).inputs, np.ones((9, 7, 5, 2)), atol=1e-6)
    with pytest.raises(UserError, match=r"condense\.formation_factor = 6 leaves nothing of images of 7 x 5"):
        multi_formation_container((7, 5, 2), 6)


SMALL: dict[str, dict] = {
    "data": {"train": 60, "val": 60, "test": 20, "shrink": 1},
    "space": {"candidates": 3},
    "training": {"steps": 3, "proxy_steps": 3},
    "condense": {"images_per_class": 2, "val_factor": 1.5, "val": "random"},
    "dm": {"steps": 2, "batch_size": 4},
    "hmn": {
        "dataset_channels": 2, "extracted_channels": 2, "class_channels": 1, "instance_channels": 1, "decoder_width": 4,
        "fit_steps": 2,
    },
    "truth": {"enabled": False},
}  # fmt: skip


def config_of(container, methods=("dm", "hcdc"), **changes):
    sections = {name: SMALL.get(name, {}) | changes.get(name, {}) for name in {*SMALL, *changes}}
    sections["condense"] = {"container": container} | sections["condense"]
    return config_with(methods, **sections)


SHARED = 32 + 160 + 60 + (9 * 4 + 1) * 4 + (9 * 4 + 1)
"""Numbers that all images of a network of SMALL share: its memories are 4 x 4, its images 8 x 8 of 10 classes."""


def condensed_in(folder, config):
    """All artefacts of a run that is not ranked."""
    with jax.numpy_rank_promotion("allow"), pipeline.opened(config, folder) as run:
        condensing.condense(run)
    return {method: load_condensed(folder, method) for method in config.methods}


def stored_in(condensed, part):
    """Numbers that were learned, from the ledger of the card."""
    given = (f"variables/{part}/labels", f"variables/{part}/weights")
    ledger = condensed.card["ledger"]
    return sum(size for name, size in ledger.items() if name.startswith(f"variables/{part}/") and name not in given)


def test_a_run_condenses_into_tiles_within_the_budget(tmp_path):
    found = condensed_in(tmp_path / "run", config_of("multi_formation", ("dm",)))["dm"]
    np.testing.assert_array_equal(found.train.labels, np.repeat(np.arange(10), 8))
    assert found.train.inputs.shape == (80, 8, 8, 1)
    assert stored_in(found, "train") == 2 * 640


def test_a_run_condenses_into_a_memory_network_within_the_budget(tmp_path):
    config = config_of("hmn", ("dm",))
    found = condensed_in(tmp_path / "run", config)["dm"]
    generated = (2 * 640 - SHARED) // 160
    np.testing.assert_array_equal(found.train.labels, np.repeat(np.arange(10), generated))
    assert stored_in(found, "train") == SHARED + 160 * generated <= 2 * 640
    assert np.isfinite(found.train.inputs).all()
    with jax.numpy_rank_promotion("allow"), pipeline.opened(config, tmp_path / "run") as run:
        decode = recipes.get(config, "dm").train.container(run.setup, "train").decode
        again = decode(HMNVariables(**found.variables["train"]))
        of_val = run.setup.kind.to_learn(run.setup, "val", 0).labels
    np.testing.assert_allclose(again.inputs, found.train.inputs, atol=1e-5)
    np.testing.assert_array_equal(of_val, np.repeat(np.arange(10), (3 * 640 - SHARED) // 160))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"hmn": {"side": 5}}, "memories of side 5 do not double to images of 8 x 8"),
        ({"hmn": {"decoder_width": 64}}, "a memory network of one image per class stores"),
        ({"condense": {"container": "pixels", "init": "fit_real"}}, "set condense.container = 'hmn'"),
        ({"condense": {"container": "multi_formation", "formation_factor": 9}}, "condense.formation_factor = 9 leaves"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_computed(changes, line, tmp_path):
    with pytest.raises(UserError, match=line), jax.numpy_rank_promotion("allow"):
        pipeline.run(config_of("hmn", ("dm",), **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
