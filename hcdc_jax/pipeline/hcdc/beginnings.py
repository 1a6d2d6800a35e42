"""Whether a run has what a calibrated search begins from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hcdc_jax.batches.images import StreamedInputs
from hcdc_jax.condensed import Condensed
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.pipeline.hcdc.shifts import stated
from hcdc_jax.pipeline.hcdc.targets import folder_of
from hcdc_jax.pipeline.setup import Run
from hcdc_jax.search.calibrated import FEWEST


def why_not(run: Run, condensed: Condensed) -> str | None:
    """Why no calibrated search can be made of a run, in words; None where one can."""
    options = run.setup.config.hcdc
    if isinstance(run.setup.train.inputs, StreamedInputs):
        return "it trains on the full data, whose images are streamed"
    if stated(run.setup, condensed) is not None:
        return f"it does not know the shift of {condensed.card['method']}; another --artefact has none"
    if options.extended_space == "mixes":
        return "it chooses among cells, and this run matched mixtures of them"
    if options.full_trainings < FEWEST:
        return f"it begins with at least {FEWEST} full trainings, and hcdc.full_trainings = {options.full_trainings}"
    paths = targets_of(run, condensed)
    finite = sum(bool(np.isfinite(read_arrays(path)["value"])) for path in paths)
    if len(paths) == options.full_trainings and finite < FEWEST:
        return f"{finite} of {len(paths)} full trainings came to an end, and it begins with at least {FEWEST} that did"
    return None


def unmatched(run: Run, condensed: Condensed) -> str | None:
    """What a calibrated search would have to train before it begins, in words; None where the run has trained it."""
    count = run.setup.config.hcdc.full_trainings
    if len(targets_of(run, condensed)) == count:
        return None
    made = f"--method calibrated makes {count} full trainings first"
    return f"this run has matched nothing that it could begin from ({made})"


def targets_of(run: Run, condensed: Condensed) -> list[Path]:
    """The files of the full trainings that were matched for the seed of condensed data; none where none were."""
    return sorted(folder_of(run.folder, condensed.card["seed"]).glob("*.npz"))
