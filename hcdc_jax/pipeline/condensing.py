"""The condense stage: the artefacts of every method and seed."""

from __future__ import annotations

import functools
from pathlib import Path

from hcdc_jax.condensed import load_condensed, read_card, save_condensed
from hcdc_jax.config import config_hash
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.halves import Half, make_half, trial_of
from hcdc_jax.pipeline.hcdc.matched_networks import forget_networks
from hcdc_jax.pipeline.recipes.base import Recipe
from hcdc_jax.pipeline.setup import Run
from hcdc_jax.pipeline.taught.halves_taught import make_train, relabelled_start


def condense(run: Run) -> None:
    """Makes the artefacts of all methods and seeds of a run; what is finished is checked and not made again.

    Raises:
      UserError: a finished artefact is not what its card says, the disk is full, targets diverged, or the S_train that
        another method builds on did.
    """
    config = run.setup.config
    for seed in config.seeds:
        for name in config.methods:
            method = recipes.get(config, name)
            recipe = recipes.train_recipe(config, name)
            train = make_train(run, name, seed)
            if method.train is None and train.diverged:  # its own ranks would stay empty; this one would pay in vain
                raise UserError(
                    f"S_train of {recipe.name}, seed {seed}, which {name} builds on, has diverged; lower the rate of "
                    f"{recipe.name} and run in a new folder, or choose another hcdc.train_method"
                )
            if method.prepare is not None:
                method.prepare(trial_of(run, seed, train))
            if isinstance(method.val, Recipe):  # a rival that validates on real data has no S_val
                val = make_half(
                    run, method.val, "val", seed, method=name, condensed_train=train.batch,
                    relabel=functools.partial(relabelled_start, run, seed, name),
                )  # fmt: skip
                if _is_saved(run.folder, name, seed):
                    load_condensed(run.folder, name, seed, config_hash=config_hash(config))
                else:
                    _save(run, name, seed, train, val)
            run.progress.between()
        forget_networks(run, seed)


def _is_saved(folder: Path, method: str, seed: int) -> bool:
    """Whether the card has an entry and the entry its file; a kill may have come between the two."""
    name = f"{method}_seed{seed}"
    if not (folder / "card.json").exists() or name not in read_card(folder)["artefacts"]:
        return False
    return (folder / "condensed" / f"{name}.npz").exists() and (folder / "condensed.npz").exists()


def _save(run: Run, method: str, seed: int, train: Half, val: Half) -> None:
    config, data = run.setup.config, run.setup.data
    save_condensed(
        run.folder,
        method=method,
        seed=seed,
        train=train.batch,
        val=val.batch,
        variables={"train": train.variables, "val": val.variables},
        config_hash=config_hash(config),
        source={"name": data.name, "checksum": data.checksum},
        preprocessing=run.setup.kind.words(run.setup),
        statistics=run.setup.preprocessing,
        preparation=getattr(data, "preparation", None),
        facts=val.facts | train.facts,  # a learning rate that both learned is that of S_train
    )
