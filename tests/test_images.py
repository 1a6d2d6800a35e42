"""Standardisation and whitening: against NumPy, there and back, and through an artefact."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import svds

from hcdc_jax import config as configuration
from hcdc_jax.batches.images import (
    PUBLISHED,
    Standardisation,
    fit_raw_whitening,
    fit_standardisation,
    fit_whitening,
    image_batch,
    to_preprocessing,
)
from hcdc_jax.condensed import load_condensed, save_condensed
from hcdc_jax.data import load_dataset, subset
from hcdc_jax.data.images import Part, build_images
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.building import build
from hcdc_jax.types import Batch

CONFIGS = Path(__file__).parents[1] / "configs" / "images"
FITS = {
    "standardisation": fit_standardisation,
    "whitening": fit_whitening,
    "raw_whitening": fit_raw_whitening,
}


def images(count=400, size=(4, 3, 2), seed=0) -> np.ndarray:
    """Correlated pixels of different brightness per channel, as photographs have them."""
    rng = np.random.default_rng(seed)
    length = int(np.prod(size))
    mixed = rng.normal(size=(count, length)) @ rng.normal(size=(length, length)) / 10
    return (mixed.reshape(count, *size) * [1.0, 3.0] + [0.4, 0.7]).astype(np.float32)


def covariance(pixels) -> np.ndarray:
    flat = np.asarray(pixels, np.float64).reshape(len(pixels), -1)
    return flat.T @ flat / len(flat)


@pytest.mark.usefixtures("x64")
def test_standardised_channels_have_mean_0_and_variance_1():
    pixels = images()
    found = np.asarray(jax.jit(Standardisation.apply)(fit_standardisation(pixels), pixels.astype(np.float64)))
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(found.var((0, 1, 2)), 1, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_whitened_pixels_are_uncorrelated():
    pixels = images()
    found = jax.jit(lambda s, x: s.apply(x))(fit_whitening(pixels, eps=0.0), pixels.astype(np.float64))
    np.testing.assert_allclose(covariance(found), np.eye(24), atol=1e-10)
    np.testing.assert_allclose(np.asarray(found).mean(0), 0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_damped_whitening_is_the_formula():
    """(C + r I)^-1/2 with r = 0.1 trace(C) / d, from the covariance of pixels that were prepared in NumPy."""
    pixels = images().astype(np.float64)
    prepared = (pixels - pixels.mean(0)) / pixels.std((0, 1, 2))
    full = covariance(prepared)
    values, vectors = np.linalg.eigh(full + 0.1 * np.trace(full) / len(full) * np.eye(len(full)))
    expected = prepared.reshape(len(pixels), -1) @ vectors @ np.diag(values**-0.5) @ vectors.T
    found = fit_whitening(pixels).apply(pixels)
    np.testing.assert_allclose(np.asarray(found).reshape(len(pixels), -1), expected, atol=1e-9)


def whitened_by_mtts_code(pixels: np.ndarray, fitted_to: np.ndarray) -> tuple[np.ndarray, float]:
    """U diag(1 / sqrt(S + 0.1)) U^T of raw pixels less their mean, U S V^T their covariance; and the largest gain."""
    flat, other = (np.asarray(part, np.float64).reshape(len(part), -1) for part in (fitted_to, pixels))
    left, variances, _ = np.linalg.svd(np.cov(flat, rowvar=False))  # np.cov divides by n - 1
    matrix = left @ np.diag(1 / np.sqrt(variances + 0.1)) @ left.T
    return ((other - flat.mean(0)) @ matrix).reshape(pixels.shape), (variances.min() + 0.1) ** -0.5


@pytest.mark.usefixtures("x64")
def test_raw_whitening_is_that_of_mtts_code():
    """Few images, so that n - 1 tells; channels of different deviation, so that dividing by it would."""
    fitted_to, new = images(30), images(7, seed=1)
    statistics = fit_raw_whitening(fitted_to)
    expected, _ = whitened_by_mtts_code(new, fitted_to)
    np.testing.assert_allclose(statistics.apply(new.astype(np.float64)), expected, atol=1e-10)
    assert np.abs(fit_whitening(fitted_to).apply(new) - expected).max() > 0.1


@pytest.fixture(name="photographs", scope="module")
def _photographs():
    if not os.environ.get("HCDC_DATA_DIR"):
        pytest.skip("needs CIFAR-10: set HCDC_DATA_DIR")
    data = subset(load_dataset("cifar10"), train=10_000)
    return data.images[data.train_idx]


def test_raw_whitening_of_photographs_goes_there_and_back(photographs):
    small = photographs.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4))
    statistics = fit_raw_whitening(small)
    there = statistics.apply(small[:200])
    np.testing.assert_allclose(there, whitened_by_mtts_code(small[:200], small)[0], atol=1e-4)
    np.testing.assert_allclose(statistics.invert(there), small[:200], atol=1e-5)


@pytest.mark.slow
def test_on_photographs_the_two_whitenings_differ_in_scale(photographs):
    """By MTT's code pixels of 10,000 images deviate by 0.26 and the largest gain is 3.2; by FRePo's 0.48, 13."""
    expected, gain = whitened_by_mtts_code(photographs, photographs)
    assert expected.std() == pytest.approx(0.26, abs=0.005)
    assert gain == pytest.approx(3.16, abs=0.01)
    np.testing.assert_allclose(fit_raw_whitening(photographs).apply(photographs[:200]), expected[:200], atol=2e-4)
    own = fit_whitening(photographs)
    assert np.asarray(own.apply(photographs[:2000])).std() == pytest.approx(0.48, abs=0.01)
    gains = np.asarray(own.variances) ** -0.5
    matrix = np.asarray(own.vectors * gains) @ np.asarray(own.vectors).T / np.tile(own.std, 32 * 32)[:, None]
    assert svds(matrix, k=1, return_singular_vectors=False)[0] == pytest.approx(13.1, abs=0.1)


@pytest.mark.parametrize("name", ["cifar10_mtt_1", "cifar10_mtt_10"])
def test_configurations_of_mtt_are_whitened_as_in_its_code(name):
    """The rates there are tuned to pixels of that scale; at 50 images a class MTT whitens nothing."""
    config = configuration.load(CONFIGS / f"{name}.toml")
    config = configuration.apply_overrides(config, ["--data.name", "digits_images", "--model.width", "4"])
    data = load_dataset("digits_images")
    setup = build(config, data)
    expected, _ = whitened_by_mtts_code(data.images[data.val_idx], data.images[data.train_idx])
    np.testing.assert_allclose(setup.val.inputs, expected, atol=1e-4)
    assert "MTT" in setup.kind.words(setup)


@pytest.mark.parametrize("name", ["standardisation", "whitening", "raw_whitening"])
def test_there_and_back(name):
    pixels = images()
    statistics = FITS[name](pixels)
    there = statistics.apply(pixels)
    np.testing.assert_allclose(statistics.invert(there), pixels, atol=2e-5)
    np.testing.assert_allclose(statistics.apply(statistics.invert(there)), there, atol=2e-4)


def test_what_cannot_be_fitted_is_named():
    pixels = images()
    pixels[..., 1] = 0.5
    with pytest.raises(UserError, match="channel 1 has the same value in all pixels"):
        fit_standardisation(pixels)
    with pytest.raises(UserError, match=r"do not vary in all directions; whiten with eps > 0$"):
        fit_whitening(images(count=20), eps=0.0)
    with pytest.raises(UserError, match="do not vary in all directions"):
        fit_raw_whitening(images(count=20), eps=0.0)


def test_published_constants_cover_the_named_sets():
    """That the means are those of the pixels is tested where the real files are read."""
    assert PUBLISHED.keys() == {"mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "imagenet"}
    for name, (mean, std) in PUBLISHED.items():
        channels = 1 if "mnist" in name else 3
        assert mean.shape == std.shape == (channels,)
        assert ((mean > 0.1) & (mean < 0.6)).all()
        assert ((std > 0.1) & (std < 0.4)).all()


def test_image_batch_is_what_a_loss_reads():
    data = load_dataset("digits_images")
    statistics = fit_standardisation(data.images[data.train_idx])
    batch = image_batch(data, data.val_idx, statistics)
    np.testing.assert_allclose(batch.inputs, statistics.apply(data.images[data.val_idx]))
    np.testing.assert_array_equal(batch.labels, data.labels[data.val_idx])
    assert (batch.weights == 1).all()
    np.testing.assert_array_equal(image_batch(data, data.val_idx[:3]).inputs, data.images[data.val_idx[:3]])


@pytest.mark.parametrize("name", FITS)
def test_statistics_travel_with_the_artefact(name, tmp_path):
    pixels = images()
    statistics = FITS[name](pixels)
    batch = Batch(statistics.apply(pixels[:6]), jnp.arange(6) % 2, jnp.ones(6))
    save_condensed(
        tmp_path, method="random", seed=0, train=batch, val=batch, variables={"pixels": batch.inputs},
        config_hash="0" * 8, source={"name": "x", "checksum": ""}, preprocessing=name, statistics=statistics,
    )  # fmt: skip
    loaded = load_condensed(tmp_path)
    assert type(loaded.preprocessing) is type(statistics)
    assert loaded.preprocessing is not None
    assert all(leaf.dtype == np.float32 for leaf in loaded.preprocessing)
    np.testing.assert_allclose(loaded.preprocessing.apply(pixels[:6]), loaded.train.inputs, rtol=1e-3, atol=1e-4)
    assert loaded.card["stored_scalars"] == batch.inputs.size


def test_artefacts_without_statistics_have_none(tmp_path):
    batch = Batch(jnp.ones((2, 3)), jnp.arange(2), jnp.ones(2))
    save_condensed(
        tmp_path, method="random", seed=0, train=batch, val=batch, variables={"x": batch.inputs},
        config_hash="0" * 8, source={"name": "x", "checksum": ""}, preprocessing="",
    )  # fmt: skip
    assert load_condensed(tmp_path).preprocessing is None


def test_unknown_statistics_are_refused():
    with pytest.raises(KeyError, match="preprocessing of mean, scale"):
        to_preprocessing({"mean": np.zeros(1), "scale": np.ones(1)})


def test_whitened_parts_share_the_statistics_of_the_training_part():
    """Statistics are fitted to what is given; the parts of a data set stay apart."""
    pixels = images(60)
    data = build_images(
        "x", {"train": Part(pixels, np.arange(60) % 2), "test": Part(pixels / 9, np.arange(60) % 2)}, where="x"
    )
    statistics = fit_standardisation(data.images[data.train_idx])
    np.testing.assert_allclose(image_batch(data, data.train_idx, statistics).inputs.mean((0, 1, 2)), 0, atol=1e-5)
    assert (image_batch(data, data.test_idx, statistics).inputs.std((0, 1, 2)) < 0.2).all()
