"""The m full trainings that HCDC pays for, each on disk as soon as it is done."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax import files
from hcdc_jax.condense.hcdc import fit, target_at, unrolled_target
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.frozen import Target
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.progress import Progress
from hcdc_jax.pipeline.setup import MATCHED, TARGETS, Setup, key_for, solver_of
from hcdc_jax.types import Array


class Matched(NamedTuple):
    """The matched candidates and what the real data say about them.

    Attributes:
      hparams: [m, h].
      target: values [m] and hypergradients [m, h].
      training_seconds: of the m full trainings, without compilation.
      target_seconds: of their hypergradients, without compilation.
      compile_seconds: of both.
      diverged: how many hypergradients were reported as diverged; their candidates are left out of the fields above.
    """

    hparams: Array
    target: Target
    training_seconds: float
    target_seconds: float
    compile_seconds: float
    diverged: int


def matched_targets(setup: Setup, seed: int, folder: Path, progress: Progress) -> Matched:
    """Computes or reads the m own-theta targets of one seed.

    With `extended_space = "samples"` the matched candidates are drawn from the prior; with "trajectories" every second
    one is where the hypergradient of the one before leads, a step of one prior standard deviation downhill.
    """
    options = setup.config.hcdc
    draws = setup.space.sample(key_for(MATCHED, seed + options.seed), options.full_trainings)
    records = []
    for i in progress.track(range(options.full_trainings), f"full trainings, seed {seed}"):
        path = folder / f"{i:03d}.npz"
        if not path.exists():
            follows = options.extended_space == "trajectories" and i % 2 == 1
            hparams = _downhill(setup, records[-1]) if follows else draws[i]
            files.write_npz(path, _one(setup, jax.random.fold_in(key_for(TARGETS, seed), i), hparams))
        records.append(read_arrays(path))
    stacked = {name: np.stack([record[name] for record in records]) for name in records[0]}
    good = ~stacked["diverged"] & np.isfinite(stacked["gradient"]).all(1) & np.isfinite(stacked["value"])
    return Matched(
        hparams=jnp.asarray(stacked["hparams"][good]),
        target=Target(jnp.asarray(stacked["value"][good]), jnp.asarray(stacked["gradient"][good])),
        training_seconds=float(stacked["training_seconds"].sum()),
        target_seconds=float(stacked["target_seconds"].sum()),
        compile_seconds=float(stacked["compile_seconds"].sum()),
        diverged=int((~good).sum()),
    )


def _one(setup: Setup, key: Array, hparams: Array) -> dict[str, np.ndarray]:
    options = setup.config.hcdc
    with measured() as training:
        if options.sensitivity == "unroll":
            # Training and its reverse pass are one program; all of it counts as the target's price.
            params = None
        else:
            params = jax.block_until_ready(fit(key, setup.problem, hparams, setup.train, setup.training))
    with measured() as targeting:
        if params is None:
            target, diverged = unrolled_target(key, setup.problem, hparams, setup.train, setup.val, setup.training)
        else:
            target, diverged = target_at(
                setup.problem, params, hparams, setup.train, setup.val,
                solver=solver_of(setup.config), direct=options.direct,
            )  # fmt: skip
        jax.block_until_ready(target)
    return {
        "hparams": np.asarray(hparams),
        "value": np.asarray(target.value),
        "gradient": np.asarray(target.gradient),
        "diverged": np.asarray(diverged),
        "training_seconds": np.asarray(training.run),
        "target_seconds": np.asarray(targeting.run),
        "compile_seconds": np.asarray(training.compile + targeting.compile),
    }


def _downhill(setup: Setup, record: dict[str, np.ndarray]) -> Array:
    scale = np.asarray(setup.space.prior_std, np.float32)
    slope = record["gradient"] * scale
    # A collapsed network has no slope; the floor then leaves the candidate where it is.
    step = slope / max(float(np.linalg.norm(slope)), 1e-12)
    return setup.space.project(jnp.asarray(record["hparams"] - scale * step))
