"""The condense stage: the artefacts of every method and seed."""

from __future__ import annotations

import functools
from pathlib import Path

from hcdc_jax.condensed import read_card, read_condensed, save_condensed
from hcdc_jax.config import config_hash
from hcdc_jax.errors import DivergedError
from hcdc_jax.pipeline import recipes
from hcdc_jax.pipeline.condensed_parts import CondensedPart, make_part, rank_request
from hcdc_jax.pipeline.copies import copies, share_trainings
from hcdc_jax.pipeline.hcdc.matched_networks import forget_networks
from hcdc_jax.pipeline.recipes.base import Recipe
from hcdc_jax.pipeline.setup import Run
from hcdc_jax.pipeline.taught.taught_parts import make_train, relabelled_start


def condense(run: Run) -> None:
    """Makes the artefacts of all methods and seeds of a run; what is finished is checked and not made again.

    What diverges is told and takes no other method with it; a method that builds on it pays for nothing.

    Raises:
      UserError: a finished artefact is not what its card says, or the disk is full.
    """
    config = run.setup.config
    for seed in config.seeds:
        for name in config.methods:
            method = recipes.get(config, name)
            train = make_train(run, name, seed)
            lost = train.diverged and recipes.sees_train(name)
            if lost:
                builds_on = "" if method.train else f"{name}, seed {seed}, builds on what diverged and ranks nothing: "
                run.progress.say(f"{builds_on}{train.why}")
            if method.prepare is not None and not lost:
                try:
                    method.prepare(rank_request(run, seed, train))
                except DivergedError as error:
                    run.progress.say(f"{name}, seed {seed}, ranks nothing: {error}")
            if isinstance(method.val, Recipe):  # a rival that validates on real data has no S_val
                val = make_part(
                    run, method.val, "val", seed, method=name, condensed_train=train,
                    relabel=functools.partial(relabelled_start, run, seed, name),
                )  # fmt: skip
                if val.diverged:
                    run.progress.say(f"{val.why}")
                if _is_saved(run.folder, name, seed):
                    read_condensed(run.folder, name, seed, config_hash=config_hash(config))
                else:
                    _save(run, name, seed, train, val)
            run.progress.between()
        forget_networks(run, seed)
    for copy in copies(run):
        share_trainings(run, copy)
        condense(copy.run)


def _is_saved(folder: Path, method: str, seed: int) -> bool:
    """Whether the card has an entry and the entry its file; a kill may have come between the two."""
    name = f"{method}_seed{seed}"
    if not (folder / "card.json").exists() or name not in read_card(folder)["artefacts"]:
        return False
    return (folder / "condensed" / f"{name}.npz").exists() and (folder / "condensed.npz").exists()


def _save(run: Run, method: str, seed: int, train: CondensedPart, val: CondensedPart) -> None:
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
        diverged=train.why or val.why,
    )
