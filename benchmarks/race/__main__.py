"""The race: regret against cost of every search on pools of candidates whose learning curves are all known.

    python -m benchmarks.race [task ...] [--minutes M] [--out DIR] [--method NAME] [--section.field value ...]

Trains every candidate of a task's pool once, condenses for each seed, and replays every search on these tables. What
is made is kept in the folder and not made again: with `--minutes` the work stops at the first piece that is kept after
so long, and the same command goes on (exit code 3). At the end stand `race.json`, `race.md` and `race.png` in the
folder, of all tasks that were asked for. `--seeds 10 11 ...` are the method's; `--anew` replays again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import chosen, parser_of
from benchmarks.confirm import DONE, TIME_IS_UP, USER_ERROR, TimeIsUp
from benchmarks.race.cheap import cheap
from benchmarks.race.curves import Curves, curves
from benchmarks.race.methods import METHODS, Table
from benchmarks.race.outcome import figure, outcome, page
from benchmarks.race.tasks import SEEDS, TASKS, config_of
from benchmarks.tables import save
from hcdc_jax import pipeline
from hcdc_jax.cli import use_all_cores
from hcdc_jax.config import Config
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline import Progress
from hcdc_jax.storage import files
from hcdc_jax.terminal import progress


def race(config: Config, folder: Path, shown: Progress, methods: Sequence[str], anew: bool) -> dict[str, Any]:
    """Makes or reads all tables and replays of a task.

    Args:
      config: of the task; its seeds are the race's.
      folder: of the task.
      shown: told what is done; what it raises `between` ends the work there.
      methods: that are replayed.
      anew: replays again what was replayed.

    Returns:
      What `race.json` holds of the task.
    """
    # The curves do not depend on the seed of a method, so one seed's run has the right data, space and training.
    with pipeline.opened(_alone(config, config.seeds[0]), _folder(folder, config.seeds[0]), progress=shown) as run:
        space, pool = run.setup.space, curves(run.setup, folder / "curves", shown)
    replays: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for seed in config.seeds:
        table = None
        for name in methods:
            path = folder / "replays" / f"{name}_seed{seed}.json"
            if anew or not path.exists():
                table = table or Table(space, pool, _cheap(config, folder, seed, pool, shown), seed)
                files.write_json(path, outcome(table, METHODS[name], METHODS[name].replay(table)))
                shown.say(f"{folder.name}: {name}, seed {seed}")
                shown.between()
            replays[name][str(seed)] = json.loads(path.read_text(encoding="utf-8"))
    best = pool.loss[:, -1].argmin()
    return {
        "candidates": len(pool.hparams),
        "first": config.hcdc.full_trainings,
        "best_test_accuracy": 100 * float(pool.test_accuracy[best, -1]),
        "training_seconds": pool.training_seconds,
        "gradient_seconds": pool.gradient_seconds,
        "methods": replays,
    }


def _cheap(config: Config, folder: Path, seed: int, pool: Curves, shown: Progress):
    with pipeline.opened(_alone(config, seed), _folder(folder, seed), progress=shown) as run:
        return cheap(run, seed, pool)


def _alone(config: Config, seed: int) -> Config:
    return dataclasses.replace(config, seeds=(seed,))


def _folder(folder: Path, seed: int) -> Path:
    return folder / f"seed{seed}"


def main() -> int:
    parser = parser_of(__doc__, "race")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="stop after about so long")
    parser.add_argument("--method", dest="methods", action="append", choices=METHODS, help="replay it alone")
    parser.add_argument("--anew", action="store_true", help="replay again what was replayed")
    args, overrides = chosen(parser, "task", TASKS, usual=TASKS, by_default="all")
    deadline = time.monotonic() + 60 * args.minutes

    def stop_in_time() -> None:
        if time.monotonic() >= deadline:
            raise TimeIsUp

    use_all_cores()
    try:
        with progress() as shown:
            shown, races = shown._replace(between=stop_in_time), {}
            for name in args.names:
                config = config_of(TASKS[name], overrides)
                races[name] = race(config, args.out / name, shown, args.methods or list(METHODS), args.anew)
    except UserError as error:
        print(f"race: {error}", file=sys.stderr)
        return USER_ERROR
    except TimeIsUp:
        print(f"{args.out}: time is up; the same command goes on from here")
        return TIME_IS_UP
    seeds = sorted({seed for one in races.values() for found in one["methods"].values() for seed in found}, key=int)
    development = set(seeds) <= set(SEEDS)
    footnote = f"Seeds {', '.join(seeds)}{', of development' if development else ''}: median (quartiles)."
    text = page(races, footnote)
    print(text)
    files.write_json(args.out / "race.json", races)
    files.write_text(args.out / "race.md", text + "\n")
    save(figure(races), args.out / "race.png")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
