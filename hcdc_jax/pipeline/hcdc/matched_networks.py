"""The networks on S_train at the matched candidates, shared by all methods that match, on disk until these are done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.epoch_training import checksum
from hcdc_jax.condense.hcdc import condensed_pool
from hcdc_jax.config import Sensitivity
from hcdc_jax.hypergradients.fixed_networks import Pool
from hcdc_jax.pipeline.keeping import each_kept
from hcdc_jax.pipeline.recipes.base import Cost
from hcdc_jax.pipeline.setup import POOL, Run, key_for, solver_of
from hcdc_jax.storage.codec import to_arrays, to_tree
from hcdc_jax.types import Array, Batch


class MatchedNetworks(NamedTuple):
    """Networks that S_val is matched at.

    Attributes:
      pool: of `hcdc.inits` networks of each of the m candidates: leading axis [inits m], by initialisation.
      cost: of training them, whoever asked first.
    """

    pool: Pool
    cost: Cost


def networks_at(
    run: Run, seed: int, hparams: Array, condensed_train: Batch, sensitivity: Sensitivity
) -> MatchedNetworks:
    """Trains the networks at candidates [m, h], one initialisation of all after the other, or reads them.

    Args:
      run: the run.
      seed: of the method.
      hparams: where candidates are trained on S_train.
      condensed_train: S_train.
      sensitivity: of their responses; "direct" for none, which who matches values alone has no use for.
    """
    setup, options = run.setup, run.setup.config.hcdc
    folder = _folder(run.folder, seed) / f"{checksum(condensed_train, hparams)[:16]}_{sensitivity}"
    paths = [folder / f"{i:03d}.npz" for i in range(options.inits)]

    def trained(i: int) -> dict[str, np.ndarray]:
        pool = condensed_pool(
            key_for(POOL, seed), setup.problem_on(condensed_train), hparams, condensed_train, setup.proxy_training,
            solver=solver_of(setup.config), sensitivity=sensitivity, first=i * len(hparams),
        )  # fmt: skip
        return to_arrays(pool)

    label = f"networks on S_train, seed {seed}"
    found = [to_tree(arrays) for arrays in each_kept(paths, trained, run.progress, label)]
    cost = Cost(*(sum(float(one[name]) for one in found) for name in ("seconds", "compile_seconds")))
    pools = [Pool(one["params"], one["hparams"], one.get("response"), one["diverged"]) for one in found]
    return MatchedNetworks(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pools), cost)


def forget_networks(run: Run, seed: int) -> None:
    """Frees the room that they take, once every S_val of the seed is learned."""
    shutil.rmtree(_folder(run.folder, seed), ignore_errors=True)


def _folder(folder: Path, seed: int) -> Path:
    return folder / "checkpoints" / f"networks_seed{seed}"
