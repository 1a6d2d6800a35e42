"""RandAugment: each operation against Pillow and SciPy, and what JAX does to it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from hcdc_jax.batches.rand_augment import OPERATIONS, Levels, RandAugment, draw, levels, rand_augment

HEIGHT, WIDTH = 12, 9
BYTES = np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
PIXELS = jnp.asarray(BYTES / 255, jnp.float32)
BLACK_AND_WHITE = Levels(jnp.zeros(3), jnp.ones(3))
AUGMENT = jax.jit(rand_augment, static_argnums=1)
KEY = jax.random.key(7)


def once(name, magnitude=9.0):
    return np.asarray(AUGMENT(KEY, RandAugment((name,), 1, magnitude), PIXELS, BLACK_AND_WHITE))


def check_either(found, expected_of, tolerance):
    """Each image is what one of the two directions makes of it, and both directions occur."""
    nearest = []
    for image, result in zip(BYTES, found, strict=True):
        errors = [np.abs(result - expected_of(image, sign)).max() for sign in (-1, 1)]
        assert min(errors) < tolerance
        nearest.append(int(np.argmin(errors)))
    assert set(nearest) == {0, 1}


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("colour", ImageEnhance.Color),
        ("contrast", ImageEnhance.Contrast),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
@pytest.mark.parametrize("magnitude", [9.0, 30.0])
def test_enhancements_are_those_of_pillow(name, enhance, magnitude):
    def expected(image, sign):
        return np.asarray(enhance(Image.fromarray(image)).enhance(1 + sign * 0.9 * magnitude / 30)) / 255

    # Pillow rounds grey, its mean, the blurred image and the result to whole levels, and 1.9 times what it rounded.
    check_either(once(name, magnitude), expected, 2.5 / 255)


def test_solarise_and_auto_contrast_are_those_of_pillow():
    dark = (0.2 + 0.5 * PIXELS).astype(jnp.float32)
    as_bytes = np.asarray(jnp.round(255 * dark), np.uint8)
    for settings, published in (
        (RandAugment(("solarise",), 1, 15.0), lambda image: ImageOps.solarize(image, 127.5)),
        (RandAugment(("auto_contrast",), 1), ImageOps.autocontrast),
    ):
        found = AUGMENT(KEY, settings, jnp.asarray(as_bytes / 255, jnp.float32), BLACK_AND_WHITE)
        expected = [np.asarray(published(Image.fromarray(image))) / 255 for image in as_bytes]
        np.testing.assert_allclose(found, expected, atol=1.01 / 255)


def resampled(image, matrix, offset):
    """SciPy's, black outside; `offset` is where the upper left pixel comes from."""
    channels = [
        ndimage.affine_transform(image[..., c] / 255, np.array(matrix), offset, order=1, mode="grid-constant")
        for c in range(3)
    ]
    return np.stack(channels, -1)


def test_shears_keep_the_upper_left_corner_and_rotations_the_centre():
    slope, angle = 0.3 * 0.3, np.deg2rad(30 * 0.3)
    # The corner is half a pixel up and to the left of the centre of its pixel.
    check_either(once("shear_x"), lambda x, s: resampled(x, [[1, 0], [s * slope, 1]], [0, s * slope / 2]), 1e-5)
    check_either(once("shear_y"), lambda x, s: resampled(x, [[1, s * slope], [0, 1]], [s * slope / 2, 0]), 1e-5)

    def rotated(image, sign):
        sine, cosine = np.sin(sign * angle), np.cos(angle)
        matrix, centre = np.array([[cosine, sine], [-sine, cosine]]), np.array([HEIGHT - 1, WIDTH - 1]) / 2
        return resampled(image, matrix, centre - matrix @ centre)

    check_either(once("rotate"), rotated, 1e-5)


def test_translations_are_whole_pixels_and_black_comes_in():
    for name, side, axis in (("translate_y", HEIGHT, 0), ("translate_x", WIDTH, 1)):
        pixels = int(0.5 * 150 / 331 * side)
        assert pixels > 1

        def moved(image, sign, pixels=pixels, axis=axis):
            result = np.roll(image, sign * pixels, axis) / 255
            gone = slice(0, pixels) if sign > 0 else slice(-pixels, None)
            result[(slice(None),) * axis + (gone,)] = 0
            return result

        check_either(once(name, 15.0), moved, 1e-5)


def test_nothing_happens_at_magnitude_0():
    images = jnp.concatenate([PIXELS] * 8)
    found = AUGMENT(KEY, RandAugment(OPERATIONS[:-1], 3, 0.0), images, BLACK_AND_WHITE)
    np.testing.assert_allclose(found, images, atol=1e-6)


def test_units_do_not_matter():
    std, mean = jnp.array([0.2, 0.3, 0.25])[None, None, None], jnp.array([0.4, 0.5, 0.6])[None, None, None]
    images = (PIXELS - mean) / std
    ends = jnp.zeros((1, 1, 1, 3)), jnp.ones((1, 1, 1, 3))
    black_and_white = Levels(*((end - mean).ravel() / std.ravel() for end in ends))
    found = AUGMENT(KEY, RandAugment(), images, black_and_white)
    np.testing.assert_allclose(found * std + mean, AUGMENT(KEY, RandAugment(), PIXELS, BLACK_AND_WHITE), atol=1e-5)
    full = jnp.concatenate([images, ((ends[0] - mean) / std) * jnp.ones((1, HEIGHT, WIDTH, 1))])
    np.testing.assert_allclose(levels(full).low, black_and_white.low, atol=1e-6)
    assert (levels(full).high <= black_and_white.high + 1e-6).all()


def test_operations_are_drawn_evenly_and_alone():
    many = jax.jit(jax.vmap(lambda key: draw(key, RandAugment(), (32, 32))))(jax.random.split(KEY, 3000))
    np.testing.assert_allclose(np.bincount(many.operation) / 3000, 1 / len(OPERATIONS), atol=0.02)
    moved = {
        "shear_x": many.matrix[:, 1, 0] + many.matrix[:, 0, 1] != 0,
        "translate_y": (many.shift[:, 0] != 0) & (many.matrix[:, 0, 1] == 0),
        "rotate": many.matrix[:, 0, 0] < 1,
        "brightness": many.brightness != 1,
        "colour": many.colour != 1,
        "contrast": many.contrast != 1,
        "sharpness": many.sharpness != 1,
        "solarise": many.threshold < 1,
        "auto_contrast": many.stretched,
    }
    shears = {"shear_x", "shear_y"}
    for name, changes in moved.items():
        drawn = {OPERATIONS[i] for i in np.unique(np.asarray(many.operation)[np.asarray(changes)])}
        assert drawn == (shears if name in shears else {name})
    brighter = np.asarray(many.brightness)[np.asarray(moved["brightness"])]
    np.testing.assert_allclose(np.unique(brighter), [0.73, 1.27], rtol=1e-6)
    assert 0.4 < np.mean(brighter > 1) < 0.6


def test_each_image_is_changed_by_itself():
    same = jnp.broadcast_to(PIXELS[:1], (20, *PIXELS.shape[1:]))
    found = np.asarray(AUGMENT(KEY, RandAugment(), same, BLACK_AND_WHITE))
    assert len({image.tobytes() for image in found}) > 12
    # What an image becomes is decided by its place and by itself, not by the other images.
    others = AUGMENT(KEY, RandAugment(), same.at[1:].set(PIXELS[1]), BLACK_AND_WHITE)
    np.testing.assert_allclose(others[0], found[0], atol=1e-6)
    assert not np.allclose(AUGMENT(jax.random.key(8), RandAugment(), same, BLACK_AND_WHITE), found)
    again = AUGMENT(KEY, RandAugment(), same, BLACK_AND_WHITE)
    np.testing.assert_array_equal(again, found)


def test_mapped_keys_are_those_of_a_loop_and_slopes_are_finite():
    # One plain image and one that uses the whole range: where maxima, clips and divisions have their edges.
    images = PIXELS.at[0].set(0.5).at[1].set(jnp.round(PIXELS[1]))
    keys = jax.random.split(KEY, 6)

    @jax.jit
    def values_and_slope(images):
        together, pull_back = jax.vjp(
            lambda images: jax.vmap(lambda key: rand_augment(key, RandAugment(), images, BLACK_AND_WHITE))(keys), images
        )
        return together, pull_back(jnp.ones_like(together))[0]

    together, slope = values_and_slope(images)
    for key, found in zip(keys, together, strict=True):
        np.testing.assert_allclose(found, AUGMENT(key, RandAugment(), images, BLACK_AND_WHITE), atol=1e-5)
    assert np.isfinite(slope).all()
    assert np.any(slope)
    assert together.min() >= 0
    assert together.max() <= 1


def test_one_channel_has_no_colour_and_tiny_or_plain_images_are_fine():
    images = jax.random.uniform(KEY, (6, 4, 4, 1))
    grey = AUGMENT(KEY, RandAugment(("colour",), 1, 30.0), images, levels(images))
    np.testing.assert_allclose(grey, images, atol=1e-5)
    tiny = jax.random.uniform(KEY, (6, 2, 2, 2)).at[..., 1].set(0.3)
    assert np.isfinite(AUGMENT(KEY, RandAugment(), tiny, levels(tiny))).all()
