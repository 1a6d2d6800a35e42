"""Augmentation: each operation against NumPy and SciPy, one draw for two batches, the transformations of JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from hcdc_jax.batches.augment import (
    OPERATIONS,
    VIEW_OPERATIONS,
    Augmentation,
    apply,
    augment,
    augment_at,
    draw,
    draw_crop,
    draw_crop_each,
    draw_each,
    fitting,
    parse,
    settings_of,
    views,
)
from hcdc_jax.errors import UserError

SHAPE = (8, 6)
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(5, *SHAPE, 3)), jnp.float32)
DRAW = jax.jit(draw, static_argnums=(1, 2))
APPLY = jax.jit(apply)
DRAW_EACH = jax.jit(draw_each, static_argnums=(1, 2, 3))
KEYS = [jax.random.key(seed) for seed in range(4)]


def only(name: str, **ranges) -> Augmentation:
    return Augmentation((name,), **ranges)


def resampled(images, matrix, shift):
    """Bilinear resampling about the centre by SciPy, zero outside."""
    centre = (np.array(SHAPE) - 1) / 2
    offset = centre + shift - matrix @ centre
    result = np.empty_like(images)
    for i, c in np.ndindex(images.shape[0], images.shape[3]):
        result[i, ..., c] = ndimage.affine_transform(
            images[i, ..., c], matrix, offset, order=1, mode="grid-constant", cval=0.0
        )
    return result


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["crop", "flip", "scale", "rotate"])
def test_geometry_is_that_of_scipy(name, key):
    parameters = DRAW(key, only(name), SHAPE)
    expected = resampled(np.asarray(IMAGES), np.asarray(parameters.matrix, float), np.asarray(parameters.shift, float))
    np.testing.assert_allclose(APPLY(parameters, IMAGES), expected, atol=2e-5)


def test_a_flip_mirrors_columns_and_a_shift_moves_pixels_exactly():
    mirrored = APPLY(DRAW(KEYS[0], only("flip", flip=1.0), SHAPE), IMAGES)
    np.testing.assert_array_equal(mirrored, IMAGES[:, :, ::-1])
    parameters = DRAW(KEYS[0], only("crop"), SHAPE)._replace(shift=jnp.array([1.0, -2.0]))
    moved = APPLY(parameters, IMAGES)
    np.testing.assert_array_equal(moved[:, :-1, 2:], IMAGES[:, 1:, :-2])
    np.testing.assert_array_equal(moved[:, -1], 0)
    np.testing.assert_array_equal(moved[:, :, :2], 0)


def test_rotation_turns_by_its_angle():
    angles = []
    for key in KEYS:
        matrix = np.asarray(DRAW(key, only("rotate"), SHAPE).matrix)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=1e-6)
        angles.append(np.rad2deg(np.arctan2(matrix[0, 1], matrix[0, 0])))
    assert max(map(abs, angles)) <= 15
    assert np.std(angles) > 1


@pytest.mark.parametrize("key", KEYS)
def test_color_is_brightness_then_saturation_then_contrast(key):
    parameters = DRAW(key, only("color"), SHAPE)
    x = np.asarray(IMAGES, float) + float(parameters.brightness)
    mean = x.mean(3, keepdims=True)
    x = float(parameters.saturation) * (x - mean) + mean
    mean = x.mean((1, 2, 3), keepdims=True)
    x = float(parameters.contrast) * (x - mean) + mean
    np.testing.assert_allclose(APPLY(parameters, IMAGES), x, atol=1e-5)


def test_cutout_takes_half_of_each_side_or_less_at_the_border():
    seen = set()
    for seed in range(40):
        gone = np.asarray(APPLY(DRAW(jax.random.key(seed), only("cutout"), SHAPE), jnp.ones((1, *SHAPE, 1))))[0, ..., 0]
        rows, columns = np.flatnonzero((gone == 0).any(1)), np.flatnonzero((gone == 0).any(0))
        assert (gone[np.ix_(rows, columns)] == 0).all()
        assert (gone == 0).sum() == len(rows) * len(columns)
        seen.add((len(rows), len(columns)))
    assert max(seen) == (4, 3)
    assert min(rows for rows, _ in seen) == 2  # the centre on the border


def test_ranges_are_those_of_dsa():
    many = jax.jit(jax.vmap(lambda key: draw(key, Augmentation(), (32, 32))))(jax.random.split(KEYS[0], 4000))
    chosen = np.bincount(many.operation, minlength=len(OPERATIONS)) / 4000
    np.testing.assert_allclose(chosen, 1 / 6, atol=0.03)

    def bounds(field, name, index=()):
        values = np.asarray(field)[(np.asarray(many.operation) == OPERATIONS.index(name), *index)]
        return values.min(), values.max()

    np.testing.assert_allclose(bounds(many.brightness, "color"), (-0.5, 0.5), atol=0.02)
    np.testing.assert_allclose(bounds(many.saturation, "color"), (0, 2), atol=0.02)
    np.testing.assert_allclose(bounds(many.contrast, "color"), (0.5, 1.5), atol=0.02)
    assert bounds(many.shift, "crop") == (-4, 4)
    np.testing.assert_allclose(bounds(many.matrix, "scale", (0, 0)), (1 / 1.2, 1.2), atol=0.01)
    flips = np.asarray(many.matrix)[np.asarray(many.operation) == OPERATIONS.index("flip"), 1, 1]
    np.testing.assert_allclose(np.mean(flips == -1), 0.5, atol=0.06)


def test_what_is_not_drawn_stays_at_the_identity():
    for seed in range(12):
        parameters = DRAW(jax.random.key(seed), Augmentation(), SHAPE)
        name = OPERATIONS[int(parameters.operation)]
        moved = {
            "color": parameters.contrast != 1,
            "crop": parameters.shift.any(),
            "cutout": parameters.hole.any(),
            "flip": parameters.matrix[1, 1] == -1,
            "scale": (parameters.matrix[0, 1] == 0) & (abs(parameters.matrix[0, 0]) != 1),
            "rotate": parameters.matrix[0, 1] != 0,
        }
        assert {other for other, value in moved.items() if value} <= {name}
    nothing = DRAW(KEYS[0], only("flip", flip=0.0), SHAPE)
    np.testing.assert_array_equal(APPLY(nothing, IMAGES), IMAGES)


def test_all_operations_may_act_at_once():
    """Shifted and mirrored in the same draw, as NumPy does it; each of both as often as it is alone."""
    augmentation = Augmentation(("crop", "flip"), crop=0.25, acting="all")
    many = DRAW_EACH(KEYS[0], augmentation, SHAPE, 400)
    mirrored, shifted = np.asarray(many.matrix)[:, 1, 1] == -1, np.asarray(many.shift).any(1)
    np.testing.assert_allclose([mirrored.mean(), shifted.mean()], [0.5, 1 - 1 / 25], atol=0.08)
    assert (mirrored & shifted).sum() > 100
    number = np.flatnonzero(mirrored & shifted)[0]
    down, right = np.asarray(many.shift)[number].astype(int)
    parameters = jax.tree.map(lambda leaf: leaf[number], many)
    padded = np.pad(np.asarray(IMAGES), ((0, 0), (2, 2), (2, 2), (0, 0)))
    window = padded[:, 2 + down : 10 + down, 2 + right : 8 + right]
    np.testing.assert_allclose(APPLY(parameters, IMAGES), window[:, :, ::-1], atol=1e-5)
    one_by_one = DRAW_EACH(KEYS[0], augmentation._replace(acting="one"), SHAPE, 400)
    assert not ((np.asarray(one_by_one.matrix)[:, 1, 1] == -1) & np.asarray(one_by_one.shift).any(1)).any()


def test_a_view_depends_on_the_place_of_its_image_alone():
    augmentation, look = Augmentation(("crop", "flip"), acting="all"), jax.jit(augment_at, static_argnums=1)
    together = look(KEYS[0], augmentation, IMAGES, jnp.arange(5))
    order = jnp.array([3, 1])
    np.testing.assert_array_equal(look(KEYS[0], augmentation, IMAGES[order], order), together[order])
    assert augment_at(KEYS[0], None, IMAGES, jnp.arange(5)) is IMAGES


def test_records_are_those_of_before_where_operations_act_one_at_a_time():
    names = {
        "operations", "brightness", "saturation", "contrast", "crop", "cutout", "flip", "scale", "rotate"
    }  # fmt: skip
    assert set(settings_of(Augmentation())) == names
    assert settings_of(Augmentation(acting="all")) == settings_of(Augmentation()) | {"acting": "all"}
    assert settings_of(None) is None


def test_one_draw_does_the_same_to_every_batch():
    for seed in range(8):
        parameters = DRAW(jax.random.key(seed), Augmentation(), SHAPE)
        together = APPLY(parameters, IMAGES)
        apart = jnp.concatenate([APPLY(parameters, IMAGES[:2]), APPLY(parameters, IMAGES[2:])])
        np.testing.assert_allclose(together, apart, atol=1e-6)


def test_each_image_has_parameters_of_its_own_and_all_have_one_operation():
    parameters = DRAW_EACH(KEYS[1], only("rotate"), SHAPE, 5)
    assert len(np.unique(np.asarray(parameters.matrix)[:, 0, 1])) == 5
    assert len(np.unique(np.asarray(DRAW_EACH(KEYS[0], Augmentation(), SHAPE, 20).operation))) == 1
    alone = [APPLY(jax.tree.map(lambda leaf, i=i: leaf[i], parameters), IMAGES[i : i + 1])[0] for i in range(5)]
    whole = jax.jit(augment, static_argnums=1)(KEYS[1], only("rotate"), IMAGES)
    np.testing.assert_allclose(whole, jnp.stack(alone), rtol=1e-5, atol=1e-6)
    assert augment(KEYS[1], None, IMAGES) is IMAGES


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_gradient_in_the_images_is_that_of_finite_differences(name, x64):
    images, direction = (jnp.asarray(np.random.default_rng(s).normal(size=(2, *SHAPE, 3))) for s in range(2))
    parameters = DRAW(KEYS[2], only(name), SHAPE)

    def loss(images):
        return jnp.sum(jnp.sin(apply(parameters, images)))

    step = 1e-6
    value = jax.jit(loss)
    difference = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.jit(jax.grad(loss))(images), direction), difference, rtol=1e-6, atol=1e-7)


def test_jit_and_vmap_change_nothing():
    keys = jax.random.split(KEYS[0], 12)

    def one(key):
        return apply(draw(key, Augmentation(), SHAPE), IMAGES)

    together = jax.jit(jax.vmap(one))(keys)
    np.testing.assert_allclose(together, jax.lax.map(one, keys), atol=1e-5)


def test_slopes_are_finite_in_the_parameters_too():
    parameters = DRAW(KEYS[0], only("scale"), SHAPE)

    @jax.jit
    @jax.grad
    def slope_of(matrix):
        return jnp.sum(apply(parameters._replace(matrix=matrix), IMAGES) ** 2)

    slope = slope_of(parameters.matrix)
    assert np.isfinite(slope).all()
    assert np.any(slope)


def test_strategies_are_parsed_and_what_is_wrong_is_named():
    assert parse("color_crop_cutout_flip_scale_rotate") == Augmentation()
    assert parse("crop_scale_rotate").operations == ("crop", "scale", "rotate")
    for text, message in [("color_zoom", "'zoom'"), ("", "at least one"), ("crop_crop", "once")]:
        with pytest.raises(UserError, match=message):
            parse(text)


def test_views_may_be_mixed_each_image_with_a_box_of_another():
    images = jnp.broadcast_to(jnp.arange(200.0)[:, None, None, None], (200, *SHAPE, 1))
    mixing = parse("cutmix", VIEW_OPERATIONS)
    first, second, third = np.asarray(jax.jit(views, static_argnums=(1, 3))(KEYS[0], mixing, images, 3))[..., 0]
    np.testing.assert_array_equal(first, images[..., 0])
    assert not np.array_equal(second, third)
    shares = []
    for number, image in enumerate(second):
        others = np.unique(image[image != number])
        assert len(others) <= 1
        inside = image != number
        shares.append(inside.mean())
        if inside.any():  # a box: whole rows of whole columns
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert len(set(shares)) > 10
    assert 0.1 < np.mean(shares) < 0.4  # at most half, less what the border and whole pixels cut off


def test_pairs_of_images_cannot_be_mixed_alike():
    with pytest.raises(UserError, match="unknown operation 'cutmix'"):
        parse("crop_cutmix")


def test_digits_are_never_mirrored():
    assert fitting(Augmentation(), "svhn").operations == ("color", "crop", "cutout", "scale", "rotate")
    assert fitting(Augmentation(), "cifar10") == Augmentation()


def test_a_crop_is_enlarged_without_a_border_and_upright():
    ramp = jnp.broadcast_to(jnp.arange(8.0)[:, None, None], (8, 8, 1))
    images = jnp.stack([ramp + 1, ramp.swapaxes(0, 1) + 1])

    @jax.jit
    def crops_of(key):
        drawn = draw_crop_each(key, 0.25, (8, 8), 40, flip=0.0)
        return jax.vmap(lambda one: apply(one, images))(drawn)

    crops = crops_of(jax.random.key(0))
    assert crops.min() > 1 - 1e-4, "no border of 0"
    assert crops.max() < 8 + 1e-4
    np.testing.assert_allclose(jnp.diff(crops[:, 0, ..., 0], axis=2), 0, atol=1e-4)
    shares = [jnp.diff(crops[:, i, ..., 0], axis=1 + i)[:, 0, 0] for i in (0, 1)]
    areas, ratios = shares[0] * shares[1], shares[1] / shares[0]
    assert 0.2 < areas.min() < 0.5 < areas.max() < 1 + 1e-4
    assert 0.7 < ratios.min() < ratios.max() < 1.4
    whole = draw_crop(jax.random.key(0), 1.0, (8, 8), flip=0.0)
    np.testing.assert_array_equal(apply(whole, images), images)
    mirrored = draw_crop(jax.random.key(0), 1.0, (8, 8), flip=1.0)
    np.testing.assert_allclose(apply(mirrored, images), images[:, :, ::-1], atol=1e-6)
