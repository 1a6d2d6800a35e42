"""Copies of condensed data: S_train and S_val from other real examples, matched to the same full trainings.

What one S_val says of a candidate depends on the examples that it began with; the mean of several depends less on
them. A copy is a run of its own inside the run folder, which finds the full trainings there that it would make.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hcdc_jax.condensed import Condensed, load_condensed
from hcdc_jax.config import Config, config_hash
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.hcdc.matched_candidates import chosen_file
from hcdc_jax.pipeline.hcdc.targets import folder_of
from hcdc_jax.pipeline.recipes import sees_train
from hcdc_jax.pipeline.setup import Run
from hcdc_jax.storage import files

_SPENT = ("seconds", "compile_seconds", "training_seconds", "target_seconds", "target_compile_seconds")
"""What a record says of the time that it took: nothing, where it is found and not made."""


class Copy(NamedTuple):
    """A further copy.

    Attributes:
      run: it, whose folder lies in that of the run.
      of: seed of the run that it is a copy of.
      seed: its own.
    """

    run: Run
    of: int
    seed: int


def copies(run: Run) -> Iterator[Copy]:
    """All copies but the first, which is the run itself; of each seed `condense.copies` - 1."""
    config = run.setup.config
    methods = tuple(name for name in config.methods if sees_train(name))  # others would say the same again
    if not methods:
        return
    for number in range(1, config.condense.copies):
        for of in config.seeds:
            seed = copy_seed(config, of, number)
            # One copy in a run of its own, or each would be told to make all.
            alone = dataclasses.replace(config.condense, copies=1)
            own = run.setup._replace(config=dataclasses.replace(config, methods=methods, seeds=(seed,), condense=alone))
            yield Copy(Run(own, run.folder / "copies" / f"seed{seed}", run.progress), of, seed)


def copy_seed(config: Config, seed: int, number: int) -> int:
    """The seed of a copy: no seed of the run, and no other copy's."""
    return seed + number * (max(config.seeds) + 1)


def share_trainings(run: Run, copy: Copy) -> None:
    """Lays the full trainings of a run where its copy looks for them; they cost it nothing."""
    files_of = [(chosen_file(run.folder, copy.of), chosen_file(copy.run.folder, copy.seed))]
    made, found = folder_of(run.folder, copy.of), folder_of(copy.run.folder, copy.seed)
    files_of += [(path, found / path.name) for path in sorted(made.glob("*.npz"))]
    for source, goal in files_of:
        if source.exists() and not goal.exists():
            record = read_arrays(source)
            free = {name: np.zeros_like(record[name]) for name in _SPENT if name in record}
            files.write_npz(goal, record | free)


def condensed_copies(run: Run, condensed: Condensed) -> list[tuple[Condensed, int]]:
    """The other copies of condensed data, and their seeds.

    Raises:
      UserError: one is missing, or diverged.
    """
    method = condensed.card["method"]
    if not all((copy.run.folder / "card.json").exists() for copy in copies(run)):
        wanted = f"condense.copies = {run.setup.config.condense.copies}"
        raise UserError(f"{run.folder} does not hold all copies that {wanted} asks for: run `hcdc condense` on it")
    return [
        (load_condensed(copy.run.folder, method, config_hash=config_hash(copy.run.setup.config)), copy.seed)
        for copy in copies(run)
        if copy.of == condensed.card["seed"] and method in copy.run.setup.config.methods
    ]
