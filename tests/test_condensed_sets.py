"""Smaller sets out of a condensed one, and one set out of two with different classes."""

from __future__ import annotations

import numpy as np
import pytest

from hcdc_jax import cli
from hcdc_jax.batches.images import Standardisation
from hcdc_jax.condensed import Condensed, load_condensed, save_condensed
from hcdc_jax.containers import ImageVariables
from hcdc_jax.errors import UserError
from hcdc_jax.exports.condensed_sets import merge_condensed, subset
from hcdc_jax.types import Batch

SOURCE = {"name": "toy", "checksum": "abc"}


def batch_of(counts, seed=0, shift=0.0):
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(len(counts)), counts)
    images = rng.normal(shift, 1, (len(labels), 2, 2, 1)).astype(np.float32)
    return Batch(images, labels, np.ones(len(labels), np.float32))


def condensed_of(counts=(4, 4, 2), method="dm", preprocessing=None, val_counts=(8, 8, 4)):
    card = {"method": method, "seed": 0, "sha256": "aa", "source": SOURCE}
    return Condensed(batch_of(counts), batch_of(val_counts, 1), card, {}, preprocessing)


def test_smaller_sets_are_the_start_of_larger_ones_and_start_with_the_means_of_classes():
    whole = condensed_of()
    sizes = {count: subset(whole, count) for count in (1, 2, 3, 4)}
    assert [len(one.train.labels) for one in sizes.values()] == [3, 6, 8, 10]
    assert [len(one.val.labels) for one in sizes.values()] == [6, 12, 16, 20]
    for small, large in ((1, 2), (2, 3), (3, 4)):
        for part in ("train", "val"):
            inputs, more = (getattr(sizes[count], part).inputs for count in (small, large))
            np.testing.assert_array_equal(inputs, more[: len(inputs)])
    for c, image in enumerate(np.asarray(sizes[1].train.inputs)):
        own = whole.train.inputs[whole.train.labels == c]
        gaps = np.linalg.norm((own - own.mean(0)).reshape(len(own), -1), axis=1)
        np.testing.assert_array_equal(image, own[gaps.argmin()])
    assert sizes[1].card["subset"] == {"per_class": 1, "order": "herding in the inputs, class by class", "of": "aa"}
    assert sizes[1].card["stored_scalars"] == (3 + 6) * 5
    with pytest.raises(UserError, match="5 examples per class of a set that has at most 4: ask for 1 to 4"):
        subset(whole, 5)


def test_added_classes_come_after_the_others_and_are_prepared_like_them():
    one, other = (
        condensed_of(method=method, preprocessing=Standardisation(np.full(1, mean), np.full(1, std)))
        for method, mean, std in (("random", 0.5, 0.25), ("dm", 0.25, 0.5))
    )
    both = merge_condensed(one, other)
    np.testing.assert_array_equal(both.train.labels, np.concatenate([one.train.labels, one.train.labels + 3]))
    np.testing.assert_array_equal(both.train.inputs[:10], one.train.inputs)
    np.testing.assert_allclose(
        both.train.inputs[10:], (0.5 * one.train.inputs + 0.25 - 0.5) / 0.25, rtol=1e-5, atol=1e-6
    )
    assert (both.card["method"], both.card["merged"]["first_added_class"]) == ("random+dm", 3)
    with pytest.raises(UserError, match="hcdc does not condense class by class"):
        merge_condensed(one, condensed_of(method="hcdc"))


def test_the_command_exports_several_sizes_with_a_card_each(tmp_path, capsys):
    train, val = batch_of((3, 3)), batch_of((3, 3), 1)
    variables = {part: ImageVariables(*batch) for part, batch in (("train", train), ("val", val))}
    save_condensed(
        tmp_path, method="dm", seed=0, train=train, val=val, variables=variables, config_hash="c", source=SOURCE,
        preprocessing="none",
    )  # fmt: skip
    assert cli.main(["export", str(tmp_path), "--examples-per-class", "1", "2"]) == 0
    assert capsys.readouterr().out.count("Exported:") == 2
    kept = np.load(tmp_path / "dm_seed0_2_per_class.npz")
    np.testing.assert_array_equal(kept["train/inputs"], subset(load_condensed(tmp_path), 2).train.inputs)
    assert '"per_class": 2' in (tmp_path / "dm_seed0_2_per_class.json").read_text()
    assert cli.main(["export", str(tmp_path), "--examples-per-class", "1", "9"]) == 2
