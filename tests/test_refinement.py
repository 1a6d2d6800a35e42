"""Refinements: what they find is the best on the S_val that went before, is trained in full, and is matched."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from hcdc_jax import pipeline
from hcdc_jax.condensed import load_condensed
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.pipeline.condensed_parts import Place, read_part
from hcdc_jax.pipeline.hcdc.refinement import APART
from hcdc_jax.pipeline.scoring import mean_scores, rank_keys
from hcdc_jax.pipeline.setup import REFINE, key_for
from tests.errors import error_of
from tests.runs import process_settings, small_config


def refining(folder, **options):
    settings = {"full_trainings": 2, "steps": 3, "damping": 1.0, "searched": 16, "found": 2} | options
    return small_config(folder, methods=("hcdc",), hcdc=settings)


def condensed_by(config, folder, resume=False):
    with pipeline.opened(config, folder, resume=resume) as at_work:
        pipeline.condense(at_work)
    return at_work.setup, read_part(Place(folder, "hcdc", "val", 0))


def found_by(folder):
    return read_arrays(folder / "checkpoints" / "found_hcdc_seed0_0.npz")["hparams"]


def test_the_best_of_fresh_draws_on_s_val_are_trained_in_full_and_matched(tmp_path):
    folder, plain, config = tmp_path / "run", tmp_path / "plain", refining(tmp_path, refinements=1)
    with process_settings(tmp_path / "cache"):
        setup, before = condensed_by(refining(tmp_path), plain)
        _, condensed_part = condensed_by(config, folder)
        condensed, keys = load_condensed(plain, "hcdc"), rank_keys(setup, 0)
        search_key = jax.random.split(jax.random.fold_in(key_for(REFINE, 0), 0))[0]
        drawn = setup.space.sample(search_key, config.hcdc.searched)
        scores, _ = mean_scores(setup, keys, drawn, condensed.train, condensed.val)
        expected, radius = list(before.matched), APART * np.asarray(setup.space.prior_std)
        for candidate in np.asarray(drawn)[np.argsort(scores.loss)]:
            if not any((np.abs(candidate - other) <= radius).all() for other in expected):
                expected.append(candidate)
        np.testing.assert_array_equal(found_by(folder), expected[2:4])
        np.testing.assert_array_equal(condensed_part.matched, np.concatenate([before.matched, found_by(folder)]))
        assert condensed_part.cost.full_trainings == 4

        # Interrupted while what was found is trained, it goes on to the same end.
        (folder / "checkpoints" / "found_hcdc_seed0_0" / "001.npz").unlink()
        Place(folder, "hcdc", "val", 0).finished.unlink()
        for path in (folder / "condensed").glob("hcdc*"):
            path.unlink()
        _, again = condensed_by(config, folder, resume=True)
        jax.tree.map(np.testing.assert_array_equal, again.variables, condensed_part.variables)


def test_a_descent_finds_what_is_matched(tmp_path):
    config = refining(tmp_path, refinements=1, refined_by="hypergradient")
    with process_settings(tmp_path / "cache"):
        setup, condensed_part = condensed_by(config, tmp_path / "run")
    found = found_by(tmp_path / "run")
    np.testing.assert_array_equal(condensed_part.matched[2:], found)
    np.testing.assert_allclose(jax.vmap(setup.space.project)(found), found)  # on the way down, yet inside the space


def test_an_s_val_that_diverges_is_not_searched_on(tmp_path):
    config = refining(tmp_path, refinements=2, feature_step=1e30)
    with process_settings(tmp_path / "cache"):
        _, condensed_part = condensed_by(config, tmp_path / "run")
    assert condensed_part.diverged
    assert condensed_part.cost.full_trainings == 2
    assert not list((tmp_path / "run" / "checkpoints").glob("found_*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("hcdc_shifted",), "hcdc": {"refined_by": "hypergradient"}}, "set hcdc.refined_by = 'random'"),
        ({"methods": ("random",), "hcdc": {}}, "of which this run has none"),
        ({"methods": ("hcdc",), "hcdc": {"theta": "shared"}}, "of which this run has none"),
        ({"methods": ("hcdc",), "hcdc": {"found": 9, "searched": 8}}, "hcdc.found = 9 of hcdc.searched = 8"),
        (
            {"methods": ("hcdc",), "hcdc": {"refined_by": "hypergradient"}, "space": {"name": "nas_bench_201"}},
            "descents leave the cells",
        ),
    ],
)
def test_refinements_that_make_no_sense(tmp_path, changes, message):
    config = small_config(tmp_path, **changes | {"hcdc": {"refinements": 1} | changes["hcdc"]})
    assert message in error_of(lambda: pipeline.prepare(config))
