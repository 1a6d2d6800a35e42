"""How well successive halving chooses, by its brackets and by where the schedule of its trainings ends.

    python -m benchmarks.halving_schedules [config ...] [--brackets NAME ...] [--out DIR] [--section.field value ...]

The truth is that of the configuration: means over full trainings from `truth.seeds` initialisations. Each seed of the
configuration is a search from an initialisation of its own. Prints a table and writes `halving_schedules.md`.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from benchmarks.command import CONFIGS, parsed, parser_of
from benchmarks.tables import spread
from hcdc_jax import config as configs
from hcdc_jax import metrics, pipeline
from hcdc_jax.pipeline.recipes.rivals import places
from hcdc_jax.pipeline.setup import RANK, TRUTH, Setup, key_for
from hcdc_jax.search import successive_halving
from hcdc_jax.search.halving import Schedule
from hcdc_jax.storage import files
from hcdc_jax.training.candidates import evaluate_on, score

BRACKETS = {"eta 3": (3, 0.0), "eta 2": (2, 0.0), "eta 4": (4, 0.0), "eta 3, from a ninth of the steps": (3, 1 / 9)}
"""eta, and the least length of the first rung as a share of a full training."""


def truth(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """Mean validation losses and test accuracies [n] of full trainings."""
    parts = [
        evaluate_on(
            key_for(TRUTH, seed), setup.problem, setup.candidates, setup.train, (setup.val, setup.test),
            training=setup.training,
        )
        for seed in range(setup.config.truth.seeds)
    ]  # fmt: skip
    losses, accuracies = zip(*((val.loss, test.accuracy) for val, test in parts), strict=True)
    return np.mean(losses, 0), np.mean(accuracies, 0)


def main() -> None:
    parser = parser_of(__doc__, "halving_schedules")
    parser.add_argument("configs", nargs="*", type=Path)
    parser.add_argument("--brackets", nargs="+", choices=BRACKETS, default=list(BRACKETS))
    args, overrides = parsed(parser)
    lines = [
        "| | schedule ends with | Spearman, losses | Spearman, accuracies | regret, points | "
        "test accuracy of its network, % | full trainings |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in args.configs or [CONFIGS / "fashion_regularisation.toml"]:
        config = configs.apply_overrides(configs.load(path), overrides)
        setup = pipeline.prepare(config)
        losses, accuracies = truth(setup)
        for name in args.brackets:
            for schedule in ("full", "rung") if config.training.schedule == "cosine" else ("full",):
                rows = [_searched(setup, seed, schedule, BRACKETS[name], losses, accuracies) for seed in config.seeds]
                means = [spread(metrics.summarise(part), 3) for part in np.array(rows).T]
                lines.append(f"| {path.stem}, {name} | {schedule} | {' | '.join(means)} |")
                print(lines[-1], flush=True)
        files.write_text(args.out / "halving_schedules.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def _searched(setup: Setup, seed: int, schedule: Schedule, bracket: tuple[int, float], losses, accuracies) -> tuple:
    eta, share = bracket
    found = successive_halving(
        key_for(RANK, seed), setup.problem, setup.candidates, setup.train, setup.val, training=setup.training,
        schedule=schedule, eta=eta, min_steps=max(int(share * setup.training.steps), 1),
    )  # fmt: skip
    place, _ = places(found, np.asarray(setup.candidates))
    network = score(setup.problem, found.params, jnp.asarray(found.winner), setup.test)
    return (
        metrics.spearman(losses, place),
        metrics.spearman(-accuracies, place),
        100 * metrics.regret(-accuracies, place),
        100 * float(network.accuracy),
        found.full_trainings,
    )


if __name__ == "__main__":
    main()
