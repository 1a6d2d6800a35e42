"""Mosaics of crops: the ones of lowest loss, in order, each tile where it belongs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.class_batches import class_pool
from hcdc_jax.condense.mosaics import best_crops, mosaics, padded, random_crops, tiled
from tests.errors import error_of

KEY = jax.random.key(1)


def brightness(images, labels):
    del labels
    return images.mean((1, 2, 3))


def flat_images(levels, side=4):
    return np.ones((len(levels), side, side, 1)) * np.asarray(levels, float)[:, None, None, None]


def test_the_best_crop_of_each_image_then_the_best_images():
    losses = np.random.default_rng(0).random((6, 3))
    crops = np.broadcast_to(losses[..., None, None, None], (6, 3, 2, 2, 1))
    found, chosen = best_crops(jnp.asarray(losses), jnp.asarray(crops), 4)
    np.testing.assert_allclose(found, np.sort(losses.min(1))[:4], rtol=1e-6)
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(chosen[:, 0, 0, 0], found)


def test_a_mosaic_of_one_tile_is_the_crop_and_tiles_go_row_by_row():
    crops = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3, 3, 2)))
    np.testing.assert_array_equal(tiled(crops, 1), crops)
    images = tiled(crops, 2)
    assert images.shape == (2, 6, 6, 2)
    for image in range(2):
        for tile, (down, right) in enumerate([(0, 0), (0, 3), (3, 0), (3, 3)]):
            part = images[image, down : down + 3, right : right + 3]
            np.testing.assert_array_equal(part, crops[2 * tile + image])


def test_crops_show_a_part_of_their_image():
    ramp = np.broadcast_to(np.arange(16.0)[:, None], (16, 16))
    images = jnp.asarray(np.stack([ramp, ramp + 100])[..., None], jnp.float32)
    crops = random_crops(KEY, images, 20, 4)
    assert crops.shape == (2, 20, 4, 4, 1)
    assert (np.diff(crops[0, ..., 0], axis=1) > 0).all(), "upright"
    np.testing.assert_allclose(np.diff(crops[0, ..., 0], axis=2), 0, atol=1e-4)
    heights = np.asarray(crops[0, :, -1, 0, 0] - crops[0, :, 0, 0, 0]) * 4 / 3
    assert 16 * 0.08**0.5 * 0.9 < heights.min() < 8 < heights.max() < 16.5
    assert crops[0].min() >= -1e-4
    assert crops[1].min() >= 100 - 1e-3
    assert crops[0].max() <= 15 + 1e-4


def test_networks_see_a_crop_in_the_middle_of_nothing():
    seen = padded(jnp.ones((1, 2, 2, 1)), (4, 5))
    expected = np.zeros((4, 5))
    expected[1:3, 1:3] = 1
    np.testing.assert_array_equal(seen[0, ..., 0], expected)


def test_each_class_gets_its_own_surest_images():
    with jax.numpy_rank_promotion("allow"):
        levels, labels = np.arange(12.0), np.arange(12) % 2
        pool = class_pool(flat_images(levels), labels, 2)
        whole = mosaics(KEY, pool, brightness, 2, crops=2)
        np.testing.assert_allclose(whole[:, 0, 0, 0], [0, 2, 1, 3], atol=1e-5)
        tiles = mosaics(KEY, pool, brightness, 1, factor=2, crops=2)
        assert tiles.shape == (2, 4, 4, 1)
        np.testing.assert_allclose(tiles[1, ::2, ::2, 0], [[1, 3], [5, 7]], atol=1e-5)


def test_what_cannot_be_tiled_is_refused():
    pool = class_pool(flat_images(np.arange(7.0)), np.array([0, 0, 0, 0, 1, 1, 1]), 2)
    assert "take 4 images of each class for 1 of them: class 1 has 3" in error_of(
        lambda: mosaics(KEY, pool, brightness, 1, factor=2)
    )
    assert "edc.mosaic_images = 1 are looked at" in error_of(lambda: mosaics(KEY, pool, brightness, 2, images=1))
    odd = class_pool(flat_images(np.arange(18.0), side=5), np.arange(18) % 2, 2)
    assert "5 x 5 pixels are no square of 2 x 2 tiles" in error_of(lambda: mosaics(KEY, odd, brightness, 1, factor=2))
