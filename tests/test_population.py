"""Batch norm fixed to the statistics of all real images: what one big batch says, and a function of each image."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.condense.epoch_training import EpochTraining, checksum
from hcdc_jax.condense.observers import identity_of, load_observer, observer, save_observer, train_observer
from hcdc_jax.condense.population import with_population
from hcdc_jax.types import Batch
from tests.errors import error_of
from tests.small_images import blobs

pytestmark = pytest.mark.usefixtures("broadcasting")

KEY = jax.random.key(6)
SHAPE, CLASSES, COUNT = (8, 8, 2), 3, 23
IMAGES, LABELS = blobs(COUNT, size=8, channels=2)
REAL = Batch(jnp.asarray(IMAGES + 3, jnp.float32), jnp.asarray(LABELS), jnp.ones(COUNT))
CONVNET = observer("convnet:width=3,depth=2,norm=batch", SHAPE, CLASSES)


@pytest.mark.usefixtures("x64")
def test_fixed_it_says_of_all_images_what_batch_norm_says_of_them_as_one_batch():
    images = jnp.asarray(IMAGES + 3, jnp.float64)
    rng = np.random.default_rng(0)  # scales and shifts as training leaves them: not 1 and 0
    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf) + 0.3 * rng.normal(size=leaf.shape)), CONVNET.trained.init(KEY, ())
    )
    fixed = with_population(CONVNET.norms, params, images, batch_size=5)  # the last slice is filled up
    expected = CONVNET.trained.apply(params, (), images)
    np.testing.assert_allclose(CONVNET.problem.apply(fixed, (), images), expected, rtol=1e-9, atol=1e-9)


def test_norms_inside_of_blocks_are_found():
    net = observer("resnet18:width=2,norm=batch", SHAPE, CLASSES)
    params = jax.eval_shape(lambda: net.trained.init(KEY, ()))
    read = jax.eval_shape(net.norms, params, REAL.inputs)
    assert {path[-1] for path in read} == {"Norm_0", "Norm_1", "Norm_2"}
    assert 2 * len(read) == sum("Norm_" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params))
    for path, inputs in read.items():
        scale = functools.reduce(lambda node, name: node[name], path, params)["scale"]
        assert scale.shape == inputs.shape[-1:]


def test_what_it_says_of_an_image_does_not_depend_on_others():
    training = EpochTraining(0.05, epochs=3, batch_size=8)
    params = train_observer(KEY, CONVNET, REAL, training)
    assert CONVNET.problem.val_loss(params, (), REAL) < 0.8 * np.log(CLASSES), "it has learned"
    say = jax.jit(lambda images: CONVNET.problem.apply(params, (), images))
    together, order = say(REAL.inputs), np.random.default_rng(0).permutation(COUNT)
    np.testing.assert_allclose(say(REAL.inputs[order]), together[order], rtol=1e-4, atol=1e-5)
    among_others = say(REAL.inputs.at[3:].multiply(-5.0))
    np.testing.assert_allclose(among_others[:3], together[:3], rtol=1e-4, atol=1e-5)
    seen = jax.jit(CONVNET.look)(params, REAL.inputs)
    np.testing.assert_allclose(seen.logits, together, rtol=1e-4, atol=1e-5)
    assert len(seen.normed) == 2


def test_observers_of_earlier_versions_which_looked_at_batches_are_refused(tmp_path):
    training = EpochTraining(0.05, epochs=1, batch_size=8)
    made_by = identity_of(KEY, CONVNET, checksum(REAL), training)
    params = CONVNET.problem.init(KEY, ())
    save_observer(tmp_path, 0, params, {name: value for name, value in made_by.items() if name != "norm"})
    assert "was made with another norm" in error_of(lambda: load_observer(tmp_path, 0, made_by))
    save_observer(tmp_path, 0, params, made_by)
    loaded, _ = load_observer(tmp_path, 0, made_by)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    other = identity_of(KEY, observer("convnet:width=3,depth=2", SHAPE, CLASSES), checksum(REAL), training)
    assert "norm" not in other, "observers without batch norm are those of earlier versions"
