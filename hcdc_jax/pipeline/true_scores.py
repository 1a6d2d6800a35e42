"""The truth stage: every candidate trained on the full data, which the rankings are held against."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcdc_jax.config.values import with_defaults
from hcdc_jax.data import published_accuracies
from hcdc_jax.data.cells import number_of
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.folder import first_difference
from hcdc_jax.pipeline.keeping import each_kept
from hcdc_jax.pipeline.scoring import fitting_at_once
from hcdc_jax.pipeline.setup import TRUTH, Run, Setup, key_for
from hcdc_jax.spaces import discrete_cell
from hcdc_jax.storage import files
from hcdc_jax.training.candidates import WHY_ALL_FAIL, evaluate_on

MIN_PARTS, MAX_PARTS = 8, 32
"""In how many parts the candidates of a seed are trained: a kill loses the part at work."""


def truth(run: Run) -> None:
    """Trains every candidate on the full data with every seed of the truth: `results/truth.npz`.

    Where `truth.table` names a published table its accuracies are read instead.

    Raises:
      UserError: a finished part is damaged, the disk is full, or the table is not there or not of this space.
    """
    setup, path = run.setup, run.folder / "results" / "truth.npz"
    if path.exists():
        return
    if setup.config.truth.table is not None:
        files.write_npz(path, _published(setup) | _made_with(setup))
        return
    n, width = len(setup.candidates), _width_of(run)
    parts = [(seed, begin) for seed in range(setup.config.truth.seeds) for begin in range(0, n, width)]
    what = f"truth: {n} candidates trained {setup.config.truth.seeds} x on the full data"

    def trained(i: int) -> dict[str, np.ndarray]:
        seed, begin = parts[i]
        return _train_part(setup, seed, np.arange(begin, begin + width)) | _made_with(setup)

    paths = [_path(run.folder, *part, width) for part in parts]
    arrays = _assembled(setup, each_kept(paths, trained, run.progress, what))
    if not arrays["status"].any():
        run.progress.say(f"every full training of the truth failed: {WHY_ALL_FAIL}")
    files.write_npz(path, arrays | _made_with(setup))


def check_truth(setup: Setup, folder: Path) -> None:
    """Checks that what a folder holds of a truth is that of this run, for truths take long and are copied around.

    A seed that is trained already may be one of fewer or more. Files that do not tell their settings are taken as
    they are.

    Raises:
      UserError: one was made with other settings, or is damaged.
    """
    ours = _decisive(setup)
    whole = folder / "results" / "truth.npz"
    for path in (whole, *sorted((folder / "checkpoints").glob("truth_seed*/*.npz"))):
        told = read_arrays(path).get(_SETTINGS) if path.exists() else None
        if told is None:
            continue
        try:
            theirs: dict[str, dict[str, Any]] = json.loads(str(told))
            # How many seeds there are no part depends on.
            known = {
                section: _of_today(setup, section, values, ours[section])
                for section, values in theirs.items()
                if section in ours and (section != "truth" or path == whole)
            }
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(
                f"{path} is damaged (its settings cannot be read); delete it to have it made anew"
            ) from error
        same = {section: ours[section] for section in known}
        if known != same:
            raise UserError(
                f"{path} is part of another truth ({first_difference(known, same)}); move it away to have this run's "
                "own made, or run with its settings in another --out folder"
            )


def _of_today(setup: Setup, section: str, values: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Settings of a file by today's names."""
    theirs = with_defaults(type(getattr(setup.config, section)), values)
    return {name: theirs.get(name) for name in ours}


_SETTINGS = "settings"


def _made_with(setup: Setup) -> dict[str, np.ndarray]:
    return {_SETTINGS: np.array(json.dumps(_decisive(setup)))}


def _decisive(setup: Setup) -> dict[str, dict[str, Any]]:
    """By section the settings that decide the truth, as JSON gives them back; the data by checksum."""
    config = setup.config
    sections = {name: dataclasses.asdict(getattr(config, name)) for name in ("data", "space", "model", "training")}
    for name in ("name", "path"):
        del sections["data"][name]
    sections["data"]["checksum"] = setup.data.checksum
    on_condensed = ("proxy_", "dcbench_")
    sections["training"] = {
        key: value for key, value in sections["training"].items() if not key.startswith(on_condensed)
    }
    sections["truth"] = {"seeds": config.truth.seeds, "table": config.truth.table}
    if config.truth.table is not None:  # nothing is trained, and there is one seed
        data = {"name": setup.data.name}
        sections = {"data": data, "space": sections["space"], "truth": {"table": config.truth.table}}
    return json.loads(json.dumps(sections))


def _published(setup: Setup) -> dict[str, np.ndarray]:
    """The accuracies of NAS-Bench-201 as one seed; errors in validation stand for the losses that it does not have."""
    numbers = [number_of(discrete_cell(hparams)) for hparams in setup.candidates]
    val, test = (published_accuracies(setup.data.name, part)[numbers][None] / 100 for part in ("val", "test"))
    return {
        "hparams": np.asarray(setup.candidates),
        "loss": 1 - val,
        "accuracy": val,
        "test_accuracy": test,
        "status": np.ones_like(val, bool),
        "seconds": np.zeros(()),
        "compile_seconds": np.zeros(()),
    }


def _width_of(run: Run) -> int:
    """Candidates per part: as in parts that are there, which another machine may have made; or what is best here."""
    parts = (run.folder / "checkpoints").glob("truth_seed*/*.npz")
    widths = Counter(int(path.stem.partition("_")[2]) for path in parts)
    return widths.most_common(1)[0][0] if widths else part_width(run.setup)


def part_width(setup: Setup) -> int:
    """Candidates per part: as many as are trained side by side, within the bounds on the number of parts."""
    n, devices = len(setup.candidates), jax.local_device_count()
    return max(math.ceil(n / MAX_PARTS), min(fitting_at_once(setup), max(math.ceil(n / MIN_PARTS), min(n, devices))))


def _path(folder: Path, seed: int, begin: int, width: int) -> Path:
    return folder / "checkpoints" / f"truth_seed{seed}" / f"{begin:06d}_{width}.npz"


def _train_part(setup: Setup, seed: int, index: np.ndarray) -> dict[str, np.ndarray]:
    # The last part repeats the last candidate: one shape, one compiled program.
    candidates = setup.candidates[np.minimum(index, len(setup.candidates) - 1)]
    val, test = evaluate_on(
        key_for(TRUTH, seed), setup.problem, candidates, setup.train, (setup.val, setup.test), training=setup.training
    )
    return {
        "loss": np.asarray(val.loss),
        "accuracy": np.asarray(val.accuracy),
        "test_accuracy": np.asarray(test.accuracy),
        "status": np.asarray(val.status & test.status),
    }


def _assembled(setup: Setup, parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The parts of all seeds, in order, as arrays [seeds, n] and summed seconds."""
    seeds, n = setup.config.truth.seeds, len(setup.candidates)
    scores = {
        name: np.concatenate([part[name] for part in parts]).reshape(seeds, -1)[:, :n]
        for name in ("loss", "accuracy", "test_accuracy", "status")
    }
    seconds = {name: np.sum([part[name] for part in parts]) for name in ("seconds", "compile_seconds")}
    return {"hparams": np.asarray(setup.candidates), **scores, **seconds}
