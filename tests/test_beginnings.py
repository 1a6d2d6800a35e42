"""What a calibrated search begins from: one line where a run does not have it."""

from __future__ import annotations

import types

import numpy as np
import pytest

from hcdc_jax import spaces
from hcdc_jax.batches.images import StreamedInputs
from hcdc_jax.config.sections import HCDCConfig
from hcdc_jax.pipeline.hcdc.beginnings import unmatched, why_not

SPACE = spaces.get("graph_filter")


def a_run(folder, losses, card=None, streamed=False, **options):
    """A run whose seed 0 has full trainings of these losses, and condensed data of hcdc."""
    for i, loss in enumerate(losses):
        path = folder / "checkpoints" / "targets_seed0" / f"{i:03d}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, value=np.float32(loss))
    inputs = StreamedInputs.__new__(StreamedInputs) if streamed else np.zeros(3)
    setup = types.SimpleNamespace(
        config=types.SimpleNamespace(hcdc=HCDCConfig(**options)), space=SPACE,
        train=types.SimpleNamespace(inputs=inputs),
    )  # fmt: skip
    condensed = types.SimpleNamespace(card={"method": "hcdc", "seed": 0} | (card or {}))
    return types.SimpleNamespace(setup=setup, folder=folder), condensed


SHIFTED = {f"shift_of_{name}": 0.1 for name in SPACE.hparam_names}


@pytest.mark.parametrize(
    ("losses", "changes", "why"),
    [
        ([1.0] * 8, {}, None),
        ([1.0] * 3, {"full_trainings": 3}, None),
        ([np.nan] * 6 + [1.0] * 2, {}, "2 of 8 full trainings came to an end, and it begins with at least 3 that did"),
        ([1.0] * 2, {"full_trainings": 2}, "it begins with at least 3 full trainings, and hcdc.full_trainings = 2"),
        ([1.0] * 8, {"card": SHIFTED}, "it does not know the shift of hcdc; another --artefact has none"),
        ([1.0] * 8, {"extended_space": "mixes"}, "it chooses among cells, and this run matched mixtures of them"),
        ([1.0] * 8, {"streamed": True}, "it trains on the full data, whose images are streamed"),
    ],
)
def test_why_a_run_cannot(tmp_path, losses, changes, why):
    assert why_not(*a_run(tmp_path, losses, **changes)) == why


def test_what_was_not_matched_would_have_to_be_trained_first(tmp_path):
    assert unmatched(*a_run(tmp_path / "some", [1.0] * 8)) is None
    told = unmatched(*a_run(tmp_path / "none", []))
    assert told == (
        "this run has matched nothing that it could begin from (--method calibrated makes 8 full trainings first)"
    )
    assert why_not(*a_run(tmp_path / "none", [])) is None, "by its name it makes them"
