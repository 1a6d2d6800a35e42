"""Pruning as part of a run: the budget it ends at, what it leaves on the way, and what it refuses."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from runs import small_config

from hcdc_jax import pipeline, report
from hcdc_jax.condense import pruning
from hcdc_jax.condensed import load_condensed
from hcdc_jax.errors import UserError
from hcdc_jax.report.pruning import pruning as draw
from hcdc_jax.report.results import Pruning
from tests.test_image_methods import small

PRUNING = {"strategy": "double_end", "over_budget": 0.5, "betas": (0.0, 1.0), "inits": 1, "epochs": 2}


def options(**changes):
    sections = {"condense": {"images_per_class": 2}, "pruning": PRUNING}
    return small(("dm",), **sections | changes)


def condense(config, folder):
    with jax.numpy_rank_promotion("allow"), pipeline.opened(config, folder) as run:
        pipeline.condense(run)
        pipeline.rank(run)


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruning") / "run"
    condense(options(), folder)
    return folder


def test_what_is_over_the_budget_goes(finished):
    condensed = load_condensed(finished, "dm", 0)
    np.testing.assert_array_equal(condensed.train.labels, np.repeat(np.arange(10), 2))
    assert condensed.card["ledger"]["variables/train/pixels"] == 20 * 64
    assert condensed.card["pruned_per_class"] == 1
    assert condensed.val.labels.shape == (20,), "S_val is not pruned"
    with np.load(finished / "results" / "dm_seed0_pruning.npz") as found:
        assert found["margins"].shape == found["labels"].shape == (30,)
        kept = pruning.kept_places(found["margins"], found["labels"], 1, condensed.card["pruning_beta"])
        np.testing.assert_array_equal(found["kept"], kept)
        np.testing.assert_allclose(found["betas"], [0, 1])
        assert condensed.card["pruning_beta"] == found["betas"][found["accuracies"].argmax()]
    assert not list((finished / "checkpoints").glob("*_pruning")), "what is finished needs it no longer"


def test_the_report_draws_it(finished):
    report.assemble(finished)
    assert (finished / "figures" / "pruning.png").stat().st_size > 0
    assert "Pruning to the budget" in (finished / "report.html").read_text()
    nothing = np.zeros(0)
    assert "at random" in draw([Pruning("dm", 0, nothing, np.arange(20), nothing, nothing)])


def test_an_interrupted_pruning_goes_on_where_it_was(finished, tmp_path, monkeypatch):
    calls = []
    margins, accuracy = pruning.area_under_margin, pruning.validation_accuracy

    def counted_margins(*args):
        calls.append("margins")
        return margins(*args)

    def counted_accuracy(*args):
        calls.append("accuracy")
        if len(calls) == 3:
            raise KeyboardInterrupt
        return accuracy(*args)

    monkeypatch.setattr(pruning, "area_under_margin", counted_margins)
    monkeypatch.setattr(pruning, "validation_accuracy", counted_accuracy)
    with pytest.raises(KeyboardInterrupt):
        condense(options(), tmp_path / "run")
    condense(options(), tmp_path / "run")
    assert calls == ["margins", "accuracy", "accuracy", "accuracy"]
    ours, theirs = (load_condensed(folder, "dm", 0).train.inputs for folder in (tmp_path / "run", finished))
    np.testing.assert_array_equal(ours, theirs)


def test_another_configuration_is_told_in_one_line(finished):
    with pytest.raises(UserError, match=r"dm_seed0 was made with configuration \w+, not 0123; condense anew"):
        load_condensed(finished, "dm", 0, config_hash="0123")
    with pytest.raises(UserError, match="another configuration"):
        condense(options(pruning=PRUNING | {"strategy": "random"}), finished)


def test_less_than_an_image_over_the_budget_is_refused_before_anything_is_learned():
    message = r"over_budget = 0\.1 of the budget of S_train is less than one image of each class, 2 of which fit"
    with pytest.raises(UserError, match=message):
        pipeline.prepare(options(pruning=PRUNING | {"over_budget": 0.1}))


def test_graphs_are_not_pruned(tmp_path):
    with pytest.raises(UserError, match=r"hang together, and pruning\.strategy = 'random' lets single ones go"):
        pipeline.prepare(small_config(tmp_path, pruning={"strategy": "random"}))
